"""What a training step observes and keeps from step to step without descending any gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall


@dataclass(frozen=True)
class FisherUpdate(Update):
    """``Δ += rate / 2 · Σ_n (Σ_d a · g)²``: inputs ``Δ`` (channels,), gradient and activation (n, d, channels).

    With a learning rate of 1 / N, ``Δ`` is after N samples the Fisher information of Kwon et al. 2024, "TinyTrain",
    equation 2: squared after the sum over positions.

    Attributes:
        batch, positions, channels: sizes.
    """

    kind: ClassVar[str] = "fisher"
    batch: int
    positions: int
    channels: int

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        potential, gradient, activation = (present(one) for one in inputs)
        products = (activation.reshape(-1) * gradient.reshape(-1)).reshape(self.batch, self.positions, self.channels)
        return (potential + 0.5 * state.learning_rate * products.sum(1).square().sum(0),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("batch", self.batch), ("positions", self.positions), ("channels", self.channels))
        return KernelCall("lab_f32_fisher", (), fields, takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.batch * self.positions * self.channels


@dataclass(frozen=True)
class ClassMeanUpdate(Update):
    """``mean[label] += g · (feature − mean[label])``: inputs means (classes, depth), features (rows, depth), labels.

    Attributes:
        rows, classes, depth: sizes.
        gain: ``g`` behind the first rounds.
        round, rounds: samples of a round, and how many rounds there are of which ``g`` is 1 / n in the n-th.
    """

    kind: ClassVar[str] = "class_mean"
    rows: int
    classes: int
    depth: int
    gain: float
    round: int = 1
    rounds: int = 0

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        means = present(inputs[0]).clone()
        features, labels = present(inputs[1]).reshape(self.rows, self.depth), present(inputs[2]).reshape(self.rows)
        for row, (feature, label) in enumerate(zip(features, labels.tolist(), strict=True)):
            if 0 <= label < self.classes:
                turn = ((state.step - 1) * self.rows + row) // self.round + 1
                gain = 1 / turn if turn <= self.rounds else self.gain
                means[label] += gain * (feature - means[label])
        return (means,)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("rows", self.rows),
            ("classes", self.classes),
            ("depth", self.depth),
            ("round", self.round),
            ("rounds", self.rounds),
            ("gain", self.gain),
        )
        return KernelCall("lab_f32_class_mean", (), fields, takes_state=True)
