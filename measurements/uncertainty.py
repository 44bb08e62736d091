"""How far a figure may be off: what the meter's class allows (type B), and what its correction leaves of that.

Every part of the class is a constant of the meter that nobody knows: one gain and one offset for each range, one gain
of the voltage, one error of the clock. Within a window they all stay what they are, so longer windows and more repeats
do not average them out. The parts are therefore added up linearly, each at its limit. Only what the constants have in
common cancels: in net energy a range's gain acts on what the window took above idle in that range, and an offset not
at all where window and quiet lie in one range.

What repeats show (type A) is the confidence interval of their median; :class:`measurements.record.Record` keeps both
apart and combines them as the root of the sum of their squares.

Sources:
    JCGM 100:2008, *Guide to the expression of uncertainty in measurement* (GUM), sections 4.2 and 4.3 (types A and B),
    5.2.2 note 1 (fully correlated parts add up linearly), F.1.2 (a constant common to several readings).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RangeClass:
    """One range: a current is off by at most ``relative``·|i| + ``offset_a``.

    Attributes:
        upto_a: largest current the range is used for, ampere.
        relative: gain error, 0..1.
        offset_a: offset error, ampere.
    """

    upto_a: float
    relative: float
    offset_a: float = 0.0


@dataclass(frozen=True)
class RangeCorrection:
    """What a calibration found of one range: the true current is ``gain``·i + ``offset_a``.

    Attributes:
        upto_a: largest current, as the meter shows it, the correction is for, ampere.
        gain, offset_a: the correction.
        gain_uncertainty: of ``gain``, absolute.
        offset_uncertainty_a: of ``offset_a``, ampere.
    """

    upto_a: float
    gain: float
    offset_a: float
    gain_uncertainty: float
    offset_uncertainty_a: float


@dataclass(frozen=True)
class Correction:
    """A lab's own calibration of one meter.

    Attributes:
        date: when, ISO 8601.
        ranges: smallest range first; currents beyond the last are left as they are and keep the meter's class.
    """

    date: str
    ranges: tuple[RangeCorrection, ...]


@dataclass(frozen=True)
class MeterClass:
    """Class uncertainty (type B) of a meter.

    Attributes:
        ranges: smallest range first, at least one; the last one stands for all larger currents too.
        voltage: of the voltage, relative.
        clock: of the meter's clock, relative.

    Raises:
        ConfigError: no range, ranges out of order, or a limit that is negative or not finite.
    """

    ranges: tuple[RangeClass, ...]
    voltage: float = 0.0
    clock: float = 0.0

    def __post_init__(self) -> None:
        tops = [one.upto_a for one in self.ranges]
        limits = [self.voltage, self.clock]
        limits += [limit for one in self.ranges for limit in (one.relative, one.offset_a)]
        if not tops or tops != sorted(set(tops)) or not all(0 <= limit < math.inf for limit in limits):
            raise ConfigError(
                f"a meter's class needs at least one range, smallest first, and finite limits; given: {self}",
                hint="look at what the meter's driver says of its ranges",
            )

    def range_of(self, current_a: FloatArray) -> npt.NDArray[np.intp]:
        """Which range each current lies in; currents above the last range are counted to it. Shape as given."""
        tops = np.array([one.upto_a for one in self.ranges[:-1]])
        return np.searchsorted(tops, np.abs(current_a), side="left")


def corrected(current_a: npt.NDArray[np.floating], correction: Correction) -> npt.NDArray[np.float32]:
    """Currents with a calibration's correction; NaN (lost samples) stays NaN. Float32, shape (n,), ampere."""
    size = np.abs(current_a)
    result = current_a.astype(np.float64)
    below = 0.0
    for one in correction.ranges:
        inside = (size > below) & (size <= one.upto_a) if below else size <= one.upto_a
        result[inside] = one.gain * result[inside] + one.offset_a
        below = one.upto_a
    return result.astype(np.float32)


def corrected_class(meter: MeterClass, correction: Correction) -> MeterClass:
    """The class of a meter whose currents were :func:`corrected`: the calibration's uncertainty where it reaches."""
    ranges = [RangeClass(one.upto_a, one.gain_uncertainty, one.offset_uncertainty_a) for one in correction.ranges]
    ranges += [one for one in meter.ranges if not ranges or one.upto_a > ranges[-1].upto_a]
    return MeterClass(tuple(ranges), meter.voltage, meter.clock)
