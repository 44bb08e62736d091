"""Gradients of weights that a step of training uses several times, as a recurrent layer does.

Autograd computes the gradient of each use and adds these up, last use first. As it stands that takes two buffers of the
weight's size in a backward pass, and one for each use where gradients come in the order of the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from lab.compiler.operations.copy import StridedExtend, StridedWrite
from lab.compiler.operations.elementwise import Binary
from lab.compiler.operations.matmul import UNBOUNDED, MatMul
from lab.compiler.operations.optimizer import Optimizer, Sgd
from lab.compiler.program import Operation, Program, Step, Update
from lab.compiler.training_passes.forward_only import trunk
from lab.compiler.training_passes.immediate_update import merged
from lab.errors import CompileError


@dataclass(frozen=True)
class _Uses:
    """Of one parameter.

    Attributes:
        parameter, gradient: its name, and that of the sum.
        parts: gradients of the uses, in the order in which they are computed.
        sums: names of the steps that add them up.
    """

    parameter: str
    gradient: str
    parts: tuple[str, ...]
    sums: frozenset[str]


def sum_shared(program: Program) -> Program:
    """Consume the gradient of each use as soon as it exists; up to the order of sums the numbers stay.

    Gradients of a linear layer's uses are outer products: their sum is one product of what the layer took and of the
    gradients of what it gave, one row for each use. These rows are kept in place of the gradients where they are
    smaller than one; the product merges with plain SGD then, and no gradient is ever stored. All others are added up in
    the order in which they are computed.

    Call it before there are updates.
    """
    stacks: dict[tuple[str, ...], str] = {}
    for parameter in sorted(program.gradients, key=lambda name: -program.tensors[name].elements):
        uses = _uses(program, parameter)
        if len(uses.parts) > 1:
            program = _as_one_product(program, uses, stacks) or _in_order(program, uses)
    return program


def update_each_use(program: Program, optimizer: Optimizer) -> Program:
    """Change a parameter by the gradient of each use at once, in front of the next use, which takes it as it is then.

    Steps of the optimiser are as many as uses, so that the numbers are others; nothing is ever kept. For layers that
    learn on the way forward, see :func:`~lab.compiler.training_passes.forward_only.interleave`. It makes the updates.

    Raises:
        CompileError: an optimiser other than SGD, or a gradient that needs a later use or the parameter itself.
    """
    if not isinstance(optimizer, Sgd):
        raise CompileError(
            f"parameters change after each use by plain SGD, not by {optimizer.describe()}", hint="use Sgd()"
        )
    forward = trunk(program)
    for parameter in program.gradients:
        program = _updated(program, _uses(program, parameter), optimizer)
        _check_order(program, parameter, forward)
    return replace(program, gradients={})


def _uses(program: Program, parameter: str) -> _Uses:
    gradient = program.gradients[parameter]
    order = {name: index for index, step in enumerate(program.steps) for name in step.outputs}
    elsewhere = [one for name, one in program.gradients.items() if name != parameter]
    parts, sums, waiting = list[str](), set[str](), [gradient]
    while waiting:
        name = waiting.pop()
        step = program.producer(name)
        alone = len(program.consumers(name)) == (name != gradient) and name not in elsewhere
        if step is not None and alone and _adds(step.operation):
            sums.add(step.name)
            waiting += step.inputs
        else:
            parts.append(name)
    return _Uses(parameter, gradient, tuple(sorted(parts, key=lambda name: order.get(name, -1))), frozenset(sums))


def _adds(operation: Operation) -> bool:
    return type(operation) is Binary and operation == Binary("sum")


def _in_order(program: Program, uses: _Uses) -> Program:
    """Each part added to the sum of those before it, right behind what computes it."""
    sums: dict[str, Step] = {}
    running, made = uses.parts[0], list[str]()
    for number, part in enumerate(uses.parts[1:], 2):
        name = uses.gradient if number == len(uses.parts) else f"{uses.parameter}.sum.{number}"
        producer = program.producer(part)
        if producer is None or part in sums:
            return program
        sums[part] = Step(name, Binary("sum"), (running, part), (name,), "backward", producer.source)
        made.append(name)
        running = name
    steps: list[Step] = []
    for step in [step for step in program.steps if step.name not in uses.sums]:
        steps += [step, *(sums[name] for name in step.outputs if name in sums)]
    tensor = program.tensors[uses.gradient]
    return program.with_steps(steps, *(replace(tensor, name=name) for name in made))


def _as_one_product(program: Program, uses: _Uses, stacks: dict[tuple[str, ...], str]) -> Program | None:
    """The product of stacked operands; None where the parts are no outer products, or smaller.

    Args:
        program: with the parts and their sums.
        uses: of the parameter.
        stacks: operands that are stacked already, to the stack; those made here are added.
    """
    products = [step for part in uses.parts for step in [program.producer(part)] if step and _is_outer(program, step)]
    sizes = {(step.operation.rows, step.operation.columns) for step in products if isinstance(step.operation, MatMul)}
    if len(products) != len(uses.parts) or len(sizes) != 1:
        return None
    rows, columns = sizes.pop()
    depths = [program.tensors[step.inputs[0]].elements // rows for step in products]
    sides = [tuple(step.inputs[side] for step in products) for side in (0, 1)]
    new = {side: width for side, width in zip(sides, (rows, columns), strict=True) if side not in stacks}
    if sum(depths) * sum(new.values()) >= rows * columns:
        return None
    for side, width in new.items():
        program, stacks[side] = _stacked(program, products, side, depths, width)
    whole = Step(
        f"{uses.parameter}.uses", MatMul(True, False, 1, rows, columns, sum(depths)),
        (stacks[sides[0]], stacks[sides[1]], ""), (uses.gradient,), "backward", products[-1].source,
    )  # fmt: skip
    gone = {*uses.sums, *(step.name for step in products[:-1])}
    steps = [whole if step.name == products[-1].name else step for step in program.steps if step.name not in gone]
    return program.with_steps(steps, program.tensors[uses.gradient])


def _is_outer(program: Program, step: Step) -> bool:
    """Whether a step is the product of two matrices of one row for each sample, by their rows, for one reader."""
    one = step.operation
    if not isinstance(one, MatMul) or one.batch != 1 or one.activation != UNBOUNDED or step.inputs[2]:
        return False
    lies = one.depth == 1 or (one.transpose_a and not one.transpose_b)
    return lies and len(program.consumers(step.outputs[0])) == 1


def _stacked(
    program: Program, products: Sequence[Step], side: Sequence[str], depths: Sequence[int], width: int
) -> tuple[Program, str]:
    """Write each operand below the one before it, where its product would be computed; with the name of the stack."""
    whole, start, made = (sum(depths), width), 0, ""
    writes: dict[str, Step] = {}
    taken, tensors = set(program.tensors), []
    for product, operand, depth in zip(products, side, depths, strict=True):
        name = next(one for n in range(len(taken)) if (one := f"{product.name}.stack{n or ''}") not in taken)
        kind, inputs = (StridedExtend, (operand, made)) if made else (StridedWrite, (operand,))
        writes[product.name] = Step(
            name, kind((depth, width), whole, (width, 1), start * width), inputs, (name,), "backward", product.source
        )
        tensors.append(replace(program.tensors[product.outputs[0]], name=name, shape=whole))
        start, made = start + depth, name
        taken.add(name)
    steps: list[Step] = []
    for step in program.steps:
        steps += [writes[step.name], step] if step.name in writes else [step]
    return program.with_steps(steps, *tensors), made


def _updated(program: Program, uses: _Uses, optimizer: Sgd) -> Program:
    operation, _ = optimizer.update(program.tensors[uses.parameter])
    steps = [step for step in program.steps if step.name not in uses.sums]
    bare = replace(program, gradients={}).with_steps(steps)
    for number, part in enumerate(uses.parts):
        producer = bare.producer(part)
        if producer is None:
            raise CompileError(f"a gradient of '{uses.parameter}' is constant: '{part}'")
        update = Step(
            f"{uses.parameter}.update.{number}", operation, (uses.parameter, part), (uses.parameter,), "backward",
            producer.source,
        )  # fmt: skip
        both = None if bare.consumers(part) else merged(producer, update)
        place = steps.index(producer)
        steps[place : place + 1] = [producer, update] if both is None else [both]
    left = {one: name for one, name in program.gradients.items() if one != uses.parameter}
    return replace(program, gradients=left).with_steps(steps)


def _check_order(program: Program, parameter: str, forward: Set[str]) -> None:
    """Refuse uses, which are steps of the forward pass, and updates that do not take turns."""
    users = [step for step in program.steps if parameter in step.inputs]
    for number, step in enumerate(users):
        is_update = isinstance(step.operation, Update)
        if is_update != (number % 2 == 1) or not (is_update or step.name in forward):
            raise CompileError(
                f"'{parameter}' is to change after each use, and {step.name} at {step.source} reads it in between",
                hint="detach what the layer takes, and a recurrent layer's state; or let the gradients be summed",
            )
