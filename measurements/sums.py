"""Sums and means of a trace's samples over segments, and ratios that are NaN where there is nothing to divide by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def segment_sums(values: FloatArray, begin: IntArray, end: IntArray) -> FloatArray:
    """Sums of ``values[begin:end]`` of each segment; 0 for one that is empty."""
    bounds = np.column_stack((begin, np.maximum(end, begin))).ravel()
    sums = np.add.reduceat(np.append(values, 0.0), bounds)[::2]
    return np.asarray(np.where(end > begin, sums, 0.0))


def segment_means(values: FloatArray, counted: npt.NDArray[np.bool_], begin: IntArray, end: IntArray) -> FloatArray:
    """Means of the ``counted`` samples of each segment; NaN where none is."""
    total = segment_sums(np.where(counted, values, 0.0), begin, end)
    return ratio(total, segment_sums(counted.astype(np.float64), begin, end))


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotients; NaN where the denominator is not positive."""
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.size, np.nan), where=denominator > 0))
