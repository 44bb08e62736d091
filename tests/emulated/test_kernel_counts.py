"""Instructions of kernels and of whole SGD steps stay below those of public kernels: exact counts, not times."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import pytest
from helpers.toolchain import counting_plugin, machine_of, needs_qemu
from kernel_rows import Row, int8_inference, training, training_steps

from lab.build import build
from lab.devices.connect import emulated_target
from lab.emulators.kernel_calls import KernelCore, KernelResult
from lab.inventory import load_bench
from lab.paths import cache_dir, config_dir

pytestmark = needs_qemu

M4F = "mps2-an386"
NEAR = 1.15  # of what private prototypes reach


def run(family: ModuleType, rows: Sequence[Row]) -> list[KernelResult]:
    with KernelCore(machine_of(M4F), M4F, family.KERNELS, counting_plugin()) as core:
        return core.run([row.call for row in rows])


@pytest.mark.parametrize("family", [int8_inference, training], ids=lambda family: family.__name__.split(".")[-1])
def test_no_kernel_takes_more_instructions_than_the_least_public_one(family: ModuleType) -> None:
    rows: list[Row] = family.rows()
    assert len({row.name for row in rows}) == len(rows)
    counts = [result.count for result in run(family, rows)]
    above = {
        row.name: (per_mac, row.ceiling)
        for row, count in zip(rows, counts, strict=True)
        if (per_mac := count.instructions / row.macs) > row.ceiling
    }
    assert not above, f"instructions per multiply-accumulate, and the most allowed: {above}"


def test_int8_inference_is_near_what_is_attainable() -> None:
    rows = [row for row in int8_inference.rows() if row.attainable is not None]
    counts = [result.count for result in run(int8_inference, rows)]
    far = {
        row.name: ratio
        for row, count in zip(rows, counts, strict=True)
        if row.attainable is not None and (ratio := count.instructions / row.macs / row.attainable) > NEAR
    }
    assert not far


def test_counts_are_exact() -> None:
    """The same calls again, in another order and another emulator, take the same instructions, loads and stores."""
    rows = training.rows()
    assert [result.count for result in run(training, rows)] == [
        result.count for result in reversed(run(training, rows[::-1]))
    ]


@pytest.mark.parametrize("step", training_steps.STEPS, ids=lambda step: step.name)
def test_a_whole_sgd_step_takes_no_more_instructions_than_fused_c_by_hand(step: training_steps.Step) -> None:
    counting_plugin()
    device = load_bench(config_dir() / "emulated.yaml").devices[training_steps.BOARD]
    artifact = build(step.model(), M4F, cache=cache_dir())
    counts = emulated_target(device, cache_dir()).count(artifact, step.job(2))
    assert training_steps.instructions(counts) <= 2 * step.fused_c
