"""Keeps the output for backward where a gradient reads it.

The caller's memory for the output is handed to forward only: the network writes to the arena, and a copy behind it to
the caller. Exact.
"""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.operations.copy import StridedCopy
from lab.compiler.program import Program, Step


def keep_output(program: Program) -> Program:
    """Copy the output in front of backward where backward reads it, or a view of it."""
    names = {program.output}
    for step in reversed(program.steps):
        if step.operation.alias and names.intersection(step.outputs):
            names.update(step.inputs)
    for step in program.steps:
        if step.operation.alias and names.intersection(step.inputs):
            names.update(step.outputs)
    backward = [step for step in program.steps if step.phase != "forward"]
    producer = program.producer(program.output)
    if producer is None or not any(names.intersection(step.inputs) for step in backward):
        return program
    tensor = program.tensors[program.output]
    copied = replace(tensor, name=f"{tensor.name}.output")
    copy = Step(
        copied.name,
        StridedCopy((tensor.elements,), (1,), 0),
        (tensor.name,),
        (copied.name,),
        "forward",
        producer.source,
    )
    last = max(index for index, step in enumerate(program.steps) if step.phase == "forward")
    steps = [*program.steps[: last + 1], copy, *program.steps[last + 1 :]]
    return replace(program, output=copied.name).with_steps(steps, copied)
