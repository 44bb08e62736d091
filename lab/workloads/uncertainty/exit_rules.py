"""When an exit is sure enough: by the largest softmax, or by its entropy (BranchyNet's rule). No torch in here.

BranchyNet (Teerapittayanon, McDanel and Kung, 2016) leaves where the entropy of the softmax is below a threshold, which
is set by held-out images. So that both rules are compared at the same work, the entropy is set here to that with
which as many held-out images take the first exit as do by a given confidence.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Float64Array: TypeAlias = npt.NDArray[np.float64]
Rule: TypeAlias = Literal["confidence", "entropy"]


def entropies(shares: Float64Array) -> Float64Array:
    """Entropy of each row (n, classes) in nats, (n,)."""
    known = np.where(shares > 0, shares, 1.0)
    found: Float64Array = -(known * np.log(known)).sum(1)
    return found


def matched_entropy(shares: Float64Array, confidence: float) -> float:
    """The entropy with which as many of the images take the first exit as do by a confidence, in nats.

    It lies between the entropies of the last image that leaves and of the first that does not; beyond them where all
    or none leave.

    Args:
        shares: softmax of the first exit, (n, classes), n > 0.
        confidence: the largest share with which it is taken.
    """
    classes = shares.shape[1]
    bounds = np.concatenate([[0.0], np.sort(entropies(shares)), [2 * np.log(classes)]])
    leaving = int((shares.max(1) >= confidence).sum())
    return float((bounds[leaving] + bounds[leaving + 1]) / 2)
