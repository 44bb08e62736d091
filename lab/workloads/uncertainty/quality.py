"""How good a network's uncertainty is, in the figures of the literature.

Sources: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (expected calibration error);
T. Gneiting and A. Raftery, "Strictly Proper Scoring Rules", JASA 2007 (Brier score, logarithmic score); T. Fawcett, "An
introduction to ROC analysis", 2006 (area under the curve as the share of pairs in the right order).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating]
IntArray: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

BINS = 10
LEAST_SHARE = 1e-6


def auroc(uncertainty: FloatArray, wrong: Mask) -> float:
    """Share of pairs of a wrong and a right sample whose wrong one is more uncertain; ties count a half.

    Args:
        uncertainty: (n,).
        wrong: (n,), what a high uncertainty is to find.

    Returns:
        0 … 1, and 0.5 where there is no pair: nothing can be told apart.
    """
    if wrong.all() or not wrong.any():
        return 0.5
    difference = uncertainty[wrong][:, None].astype(np.float64) - uncertainty[~wrong][None].astype(np.float64)
    return float(np.mean(np.where(difference == 0, 0.5, difference > 0)))


def calibration_error(confidence: FloatArray, right: Mask) -> float:
    """Expected calibration error with ten equal bins of confidence (n,), 0 … 1."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = [
        abs(float(confidence[bins == one].mean()) - float(right[bins == one].mean())) * float((bins == one).mean())
        for one in np.unique(bins)
    ]
    return float(sum(gaps))


def log_loss(shares: FloatArray, labels: IntArray) -> float:
    """Mean negative logarithm of the share (n, classes) given to the label (n,), which counts as 1e-6 at least."""
    given = shares[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(given, LEAST_SHARE)).mean())


def brier(shares: FloatArray, labels: IntArray) -> float:
    """Mean squared distance of the shares (n, classes) to the label's one-hot vector, 0 … 2."""
    target = np.eye(shares.shape[1])[labels]
    return float(np.mean(np.sum((shares.astype(np.float64) - target) ** 2, axis=1)))
