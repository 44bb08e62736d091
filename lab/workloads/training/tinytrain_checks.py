"""What a device may differ by from PyTorch in TinyTrain: in what it surveys, what it trains and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lab.compiler.model import CompiledTraining
from lab.errors import WorkloadError
from lab.workloads.base import FloatArray, Int8Array, Score
from lab.workloads.training.agreement import AS_FAR, UNTRAINED
from lab.workloads.training.tinytrain_arms import IntArray

MAX_MEAN_ERROR = 1e-4
MAX_FISHER_ERROR = 1e-3
MAX_LOSS_ERROR = 0.02
MAX_UPDATE_ERROR = 0.25
MIN_AGREEMENT = 0.9
"""How far a device may be from PyTorch. Class means and Fisher information are sums of one pass: relative to their
largest value. Training takes hundreds of steps whose size Adam makes the same for small and large gradients, so that
the sign of one that is nearly zero, which rounding decides, moves a weight as far as any: the median of the losses, the
distance of the trained variables as a share of the way PyTorch's have come, and the share of images told alike."""

@dataclass(frozen=True)
class Steps:
    """What training came to.

    Attributes:
        losses: of each step.
        initial, final: variables before and after.
        logits: after training, (queries, ways).
    """

    losses: FloatArray
    initial: Sequence[FloatArray]
    final: Sequence[FloatArray]
    logits: FloatArray


@dataclass(frozen=True)
class Tolerance:
    """How far a device may be from PyTorch: median of the losses, variables, share of answers alike."""

    loss: float = MAX_LOSS_ERROR
    update: float = MAX_UPDATE_ERROR
    agreement: float = MIN_AGREEMENT


def tolerance_of(steps: Steps, other: Steps) -> Tolerance:
    """What may be asked of a device where PyTorch itself, begun a rounding apart, comes to something else.

    Args:
        steps: PyTorch's.
        other: the same from weights that are changed by :data:`~lab.workloads.training.agreement.ROUNDING`.
    """
    loss = float(np.median(np.abs(other.losses - steps.losses)))
    off = distance(other.final, steps.final) / distance(steps.final, steps.initial)
    differing = float(np.mean(other.logits.argmax(1) != steps.logits.argmax(1)))
    return Tolerance(
        max(MAX_LOSS_ERROR, AS_FAR * loss),
        max(MAX_UPDATE_ERROR, min(UNTRAINED, AS_FAR * off)),
        max(0.0, min(MIN_AGREEMENT, 1 - AS_FAR * differing)),
    )


@dataclass(frozen=True)
class Expectation:
    """What a device must come to.

    Attributes:
        labels: of the images that are asked.
        training: makes real values of its bytes.
        losses: of each step in PyTorch; empty where nothing is descended.
        initial, variables: before and after in PyTorch, by the device's names: what is trained, and the class means.
        logits: PyTorch's after training, (queries, ways).
        surveyed: what was found before, with what it was compared with.
        tolerance: how far it may be from that.
    """

    labels: IntArray
    training: CompiledTraining
    losses: FloatArray
    initial: Mapping[str, FloatArray]
    variables: Mapping[str, FloatArray]
    logits: FloatArray
    surveyed: tuple[Score, ...] = ()
    tolerance: Tolerance = Tolerance()

    def check_training(self, losses: FloatArray, variables: Mapping[str, bytes]) -> list[Score]:
        """Judge losses and variables.

        Raises:
            WorkloadError: not those of PyTorch, within what another rounding may do.
        """
        error = float(np.median(np.abs(losses - self.losses))) if len(self.losses) else 0.0
        allowed = self.tolerance
        if not error <= allowed.loss:
            raise WorkloadError(
                f"the losses differ from PyTorch's by {error:.2g} in the median; at most {allowed.loss:.2g} is allowed"
            )
        found, names = self.training.to_torch(variables), list(self.variables)
        theirs = [self.variables[name] for name in names]
        come = distance(theirs, [self.initial[name] for name in names])
        off = distance([found[name] for name in names], theirs) / come
        if not off <= allowed.update:
            raise WorkloadError(
                f"the trained variables are off PyTorch's by {off:.2g} of the way these have come; at most "
                f"{allowed.update:.2g} is allowed"
            )
        return [*self.surveyed, Score("loss_error", error, 0.0), Score("update_error", off, 0.0)]

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge the answers after training.

        Raises:
            WorkloadError: other classes than PyTorch's network tells, trained in the same way.
        """
        told = np.ascontiguousarray(outputs).view(np.float32).argmax(1)
        expected = self.logits.argmax(1)
        alike = float(np.mean(told == expected))
        if alike < self.tolerance.agreement:
            raise WorkloadError(
                f"{alike:.2%} of the images are told as PyTorch tells them after the same training; at least "
                f"{self.tolerance.agreement:.0%} must be"
            )
        accuracy = float(np.mean(told == self.labels))
        return [
            Score("accuracy", accuracy, float(np.mean(expected == self.labels)), trials=len(self.labels)),
            Score("agreement", alike, 1.0),
        ]


def compare_means(found: FloatArray, expected: FloatArray) -> Score:
    """The class means of a survey.

    Raises:
        WorkloadError: not PyTorch's.
    """
    error = _relative(found, expected)
    if not error <= MAX_MEAN_ERROR:
        raise WorkloadError(
            f"the class means are off PyTorch's by {error:.2g} of the largest; at most {MAX_MEAN_ERROR:g} is allowed"
        )
    return Score("class_mean_error", error, 0.0)


def compare_fisher(found: Mapping[str, FloatArray], expected: Mapping[str, FloatArray]) -> Score:
    """The Fisher information of a survey.

    Raises:
        WorkloadError: not PyTorch's; says of which layer.
    """
    errors = {name: _relative(found[name], values) for name, values in expected.items()}
    for name, error in errors.items():
        if not error <= MAX_FISHER_ERROR:
            raise WorkloadError(
                f"the Fisher information of {name} is off PyTorch's by {error:.2g} of its largest; at most "
                f"{MAX_FISHER_ERROR:g} is allowed"
            )
    return Score("fisher_error", max(errors.values()), 0.0)


def _relative(found: FloatArray, expected: FloatArray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def distance(some: Sequence[FloatArray], others: Sequence[FloatArray]) -> float:
    """Euclidean, over all elements of several arrays."""
    pairs = zip(some, others, strict=True)
    return math.sqrt(sum(float(np.sum((one.astype(np.float64) - other) ** 2)) for one, other in pairs))
