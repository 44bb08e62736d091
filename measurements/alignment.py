"""Aligning two traces of the same events: when the second began by the clock of the first, and how fast its clock runs.

Sample ``k`` of the second trace lies at ``offset + k·ratio`` samples of the first. Three steps:

1. The whole second trace is found in the first by cross-correlation (FFT) of their buckets, coarse enough that the
   clocks' difference does not blur the peak.
2. Pieces of the second are found again near there, in full resolution; the peak of each correlation is interpolated by
   a parabola. A straight line through their places, robust against pieces without events (Theil-Sen), gives offset and
   ratio.
3. Least squares of the difference of both traces, by Gauss-Newton, moves the line to a fraction of a sample. Both are
   smoothed alike before: a step then is a ramp, which can be interpolated, and noise makes no slopes.

Cross-correlation is what aligns repeated runs of a device whose marker is not wired, or two meters on one supply.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from measurements.record import Trace
from measurements.segmentation import noise_of, power_of

FloatArray = npt.NDArray[np.float64]

LARGEST_CLOCK_DIFFERENCE = 500e-6
"""Relative; ten times what two quartz oscillators of ±25 ppm make."""
LEAST_CORRELATION = 0.6
"""Of the smoothed traces; unrelated ones of some thirty events reach 0.5 somewhere by chance."""

_PIECES = 16
_LEAST_PIECE = 64
_COARSE_POINTS = 1 << 16
_STEPS = 12
_NOISY = 0.1
# Samples, one after the other; narrower ones lose less of what the edges tell, and are not for noise or far starts.
_SMOOTHING = (16, 4)
_NOISY_SMOOTHING = (64, 16)


@dataclass(frozen=True)
class Alignment:
    """How the second trace lies on the first.

    Attributes:
        offset_s: time of its sample 0 after sample 0 of the first, by the first's clock, seconds.
        clock_ratio: a second of the second trace in seconds of the first.
        correlation: of both traces where they overlap, smoothed and aligned; -1 to 1.
    """

    offset_s: float
    clock_ratio: float
    correlation: float

    def time_s(self, other_s: FloatArray) -> FloatArray:
        """Times since sample 0 of the second trace as times since sample 0 of the first, seconds."""
        return self.offset_s + self.clock_ratio * other_s


def align(first: Trace, second: Trace) -> Alignment:
    """Find the second trace in the first.

    Args:
        first, second: of one sample rate (nominally); the second may begin before the first or end after it, by up to
            half of its length.

    Raises:
        ConfigError: different sample rates, traces too short, or traces that show nothing in common.
    """
    if abs(first.dt_s / second.dt_s - 1) > LARGEST_CLOCK_DIFFERENCE:
        raise ConfigError(
            f"traces of {1 / first.dt_s:g} and {1 / second.dt_s:g} samples per second cannot be aligned",
            hint="bring them to one rate (buckets of the faster one)",
        )
    here, there = _centred(first), _centred(second)
    if min(here.size, there.size) < 2 * _LEAST_PIECE:
        raise ConfigError(
            f"traces of {here.size} and {there.size} samples are too short to align; {2 * _LEAST_PIECE} are needed"
        )
    offset = _coarse_offset(here, there)
    offset, ratio = _line(here, there, offset)
    noise = max(noise_of(values) / (values.std() or 1.0) for values in (here, there))
    for width in _NOISY_SMOOTHING if noise > _NOISY else _SMOOTHING:
        smooth = _smoothed(here, width), _smoothed(there, width)
        offset, ratio = _least_squares(*smooth, offset, ratio)
    correlation = _correlation(*smooth, offset, ratio)
    if not correlation > LEAST_CORRELATION:
        raise ConfigError(
            f"the traces have nothing in common: their correlation is {correlation:.2f} at best, at least "
            f"{LEAST_CORRELATION} is needed",
            hint="do both show the same events?",
        )
    return Alignment(offset * first.dt_s, ratio * first.dt_s / second.dt_s, correlation)


def _centred(trace: Trace) -> FloatArray:
    power = power_of(trace)
    seen = np.isfinite(power)
    if not seen.any():
        raise ConfigError("every sample of a trace was lost: there is nothing to align")
    return np.where(seen, power - power[seen].mean(), 0.0)


def _smoothed(values: FloatArray, width: int) -> FloatArray:
    """Means over ``width`` samples, twice; both traces lose as much at their begin."""
    for _ in range(2):
        sums = np.concatenate(([0.0], np.cumsum(values)))
        values = (sums[width:] - sums[:-width]) / width
    return values


def _coarse_offset(here: FloatArray, there: FloatArray) -> float:
    """Offset in samples, to about a bucket."""
    from scipy.signal import correlate

    longest = max(here.size, there.size)
    # Wide enough that the clocks' difference over the whole trace is a bucket or less.
    width = max(1, longest // _COARSE_POINTS, int(longest * LARGEST_CLOCK_DIFFERENCE))
    width = min(width, min(here.size, there.size) // 16)
    coarse, wanted = _buckets(here, width), _buckets(there, width)
    scores = correlate(coarse, wanted, mode="full", method="fft")
    lags = np.arange(scores.size) - (wanted.size - 1)
    # Short overlaps correlate well by chance.
    overlap = np.minimum(coarse.size, lags + wanted.size) - np.maximum(0, lags)
    scores = np.where(overlap * 2 >= min(coarse.size, wanted.size), scores, -np.inf)
    return float(lags[int(scores.argmax())] * width)


def _buckets(values: FloatArray, width: int) -> FloatArray:
    whole = values.size - values.size % width
    return np.asarray(values[:whole].reshape(-1, width).mean(axis=1))


def _line(here: FloatArray, there: FloatArray, offset: float) -> tuple[float, float]:
    """Offset and ratio from places of pieces of the second trace in the first."""
    length = max(_LEAST_PIECE, there.size // _PIECES)
    reach = max(4, int(2 * max(here.size, there.size) * LARGEST_CLOCK_DIFFERENCE) + here.size // _COARSE_POINTS + 2)
    centres, places, weights = [], [], []
    for begin in range(0, there.size - length + 1, length):
        piece = there[begin : begin + length]
        low = int(offset) + begin - reach
        window = here[max(low, 0) : low + length + 2 * reach]
        if window.size <= length or not piece.std() > 0:
            continue
        place, score = _place(window, piece)
        places.append(max(low, 0) + place - begin)
        centres.append(begin + length / 2)
        weights.append(score)
    if not places:
        return offset, 1.0
    found, middle = np.array(places), np.array(centres)
    good = np.array(weights) > 0.5
    if np.count_nonzero(good) < 3:
        best = int(np.argmax(weights))
        return float(found[best]), 1.0
    found, middle = found[good], middle[good]
    i, j = np.triu_indices(found.size, 1)
    slope = float(np.median((found[j] - found[i]) / (middle[j] - middle[i])))
    slope = float(np.clip(slope, -LARGEST_CLOCK_DIFFERENCE, LARGEST_CLOCK_DIFFERENCE))
    return float(np.median(found - slope * middle)), 1.0 + slope


def _place(window: FloatArray, piece: FloatArray) -> tuple[float, float]:
    """Where a piece lies in a window, in samples and fractions, and how well it correlates there."""
    from scipy.signal import correlate

    shape = piece - piece.mean()
    scores = correlate(window, shape, mode="valid", method="fft")
    sums = np.concatenate(([0.0], np.cumsum(window)))
    squares = np.concatenate(([0.0], np.cumsum(window**2)))
    n = piece.size
    variance = squares[n:] - squares[:-n] - (sums[n:] - sums[:-n]) ** 2 / n
    norm = np.sqrt(np.maximum(variance, 1e-12 * float(squares[-1]) + 1e-300) * float((shape**2).sum()))
    scores = scores / norm
    best = int(scores.argmax())
    return best + _parabola(scores, best), float(scores[best])


def _parabola(scores: FloatArray, best: int) -> float:
    """Where a parabola through the peak and its neighbours is greatest, relative to the peak; -0.5 to 0.5."""
    if not 0 < best < scores.size - 1:
        return 0.0
    left, middle, right = (float(score) for score in scores[best - 1 : best + 2])
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _least_squares(here: FloatArray, there: FloatArray, offset: float, ratio: float) -> tuple[float, float]:
    """Gauss-Newton on offset and ratio; steps are damped while they do not make the difference smaller."""
    error = _difference(here, there, offset, ratio)[0]
    for _ in range(_STEPS):
        _, residual, slope, index = _difference(here, there, offset, ratio)
        middle = float(index.mean()) if index.size else 0.0
        columns = np.column_stack((slope, slope * (index - middle)))
        if index.size < _LEAST_PIECE or np.linalg.matrix_rank(columns) != 2:
            break
        (shift, stretch), *_ = np.linalg.lstsq(columns, residual, rcond=None)
        step = 1.0
        while step > 1e-3:
            moved = offset + step * float(shift - stretch * middle), ratio + step * float(stretch)
            tried = _difference(here, there, *moved)[0]
            if tried < error and abs(moved[1] - 1) <= 2 * LARGEST_CLOCK_DIFFERENCE:
                break
            step /= 2
        else:
            break
        gained, (offset, ratio), error = error - tried, moved, tried
        if gained <= 1e-12 * error:
            break
    return offset, ratio


def _difference(
    here: FloatArray, there: FloatArray, offset: float, ratio: float
) -> tuple[float, FloatArray, FloatArray, FloatArray]:
    """Mean squared difference, the difference, the slope of the first trace, and the sample numbers it is taken at."""
    index = _overlap(here.size, there.size, offset, ratio)
    if not index.size:
        return np.inf, np.empty(0), np.empty(0), np.empty(0)
    places = offset + ratio * index
    residual = there[index.astype(np.intp)] - _values(here, places)
    residual -= residual.mean()
    slope = _values(here, places + 0.5) - _values(here, places - 0.5)
    return float((residual**2).mean()), residual, slope, index


def _overlap(here: int, there: int, offset: float, ratio: float) -> FloatArray:
    begin = max(0, int(np.ceil(-offset / ratio)) + 1)
    end = min(there, int(np.floor((here - offset) / ratio)) - 2)
    return np.arange(begin, max(begin, end), dtype=np.float64)


def _values(values: FloatArray, places: FloatArray) -> FloatArray:
    """The signal between its samples, by straight lines."""
    return np.interp(places, np.arange(values.size, dtype=np.float64), values)


def _correlation(here: FloatArray, there: FloatArray, offset: float, ratio: float) -> float:
    index = _overlap(here.size, there.size, offset, ratio)
    if index.size < _LEAST_PIECE:
        return 0.0
    shown = _values(here, offset + ratio * index)
    seen = there[index.astype(np.intp)]
    if not (shown.std() > 0 and seen.std() > 0):
        return 0.0
    return float(np.corrcoef(shown, seen)[0, 1])
