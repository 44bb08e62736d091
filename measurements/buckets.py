"""Buckets of a power trace: least, greatest and mean current and the energy of every millisecond.

Energies are sums of whole numbers. The power of each sample, the float64 product of voltage and current, is rounded
once to a multiple of 2⁻⁴⁴ W (57 fW); those counts are added as int64. So the energies of all buckets add up to the
energy of the whole trace exactly, in any order, for any width of bucket and however the stream was cut into blocks, and
differ from the real sum by at most 2⁻⁴⁵ W times the duration. A float64 sum promises none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError
from measurements.record import Float32Array, Trace

BUCKET_S = 1e-3
POWER_STEP_W = 2.0**-44
_MOST_COUNTS = 2.0**63
# Few enough for a processor's cache, many enough that numpy's own work per call does not show.
_SAMPLES_AT_ONCE = 1 << 17

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Buckets:
    """Consecutive buckets, arrays of shape (n,).

    Attributes:
        first: number of the first bucket.
        samples_per_bucket: samples of every bucket but the last of a stream.
        dt_s: sample period, seconds.
        samples: int64, samples seen (not lost) in each.
        least_a, greatest_a: float32, ampere; NaN where every sample was lost.
        mean_a: float64, mean of the samples seen, ampere; NaN likewise.
        energy_counts: int64, energy of the samples seen, in :data:`POWER_STEP_W` times ``dt_s``.
    """

    first: int
    samples_per_bucket: int
    dt_s: float
    samples: Int64Array
    least_a: Float32Array
    greatest_a: Float32Array
    mean_a: FloatArray
    energy_counts: Int64Array

    @property
    def energy_j(self) -> FloatArray:
        """Energy of the samples seen in each bucket, joule, float64."""
        return self.energy_counts.astype(np.float64) * (POWER_STEP_W * self.dt_s)

    @property
    def total_counts(self) -> int:
        """Exact sum of ``energy_counts``."""
        return int(self.energy_counts.sum(dtype=object)) if self.energy_counts.size else 0

    @property
    def total_j(self) -> float:
        """Energy of all of them, joule: the exact sum, rounded once."""
        return self.total_counts * (POWER_STEP_W * self.dt_s)


class Bucketer:
    """Puts a stream of samples into buckets.

    Args:
        dt_s: sample period, seconds.
        voltage_v: supply voltage, volt, for blocks that come without one per sample.
        bucket_s: width of a bucket, rounded to whole samples, at least one.
    """

    def __init__(self, dt_s: float, voltage_v: float, bucket_s: float = BUCKET_S) -> None:
        self._dt_s = dt_s
        self._voltage_v = voltage_v
        self._width = max(1, round(bucket_s / dt_s))
        self._step = max(1, _SAMPLES_AT_ONCE // self._width) * self._width
        self._first = 0
        self._current = np.empty(0, np.float32)
        self._voltage: Float32Array | None = None

    def feed(self, current_a: Float32Array, voltage_v: Float32Array | None = None) -> Buckets:
        """Take consecutive samples, float32 (n,) each; return the buckets they complete.

        A sample whose current or voltage is NaN was lost.

        Raises:
            MeterError: a power too large to be added exactly, or blocks with and without a voltage per sample in one
                stream.
        """
        if self._current.size and (voltage_v is None) != (self._voltage is None):
            raise MeterError("blocks with and without a voltage per sample in one stream: all or none must have one")
        current = np.concatenate((self._current, current_a)) if self._current.size else current_a
        voltage = voltage_v
        if voltage is not None and self._voltage is not None:
            voltage = np.concatenate((self._voltage, voltage))
        whole = current.size - current.size % self._width
        self._current = current[whole:].copy()
        self._voltage = None if voltage is None else voltage[whole:].copy()
        return self._buckets(current[:whole], None if voltage is None else voltage[:whole])

    def finish(self) -> Buckets:
        """The last bucket, where samples are left over."""
        current, self._current = self._current, self._current[:0]
        return self._buckets(current, self._voltage)

    def _buckets(self, current: Float32Array, voltage: Float32Array | None) -> Buckets:
        parts = []
        for begin in range(0, max(current.size, 1), self._step):
            part = slice(begin, begin + self._step)
            parts.append(self._some(current[part], None if voltage is None else voltage[part]))
            self._first += parts[-1].samples.size
        return joined(parts)

    def _some(self, current: Float32Array, voltage: Float32Array | None) -> Buckets:
        """The buckets of so few samples that they stay in the cache."""
        width = min(self._width, current.size) or 1
        power = current.astype(np.float64)
        power *= self._voltage_v if voltage is None else voltage
        lost = np.isnan(power)
        if lost.any():
            return self._with_losses(current, power, lost, width)
        grid = current.reshape(-1, width)
        count = grid.shape[0]
        return Buckets(
            self._first,
            self._width,
            self._dt_s,
            np.full(count, width),
            grid.min(axis=1, initial=np.inf),
            grid.max(axis=1, initial=-np.inf),
            np.add.reduce(grid, axis=1, dtype=np.float64) / width,
            _counts(power, width).reshape(-1, width).sum(axis=1),
        )

    def _with_losses(
        self, current: Float32Array, power: FloatArray, lost: npt.NDArray[np.bool_], width: int
    ) -> Buckets:
        power[lost] = 0.0
        grid, seen = current.reshape(-1, width), ~lost.reshape(-1, width)
        samples = np.count_nonzero(seen, axis=1).astype(np.int64)
        known = np.where(samples > 0, 1.0, np.nan)
        total = np.where(seen, grid, 0.0).sum(axis=1, dtype=np.float64)
        return Buckets(
            self._first,
            self._width,
            self._dt_s,
            samples,
            (np.where(seen, grid, np.inf).min(axis=1) * known).astype(np.float32),
            (np.where(seen, grid, -np.inf).max(axis=1) * known).astype(np.float32),
            total * known / np.maximum(samples, 1),
            _counts(power, width).reshape(-1, width).sum(axis=1),
        )


def bucketed(trace: Trace, bucket_s: float = BUCKET_S) -> Buckets:
    """All buckets of a trace; the last one may hold fewer samples.

    Raises:
        MeterError: as :meth:`Bucketer.feed`.
    """
    bucketer = Bucketer(trace.dt_s, trace.voltage_v, bucket_s)
    return joined((bucketer.feed(trace.current_a, trace.measured_v), bucketer.finish()))


def joined(parts: Sequence[Buckets]) -> Buckets:
    """Consecutive buckets of one stream as one; at least one part."""
    return Buckets(
        parts[0].first,
        parts[0].samples_per_bucket,
        parts[0].dt_s,
        np.concatenate([part.samples for part in parts]),
        np.concatenate([part.least_a for part in parts]),
        np.concatenate([part.greatest_a for part in parts]),
        np.concatenate([part.mean_a for part in parts]),
        np.concatenate([part.energy_counts for part in parts]),
    )


def _counts(power: FloatArray, width: int) -> Int64Array:
    """Powers in whole steps; overwrites ``power``.

    Raises:
        MeterError: the sum of a bucket might not fit.
    """
    power /= POWER_STEP_W
    largest = max(power.max(initial=0.0), -power.min(initial=0.0))
    if largest * width >= _MOST_COUNTS:
        raise MeterError(
            f"a power of {largest * POWER_STEP_W:g} W in buckets of {width} samples cannot be added exactly; at most "
            f"{_MOST_COUNTS * POWER_STEP_W / width:g} W can",
            hint="is the unit right? Narrower buckets take more power",
        )
    return np.rint(power, out=power).astype(np.int64)
