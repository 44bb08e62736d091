"""Convolutions of which only some blocks of four input channels are kept, and SGD that moves the blocks.

As :mod:`lab.compiler.operations.block_sparse`, where each tap of each output's kernel is a row of its own: kept weights
are (outputs * taps, kept * 4), the numbers of their blocks (outputs * taps, kept).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.graph import Clamp
from lab.compiler.operations.block_sparse import BLOCK, Renewal, dense, followed
from lab.compiler.operations.conv2d import ConvGeometry, Fields
from lab.compiler.operations.copy import present
from lab.compiler.operations.matmul import UNBOUNDED
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall


@dataclass(frozen=True)
class Sparsity:
    """A convolution of one group, and the blocks that each tap of each output keeps.

    Attributes:
        geometry: sizes of the whole layer; input channels are a multiple of four.
        kept: blocks of a tap.
    """

    geometry: ConvGeometry
    kept: int

    @property
    def rows(self) -> int:
        """Taps of all outputs."""
        return self.geometry.output[2] * self.geometry.kernel[0] * self.geometry.kernel[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass, and of each of its gradients."""
        return self.geometry.macs * self.kept * BLOCK // self.geometry.input[2]

    def dense(self, weights: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        """The physical weight with zeros for blocks that are not kept."""
        return dense(weights, blocks, self.geometry.input[2]).reshape(self.geometry.weight_shape)

    def fields(self, prefix: str = "", activation: Clamp = UNBOUNDED) -> Fields:
        """Of ``lab_f32_blocks_conv2d_t``."""
        bounds = ((f"{prefix}layer.minimum", activation.low), (f"{prefix}layer.maximum", activation.high))
        return (*self.geometry.fields(f"{prefix}layer."), *bounds, (f"{prefix}kept", self.kept))


@dataclass(frozen=True)
class BlockConv2d(Operation):
    """Inputs: ``x``, kept weights, numbers of the blocks, and optionally a bias per output.

    Attributes:
        sparsity: sizes.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "block_conv2d"
    sparsity: Sparsity
    activation: Clamp = UNBOUNDED

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        weight, bias = self.sparsity.dense(present(inputs[1]), present(inputs[2])), inputs[3]
        y = self.sparsity.geometry.forward(present(inputs[0]), weight)
        return (self.activation.apply(y if bias is None else y + bias),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_blocks_conv2d", (), self.sparsity.fields(activation=self.activation))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.sparsity.macs


@dataclass(frozen=True)
class BlockConv2dInputGradient(Operation):
    """Gradient of ``x``; inputs: gradient of the output, kept weights, numbers of the blocks."""

    kind: ClassVar[str] = "block_conv2d.input_gradient"
    sparsity: Sparsity

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient, weights, blocks = (present(one) for one in inputs)
        return (self.sparsity.geometry.input_gradient(gradient, self.sparsity.dense(weights, blocks)),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall(
            "lab_f32_blocks_conv2d_input_gradient", (), self.sparsity.fields(), descriptor="lab_f32_blocks_conv2d_t"
        )

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.sparsity.macs


@dataclass(frozen=True)
class BlockConv2dSgd(Update):
    """Gradient, masks and update in one; ``firmware/runtime/lab_f32_blocks_conv2d_sgd.h`` says what is masked when.

    Inputs: gradient of the output, ``x``, and what is changed: kept weights, numbers of the blocks, the threshold.

    Attributes:
        sparsity: sizes.
        changed: output channels whose weights change in a step, about so many.
        renewal: of the taps' blocks.
        rate_scale: the learning rate of the step is multiplied by this.
    """

    kind: ClassVar[str] = "block_conv2d.sgd"
    sparsity: Sparsity
    changed: int
    renewal: Renewal
    rate_scale: float

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        gradient, x, weights, blocks, threshold = (present(one) for one in inputs)
        weights, blocks = weights.clone(), blocks.clone()
        geometry, rows = self.sparsity.geometry, self.sparsity.rows
        outputs, channels = geometry.output[2], geometry.input[2]
        passes = ~(gradient.reshape(-1, outputs).abs().sum(0) <= threshold)
        whole = geometry.weight_gradient(x, gradient) * passes[:, None, None, None]
        index = blocks.to(torch.int64)[:, :, None].expand(-1, -1, BLOCK)
        kept = whole.reshape(rows, channels // BLOCK, BLOCK).gather(1, index)
        kept[:, self.renewal.awake(self.sparsity.kept, state.step) :] = 0.0
        weights -= self.rate_scale * state.learning_rate * kept.reshape(weights.shape)
        if self.changed < outputs:
            threshold = followed(threshold, int(passes.sum()), self.changed)
        self.renewal.follow(weights, blocks, channels // BLOCK, state)
        return weights, blocks, threshold

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            *self.sparsity.fields("sparse."),
            ("changed", self.changed),
            *self.renewal.fields(),
            ("rate_scale", self.rate_scale),
        )
        return KernelCall("lab_f32_blocks_conv2d_sgd", (), fields, takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.sparsity.macs * self.changed // self.sparsity.geometry.output[2]
