"""Losses and their gradients. A loss is one number; scalars are tensors of one element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch.nn import functional

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall

PairFunction: TypeAlias = Literal["squared", "huber", "smooth_l1", "binary"]
PAIR_FUNCTIONS: tuple[PairFunction, ...] = ("squared", "huber", "smooth_l1", "binary")


@dataclass(frozen=True)
class NllLoss(Operation):
    """Negative log likelihood; inputs: log probabilities (rows, classes), labels (rows,) and optionally class weights.

    Outputs are the loss and the sum of the weights that count. A label out of range, but for ``ignored``, yields NaN.

    Attributes:
        rows, classes: sizes.
        ignored: label that does not count.
        mean: mean over what counts, else sum.
    """

    kind: ClassVar[str] = "nll_loss"
    rows: int
    classes: int
    ignored: int
    mean: bool

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        labels = present(inputs[1]).reshape(self.rows).long()
        log_probabilities = present(inputs[0]).reshape(self.rows, self.classes)
        counted = labels != self.ignored
        if bool((counted & ((labels < 0) | (labels >= self.classes))).any()):
            return torch.full((1,), math.nan), _total(labels, counted, self.classes, inputs[2])
        reduction = "mean" if self.mean else "sum"
        loss = functional.nll_loss(
            log_probabilities, labels, inputs[2], ignore_index=self.ignored, reduction=reduction
        )
        return loss.reshape(1), _total(labels, counted, self.classes, inputs[2])

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_nll_loss", (), _label_fields(self.rows, self.classes, self.ignored, self.mean))


def _total(labels: torch.Tensor, counted: torch.Tensor, classes: int, weights: torch.Tensor | None) -> torch.Tensor:
    kept = labels[counted & (labels >= 0) & (labels < classes)]
    return (torch.ones(len(kept)) if weights is None else weights[kept]).sum().reshape(1)


def _label_fields(rows: int, classes: int, ignored: int, mean: bool) -> tuple[tuple[str, int], ...]:
    return (("rows", rows), ("classes", classes), ("ignored", ignored), ("mean", int(mean)))


@dataclass(frozen=True)
class NllLossGradient(Operation):
    """Gradient of :class:`NllLoss`; inputs are the loss's gradient (absent: 1), labels, class weights and their sum.

    Attributes:
        rows, classes, ignored, mean: as in :class:`NllLoss`.
        scale: the gradient is multiplied by this.
    """

    kind: ClassVar[str] = "nll_loss.gradient"
    rows: int
    classes: int
    ignored: int
    mean: bool
    scale: float = 1.0

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        labels = present(inputs[1]).reshape(self.rows).long()
        given = torch.ones(()) if inputs[0] is None else inputs[0].reshape(())
        each = self.scale * given / present(inputs[3]).reshape(()) if self.mean else self.scale * given
        known = torch.where(labels == self.ignored, -1, labels)
        hot = (known[:, None] == torch.arange(self.classes)).float()
        weights = torch.ones(self.classes) if inputs[2] is None else inputs[2]
        return (torch.where(hot > 0, -each * weights, 0.0),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = _label_fields(self.rows, self.classes, self.ignored, self.mean)
        return KernelCall("lab_f32_nll_loss_gradient", (), (*fields, ("scale", self.scale)))


@dataclass(frozen=True)
class PairLoss(Operation):
    """``scale · Σ l(output, target)`` over all elements.

    Attributes:
        function: ``l``; ``binary`` is the cross-entropy of logits.
        scale: ``1 / elements`` for a mean.
        delta: border of the quadratic part of ``huber`` and ``smooth_l1``.
    """

    kind: ClassVar[str] = "pair_loss"
    function: PairFunction
    scale: float
    delta: float = 1.0

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x = present(inputs[0])
        target = present(inputs[1]).reshape(x.shape)
        functions: dict[PairFunction, Callable[[], torch.Tensor]] = {
            "squared": lambda: (x - target).square().sum(),
            "huber": lambda: functional.huber_loss(x, target, reduction="sum", delta=self.delta),
            "smooth_l1": lambda: functional.smooth_l1_loss(x, target, reduction="sum", beta=self.delta),
            "binary": lambda: functional.binary_cross_entropy_with_logits(x, target, reduction="sum"),
        }
        return ((self.scale * functions[self.function]()).reshape(1),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        count = inputs[0].elements if inputs[0] is not None else 0
        return KernelCall("lab_f32_pair_loss", (), _pair_fields(count, self.function, self.scale, self.delta))


def _pair_fields(
    count: int, function: PairFunction, scale: float, delta: float
) -> tuple[tuple[str, int | float], ...]:
    code = PAIR_FUNCTIONS.index(function)
    return (("count", count), ("function", code), ("scale", scale), ("delta", delta))


@dataclass(frozen=True)
class PairLossGradient(Operation):
    """Gradient of :class:`PairLoss`; inputs are the loss's gradient (absent: 1), output and target.

    Attributes:
        function, scale, delta: as in :class:`PairLoss`, but for ``binary``.
    """

    kind: ClassVar[str] = "pair_loss.gradient"
    in_place: ClassVar[tuple[int, ...]] = (1, 2)
    function: PairFunction
    scale: float
    delta: float = 1.0

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x = present(inputs[1])
        difference = x - present(inputs[2]).reshape(x.shape)
        functions: dict[PairFunction, Callable[[], torch.Tensor]] = {
            "squared": lambda: 2 * difference,
            "huber": lambda: difference.clamp(-self.delta, self.delta),
            "smooth_l1": lambda: torch.where(
                difference.abs() < self.delta, difference / self.delta, difference.sign()
            ),
        }
        given = 1.0 if inputs[0] is None else inputs[0].reshape(())
        return (self.scale * given * functions[self.function](),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = _pair_fields(outputs[0].elements, self.function, self.scale, self.delta)
        return KernelCall("lab_f32_pair_loss_gradient", (), fields)
