"""Linear layers of which only some blocks of four inputs of each output are kept, and SGD that moves the blocks.

Wang et al. 2022, "SparCL: Sparse Continual Learning on the Edge", mask single weights. Here a mask chooses blocks,
since an index for each weight would cost as much as the weight, and every output keeps as many, so that none has to be
searched for. Only kept weights lie in memory: (outputs, kept, 4), beside the numbers of their blocks (outputs, kept).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Clamp
from lab.compiler.operations.copy import present
from lab.compiler.operations.int8_training import random_at, random_step
from lab.compiler.operations.matmul import UNBOUNDED
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall

BLOCK = 4
"""Inputs of a block: ``LAB_F32_BLOCK`` of ``firmware/runtime/lab_f32_blocks.h``."""
MOST_BLOCKS = 256
"""Of an input: their numbers are bytes."""
FIRST_THRESHOLD, LEAST_THRESHOLD, GROWTH = np.float32(1e-3), np.float32(1e-6), np.float32(1.1)


def dense(weights: torch.Tensor, blocks: torch.Tensor, inputs: int) -> torch.Tensor:
    """The weights (outputs, inputs) with zeros for blocks that are not kept."""
    outputs, kept = blocks.shape
    whole = torch.zeros(outputs, inputs // BLOCK, BLOCK)
    index = blocks.to(torch.int64)[:, :, None].expand(outputs, kept, BLOCK)
    return whole.scatter(1, index, weights.reshape(outputs, kept, BLOCK)).reshape(outputs, inputs)


def followed(threshold: torch.Tensor, changed: int, wanted: int) -> torch.Tensor:
    """The threshold (1,) after a step in which so many outputs were above it, of which ``wanted`` were to be."""
    value = threshold.numpy()
    if changed > wanted:
        return torch.from_numpy(value * GROWTH)
    return torch.from_numpy(value / GROWTH if value[0] > LEAST_THRESHOLD else value)


def renew(weights: torch.Tensor, blocks: torch.Tensor, inputs: int, key: int) -> None:
    """Replace the weakest of a row's blocks by a random one of ``inputs`` that it has not, in place.

    Args:
        weights, blocks: (kept * 4,) and (kept,) of the row.
        inputs: blocks of the input.
        key: of the random number.
    """
    rows = weights.view(-1, BLOCK)
    given_up = int(rows.abs().sum(1).argmin())
    chosen = int(random_at(key, np.zeros(1, np.uint32))[0]) % inputs
    while chosen in blocks:
        chosen = (chosen + 1) % inputs
    blocks[given_up] = chosen
    rows[given_up] = 0.0


@dataclass(frozen=True)
class BlockLinear(Operation):
    """Inputs: ``x``, kept weights, numbers of the blocks, and optionally a bias per output.

    Attributes:
        outputs, kept: sizes.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "block_linear"
    outputs: int
    kept: int
    activation: Clamp = UNBOUNDED

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x, bias = present(inputs[0]).reshape(-1), inputs[3]
        y = dense(present(inputs[1]), present(inputs[2]), len(x)) @ x
        return (self.activation.apply(y if bias is None else y + bias)[None],)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        bounds = (("minimum", self.activation.low), ("maximum", self.activation.high))
        return KernelCall("lab_f32_blocks", (), (("rows", self.outputs), ("kept", self.kept), *bounds))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.outputs * self.kept * BLOCK


@dataclass(frozen=True)
class BlockInputGradient(Operation):
    """Gradient of ``x``; inputs: gradient of the output, kept weights, numbers of the blocks.

    Attributes:
        outputs, kept, columns: sizes; ``columns`` are the layer's inputs.
    """

    kind: ClassVar[str] = "block_linear.input_gradient"
    outputs: int
    kept: int
    columns: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient, weights, blocks = (present(one) for one in inputs)
        return ((gradient.reshape(-1) @ dense(weights, blocks, self.columns))[None],)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("rows", self.outputs), ("kept", self.kept), ("columns", self.columns))
        return KernelCall("lab_f32_blocks_input_gradient", (), fields)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.outputs * self.kept * BLOCK


@dataclass(frozen=True)
class BlockSgd(Update):
    """Gradient, masks and update in one; ``firmware/runtime/lab_f32_blocks_sgd.h`` says what is masked when.

    Inputs: gradient of the output, ``x``, and what is changed: kept weights, numbers of the blocks, the threshold.

    Attributes:
        outputs, kept, inputs: sizes; ``inputs`` are blocks.
        changed: outputs whose weights change in a step, about so many.
        renew_steps: an output's weakest block is replaced each so many steps; 0 never.
        rate_scale: the learning rate of the step is multiplied by this.
    """

    kind: ClassVar[str] = "block_linear.sgd"
    outputs: int
    kept: int
    inputs: int
    changed: int
    renew_steps: int
    rate_scale: float

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        gradient, x, weights, blocks, threshold = (present(one) for one in inputs)
        gradient, x, weights, blocks = gradient.reshape(-1), x.reshape(-1, BLOCK), weights.clone(), blocks.clone()
        passes = ~(gradient.abs() <= threshold)
        scale = -self.rate_scale * state.learning_rate * gradient * passes
        weights += (scale[:, None, None] * x[blocks.to(torch.int64)]).reshape(weights.shape)
        if self.changed < self.outputs:
            threshold = followed(threshold, int(passes.sum()), self.changed)
        if self.renew_steps and state.step % self.renew_steps == 0:
            row = state.step // self.renew_steps % self.outputs
            renew(weights[row], blocks[row], self.inputs, random_step(state))
        return weights, blocks, threshold

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("rows", self.outputs),
            ("kept", self.kept),
            ("inputs", self.inputs),
            ("changed", self.changed),
            ("renew_steps", self.renew_steps),
            ("rate_scale", self.rate_scale),
        )
        return KernelCall("lab_f32_blocks_sgd", (), fields, takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.changed * self.kept * BLOCK
