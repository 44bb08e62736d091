"""Ranges of activations from calibration data.

Each value's range is the one of a grid of shrunken min/max ranges with the least mean squared quantisation error over a
histogram of what was seen: outliers that would cost everybody resolution are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.graph import Graph
from lab.compiler.quantized import Affine
from lab.errors import CompileError

Float64Array: TypeAlias = npt.NDArray[np.float64]
BINS = 2048
SHRINK = np.linspace(1.0, 0.3, 71)
BATCH = 64
Observer: TypeAlias = Callable[[str, torch.Tensor], None]
"""Told a value's name and its elements."""


@dataclass(frozen=True)
class Histogram:
    """What was seen of one value: counts over ``BINS`` equal bins of ``[low, high]``."""

    low: float
    high: float
    counts: Float64Array


def observe(graph: Graph, calibration: torch.Tensor) -> dict[str, Histogram]:
    """Histograms of every value of the graph over NHWC calibration inputs; two passes, bounded memory."""

    def run(see: Observer) -> None:
        for chunk in torch.split(calibration, BATCH):
            graph.run(chunk, see)

    return collect(run, {node.output: f"'{node.name}' at {node.source}" for node in graph.nodes})


def collect(run: Callable[[Observer], None], places: Mapping[str, str]) -> dict[str, Histogram]:
    """Histograms of every value that ``run`` tells; it is called twice, and must tell the same both times.

    Args:
        run: runs all calibration inputs.
        places: value name to the words an error names it by.

    Raises:
        CompileError: a value is infinite or NaN.
    """
    ranges: dict[str, tuple[float, float]] = {}
    counts: dict[str, Float64Array] = {}

    def see_range(name: str, x: torch.Tensor) -> None:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(low, float(x.min())), max(high, float(x.max())))

    def see_counts(name: str, x: torch.Tensor) -> None:
        found, _ = np.histogram(x.numpy(), bins=BINS, range=widened(*ranges[name]))
        counts[name] = counts.get(name, np.zeros(BINS)) + found

    with torch.no_grad():
        for see in (see_range, see_counts):
            run(see)
            check_finite(ranges, places)
    return {name: Histogram(*widened(*ranges[name]), counts[name]) for name in counts}


def widened(low: float, high: float) -> tuple[float, float]:
    """A range of non-zero width."""
    return (low, high) if high > low else (low, low + 1e-6)


def check_finite(ranges: Mapping[str, tuple[float, float]], places: Mapping[str, str]) -> None:
    """Refuse values that overflow on the calibration data."""
    for name, bounds in ranges.items():
        if not np.isfinite(bounds).all():
            raise CompileError(
                f"infinite or NaN values on the calibration data: {places.get(name, name)}",
                hint="check the weights and the scale of the inputs",
            )


def affine_of_range(low: float, high: float, minimum_scale: float = 0.0) -> Affine:
    """The affine quantisation of a range that holds zero; zero is exact, as padding needs it."""
    scale = max((high - low) / 255.0, minimum_scale)
    return Affine(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def best_affine(histogram: Histogram, minimum_scale: float) -> Affine:
    """The shrunken range with the least mean squared error; ties go to the widest."""
    width = (histogram.high - histogram.low) / BINS
    centres = histogram.low + width * (np.arange(BINS, dtype=np.float64) + 0.5)
    candidates = [
        affine_of_range(histogram.low * part, histogram.high * part, minimum_scale) for part in SHRINK.tolist()
    ]
    errors = [squared_error(centres, histogram.counts, candidate) for candidate in candidates]
    return candidates[int(np.argmin(errors))]


def squared_error(values: Float64Array, weights: Float64Array, affine: Affine) -> float:
    """Summed squared quantisation error of weighted values."""
    q = np.clip(np.rint(values / affine.scale) + affine.zero_point, -128, 127)
    return float((weights * (values - affine.scale * (q - affine.zero_point)) ** 2).sum())
