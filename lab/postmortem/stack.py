"""The stacks of a device: where they lie, how far they were used, whether they overflowed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from lab.errors import StackUse
from lab.postmortem.image import Image
from lab.postmortem.memory import Memory

# What firmware/runner/memory.c paints the runner's stack with, and how much of it is a guard.
PAINT = 0xC5A7E519
GUARD_BYTES = 64
RUNNER_STACK = "lab_stack"
# Of cortex_m.c and riscv.c.
HANDLER_STACKS = ("handler_stack", "riscv_trap_stack")


@dataclass(frozen=True)
class Bounds:
    """A stack: addresses ``[low, high)``."""

    name: str
    low: int
    high: int


def bounds(image: Image) -> tuple[Bounds, ...]:
    """The stacks an image has."""
    symbols = (image.variable(name) for name in (RUNNER_STACK, *HANDLER_STACKS))
    return tuple(Bounds(one.name, one.address, one.end) for one in symbols if one is not None)


def examine(
    image: Image, memory: Memory, registers: Mapping[str, int], told_bytes: int | None = None
) -> tuple[StackUse, ...]:
    """How the stacks of an image are used.

    Args:
        image: the image.
        memory: what can be read.
        registers: ``sp``, and ``psp`` and ``msp`` where known.
        told_bytes: the most bytes ever used of the runner's stack, where the device told that itself.
    """
    pointers = {registers[name] for name in ("psp", "msp", "sp") if name in registers}
    uses = []
    for one in bounds(image):
        # A full stack's pointer is its low end, an empty one's the high end.
        inside = sorted(pointer for pointer in pointers if one.low <= pointer <= one.high)
        pointer = inside[0] if inside else None
        most = None
        if one.name == RUNNER_STACK:
            pointer = pointer if pointer is not None else _runaway(registers, bounds(image))
            most = told_bytes if told_bytes is not None else high_water(memory, one)
        overflowed = (pointer is not None and pointer < one.low) or (
            most is not None and most > one.high - one.low - GUARD_BYTES
        )
        uses.append(StackUse(one.name, one.low, one.high, pointer, most, overflowed))
    return tuple(uses)


def high_water(memory: Memory, stack: Bounds) -> int | None:
    """The most bytes ever used, from the paint; None where the stack cannot be read or was not painted."""
    data = memory.read(stack.low, stack.high - stack.low)
    if data is None:
        return None
    words = struct.unpack(f"<{len(data) // 4}I", data)
    if PAINT not in words:
        return None
    untouched = next((index for index, word in enumerate(words) if word != PAINT), len(words))
    return len(data) - 4 * untouched


def _runaway(registers: Mapping[str, int], stacks: tuple[Bounds, ...]) -> int | None:
    """The process stack pointer, or the only one known, where it points into no stack at all."""
    pointer = registers.get("psp", registers.get("sp"))
    if pointer is None or any(one.low <= pointer <= one.high for one in stacks):
        return None
    return pointer
