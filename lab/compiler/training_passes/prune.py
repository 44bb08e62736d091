"""Drops steps whose results nobody needs: the backward graph shrinks to what the updates ask for."""

from __future__ import annotations

from lab.compiler.program import Program, Step, Update


def prune(program: Program) -> Program:
    """Keep what the output, the loss, the gradients and the updates need."""
    needed = {program.output, program.loss, *program.gradients.values()}
    kept: list[Step] = []
    for step in reversed(program.steps):
        if isinstance(step.operation, Update) or needed.intersection(step.outputs):
            kept.append(step)
            needed.update(name for name in step.inputs if name)
    return program.with_steps(list(reversed(kept)))
