"""Consumes each gradient as soon as it exists: updates move into the backward pass, right behind the last reader of the
parameter's old value, and plain SGD is merged with the computation of a weight gradient, which is then never stored.

PyTorch computes all gradients with the old parameters; so does the result, since every reader of a parameter comes
before its update. A merged step therefore waits for the gradient of the layer's input, and what the weight gradient
reads is live until then: where that raises the peak, gradient and update stay apart.
"""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.memory import peak
from lab.compiler.operations.conv2d import ChannelSum, ChannelSumSgd, Conv2dWeightGradient, Conv2dWeightSgd
from lab.compiler.operations.embedding import EmbeddingGradient, EmbeddingSgd
from lab.compiler.operations.int8_training import Int8BiasSgd, Int8WeightGradient, Int8WeightSgd, Int8WeightUpdate
from lab.compiler.operations.matmul import MatMul, MatMulSgd
from lab.compiler.operations.optimizer import SgdUpdate
from lab.compiler.operations.reduce import Sum
from lab.compiler.program import Operation, Program, Step, Update

MERGED = ".sgd"
"""What is added to the name of a gradient's step that updates, too."""


def immediate_update(program: Program) -> Program:
    """Move every update forward and merge plain SGD with the gradient where that does not take more memory."""
    apart: frozenset[str] = frozenset()
    best = _rewritten(program, apart)
    size, step = peak(best)
    while True:
        tries = [apart | {name} for name in _delayed(program, best, step)]
        sizes = [(peak(_rewritten(program, names))[0], number) for number, names in enumerate(tries)]
        smallest, number = min(sizes, default=(size, -1))
        if smallest >= size:
            return best
        apart = tries[number]
        best = _rewritten(program, apart)
        size, step = peak(best)


def _rewritten(program: Program, apart: frozenset[str]) -> Program:
    for update in [step for step in program.steps if step.phase == "update"]:
        program = _moved(program, update, merge=update.name not in apart)
    return program


def _delayed(program: Program, moved: Program, step: Step) -> list[str]:
    """Updates whose gradient came before ``step``, and was merged into one that comes after it."""
    before = {one.name: index for index, one in enumerate(program.steps)}
    after = {one.name: index for index, one in enumerate(moved.steps)}
    border = before.get(step.name.removesuffix(MERGED), -1)
    delayed: list[str] = []
    for update in [one for one in program.steps if one.phase == "update"]:
        producer = program.producer(operands(update)[1])
        merged = f"{producer.name}{MERGED}" if producer is not None else ""
        if producer is not None and before[producer.name] < border and after.get(merged, -1) > after[step.name]:
            delayed.append(update.name)
    return delayed


def _moved(program: Program, update: Step, *, merge: bool) -> Program:
    parameter, gradient = operands(update)
    producer = program.producer(gradient)
    if producer is None:
        return program
    both = merged(producer, update) if merge and program.consumers(gradient) == [update] else None
    remaining = [step for step in program.steps if step is not update and (both is None or step is not producer)]
    last = max(
        (index for index, step in enumerate(remaining) if parameter in step.inputs or gradient in step.outputs),
        default=remaining.index(producer) if both is None else -1,
    )
    if both is not None:
        read = set(producer.inputs)
        sources = [index for index, step in enumerate(remaining) if read.intersection(step.outputs)]
        last = max([last, *sources])
    placed = both or replace(update, phase="backward")
    return program.with_steps([*remaining[: last + 1], placed, *remaining[last + 1 :]])


def merged(producer: Step, update: Step) -> Step | None:
    """Gradient and update in one step: the producer's inputs, then the parameter; None where no kernel does both."""
    fused = _fused(producer.operation, update.operation)
    if fused is None:
        return None
    parameter, _ = operands(update)
    read = producer.inputs[:2] if isinstance(fused, MatMulSgd) else producer.inputs
    written = (parameter, *update.inputs[2:]) if isinstance(fused, (Int8WeightSgd, Int8BiasSgd)) else (parameter,)
    return replace(
        producer, name=f"{producer.name}{MERGED}", operation=fused, inputs=(*read, *written), outputs=update.outputs
    )


def operands(update: Step) -> tuple[str, str]:
    """Parameter and gradient of an update."""
    if isinstance(update.operation, Int8BiasSgd):
        return update.inputs[1], update.inputs[0]
    return update.inputs[0], update.inputs[1]


def _fused(gradient: Operation, sgd: Operation) -> Update | None:
    if isinstance(gradient, Int8WeightGradient) and isinstance(sgd, Int8WeightUpdate):
        return Int8WeightSgd(gradient, sgd.update)
    if isinstance(gradient, ChannelSum) and isinstance(sgd, Int8BiasSgd):
        return Int8BiasSgd(gradient.rows, gradient.channels, sgd.rate_scale)
    if not isinstance(sgd, SgdUpdate):
        return None
    rates = (sgd.rate_scale, sgd.weight_decay)
    if isinstance(gradient, MatMul) and gradient.batch == 1:
        return MatMulSgd(gradient, *rates)
    if isinstance(gradient, Conv2dWeightGradient):
        return Conv2dWeightSgd(gradient.geometry, *rates)
    if isinstance(gradient, ChannelSum):
        return ChannelSumSgd(gradient.rows, gradient.channels, *rates)
    if isinstance(gradient, EmbeddingGradient) and sgd.weight_decay == 0.0:
        return EmbeddingSgd(gradient, sgd.rate_scale)
    if isinstance(gradient, Sum) and gradient.outer == 1 and gradient.divisor == 1.0:
        return ChannelSumSgd(gradient.reduced, gradient.inner, *rates)
    return None
