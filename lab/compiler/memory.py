"""Which tensors of a program share memory, for how long each is live, and where in the arena it lies.

The caller's sample, target and output, constants, parameters and optimiser state lie outside the arena. A reshape is
its input; a step that extends a tensor writes on in it; a step that may work in place takes the memory of an input that
dies in it and has its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from lab.compiler.model import BufferPlan
from lab.compiler.offsets import ALIGNMENT_BYTES, Buffer, assign
from lab.compiler.program import Program, Step
from lab.errors import CompileError

OUTPUT = "<output>"
"""Place of the model's output, which is the caller's; no module path can be equal to it."""


@dataclass(frozen=True)
class Layout:
    """Where everything of a program lies.

    Attributes:
        steps: the steps that run code, in order; step numbers index this.
        places: tensor name to the name of its buffer, of the tensor outside the arena it is, or :data:`OUTPUT`.
        offsets: buffer name to its offset in the arena.
        buffers: the plan, sorted by first step and offset.
        scratch: step number to the name of its scratch buffer.
        arena_bytes: size of the arena.
        lower_bound_bytes: most bytes live at once.
        method: how the plan was found.
    """

    steps: tuple[Step, ...]
    places: Mapping[str, str]
    offsets: Mapping[str, int]
    buffers: tuple[BufferPlan, ...]
    scratch: Mapping[int, str]
    arena_bytes: int
    lower_bound_bytes: int
    method: str

    @property
    def ratio(self) -> float:
        """Arena over lower bound; 1 is optimal."""
        return self.arena_bytes / self.lower_bound_bytes if self.lower_bound_bytes else 1.0


def layout(program: Program) -> Layout:
    """Plan the arena of a program.

    Raises:
        CompileError: the program computes nothing.
    """
    steps, places, buffers, scratch = arena_buffers(program)
    if not steps or (places[program.output] != OUTPUT and not in_arena(program, places[program.output])):
        raise CompileError("the model computes nothing: its output is its input", hint="compile a module with layers")
    assigned = assign(buffers)
    plans = [BufferPlan(one.name, assigned.offset[one.name], one.size_bytes, one.first, one.last) for one in buffers]
    plans.sort(key=lambda plan: (plan.first, plan.offset, plan.name))
    return Layout(
        steps,
        places,
        assigned.offset,
        tuple(plans),
        scratch,
        assigned.arena_bytes,
        assigned.lower_bound_bytes,
        assigned.method,
    )


def arena_buffers(program: Program) -> tuple[tuple[Step, ...], dict[str, str], list[Buffer], dict[int, str]]:
    """Steps that run code, the buffer of every tensor, what is to be placed, and the scratch buffer of steps."""
    steps = tuple(step for step in program.steps if not step.operation.alias)
    places = shared_places(program)
    lives = lifetimes(program, steps, places)
    merge_in_place(program, steps, places, lives)
    sizes: dict[str, int] = {}
    for name, place in places.items():
        if place in lives:
            sizes[place] = max(sizes.get(place, 0), program.tensors[name].size_bytes)
    buffers = [Buffer(name, sizes[name], *life) for name, life in lives.items() if sizes[name]]
    scratch: dict[int, str] = {}
    for index, step in enumerate(steps):
        size = step.operation.scratch_bytes(program.inputs_of(step), program.outputs_of(step))
        if size:
            scratch[index] = f"{step.name}.scratch"
            buffers.append(Buffer(scratch[index], size, index, index))
    return steps, places, buffers, scratch


def peak(program: Program) -> tuple[int, Step]:
    """Most bytes live at once, as the planner counts them, and the first step during which they are."""
    steps, _, buffers, _ = arena_buffers(program)
    change = [0] * (len(steps) + 1)
    for buffer in buffers:
        size = -(-buffer.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        change[buffer.first] += size
        change[buffer.last + 1] -= size
    live = list(accumulate(change[:-1]))
    return max(live), steps[live.index(max(live))]


def shared_places(program: Program) -> dict[str, str]:
    """Buffer of every tensor: its own, unless it is another one's memory by definition."""
    places: dict[str, str] = {}
    for tensor in program.tensors.values():
        if tensor.kind != "activation":
            places[tensor.name] = tensor.name
    for step in program.steps:
        for position, name in enumerate(step.outputs):
            if name in places:
                continue
            if step.operation.alias:
                places[name] = places[step.inputs[0]]
            elif position == 0 and step.operation.extends is not None:
                places[name] = places[step.inputs[step.operation.extends]]
            else:
                places[name] = name
    final = places[program.output]
    if final in program.tensors and program.tensors[final].kind == "activation":
        return {name: OUTPUT if place == final else place for name, place in places.items()}
    return places


def in_arena(program: Program, place: str) -> bool:
    """Whether a place is a buffer of the arena."""
    return place != OUTPUT and program.tensors[place].kind == "activation"


def lifetimes(program: Program, steps: Sequence[Step], places: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """First and last step of every buffer of the arena. The loss lives until the forward steps have ended."""
    lives: dict[str, tuple[int, int]] = {}
    for index, step in enumerate(steps):
        for name in (*step.inputs, *step.outputs):
            if name and in_arena(program, places[name]):
                place = places[name]
                lives[place] = (lives.get(place, (index, index))[0], index)
    if program.loss and places[program.loss] in lives:
        last_forward = max((index for index, step in enumerate(steps) if step.phase == "forward"), default=0)
        first, last = lives[places[program.loss]]
        lives[places[program.loss]] = (first, max(last, last_forward))
    return lives


def merge_in_place(
    program: Program, steps: Sequence[Step], places: dict[str, str], lives: dict[str, tuple[int, int]]
) -> None:
    """Let steps write over an input of the same size that dies in them; updates ``places`` and ``lives``."""
    members: dict[str, list[str]] = {}
    for name, place in places.items():
        members.setdefault(place, []).append(name)
    for index, step in enumerate(steps):
        if not step.operation.in_place:
            continue
        target = places[step.outputs[0]]
        if target not in lives or lives[target][0] != index:
            continue
        size = program.tensors[step.outputs[0]].size_bytes
        for position in step.operation.in_place:
            name = step.inputs[position] if position < len(step.inputs) else ""
            place = places.get(name, "")
            if place in lives and lives[place][1] == index and _capacity(program, members[place]) >= size:
                lives[place] = (lives[place][0], lives.pop(target)[1])
                members[place] += members.pop(target)
                places.update(dict.fromkeys(members[place], place))
                break


def _capacity(program: Program, names: Sequence[str]) -> int:
    return max(program.tensors[name].size_bytes for name in names)


def check_limit(program: Program, plan: Layout, limit_bytes: int | None) -> None:
    """Refuse a plan larger than the arena the device offers.

    Raises:
        CompileError: with the bytes of every step, the largest marked.
    """
    if limit_bytes is None or plan.arena_bytes <= limit_bytes:
        return
    kept = kept_for_backward(program, plan)
    rows = [_row(program, plan, index, kept) for index in range(len(plan.steps))]
    largest = max(row[-1] for row in rows)
    width = max(len(step.name) for step in plan.steps)
    heads = ("input", "output", "scratch", "kept", "total")
    lines = [f"{'layer':<{width}}" + "".join(f"  {head:>9}" for head in heads)]
    for step, row in zip(plan.steps, rows, strict=True):
        mark = "  <- largest" if row[-1] == largest else ""
        lines.append(f"{step.name:<{width}}" + "".join(f"  {size:>9}" for size in row) + mark)
    table = "\n".join(lines)
    what, besides, way_out = "the model needs", "", "make the largest layer smaller (fewer channels, an earlier stride)"
    if program.loss:
        variables = sum(tensor.size_bytes for tensor in program.of_kind("parameter", "state"))
        what = "training needs"
        besides = f"; trained parameters and optimiser state take {variables} bytes besides"
        way_out = "train fewer layers or channels, use precision='int8'"
    raise CompileError(
        f"{what} an arena of {plan.arena_bytes} bytes, {limit_bytes} bytes are allowed "
        f"(lower bound {plan.lower_bound_bytes} bytes{besides}). Arena bytes per layer:\n{table}",
        hint=f"{way_out} or use a device with more RAM",
    )


def kept_for_backward(program: Program, plan: Layout) -> frozenset[str]:
    """Tensors that forward computes and backward or update reads."""
    later = {name for step in plan.steps if step.phase != "forward" for name in step.inputs}
    made = {name for step in plan.steps if step.phase == "forward" for name in step.outputs}
    return frozenset(name for name in later & made if in_arena(program, plan.places[name]))


def _row(program: Program, plan: Layout, index: int, kept: frozenset[str]) -> tuple[int, int, int, int, int]:
    """Arena bytes of inputs, outputs and scratch, of what is kept, and of all that is touched (shared counts once)."""
    step = plan.steps[index]
    sizes = {buffer.name: buffer.size for buffer in plan.buffers}
    reads = {plan.places[name] for name in step.inputs if name} & sizes.keys()
    writes = {plan.places[name] for name in step.outputs} & sizes.keys() - reads
    scratch = sizes.get(plan.scratch.get(index, ""), 0)
    inputs, outputs = sum(sizes[place] for place in reads), sum(sizes[place] for place in writes)
    keeps = sum(program.tensors[name].size_bytes for name in step.outputs if name in kept)
    return inputs, outputs, scratch, keeps, inputs + outputs + scratch
