"""Decimation of long traces for drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from measurements.record import Float32Array, UInt8Array


@dataclass(frozen=True)
class Envelope:
    """Lowest and highest value of consecutive buckets; every sample is in exactly one bucket.

    Attributes:
        edges: int64, shape (buckets + 1,): bucket ``b`` holds samples ``[edges[b], edges[b + 1])``.
        low, high: float32, shape (buckets,); NaN where every sample of the bucket was lost.
    """

    edges: npt.NDArray[np.int64]
    low: Float32Array
    high: Float32Array


def envelope(values: Float32Array, buckets: int) -> Envelope:
    """Reduce ``values`` to at most ``buckets`` minimum/maximum pairs.

    A minimum/maximum envelope keeps every peak at any zoom, which taking every k-th sample or averaging does not.

    Args:
        values: float32, shape (n,); NaN for lost samples, which are left out of the extremes.
        buckets: most buckets, at least 1.
    """
    count = min(buckets, len(values))
    if count == 0:
        empty = np.empty(0, dtype=np.float32)
        return Envelope(np.zeros(1, dtype=np.int64), empty, empty)
    edges = np.arange(count + 1, dtype=np.int64) * len(values) // count
    finite = np.where(np.isfinite(values), values, np.float32(np.nan)).astype(np.float32)
    return Envelope(edges, np.fmin.reduceat(finite, edges[:-1]), np.fmax.reduceat(finite, edges[:-1]))


def pulses(logic: UInt8Array, bit: int) -> list[tuple[int, int]]:
    """Return the sample ranges ``[begin, end)`` in which logic input ``bit`` is high, in order."""
    level = np.concatenate(([0], (logic >> bit) & 1, [0])).astype(np.int8)
    edges = np.flatnonzero(np.diff(level))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def merged(ranges: list[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Join ranges that are at most ``gap`` samples apart: closer ones cannot be told apart in a drawing."""
    joined: list[tuple[int, int]] = []
    for begin, end in ranges:
        if joined and begin - joined[-1][1] <= gap:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined
