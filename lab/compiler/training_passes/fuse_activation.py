"""Merges a clamping activation (ReLU, ReLU6, hardtanh) into the convolution or matrix product before it.

The gradient of a clamp passes where the value lies strictly inside the bounds, which is the same for its input and its
output: backward reads the output, so the value before the clamp is no longer needed. Exact.
"""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.graph import Clamp
from lab.compiler.operations.conv2d import Conv2d
from lab.compiler.operations.matmul import UNBOUNDED, MatMul
from lab.compiler.operations.unary import ClampGradient, ClampValues
from lab.compiler.program import Program, Step


def fuse_activation(program: Program) -> Program:
    """Fuse every clamp that is the only reader, in forward, of a convolution or matrix product."""
    for step in program.steps:
        if isinstance(step.operation, ClampValues) and step.phase == "forward":
            program = _fused(program, step)
    return program


def _fused(program: Program, clamp: Step) -> Program:
    before, after = clamp.inputs[0], clamp.outputs[0]
    producer = program.producer(before)
    operation = clamp.operation
    if producer is None or not isinstance(operation, ClampValues) or before == program.output:
        return program
    layer = producer.operation
    if not isinstance(layer, (Conv2d, MatMul)) or layer.activation != UNBOUNDED:
        return program
    readers = [step for step in program.consumers(before) if step is not clamp]
    if not all(isinstance(step.operation, ClampGradient) and step.inputs[1] == before for step in readers):
        return program
    fused = replace(
        producer, operation=replace(layer, activation=Clamp(operation.low, operation.high)), outputs=(after,)
    )
    steps: list[Step] = []
    for step in program.steps:
        if step is clamp:
            continue
        if step is producer:
            steps.append(fused)
        elif step in readers:
            steps.append(replace(step, inputs=(step.inputs[0], after)))
        else:
            steps.append(step)
    return program.with_steps(steps)
