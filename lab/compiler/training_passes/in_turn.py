"""Lets parameters learn one after another: what changes a parameter, and what is computed for nothing else, is taken in
the parameter's own steps of training alone. For layers that learn on the way forward by losses of their own.

Steps of the forward pass and its losses are taken always: a step of training tells its whole loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lab.compiler.program import Program, Step, Turn, Update
from lab.errors import CompileError


def in_turn(program: Program, turns: Mapping[str, Turn]) -> Program:
    """The program whose parameters change in their turns.

    Args:
        program: that learns on the way forward, with its updates.
        turns: of each trained parameter; of none where all learn in every step.

    Raises:
        CompileError: a parameter has no turn, or the program does not learn on the way forward.
    """
    if not turns:
        return program
    if not program.learns_forward:
        raise CompileError("parameters learn one after another on the way forward alone", hint="forward_only=True")
    found: dict[str, Turn] = {}
    for step in reversed(program.steps):
        is_update = isinstance(step.operation, Update)
        turn = _of_update(program, step, turns) if is_update else _of_reader(program, step, found)
        if turn is not None:
            found[step.name] = turn
    return program.with_steps([replace(step, turn=found.get(step.name)) for step in program.steps])


def _of_update(program: Program, step: Step, turns: Mapping[str, Turn]) -> Turn | None:
    parameter = next((name for name in step.outputs if program.tensors[name].kind == "parameter"), None)
    if parameter is None:  # what follows a batch follows it in every step
        return None
    if parameter not in turns:
        raise CompileError(f"'{parameter}' is trained and has no turn")
    return turns[parameter]


def _of_reader(program: Program, step: Step, found: Mapping[str, Turn]) -> Turn | None:
    """That of all who read what the step computes, if it is one."""
    if program.loss in step.outputs or program.output in step.outputs:
        return None
    readers = [one for name in step.outputs for one in program.consumers(name)]
    turns = {found.get(one.name) for one in readers}
    return turns.pop() if len(turns) == 1 else None
