"""Keeps some blocks of the weights of a linear layer or a convolution only, which train, and move, in place of all.

Runs behind :mod:`~lab.compiler.training_passes.immediate_update`. Unlike masks over a dense weight this saves what it
says: weights that are not kept take no memory, and no instruction in forward, backward or update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lab.compiler.operations.block_sparse import (
    BLOCK,
    FIRST_THRESHOLD,
    MOST_BLOCKS,
    BlockInputGradient,
    BlockLinear,
    BlockSgd,
    Renewal,
)
from lab.compiler.operations.block_sparse_conv import BlockConv2d, BlockConv2dInputGradient, BlockConv2dSgd, Sparsity
from lab.compiler.operations.conv2d import Conv2d, Conv2dInputGradient, Conv2dWeightSgd
from lab.compiler.operations.matmul import MatMul, MatMulSgd
from lab.compiler.program import DType, Operation, Program, Step, Tensor
from lab.errors import CompileError

STAYS = Renewal()
BLOCKS, THRESHOLD = ".blocks", ".threshold"
"""What the names of a weight's block numbers and of its gradient mask's threshold end with."""


@dataclass(frozen=True)
class Blocks:
    """What is kept of a layer's weight, and how that trains.

    Attributes:
        kept: blocks of four inputs that each output keeps, of a convolution each tap of an output's kernel, without a
            spare one; which ones is drawn with ``seed``.
        changed: share of the outputs whose weights change in a step, those with the largest gradients: 1 for all. The
            threshold between them follows the training, so that the share is met in the mean.
        renewal: which output, or tap, gives up its weakest block for a random other one, and when.
        seed: of the first mask.
    """

    kept: int
    changed: float = 1.0
    renewal: Renewal = STAYS
    seed: int = 1

    @property
    def stored(self) -> int:
        """Blocks that lie in memory of each row."""
        return self.kept + self.renewal.spare


def block_sparse(program: Program, chosen: Mapping[str, Blocks]) -> Program:
    """Keep blocks of the weights that ``chosen`` names. Values that are kept stay what the module has.

    Raises:
        CompileError: a parameter that is no weight of one linear layer or convolution trained by plain
            SGD; blocks that it does not have.
    """
    for number, (name, blocks) in enumerate(chosen.items()):
        program = _replaced(program, name, blocks, number)
    return program


def _replaced(program: Program, name: str, blocks: Blocks, number: int) -> Program:
    users = [step for step in program.steps if name in step.inputs]
    kinds = {step.name: _kind(step, name) for step in users}
    forward = next((step for step in users if kinds[step.name] == "forward"), None)
    if forward is None or "" in kinds.values() or sorted(kinds.values()).count("update") != 1:
        raise CompileError(
            f"blocks of '{name}' are to be kept, which is no weight of one linear layer or convolution trained by SGD",
            hint="name a layer's weight that train= names, of one group; optimizer=Sgd(), immediate=True, no weight "
            "decay",
        )
    weight, update = program.tensors[name], next(step for step in users if kinds[step.name] == "update")
    tensors = _tensors(weight, blocks, number)
    operations = _operations(forward, update, weight, blocks)
    names = (name, name + BLOCKS, name + THRESHOLD)
    made = {step.name: _step(step, kind, operations[kind], names) for step in users if (kind := kinds[step.name])}
    return program.with_steps([made.get(step.name, step) for step in program.steps], *tensors)


def _kind(step: Step, name: str) -> str:
    """What a step does with the weight; empty where that is nothing that blocks can do."""
    operation = step.operation
    if isinstance(operation, MatMulSgd):
        plain = operation.weight_decay == 0.0 and step.outputs == (name,)
        return "update" if plain else ""
    if isinstance(operation, Conv2dWeightSgd):
        plain = operation.geometry.groups == 1 and operation.weight_decay == 0.0 and operation.part is None
        return "update" if plain and step.outputs == (name,) else ""
    if isinstance(operation, (Conv2d, Conv2dInputGradient)) and step.inputs[1] == name:
        if operation.geometry.groups != 1:
            return ""
        return "forward" if isinstance(operation, Conv2d) else "input_gradient"
    if not isinstance(operation, MatMul) or operation.batch != 1 or step.inputs[1] != name:
        return ""
    return "forward" if operation.transpose_b else "input_gradient"


def _tensors(weight: Tensor, blocks: Blocks, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Kept weights, their block numbers, and the threshold of the gradient mask."""
    columns = weight.shape[-1]
    rows, there = weight.elements // columns, columns // BLOCK
    if columns % BLOCK or not 1 <= there <= MOST_BLOCKS:
        raise CompileError(
            f"'{weight.name}' has {columns} inputs, of which no blocks can be kept",
            hint=f"a multiple of {BLOCK}, at most {MOST_BLOCKS * BLOCK}",
        )
    most = there - blocks.renewal.spare - int(blocks.renewal.steps > 0)
    if not (1 <= blocks.kept <= most and 0.0 < blocks.changed <= 1.0 and _follows(blocks.renewal)):
        raise CompileError(
            f"'{weight.name}': {blocks}",
            hint=f"kept from 1 to {most} of its {there} blocks; changed above 0 and at most 1; steps of a renewal "
            "from 0, of a task 0 or above those that it is expanded and settled by",
        )
    if weight.value is None:
        raise ValueError(f"'{weight.name}' has no first value")
    generator = np.random.default_rng((blocks.seed, number))
    places = np.stack([np.sort(generator.permutation(there)[: blocks.stored]) for _ in range(rows)])
    whole = weight.value.reshape(rows, there, BLOCK)
    kept = np.ascontiguousarray(np.take_along_axis(whole, places[:, :, None], 1).reshape(rows, -1))
    first = 0.0 if blocks.changed == 1.0 else FIRST_THRESHOLD
    return (
        replace(weight, shape=kept.shape, value=kept, permutation=(0, 1), torch_shape=kept.shape),
        _state(weight.name + BLOCKS, places.astype(np.uint8)),
        _state(weight.name + THRESHOLD, np.full(1, first, np.float32)),
    )


def _follows(renewal: Renewal) -> bool:
    """Whether a renewal can be."""
    if renewal.task == 0:
        return renewal.steps >= 0 and renewal.rows >= 1
    return renewal.steps > 0 and renewal.rows >= 1 and 0 < renewal.expanded <= renewal.settled <= renewal.task


def _state(name: str, value: np.ndarray) -> Tensor:
    dtype: DType = "uint8" if value.dtype == np.uint8 else "float32"
    axes = tuple(range(value.ndim))
    return Tensor(name, value.shape, dtype, "state", value, permutation=axes, torch_shape=value.shape)


def _operations(forward: Step, update: Step, weight: Tensor, blocks: Blocks) -> Mapping[str, Operation]:
    """What takes the place of the layer's operations, by what these do with the weight."""
    outputs, columns = weight.shape[0], weight.shape[-1]
    changed = max(1, round(blocks.changed * outputs))
    whole, merged = forward.operation, update.operation
    if isinstance(whole, Conv2d) and isinstance(merged, Conv2dWeightSgd):
        sparsity = Sparsity(whole.geometry, blocks.stored)
        return {
            "forward": BlockConv2d(sparsity, whole.activation),
            "input_gradient": BlockConv2dInputGradient(sparsity),
            "update": BlockConv2dSgd(sparsity, changed, blocks.renewal, merged.rate_scale),
        }
    if isinstance(whole, MatMul) and isinstance(merged, MatMulSgd):
        rows = whole.rows
        sgd = BlockSgd(outputs, blocks.stored, columns // BLOCK, changed, blocks.renewal, merged.rate_scale, rows)
        return {
            "forward": BlockLinear(outputs, blocks.stored, whole.activation, rows),
            "input_gradient": BlockInputGradient(outputs, blocks.stored, columns, rows),
            "update": sgd,
        }
    raise TypeError(f"{weight.name}: {whole.kind} and {merged.kind} are of no one layer")


def _step(step: Step, kind: str, operation: Operation, names: tuple[str, str, str]) -> Step:
    weights, places, _ = names
    if kind == "forward":
        bias = step.inputs[2] if len(step.inputs) > 2 else ""
        return replace(step, operation=operation, inputs=(step.inputs[0], weights, places, bias))
    if kind == "input_gradient":
        return replace(step, operation=operation, inputs=(step.inputs[0], weights, places))
    # A convolution's weight gradient has its operands the other way round.
    gradient, x = step.inputs[:2] if isinstance(step.operation, MatMulSgd) else step.inputs[1::-1]
    return replace(step, operation=operation, inputs=(gradient, x, *names), outputs=names)
