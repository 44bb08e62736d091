"""Matrix products: linear layers, their gradients, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.graph import Clamp
from lab.compiler.operations.copy import present
from lab.compiler.operations.optimizer import sgd_flop
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall

UNBOUNDED = Clamp(-math.inf, math.inf)


@dataclass(frozen=True)
class MatMul(Operation):
    """``a · b (+ bias)``, clamped; inputs ``a``, ``b`` and optionally a bias per column.

    ``a`` is (batch, rows, depth), or (batch, depth, rows) where ``transpose_a``; ``b`` is (batch, depth, columns), or
    (batch, columns, depth) where ``transpose_b``; the output is (batch, rows, columns). The tensors' own shapes may
    differ.

    Attributes:
        transpose_a, transpose_b: how the operands lie.
        batch, rows, columns, depth: sizes.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "matmul"
    transpose_a: bool
    transpose_b: bool
    batch: int
    rows: int
    columns: int
    depth: int
    activation: Clamp = UNBOUNDED

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        bias = inputs[2]
        y = self.product(present(inputs[0]), present(inputs[1]))
        return (self.activation.apply(y if bias is None else y + bias),)

    def product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """``a · b``, of shape (rows, columns), with the batch in front where there is one."""
        a_shape = (self.depth, self.rows) if self.transpose_a else (self.rows, self.depth)
        b_shape = (self.columns, self.depth) if self.transpose_b else (self.depth, self.columns)
        a, b = a.reshape(self.batch, *a_shape), b.reshape(self.batch, *b_shape)
        y = (a.transpose(1, 2) if self.transpose_a else a) @ (b.transpose(1, 2) if self.transpose_b else b)
        return y if self.batch > 1 else y[0]

    def fields(self) -> tuple[tuple[str, int | float | tuple[int, ...]], ...]:
        """Sizes and flags of the kernels' descriptors."""
        return (
            ("rows", self.rows),
            ("columns", self.columns),
            ("depth", self.depth),
            ("transpose_a", int(self.transpose_a)),
            ("transpose_b", int(self.transpose_b)),
        )

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        bounds = (("minimum", self.activation.low), ("maximum", self.activation.high))
        return KernelCall("lab_f32_matmul", (), (("batch", self.batch), *self.fields(), *bounds))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.batch * self.rows * self.columns * self.depth


@dataclass(frozen=True)
class MatMulSgd(Update):
    """``weights -= rate · (a · b + weight_decay · weights)``: gradient and update in one, nothing stored.

    Inputs ``a``, ``b`` as in :class:`MatMul` and the weights, which are the output.

    Attributes:
        product: the gradient.
        rate_scale: the learning rate of the step is multiplied by this.
        weight_decay: L2 penalty.
    """

    kind: ClassVar[str] = "matmul.sgd"
    product: MatMul
    rate_scale: float
    weight_decay: float

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        gradient = self.product.product(present(inputs[0]), present(inputs[1]))
        weights = present(inputs[2])
        rate = self.rate_scale * state.learning_rate
        return (weights - rate * (gradient.reshape(weights.shape) + self.weight_decay * weights),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        update = (("weight_decay", self.weight_decay), ("rate_scale", self.rate_scale))
        return KernelCall("lab_f32_matmul_sgd", (), (*self.product.fields(), *update), takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.product.macs(inputs, outputs)

    def flop(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return super().flop(inputs, outputs) + sgd_flop(outputs[0].elements, self.weight_decay)
