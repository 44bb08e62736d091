"""Recomputation under a byte budget: activations are computed again in backward instead of being kept.

Greedy, after Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost": while the arena is above the budget,
the kept tensor whose recomputation lowers it most is dropped after its last use in forward and computed again
where backward first needs it, from what is still live there. The numbers do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lab.compiler.memory import layout
from lab.compiler.program import Program, Step, Tensor, Update
from lab.errors import CompileError


@dataclass(frozen=True)
class _Uses:
    """First and last index of the steps that name a tensor, aliases followed."""

    first: Mapping[str, int]
    last: Mapping[str, int]


def recompute(program: Program, budget_bytes: int) -> Program:
    """Drop kept activations until the arena fits ``budget_bytes``.

    Raises:
        CompileError: the budget cannot be met, with the bytes that could be reached.
    """
    best, size = program, layout(program).arena_bytes
    while size > budget_bytes:
        candidates = [_without(best, name) for name in _kept(best)]
        bounds = [(layout(one).arena_bytes, number) for number, one in enumerate(candidates) if one is not None]
        smallest, number = min(bounds, default=(size, -1))
        chosen = candidates[number] if number >= 0 else None
        if chosen is None or smallest >= size:
            raise CompileError(
                f"recomputation reaches an arena of {size} bytes, {budget_bytes} bytes are allowed",
                hint="train fewer layers, use precision='int8', or a device with more RAM",
            )
        best, size = chosen, smallest
    return best


def _kept(program: Program) -> list[str]:
    """Activations that forward computes for backward, largest first."""
    later = {name for step in program.steps if step.phase == "backward" for name in step.inputs}
    made = [name for step in program.steps if step.phase == "forward" for name in step.outputs]
    kept = [name for name in made if name in later and program.tensors[name].kind == "activation"]
    return sorted(kept, key=lambda name: -program.tensors[name].size_bytes)


def _without(program: Program, name: str) -> Program | None:
    """The program with ``name`` computed again before its first use in backward; ``None`` where that cannot be done."""
    uses = _uses(program)
    position = next(
        index for index, step in enumerate(program.steps) if step.phase == "backward" and name in step.inputs
    )
    written = {
        output
        for step in program.steps[:position]
        if isinstance(step.operation, Update)
        for output in step.outputs
    }
    again: list[Step] = []
    made: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}
    if not _compute_again(program, name, position, uses, written, again, made, renamed, {name}):
        return None
    after = [_renamed(step, renamed) for step in program.steps[position:]]
    changed = program.with_steps([*program.steps[:position], *again, *after], *made.values())
    return replace(changed, gradients={key: renamed.get(value, value) for key, value in program.gradients.items()})


def _compute_again(
    program: Program,
    name: str,
    position: int,
    uses: _Uses,
    written: set[str],
    again: list[Step],
    made: dict[str, Tensor],
    renamed: dict[str, str],
    dropped: set[str],
) -> bool:
    """Append the steps that yield ``name`` at ``position``; false where an input is gone for good."""
    producer = program.producer(name)
    if producer is None or producer.operation.extends is not None:
        return False
    inputs: list[str] = []
    for needed in producer.inputs:
        if not needed or program.tensors[needed].kind != "activation":
            if needed in written:
                return False
            inputs.append(needed)
            continue
        available = uses.last[needed] >= position and needed not in dropped
        if not available and needed not in renamed:
            deeper = dropped | {needed}
            if not _compute_again(program, needed, position, uses, written, again, made, renamed, deeper):
                return False
        inputs.append(renamed.get(needed, needed))
    outputs = tuple(_again(output, program) for output in producer.outputs)
    renamed.update(zip(producer.outputs, outputs, strict=True))
    for old, new in zip(producer.outputs, outputs, strict=True):
        made[new] = replace(program.tensors[old], name=new)
    again.append(
        replace(producer, name=_again(producer.name, program), inputs=tuple(inputs), outputs=outputs, phase="backward")
    )
    return True


def _again(name: str, program: Program) -> str:
    taken = {*program.tensors, *(step.name for step in program.steps)}
    candidate = f"{name}.again"
    while candidate in taken:
        candidate += "_"
    return candidate


def _renamed(step: Step, renamed: Mapping[str, str]) -> Step:
    return replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs))


def _uses(program: Program) -> _Uses:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, step in enumerate(program.steps):
        for name in (*step.inputs, *step.outputs):
            first.setdefault(name, index)
            last[name] = index
    return _Uses(first, last)
