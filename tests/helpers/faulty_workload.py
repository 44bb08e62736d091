"""The tiny model, with samples in which the firmware runs into trouble: one image for everything that can go wrong.

A sample that begins with the four letters of a trouble makes ``infer`` fall into it; the others are computed as ever.
Tests register it as ``faulty``; its variants are the names of :data:`TROUBLES`, and "" has none.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers import tiny_workload

import lab.workloads
from lab.compiler.model import CompiledModel
from lab.errors import ConfigError, WorkloadError
from lab.workloads.base import Int8Array, Prepared, Score

NAME = "faulty"
TROUBLES = {"hard-fault": b"TRAP", "hang": b"HANG", "stack-overflow": b"DEEP", "arena-overflow": b"OVER"}
SAMPLE = 5
"""The one in trouble: those before it are computed."""
REBOOT_LOOP = "reboot-loop"
"""A variant with an image of its own, which takes a fault as it starts, and again after every restart."""

_TROUBLE = """
#include <string.h>

__attribute__((noinline)) static uint32_t recurse(uint32_t depth)
{
    volatile uint32_t frame[64];
    frame[depth % 64u] = depth;
    return depth == 0 ? 1 : recurse(depth - 1) + frame[depth % 64u];
}

static void run_into_trouble(const void *input, uint8_t *arena)
{
    if (memcmp(input, "TRAP", 4) == 0)
        (void)*(volatile uint32_t *)(uintptr_t)0x5FFF0000u;
    if (memcmp(input, "HANG", 4) == 0)
        for (volatile uint32_t i = 0;; i++)
            continue;
    if (memcmp(input, "DEEP", 4) == 0)
        arena[0] = (uint8_t)recurse(1000000u);
    if (memcmp(input, "OVER", 4) == 0)
        arena[LAB_MODEL_ARENA_BYTES] = 0u;
}

static void infer("""


def register() -> None:
    """Make the workload known to this process."""
    lab.workloads._REGISTRY[NAME] = __name__


def model(variant: str = "") -> CompiledModel:
    """The tiny model with its troubles."""
    tiny = tiny_workload.model()
    if variant == REBOOT_LOOP:
        # The runner resets the variables before it says hello.
        end = ".input_zero_point = -3,"
        source = tiny.sources["model.c"].replace(end, f"{end} .training = (const lab_training_t *)0x5FFF0000u,", 1)
        return replace(tiny, sources={**tiny.sources, "model.c": source}, digest=f"{variant} {tiny.digest}")
    source = tiny.sources["model.c"].replace("static void infer(", _TROUBLE, 1)
    source = source.replace("{\n    xor_layer(input, (int8_t *)arena);", "{\n    run_into_trouble(input, arena);\n"
                            "    xor_layer(input, (int8_t *)arena);", 1)  # fmt: skip
    return replace(tiny, name=NAME, sources={**tiny.sources, "model.c": source}, digest=f"faulty {tiny.digest}")


class _Faulty:
    id = NAME
    title = "A network that runs into trouble"
    family = "inference"
    systems: tuple[str, ...] = ()
    classes = tiny_workload.WORKLOAD.classes
    baselines: tuple[str, ...] = ()
    claims = tiny_workload.WORKLOAD.claims
    missing = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Random bytes with a fixed seed; the check allows no wrong result."""
        if variant not in ("", REBOOT_LOOP, *TROUBLES):
            raise ConfigError(f"{NAME} has no variant {variant!r}")
        healthy = tiny_workload.WORKLOAD.prepare(cache)
        inputs = np.frombuffer(healthy.job.blob, np.int8).reshape(tiny_workload.SAMPLES, tiny_workload.SIZE).copy()
        inputs[SAMPLE, :4] = np.frombuffer(TROUBLES.get(variant, inputs[SAMPLE, :4].tobytes()), np.int8)

        def check(outputs: Int8Array) -> list[Score]:
            wrong = int(np.sum(np.any(outputs != tiny_workload.expected(inputs), axis=1)))
            if wrong:
                raise WorkloadError(f"{wrong} of {len(outputs)} results are wrong")
            return [Score("accuracy", 1.0, 1.0)]

        return replace(
            healthy,
            model=model(variant),
            job=replace(healthy.job, blob=inputs.tobytes(), quiet_us=0),
            reference_outputs=tiny_workload.expected(inputs),
            check=check,
        )


WORKLOAD = _Faulty()
