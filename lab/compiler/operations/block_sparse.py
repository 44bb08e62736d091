"""Linear layers of which only some blocks of four inputs of each output are kept, and SGD that moves the blocks.

Wang et al. 2022, "SparCL: Sparse Continual Learning on the Edge", mask single weights. Here a mask chooses blocks,
since an index for each weight would cost as much as the weight, and every output keeps as many, so that none has to be
searched for. Only kept weights lie in memory: (outputs, kept, 4), beside the numbers of their blocks (outputs, kept).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Clamp
from lab.compiler.operations.copy import present
from lab.compiler.operations.int8_training import random_step
from lab.compiler.operations.matmul import UNBOUNDED
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall
from lab.compiler.random_numbers import random_at

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


@dataclass(frozen=True)
class Renewal:
    """Which blocks a row keeps when; ``lab_f32_blocks_renewal_t``. Steps count from 1, and tasks are equally long.

    Attributes:
        steps: each so many steps some rows give up their weakest block for a random other one; 0: the mask stays.
        rows: how many do so at once, the next in turn.
        task: steps of a task; 0: tasks are not told apart. Else each row has a spare block, its last: it is drawn when
            a task begins, and sleeps at zero behind a task's first steps.
        expanded: how many these are; then a row gives up its weakest block.
        settled: step of a task from which on nothing is renewed.
    """

    steps: int = 0
    rows: int = 1
    task: int = 0
    expanded: int = 0
    settled: int = 0

    @property
    def spare(self) -> int:
        """Blocks of a row that sleep behind a task's first steps."""
        return int(self.task > 0)

    def awake(self, kept: int, step: int) -> int:
        """How many of a row's blocks learn in a step."""
        return kept - self.spare * int((step - 1) % max(1, self.task) >= self.expanded)

    def moves(self, step: int) -> bool:
        """Whether the masks may be others behind a step."""
        return self.steps > 0 and (step % self.steps == 0 or step % max(1, self.task) in (0, self.expanded))

    def fields(self, prefix: str = "renewal.") -> tuple[tuple[str, int], ...]:
        """Of the kernels."""
        return tuple((f"{prefix}{one.name}", int(getattr(self, one.name))) for one in fields(self))

    def follow(self, weights: torch.Tensor, blocks: torch.Tensor, inputs: int, state: TrainingState) -> None:
        """The masks behind a step, in place.

        Args:
            weights, blocks: (rows, kept * 4) and (rows, kept).
            inputs: blocks of the input.
            state: of the step; ``random`` advances with each renewal and task.
        """
        if not self.moves(state.step):
            return
        done = state.step % self.task if self.task else 0
        if self.task and done == 0:
            key = random_step(state)
            for row in range(len(blocks)):
                _replace(weights[row], blocks[row], blocks.shape[1] - 1, inputs, _drawn(key, row))
            return
        if self.task and done == self.expanded:
            _shrink(weights, blocks)
        if state.step % self.steps == 0 and (not self.task or self.expanded < done < self.settled):
            self._exchange(weights, blocks, inputs, state)

    def _exchange(self, weights: torch.Tensor, blocks: torch.Tensor, inputs: int, state: TrainingState) -> None:
        key, first = random_step(state), state.step // self.steps * self.rows
        for turn in range(self.rows):
            row = (first + turn) % len(blocks)
            sizes = weights[row].view(-1, BLOCK).abs().sum(1)[: blocks.shape[1] - self.spare]
            _replace(weights[row], blocks[row], int(sizes.argmin()), inputs, _drawn(key, turn))


def _drawn(key: int, index: int) -> int:
    return int(random_at(key, np.array([index], np.uint32))[0])


def _replace(weights: torch.Tensor, blocks: torch.Tensor, place: int, inputs: int, drawn: int) -> None:
    """Put the first block from ``drawn`` on that a row has not in a place of it, with zeros."""
    chosen = drawn % inputs
    while chosen in blocks:
        chosen = (chosen + 1) % inputs
    blocks[place] = chosen
    weights.view(-1, BLOCK)[place] = 0.0


def _shrink(weights: torch.Tensor, blocks: torch.Tensor) -> None:
    """Each row gives up its weakest block, whose place its last one takes."""
    values = weights.view(*blocks.shape, BLOCK)
    rows, weakest = torch.arange(len(blocks)), values.abs().sum(2).argmin(1)
    given_up = blocks[rows, weakest].clone()
    blocks[rows, weakest], values[rows, weakest] = blocks[:, -1], values[:, -1]
    blocks[:, -1], values[:, -1] = given_up, 0.0


@dataclass(frozen=True)
class BlockLinear(Operation):
    """Inputs: ``x``, kept weights, numbers of the blocks, and optionally a bias per output.

    Attributes:
        outputs, kept: sizes.
        activation: fused clamp.
        batch: samples.
    """

    kind: ClassVar[str] = "block_linear"
    outputs: int
    kept: int
    activation: Clamp = UNBOUNDED
    batch: int = 1

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x, bias = present(inputs[0]).reshape(self.batch, -1), inputs[3]
        y = x @ dense(present(inputs[1]), present(inputs[2]), x.shape[1]).T
        return (self.activation.apply(y if bias is None else y + bias),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        bounds = (("minimum", self.activation.low), ("maximum", self.activation.high))
        columns = 0 if inputs[0] is None else inputs[0].elements // self.batch
        sizes = (("batch", self.batch), ("rows", self.outputs), ("kept", self.kept), ("columns", columns))
        return KernelCall("lab_f32_blocks", (), (*sizes, *bounds))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.batch * self.outputs * self.kept * BLOCK


@dataclass(frozen=True)
class BlockInputGradient(Operation):
    """Gradient of ``x``; inputs: gradient of the output, kept weights, numbers of the blocks.

    Attributes:
        outputs, kept, columns: sizes; ``columns`` are the layer's inputs.
        batch: samples.
    """

    kind: ClassVar[str] = "block_linear.input_gradient"
    outputs: int
    kept: int
    columns: int
    batch: int = 1

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient, weights, blocks = (present(one) for one in inputs)
        return (gradient.reshape(self.batch, -1) @ dense(weights, blocks, self.columns),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("batch", self.batch), ("rows", self.outputs), ("kept", self.kept), ("columns", self.columns))
        return KernelCall("lab_f32_blocks_input_gradient", (), fields)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.batch * self.outputs * self.kept * BLOCK


@dataclass(frozen=True)
class BlockSgd(Update):
    """Gradient, masks and update in one; ``firmware/runtime/lab_f32_blocks_sgd.h`` says what is masked when.

    Inputs: gradient of the output, ``x``, and what is changed: kept weights, numbers of the blocks, the threshold.

    Attributes:
        outputs, kept, inputs: sizes; ``inputs`` are blocks.
        changed: outputs whose weights change in a step, about so many.
        renewal: of the blocks.
        rate_scale: the learning rate of the step is multiplied by this.
        batch: samples.
    """

    kind: ClassVar[str] = "block_linear.sgd"
    outputs: int
    kept: int
    inputs: int
    changed: int
    renewal: Renewal
    rate_scale: float
    batch: int = 1

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        gradient, x, weights, blocks, threshold = (present(one) for one in inputs)
        gradient, x = gradient.reshape(self.batch, -1), x.reshape(self.batch, -1, BLOCK)
        weights, blocks = weights.clone(), blocks.clone()
        passes = ~(gradient.abs().sum(0) <= threshold)
        scale = -self.rate_scale * state.learning_rate * gradient * passes
        moved = (scale[:, :, None, None] * x[:, blocks.to(torch.int64)]).sum(0)
        moved[:, self.renewal.awake(self.kept, state.step) :] = 0.0
        weights += moved.reshape(weights.shape)
        if self.changed < self.outputs:
            threshold = followed(threshold, int(passes.sum()), self.changed)
        self.renewal.follow(weights, blocks, self.inputs, state)
        return weights, blocks, threshold

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("batch", self.batch),
            ("rows", self.outputs),
            ("kept", self.kept),
            ("inputs", self.inputs),
            ("changed", self.changed),
            *self.renewal.fields(),
            ("rate_scale", self.rate_scale),
        )
        return KernelCall("lab_f32_blocks_sgd", (), fields, takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.batch * self.changed * self.kept * BLOCK
