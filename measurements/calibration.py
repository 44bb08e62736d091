"""Gain and offset of a meter's ranges from known currents: a resistor of known value at a known voltage draws V/R.

Per range the true current is taken to be gain·shown + offset. Both are found by weighted least squares (weights for
equal relative errors), so each is a linear function of the true currents, and what those are unsure of carries over:

- the resistor's tolerance is one constant for all points with that resistor: its part is added up with signs;
- the voltage may be off by its limit at each point for itself: the worst case, parts added up without signs;
- the noise of the shown means counts twice its standard deviation;
- what the straight line leaves (the greatest residual) is taken for the range's non-linearity.

All are added up linearly (GUM, JCGM 100:2008, 5.2.2 note 1). One point in a range yields a gain alone; the offset then
keeps the limit of the meter's class. A range without points, or one that a calibration would leave less certain than
its class does, is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from measurements.uncertainty import MeterClass, RangeClass, RangeCorrection

_COVERAGE = 2.0
_PLAUSIBLE = 0.5

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationPoint:
    """One setting.

    Attributes:
        resistor_ohm: nominal value, ohm.
        tolerance: of the resistor, relative.
        voltage_v: across it, volt.
        voltage_uncertainty: limit of ``voltage_v``, relative.
        shown_a: mean of what the meter showed, ampere.
        noise_a: standard error of that mean, ampere.
    """

    resistor_ohm: float
    tolerance: float
    voltage_v: float
    voltage_uncertainty: float
    shown_a: float
    noise_a: float

    @property
    def true_a(self) -> float:
        """V/R, ampere."""
        return self.voltage_v / self.resistor_ohm

    @property
    def plausible(self) -> bool:
        """Whether the meter shows something like V/R; if not, no such resistor is connected."""
        return math.isfinite(self.shown_a) and abs(self.shown_a / self.true_a - 1) <= _PLAUSIBLE


def fit_ranges(points: Sequence[CalibrationPoint], meter: MeterClass) -> tuple[RangeCorrection, ...]:
    """The correction of every range up to the last one with points; empty where no range can be corrected.

    Args:
        points: plausible ones.
        meter: its ranges and what their class allows.
    """
    if not points:
        return ()
    range_of = meter.range_of(np.array([point.shown_a for point in points]))
    found: list[RangeCorrection] = []
    last = -1
    for k in range(int(range_of.max()) + 1):
        of_range = meter.ranges[k]
        own = [point for point, at in zip(points, range_of, strict=True) if at == k]
        correction = _fit_range(own, of_range) if own else None
        if correction is None or not _better(correction, of_range, own):
            found.append(RangeCorrection(of_range.upto_a, 1.0, 0.0, of_range.relative, of_range.offset_a))
        else:
            found.append(correction)
            last = k
    return tuple(found[: last + 1])


def _fit_range(points: Sequence[CalibrationPoint], of_range: RangeClass) -> RangeCorrection:
    true = np.array([point.true_a for point in points])
    shown = np.array([point.shown_a for point in points])
    noise = np.array([point.noise_a for point in points])
    levels = len({round(math.log(point.true_a), 2) for point in points})
    design = shown[:, None] if levels < 2 else np.column_stack((shown, np.ones_like(shown)))
    solution = np.linalg.pinv(design / true[:, None]) / true
    gain, *rest = solution @ true
    residual = float(np.max(np.abs(design @ (solution @ true) - true) / true))
    limits = [_limit(row, points, true, gain * noise) for row in solution]
    if not rest:
        offset_limit = of_range.offset_a
        # The offset that a single level cannot tell from a gain.
        limits[0] += offset_limit / float(shown.mean())
        return RangeCorrection(of_range.upto_a, float(gain), 0.0, limits[0] + residual, offset_limit)
    return RangeCorrection(of_range.upto_a, float(gain), float(rest[0]), limits[0] + residual, limits[1])


def _limit(row: FloatArray, points: Sequence[CalibrationPoint], true: FloatArray, noise: FloatArray) -> float:
    """How far one coefficient, ``row @ true``, may be off."""
    parts = row * true
    tolerances = {(point.resistor_ohm, point.tolerance) for point in points}
    limit = 0.0
    for resistor_ohm, tolerance in sorted(tolerances):
        own = np.array([(point.resistor_ohm, point.tolerance) == (resistor_ohm, tolerance) for point in points])
        limit += tolerance * abs(float(parts[own].sum()))
    limit += float(np.abs(parts) @ np.array([point.voltage_uncertainty for point in points]))
    return limit + _COVERAGE * float(np.linalg.norm(row * noise))


def _better(correction: RangeCorrection, of_range: RangeClass, points: Sequence[CalibrationPoint]) -> bool:
    """Whether the calibration leaves less doubt than the class, at the currents it was made at."""
    level = float(np.mean([point.shown_a for point in points]))
    corrected = correction.gain_uncertainty * level + correction.offset_uncertainty_a
    return corrected < of_range.relative * level + of_range.offset_a
