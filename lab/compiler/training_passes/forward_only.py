"""Moves the losses and gradients of layers into the forward pass, right behind the layer that they belong to.

Where layers have losses of their own and take their inputs detached, the gradient of a layer needs nothing of later
layers: computed and applied at once, it lets go of the layer's input before the next layer runs. The numbers stay.
"""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.program import Program, Step


def interleave(program: Program) -> Program:
    """Put each step that the output does not need behind the one that completes what it reads.

    Call it before there are updates: these find their places behind the gradients and the readers of old values
    (:func:`~lab.compiler.training_passes.immediate_update`).
    """
    needed = trunk(program)
    waiting = [step for step in program.steps if step.name not in needed]
    missing = {name for step in program.steps for name in step.outputs}
    ordered: list[Step] = []
    for step in [step for step in program.steps if step.name in needed]:
        ordered.append(step)
        missing.difference_update(step.outputs)
        for one in list(waiting):
            if missing.isdisjoint(one.inputs):
                waiting.remove(one)
                ordered.append(one)
                missing.difference_update(one.outputs)
    return program.with_steps(_late([*ordered, *waiting]))


def _late(steps: list[Step]) -> list[Step]:
    """What reads nothing computed, such as a row for the label, right in front of the first step that needs it."""
    made = {name for step in steps for name in step.outputs}
    ordered = list(steps)
    for step in [step for step in steps if made.isdisjoint(step.inputs)]:
        readers = [one for one in ordered if set(step.outputs).intersection(one.inputs)]
        if readers:
            ordered.remove(step)
            ordered.insert(ordered.index(readers[0]), step)
    return ordered


def trunk(program: Program) -> set[str]:
    """Names of the steps that the output needs."""
    needed, names = {program.output}, set[str]()
    for step in reversed(program.steps):
        if needed.intersection(step.outputs):
            names.add(step.name)
            needed.update(step.inputs)
    return names


def as_forward(program: Program) -> Program:
    """All steps in one region: the model learns on the way forward, and there is no other one."""
    return program.with_steps([replace(step, phase="forward") for step in program.steps])
