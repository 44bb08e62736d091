"""Rare classes made as frequent as the most frequent one by samples between neighbours (SMOTE).

Source: N. Chawla, K. Bowyer, L. Hall and W. Kegelmeyer, "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16,
2002, section 4.2, with five neighbours.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

NEIGHBOURS = 5


def balanced(samples: FloatArray, labels: IntArray, generator: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """All samples (n, …), and behind them made ones until every class has as many as the largest.

    A made one lies at a random place on the line from a sample to one of its five nearest of the same class, by squared
    differences. A class of one sample is repeated.

    Args:
        samples: float32 (n, …).
        labels: int64 (n,).
        generator: draws what is made.
    """
    classes, counts = np.unique(labels, return_counts=True)
    made, of = [samples], [labels]
    for one, count in zip(classes, counts, strict=True):
        missing = int(counts.max() - count)
        if missing:
            made.append(_between(samples[labels == one], missing, generator))
            of.append(np.full(missing, one, np.int64))
    return np.concatenate(made), np.concatenate(of)


def _between(own: FloatArray, count: int, generator: np.random.Generator) -> FloatArray:
    """So many samples on lines between neighbours of ``own`` (n, …)."""
    places = generator.integers(len(own), size=count)
    if len(own) == 1:
        return own[places]
    flat = own.reshape(len(own), -1).astype(np.float64)
    squares = (flat**2).sum(1)
    distances = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(own) - 1)]
    other = nearest[places, generator.integers(nearest.shape[1], size=count)]
    share = generator.random((count, *(1,) * (own.ndim - 1)))
    return (own[places] + share * (own[other] - own[places])).astype(np.float32)
