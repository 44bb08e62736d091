"""A compiled program by layer of the user's module: work, bytes and places in the arena, as ``lab compile`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lab.compiler.memory import in_arena, lifetimes, merge_in_place, shared_places
from lab.compiler.model import BufferPlan
from lab.compiler.program import Program, Step, Tensor

LOSS_ROW, ROOT_ROW = "(loss)", "(network)"
"""Names of the rows of what follows the output, and of what the outermost module computes by itself; no module path is
equal to them."""
CALLERS = "caller's"
"""Place of what the caller passes in: the model's output."""


@dataclass(frozen=True)
class LayerRow:
    """One layer: all steps of one module.

    Attributes:
        name: path of the module, :data:`ROOT_ROW` or :data:`LOSS_ROW`.
        kinds: what its forward steps do, in order, each once; those of backward where it has no forward step.
        macs_forward, macs_backward: multiply-accumulates of one training step or inference; updates count as backward.
        weights_bytes: constants and trained parameters its forward steps read.
        activation_bytes: what its forward steps write.
        kept_bytes: the part of it that backward reads.
        offset: of its largest output in the arena; ``None`` where that lies outside (:data:`CALLERS`) or there is none.
    """

    name: str
    kinds: tuple[str, ...]
    macs_forward: int
    macs_backward: int
    weights_bytes: int
    activation_bytes: int
    kept_bytes: int
    offset: int | None


def layer_rows(program: Program, buffers: Sequence[BufferPlan]) -> tuple[LayerRow, ...]:
    """Sum the steps of a program by layer, in the order of the forward pass.

    Args:
        program: inference or training.
        buffers: its arena plan.
    """
    steps = [step for step in program.steps if not step.operation.alias]
    places = buffer_names(program, steps)
    offsets = {buffer.name: buffer.offset for buffer in buffers}
    later = {name for step in steps if step.phase != "forward" for name in step.inputs}
    feeding = feeding_output(program)
    by_layer: dict[str, list[Step]] = {}
    for step in (*_of_forward(steps, True), *_of_forward(steps, False)):
        by_layer.setdefault(layer_of(step, program, feeding), []).append(step)
    rows = (_row(program, name, members, later, places, offsets) for name, members in by_layer.items())
    return tuple(row for row in rows if row.activation_bytes or row.macs_backward)


def constants_bytes(program: Program) -> int:
    """Bytes that the program's numbers take in flash: constants, and first values of variables that are not zero.

    Kernels, schedules and descriptors come on top.
    """
    steps = [step for step in program.steps if not step.operation.alias]
    calls = [step.operation.call(program.inputs_of(step), program.outputs_of(step)) for step in steps]
    in_calls = sum(constant.values.nbytes for call in calls for constant in call.constants)
    stored = program.of_kind("constant", "parameter", "state")
    return in_calls + sum(tensor.size_bytes for tensor in stored if tensor.kind == "constant" or _begins(tensor))


def layer_of(step: Step, program: Program, feeding: set[str]) -> str:
    """The layer a step belongs to: of an update, the one that owns the parameter. Each step of an inference is one.

    Args:
        feeding: as of :func:`feeding_output`; what else has no module of its own is the loss. Its backward steps, which
            are not told from those of the outermost module, have no multiply-accumulates.
    """
    if not program.loss:
        return step.name
    for name in step.outputs:
        if program.tensors[name].kind == "parameter":
            return name.rpartition(".")[0] or step.source.module or ROOT_ROW
    if step.source.module:
        return step.source.module
    return ROOT_ROW if step.phase != "forward" or feeding.intersection(step.outputs) else LOSS_ROW


def feeding_output(program: Program) -> set[str]:
    """Tensors that the output is computed from, the output among them."""
    needed = {program.output}
    for step in reversed(program.steps):
        if step.phase == "forward" and needed.intersection(step.outputs):
            needed.update(step.inputs)
    return needed


def buffer_names(program: Program, steps: Sequence[Step]) -> Mapping[str, str]:
    """Tensor to the buffer it lies in, as the planner shares them."""
    places = shared_places(program)
    lives = lifetimes(program, steps, places)
    merge_in_place(program, steps, places, lives)
    return places


def _of_forward(steps: Sequence[Step], forward: bool) -> list[Step]:
    return [step for step in steps if (step.phase == "forward") == forward]


def _row(
    program: Program,
    name: str,
    steps: Sequence[Step],
    later: set[str],
    places: Mapping[str, str],
    offsets: Mapping[str, int],
) -> LayerRow:
    forward, backward = _of_forward(steps, True), _of_forward(steps, False)
    written = [tensor for step in forward for tensor in program.outputs_of(step)]
    arena = [tensor for tensor in written if in_arena(program, places[tensor.name])]
    largest = max(written, key=lambda tensor: tensor.size_bytes, default=None)
    return LayerRow(
        name=name,
        kinds=tuple(dict.fromkeys(step.operation.label for step in forward or backward)),
        macs_forward=_macs(program, forward),
        macs_backward=_macs(program, backward),
        weights_bytes=_weights_bytes(program, forward),
        activation_bytes=sum(tensor.size_bytes for tensor in written),
        kept_bytes=sum(tensor.size_bytes for tensor in arena if tensor.name in later),
        offset=None if largest is None else offsets.get(places[largest.name]),
    )


def _macs(program: Program, steps: Sequence[Step]) -> int:
    return sum(step.operation.macs(program.inputs_of(step), program.outputs_of(step)) for step in steps)


def _weights_bytes(program: Program, steps: Sequence[Step]) -> int:
    read = {name: program.tensors[name] for step in steps for name in step.inputs if name}
    tensors = sum(tensor.size_bytes for tensor in read.values() if tensor.kind in ("constant", "parameter"))
    calls = [step.operation.call(program.inputs_of(step), program.outputs_of(step)) for step in steps]
    return tensors + sum(constant.values.nbytes for call in calls for constant in call.constants)


def _begins(tensor: Tensor) -> bool:
    return tensor.value is not None and bool(np.any(tensor.value))
