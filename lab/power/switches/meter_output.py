"""The output of a meter that supplies the device, and currents as witnesses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from lab.errors import ConfigError, MeterError
from lab.power.base import Meter, SampleBlock, join

_SETTLED_S = 0.1
_LONGEST_S = 5.0


@runtime_checkable
class Output(Protocol):
    """A meter with an output that can be switched."""

    def set_output(self, on: bool) -> None:
        """Switch it; :class:`lab.errors.MeterError` where the meter refuses."""


def mean_current_a(meter: Meter, clock: Callable[[], float] = time.monotonic) -> float:
    """Mean current of the next 0.1 s, at least of one sample, of an open meter that is not streaming, ampere.

    Raises:
        MeterError: the meter failed, or gave nothing within 5 s.
    """
    meter.start()
    blocks: list[SampleBlock] = []
    deadline = clock() + _LONGEST_S
    wanted = max(1, round(_SETTLED_S * meter.info.sample_rate_hz))
    while sum(block.current_a.size for block in blocks) < wanted and clock() < deadline:
        blocks.append(meter.read(_SETTLED_S))
    blocks.append(meter.stop())
    current_a = join(blocks).current_a
    if not np.isfinite(current_a).any():
        raise MeterError(f"{meter.info.identity}: no sample came within {_LONGEST_S:g} s", transient=True)
    return float(np.nanmean(current_a))


class MeterOutlet:
    """A meter's own output; also its witness, since it measures what it gives.

    Args:
        make: makes the meter, not yet open.
        threshold_a: mean current from which on a device counts as powered, ampere.
    """

    def __init__(self, make: Callable[[], Meter], threshold_a: float) -> None:
        self._make = make
        self._threshold_a = threshold_a
        self._meter: Meter | None = None
        self.title = "the meter's output"

    def set(self, on: bool) -> None:
        """Switch; the meter stays open until :meth:`close`, since opening it switches it on."""
        meter = self._opened()
        if not isinstance(meter, Output):
            raise ConfigError(
                f"{meter.info.kind}: this meter has no output that could be switched",
                hint="kind: meter of a power switch needs a PPK2 or a SCPI supply",
            )
        meter.set_output(on)

    def state(self) -> bool | None:
        """Meters do not tell."""
        return None

    def powered(self) -> bool:
        """Whether a current flows."""
        return mean_current_a(self._opened()) >= self._threshold_a

    def close(self) -> None:
        """Close the meter; its output stays as it is."""
        meter, self._meter = self._meter, None
        if meter is not None:
            meter.close()

    def _opened(self) -> Meter:
        if self._meter is None:
            meter = self._make()
            meter.open()
            self._meter = meter
        return self._meter


class CurrentWitness:
    """The current through a meter that the switch does not feed.

    Args:
        make: makes the meter, not yet open.
        threshold_a: mean current from which on a device counts as powered, ampere.
    """

    def __init__(self, make: Callable[[], Meter], threshold_a: float) -> None:
        self._make = make
        self._threshold_a = threshold_a
        self.title = f"a current of {threshold_a:g} A"

    def powered(self) -> bool:
        """Whether the current flows."""
        with self._make() as meter:
            return mean_current_a(meter) >= self._threshold_a
