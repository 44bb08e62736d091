"""The interface of a power meter.

Call order: ``open`` → ``start`` → any number of ``read`` → ``stop`` → ``close``. A meter is a context manager: entering
it opens, leaving it stops and closes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError

Float32Array: TypeAlias = npt.NDArray[np.float32]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MeterInfo:
    """What a meter is and can do.

    Attributes:
        kind: driver name (``ppk2``).
        identity: serial number or version text from the instrument.
        sample_rate_hz: rate of the stream.
        voltage_v: voltage it sources, or is told that the device runs at.
        measures_voltage: whether ``voltage_v`` is measured per sample.
        logic_inputs: number of logic inputs sampled with the current.
        relative_uncertainty: class uncertainty (type B), relative, of the worst range in use.
        emulated: whether the peer is an emulated meter.
    """

    kind: str
    identity: str
    sample_rate_hz: float
    voltage_v: float
    measures_voltage: bool
    logic_inputs: int
    relative_uncertainty: float
    emulated: bool


@dataclass(frozen=True)
class SampleBlock:
    """Consecutive samples.

    Attributes:
        first: number of the first sample since ``start``, lost samples counted.
        current_a: float32, shape (n,), ampere; lost samples are NaN.
        logic: uint8, shape (n,), logic inputs; 0 for lost samples.
        lost: how many of these samples were lost.
        saturated: how many were at the end of the highest range.
    """

    first: int
    current_a: Float32Array
    logic: UInt8Array
    lost: int = 0
    saturated: int = 0


def join(blocks: Sequence[SampleBlock]) -> SampleBlock:
    """One block of consecutive ones; an empty block for none.

    Raises:
        MeterError: a block does not begin where the one before it ended.
    """
    for before, after in itertools.pairwise(blocks):
        end = before.first + before.current_a.size
        if after.first != end:
            raise MeterError(f"block begins at sample {after.first}, the one before it ended at {end}")
    return SampleBlock(
        first=blocks[0].first if blocks else 0,
        current_a=np.concatenate([np.empty(0, np.float32), *(block.current_a for block in blocks)]),
        logic=np.concatenate([np.empty(0, np.uint8), *(block.logic for block in blocks)]),
        lost=sum(block.lost for block in blocks),
        saturated=sum(block.saturated for block in blocks),
    )


class Meter(Protocol):
    """A power meter. Methods raise :class:`lab.errors.MeterError` with the port and what was seen."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def info(self) -> MeterInfo:
        """What the meter is; its uncertainty follows the ranges that the stream used."""

    def open(self) -> MeterInfo:
        """Open the port, read the calibration, set and switch on the supply."""

    def start(self) -> None:
        """Start the sample stream; sample 0 is the first one after this call."""

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what has arrived; an empty block after ``timeout_s`` without data."""

    def stop(self) -> SampleBlock:
        """Stop the stream and return the samples still on their way."""

    def close(self) -> None:
        """Close the port; safe to call twice."""
