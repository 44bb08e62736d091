"""Simple power analysis: how many layers a network has, and of what kind, from a power trace alone.

After R. Joud, P.-A. Moëllic, S. Pontié and J.-B. Rigaud, "Like an Open Book? Read Neural Network Architecture with
Simple Power Analysis on 32-bit Microcontrollers" (CARDIS 2023, arXiv 2311.01344): inference runs layer by layer, each
kernel is a loop of its own, so a trace falls into stretches that look alike inside and differ between. Theirs is the
eye of an analyst on electromagnetic traces of a Cortex-M7; here stretches are found by
:mod:`measurements.segmentation` and told apart by their power alone, compared with that of kernels the analyst has
profiled on a device of the same kind.

No marker is looked at: passes are what stands out from the idle level.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.errors import ConfigError
from measurements.record import Trace
from measurements.segmentation import FloatArray, Segment, power_of, segment

LEAST_STEP = 0.004
"""Smallest difference of two layers' powers that counts, relative: a few steps of a PPK2's converter at 3 mA."""
LINEAR = "linear"
FIRST = "conv2d"
POOLING = ("max_pool2d", "avg_pool2d")
_SHORTEST_SAMPLES = 5
_ACTIVE_SHARE = 0.3
_MOST_SAMPLES = 1 << 18


@dataclass(frozen=True)
class RecoveredLayer:
    """A stretch of every pass, taken to be one layer: its mean duration (s) and power (W)."""

    duration_s: float
    power_w: float


@dataclass(frozen=True)
class Template:
    """A kernel that was profiled before: kind of layer and power, watt."""

    kind: str
    power_w: float


@dataclass(frozen=True)
class Recovery:
    """What was recovered of a network, beside the truth.

    Attributes:
        found, true: kinds of layers, in order.
    """

    found: tuple[str, ...]
    true: tuple[str, ...]

    @property
    def count_error(self) -> int:
        """Layers found less layers there are."""
        return len(self.found) - len(self.true)

    @property
    def kind_rate(self) -> float:
        """Share of layers recovered in kind and order: 1 less the edit distance over the longer of both lists."""
        longer = max(len(self.found), len(self.true))
        return 1.0 - _edit_distance(self.found, self.true) / longer if longer else 1.0

    @property
    def majority_rate(self) -> float:
        """What it is compared with: whoever knows the number of layers and calls all of them the most frequent kind."""
        return max(Counter(self.true).values()) / len(self.true) if self.true else 1.0


def recover_layers(trace: Trace, settle_s: float = 0.0) -> tuple[RecoveredLayer, ...]:
    """The stretches of a pass, averaged over the passes that show the usual number of them; empty without any pass.

    Args:
        trace: passes with idle between them; of a long one the first 2¹⁸ samples are taken.
        settle_s: time constant of the supply.

    Raises:
        ConfigError: as :func:`measurements.segmentation.segment`.
    """
    cut = slice(0, _MOST_SAMPLES)
    part = Trace(
        trace.t0_s, trace.dt_s, trace.voltage_v, trace.current_a[cut], trace.logic[cut], 0,
        None if trace.measured_v is None else trace.measured_v[cut],
    )  # fmt: skip
    found = segment(part, shortest_s=_SHORTEST_SAMPLES * trace.dt_s, least_step=LEAST_STEP, settle_s=settle_s)
    passes = _passes(found)
    if not passes:
        return ()
    usual = Counter(len(one) for one in passes).most_common(1)[0][0]
    alike = [one for one in passes if len(one) == usual]
    duration = np.mean([[layer.duration_s for layer in one] for one in alike], axis=0)
    way = 1 + math.ceil(3 * settle_s / trace.dt_s)
    samples = power_of(part)
    power = np.mean([[_settled_w(samples, layer, way) for layer in one] for one in alike], axis=0)
    return tuple(RecoveredLayer(float(s), float(w)) for s, w in zip(duration, power, strict=True))


def kinds_of(layers: Sequence[RecoveredLayer], templates: Sequence[Template]) -> tuple[str, ...]:
    """The kinds whose templates' powers are nearest (least squares), among what networks look like.

    Networks for small devices end with linear layers and have none before; what comes before them begins with a
    convolution and pools somewhere. That is knowledge of practice, as the paper's analyst uses it, not of the network.

    Raises:
        ConfigError: no template of a linear layer and of a convolution.
    """
    linear = [one for one in templates if one.kind == LINEAR]
    spatial = [one for one in templates if one.kind != LINEAR]
    first = [one for one in templates if one.kind == FIRST]
    if not linear or not first:
        raise ConfigError(f"kinds of layers are told by kernels profiled before; {LINEAR} and {FIRST} must be there")
    readings = []
    for count in range(len(layers) + 1):
        allowed = [first, *[spatial] * (count - 1)][:count] + [linear] * (len(layers) - count)
        nearest = [
            min(some, key=lambda one: abs(one.power_w - layer.power_w))
            for layer, some in zip(layers, allowed, strict=True)
        ]
        if count and not any(one.kind in POOLING for one in nearest):
            continue
        error = sum((one.power_w - layer.power_w) ** 2 for one, layer in zip(nearest, layers, strict=True))
        readings.append((error, tuple(one.kind for one in nearest)))
    return min(readings)[1]


def warning_of(trace: Trace, layers: int, settle_s: float = 0.0) -> str:
    """A sentence for the report where a trace gives away how many layers the network has; empty where it does not.

    Args:
        trace: of a metered run.
        layers: how many the network has.
        settle_s: time constant of the supply.
    """
    if layers < 2:
        return ""
    try:
        found = recover_layers(trace, settle_s)
    except ConfigError:
        return ""
    if len(found) != layers:
        return ""
    return (
        f"This trace shows {layers} layers: whoever can measure the supply current sees the structure of the network "
        "(simple power analysis, docs/traces.md)."
    )


def _settled_w(power: FloatArray, layer: Segment, way: int) -> float:
    """Median power of a stretch without its edges, where it is long enough to have an inside."""
    inside = power[layer.start + way : layer.stop - 1]
    inside = inside[np.isfinite(inside)]
    return float(np.median(inside)) if inside.size else layer.power_w


def _passes(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Stretches above idle, by pass; those that the trace cuts off are left out."""
    powers = [one.power_w for one in segments]
    threshold = min(powers) + _ACTIVE_SHARE * (max(powers) - min(powers))
    passes: list[list[Segment]] = []
    current: list[Segment] | None = None
    for one in segments:
        if one.power_w > threshold:
            if current is not None:
                current.append(one)
        else:
            if current:
                passes.append(current)
            current = []
    return passes


def _edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements that make one list the other (Levenshtein)."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (one != other))
    return row[-1]
