"""What a device must come to on a stream, from PyTorch, and how far off it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lab.compiler.model import CompiledModel, TensorSpec
from lab.errors import WorkloadError
from lab.workloads.adaptation.options import CLASSES, MOST_SHIFTS
from lab.workloads.base import FloatArray, Int8Array, Score

MIN_AGREEMENT = 0.98
MAX_OUTPUT_ERROR = 1e-3
MAX_VARIABLE_ERROR = 0.02
"""How far a device may be from PyTorch: share of equal classes, median difference of logits in parts of the largest,
and distance of the variables in parts of the way they have come. Sums have other orders, and Adam makes a whole step of
a gradient of any size. Seen: all classes equal, 4e-6, and 1.5e-3 of TENT, 2e-6 of OD-TTA."""


@dataclass(frozen=True)
class Integers:
    """What an int8 network must yield, to the bit.

    Attributes:
        outputs: int8 (samples, 10), by the integer reference.
        grid: of the outputs.
    """

    outputs: Int8Array
    grid: TensorSpec

    def check(self, found: Int8Array) -> None:
        """Raises: WorkloadError: it yielded anything else."""
        off = np.flatnonzero((found != self.outputs).any(axis=1))
        if len(off):
            raise WorkloadError(
                f"{len(off)} of {len(found)} outputs of the int8 network are not those of the integer reference; the "
                f"first of them at sample {off[0]}; every byte must be equal"
            )


@dataclass(frozen=True)
class Expectation:
    """What the device must come to, from PyTorch.

    Attributes:
        labels, segments, names: of the stream.
        logits: float32 (samples, 10); of an int8 network those of the same network in float32, which it need not reach.
        adapted: where the network changed.
        states: the source states taken, by name.
        variables, initial: after the stream and before it, by name.
        source_accuracy: of the unadapted network on the same stream.
        uploaded, received: samples that the host is sent, and how often it sends values, where it is the host that
            adapts.
        integers: of an int8 network.
    """

    labels: FloatArray
    segments: FloatArray
    names: tuple[str, ...]
    logits: FloatArray
    adapted: tuple[int, ...]
    states: tuple[str, ...]
    variables: Mapping[str, FloatArray]
    initial: Mapping[str, FloatArray]
    source_accuracy: float
    uploaded: tuple[int, ...] = ()
    received: int = 0
    integers: Integers | None = None

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge the device's outputs: int8 views of float32 logits and what follows them, or int8 logits.

        Raises:
            WorkloadError: they are not PyTorch's, within what another order of sums may do; int8: anything else than
                the integer reference's.
        """
        values = self._values(outputs)
        agreement = float(np.mean(values.argmax(1) == self.logits.argmax(1)))
        error = float(np.median(np.abs(values - self.logits)) / np.abs(self.logits).max())
        # Not larger, so that what is no number is refused as well.
        if self.integers is None and not (agreement >= MIN_AGREEMENT and error <= MAX_OUTPUT_ERROR):
            raise WorkloadError(
                f"the device agrees with PyTorch on {agreement:.2%} of {len(values)} samples and its logits differ by "
                f"{error:.2g} of the largest in the median; {MIN_AGREEMENT:.0%} or more and {MAX_OUTPUT_ERROR} or less "
                "are allowed"
            )
        right, expected = values.argmax(1) == self.labels, self.logits.argmax(1) == self.labels
        accuracy, reference = float(right.mean()), float(expected.mean())
        return [
            Score("accuracy", accuracy, reference, trials=len(right)),
            Score("accuracy_gain", accuracy - self.source_accuracy, reference - self.source_accuracy),
            Score("agreement", agreement, 1.0),
            Score("output_error", error, 0.0),
            *self._by_segment(right, expected),
        ]

    def _values(self, outputs: Int8Array) -> FloatArray:
        """Logits (samples, 10)."""
        given = np.ascontiguousarray(outputs)
        if self.integers is None:
            return given.view(np.float32).reshape(len(self.labels), -1)[:, :CLASSES]
        found = given.reshape(self.integers.outputs.shape)
        self.integers.check(found)
        return self.integers.grid.dequantize(found)

    def _by_segment(self, right: FloatArray, expected: FloatArray) -> list[Score]:
        """Accuracy of each segment, where there are few of them."""
        if len(self.names) > MOST_SHIFTS + 2:
            return []
        places = [self.segments == number for number in range(len(self.names))]
        return [
            Score(
                f"accuracy.{number} {name}", float(right[place].mean()), float(expected[place].mean()),
                trials=int(place.sum()),
            )
            for number, (name, place) in enumerate(zip(self.names, places, strict=True))
        ]  # fmt: skip

    def check_adaptation(self, model: CompiledModel, adapted: Sequence[int], raw: Mapping[str, bytes]) -> list[Score]:
        """Judge where the device has adapted, and what its variables are afterwards.

        Raises:
            WorkloadError: elsewhere than PyTorch, or to other values.
        """
        if tuple(adapted) != self.adapted:
            raise WorkloadError(
                f"the device adapted at {_places(adapted)}, PyTorch at {_places(self.adapted)} of the same stream"
            )
        if model.training is None:
            return [Score("adaptations", 0.0, 0.0)]
        found = model.training.to_torch(raw)
        come = math.sqrt(sum(_square(self.variables[name], self.initial[name]) for name in self.variables))
        off = math.sqrt(sum(_square(found[name], self.variables[name]) for name in self.variables))
        # Where nothing was adapted the variables must be those of the source.
        error = off / come if come else off
        if not error <= MAX_VARIABLE_ERROR:
            raise WorkloadError(
                f"the device's variables are off PyTorch's by {error:.2g} of the way these have come; at most "
                f"{MAX_VARIABLE_ERROR} is allowed"
            )
        count = float(len(adapted))
        return [Score("adaptations", count, float(len(self.adapted))), Score("variable_error", error, 0.0)]


def _places(adapted: Sequence[int]) -> str:
    shown = ", ".join(map(str, adapted[:8])) or "no sample"
    return f"{shown} …" if len(adapted) > 8 else shown


def _square(first: FloatArray, second: FloatArray) -> float:
    return float(np.sum((first.astype(np.float64) - second.astype(np.float64)) ** 2))
