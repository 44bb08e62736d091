"""Keeps one bit per element for the gradient of a clamp where nothing else in backward reads the clamp's output.

The bits say where the output lies strictly inside the bounds. Exact.
"""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.operations.mask import MaskByValue, MaskGradient, MaskInside
from lab.compiler.operations.unary import ClampGradient
from lab.compiler.program import Program, Step, Tensor


def pack_masks(program: Program) -> Program:
    """Replace the values kept for clamps alone by masks."""
    for step in program.steps:
        if isinstance(step.operation, (ClampGradient, MaskByValue)) and step.phase == "backward":
            program = _packed(program, step)
    return program


def _packed(program: Program, gradient: Step) -> Program:
    saved = gradient.inputs[1]
    producer = program.producer(saved)
    readers = [step for step in program.consumers(saved) if step.phase != "forward"]
    operation = gradient.operation
    if not isinstance(operation, (ClampGradient, MaskByValue)) or readers != [gradient] or producer is None:
        return program
    if producer.phase != "forward" or saved == program.output:
        return program
    mask = Tensor(f"{saved}.mask", program.tensors[saved].shape, "bits")
    packing = Step(
        mask.name, MaskInside(operation.low, operation.high), (saved,), (mask.name,), "forward", producer.source
    )
    masked = replace(gradient, operation=MaskGradient(), inputs=(gradient.inputs[0], mask.name))
    steps: list[Step] = []
    for step in program.steps:
        steps.append(masked if step is gradient else step)
        if step is producer:
            steps.append(packing)
    return program.with_steps(steps, mask)
