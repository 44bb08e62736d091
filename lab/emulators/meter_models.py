"""What meters show of a load, worked out at once and without a protocol: an ideal meter, and ones with real errors.

For many loads in little time; the peers next to this file say the same through each meter's own protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.emulators.energy_model import Float64Array
from lab.emulators.load import Load, UInt8Array
from lab.power.base import RangeUncertainty


@dataclass(frozen=True)
class ShownSamples:
    """Consecutive samples from time 0.

    Attributes:
        current_a: float32, shape (n,), ampere.
        voltage_v: float32, shape (n,), volt.
        logic: uint8, shape (n,), marker bits at the begin of each sample.
    """

    current_a: npt.NDArray[np.float32]
    voltage_v: npt.NDArray[np.float32]
    logic: UInt8Array


def ideal_meter(load: Load, sample_rate_hz: int, samples: int) -> ShownSamples:
    """A meter without errors: each sample is the exact mean, to the rounding of float32."""
    shown = load.samples(0, samples, sample_rate_hz)
    return ShownSamples(shown.current_a.astype(np.float32), shown.voltage_v.astype(np.float32), shown.bits)


@dataclass(frozen=True)
class MeterErrors:
    """A meter with ranges that it changes by itself.

    Attributes:
        ranges: the class of each, smallest range first.
        lsb_a: quantisation of each range, ampere; rounded without dither.
        noise_a: standard deviation of the noise of each range, ampere.
        glitch: how much of the sample before is left in the first sample after a change of range, 0..1.
        hold_samples: how many samples a larger range stays on after the current fell.
        voltage: class of the voltage, relative.
        clock: class of the clock, relative.
    """

    ranges: tuple[RangeUncertainty, ...]
    lsb_a: tuple[float, ...]
    noise_a: tuple[float, ...]
    glitch: float
    hold_samples: int
    voltage: float
    clock: float


def _column(values: tuple[float, ...]) -> Float64Array:
    return np.array(values, np.float64)


class RealisticMeter:
    """One meter of a class: its constants are drawn once, uniformly within what the class allows.

    Args:
        errors: the class.
        random: draws the constants, then the noise.
        beyond: how many times worse than its class it is.
    """

    def __init__(self, errors: MeterErrors, random: np.random.Generator, beyond: float = 1.0) -> None:
        self._errors = errors
        self._random = random
        count = len(errors.ranges)
        gains, offsets = (random.uniform(-beyond, beyond, count) for _ in range(2))
        self._gain = 1 + _column(tuple(one.relative for one in errors.ranges)) * gains
        self._offset = _column(tuple(one.offset_a for one in errors.ranges)) * offsets
        self._voltage_gain = 1 + errors.voltage * random.uniform(-beyond, beyond)
        self.rate_error = errors.clock * random.uniform(-1, 1)

    def show(self, exact: ShownSamples) -> ShownSamples:
        """What this meter shows where an ideal one of the same clock shows ``exact``."""
        errors = self._errors
        current = exact.current_a.astype(np.float64)
        ranges = self._ranges(current)
        changed = np.diff(ranges, prepend=ranges[0]) != 0
        before = np.concatenate((current[:1], current[:-1]))
        slow = np.where(changed, current + errors.glitch * (before - current), current)
        noise = self._random.standard_normal(current.size) * _column(errors.noise_a)[ranges]
        lsb = _column(errors.lsb_a)[ranges]
        measured = slow * self._gain[ranges] + self._offset[ranges] + noise
        rounded = np.round(measured / lsb) * lsb
        voltage = exact.voltage_v * self._voltage_gain
        return ShownSamples(rounded.astype(np.float32), voltage.astype(np.float32), exact.logic)

    def _ranges(self, current: Float64Array) -> npt.NDArray[np.intp]:
        """The range of each sample: up at once, down after ``hold_samples``."""
        tops = _column(tuple(one.upto_a for one in self._errors.ranges[:-1]))
        wanted = np.searchsorted(tops, current, side="left")
        padded = np.concatenate((np.zeros(self._errors.hold_samples, np.intp), wanted))
        return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, self._errors.hold_samples + 1).max(axis=1))


BENCH_CLASS = MeterErrors(
    ranges=(
        RangeUncertainty(200e-6, 1e-3, 50e-9), RangeUncertainty(20e-3, 1e-3, 2e-6), RangeUncertainty(3.0, 2e-3, 150e-6),
    ),
    lsb_a=(6e-9, 600e-9, 90e-6),
    noise_a=(20e-9, 1e-6, 60e-6),
    glitch=0.3,
    hold_samples=2,
    voltage=5e-4,
    clock=50e-6,
)  # fmt: skip
"""The size of a bench instrument's errors: 0.1 to 0.2 % of the reading; not those of any model."""

HANDHELD_CLASS = MeterErrors(
    ranges=(
        RangeUncertainty(50e-6, 0.10, 200e-9), RangeUncertainty(500e-6, 0.10, 500e-9),
        RangeUncertainty(5e-3, 0.10, 5e-6), RangeUncertainty(60e-3, 0.10, 50e-6), RangeUncertainty(1.0, 0.15, 1e-3),
    ),
    lsb_a=(42.6e-9, 432e-9, 4.33e-6, 46.8e-6, 1.02e-3),
    noise_a=(30e-9, 300e-9, 3e-6, 30e-6, 600e-6),
    glitch=0.5,
    hold_samples=3,
    voltage=0.01,
    clock=50e-6,
)  # fmt: skip
"""The published typical errors and resolution of a Nordic PPK2's ranges, with settling after a change of range."""
