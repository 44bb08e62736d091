"""The interface of a power meter.

Call order: ``open`` → ``start`` → any number of ``read`` → ``stop`` → ``close``. A meter is a context manager: entering
it opens, leaving it stops and closes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError

Float32Array: TypeAlias = npt.NDArray[np.float32]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]


Alignment: TypeAlias = Literal["logic", "trigger", "host-time"]


@dataclass(frozen=True)
class RangeUncertainty:
    """Class uncertainty (type B) of one range: a current is off by at most ``relative``·|i| + ``offset_a``.

    Attributes:
        upto_a: largest current the range is used for, ampere.
        relative: gain error, 0..1.
        offset_a: offset error, ampere.
    """

    upto_a: float
    relative: float
    offset_a: float = 0.0


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
        ranges: class uncertainty by size of current, smallest range first; empty where ``relative_uncertainty`` is all
            that is known.
        voltage_uncertainty: class uncertainty of the voltage, relative.
        clock_uncertainty: error of the meter's clock, relative.
        alignment: how samples are matched with what the device does: by a marker on a logic input, by an instrument
            trigger, or by the host's clock.
        time_uncertainty_s: with ``host-time``, how far a sample may lie from where its number puts it, seconds.
        measures_current: False for meters of power or energy alone (RAPL, NVML): currents are then power divided by
            ``voltage_v``, and no charge may be told.
        held_back_s: how long the driver keeps the newest samples until what belongs to them has come (a time stamp,
            edges), seconds of the meter's clock; ``stop`` alone brings the last of them.
    """

    kind: str
    identity: str
    sample_rate_hz: float
    voltage_v: float
    measures_voltage: bool
    logic_inputs: int
    relative_uncertainty: float
    emulated: bool
    ranges: tuple[RangeUncertainty, ...] = ()
    voltage_uncertainty: float = 0.0
    clock_uncertainty: float = 50e-6
    alignment: Alignment = "logic"
    time_uncertainty_s: float = 0.0
    measures_current: bool = True
    held_back_s: float = 0.0


@dataclass(frozen=True)
class SampleBlock:
    """Consecutive samples.

    Attributes:
        first: number of the first sample since ``start``, lost samples counted.
        current_a: float32, shape (n,), ampere; lost samples are NaN.
        logic: uint8, shape (n,), logic inputs; 0 for lost samples.
        lost: how many of these samples were lost.
        saturated: how many were at the end of the highest range.
        voltage_v: float32, shape (n,), volt; None where the meter does not measure it per sample.
    """

    first: int
    current_a: Float32Array
    logic: UInt8Array
    lost: int = 0
    saturated: int = 0
    voltage_v: Float32Array | None = None


def join(blocks: Sequence[SampleBlock]) -> SampleBlock:
    """One block of consecutive ones; an empty block for none.

    Raises:
        MeterError: a block does not begin where the one before it ended.
    """
    for before, after in itertools.pairwise(blocks):
        end = before.first + before.current_a.size
        if after.first != end:
            raise MeterError(f"block begins at sample {after.first}, the one before it ended at {end}")
    measured = [block.voltage_v for block in blocks if block.voltage_v is not None]
    if measured and len(measured) < len(blocks):
        raise MeterError(f"{len(measured)} of {len(blocks)} blocks carry a voltage; all or none must")
    return SampleBlock(
        first=blocks[0].first if blocks else 0,
        current_a=np.concatenate([np.empty(0, np.float32), *(block.current_a for block in blocks)]),
        logic=np.concatenate([np.empty(0, np.uint8), *(block.logic for block in blocks)]),
        lost=sum(block.lost for block in blocks),
        saturated=sum(block.saturated for block in blocks),
        voltage_v=np.concatenate(measured) if measured else None,
    )


def split(block: SampleBlock, samples: int) -> tuple[SampleBlock, SampleBlock]:
    """The first so many samples of a block, and those behind them; what was saturated counts with the first.

    Args:
        block: any block.
        samples: how many; where the block has fewer, the second part is empty.
    """
    current, voltage = block.current_a, block.voltage_v
    lost = int(np.isnan(current[:samples]).sum())
    first = replace(
        block, current_a=current[:samples], logic=block.logic[:samples], lost=lost,
        voltage_v=None if voltage is None else voltage[:samples],
    )  # fmt: skip
    rest = replace(
        block, first=block.first + first.current_a.size, current_a=current[samples:], logic=block.logic[samples:],
        lost=block.lost - lost, saturated=0, voltage_v=None if voltage is None else voltage[samples:],
    )  # fmt: skip
    return first, rest


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
