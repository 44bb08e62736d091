"""Instructions of whole SGD steps on the emulated Cortex-M4F, counted exactly, beside AIfES and C written by hand."""

from __future__ import annotations

import sys

from common import Claim, image, target, verdict
from kernel_rows.training_steps import BOARD, STEPS, Step, instructions


def claim(step: Step) -> Claim:
    """Count one step twice, part by part."""
    artifact = image(BOARD, step.model())
    first, second = (target(BOARD).count(artifact, step.job()) for _ in range(2))
    for count in first:
        print(f"{step.name}: {count.region:16} {count.instructions:8} instructions, {count.loads:8} loads, "
              f"{count.stores:8} stores")  # fmt: skip
    found = instructions(first)
    print(f"{step.name}: {found} instructions; fused C {step.fused_c}, assembly {step.assembly}, AIfES {step.aifes}; "
          f"{'the same' if first == second else 'DIFFERENT'} when counted again")  # fmt: skip
    ratio = found / step.fused_c if first == second else float("inf")
    return Claim(step.name, f"{found} instructions in one SGD step, {step.fused_c} in C by hand", ratio, 1.0)


def main() -> int:
    return verdict([claim(step) for step in STEPS])


if __name__ == "__main__":
    sys.exit(main())
