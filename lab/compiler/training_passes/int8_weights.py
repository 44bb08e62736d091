"""Convolutions and linear layers of a training program as layers of the int8 graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.compiler.graph import Float32Array
from lab.compiler.operations.conv2d import Conv2d, ConvGeometry, linear_geometry
from lab.compiler.operations.matmul import UNBOUNDED, MatMul
from lab.compiler.operators.conv2d import Conv2d as FloatConv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import Linear
from lab.compiler.program import Step
from lab.errors import CompileError


def geometry_of(operation: Conv2d | MatMul, step: Step, *, rows: bool = False) -> ConvGeometry:
    """Sizes of a layer; a linear one is a 1×1 convolution of one pixel, or where ``rows`` says so of one per row."""
    if isinstance(operation, Conv2d):
        geometry = operation.geometry
        if geometry.dilation != (1, 1) or (geometry.groups > 1 and not geometry.depthwise):
            raise CompileError(
                f"'{step.name}' at {step.source}: dilation {geometry.dilation}, {geometry.groups} groups",
                hint="int8 takes convolutions without dilation, with one group or one filter per channel",
            )
        return geometry
    taken = rows and not operation.transpose_a
    if (operation.rows != 1 and not taken) or operation.batch != 1 or not operation.transpose_b:
        raise CompileError(
            f"'{step.name}' at {step.source}: a matrix product of {operation.rows} rows has no int8 form",
            hint="use precision='float32'",
        )
    one = linear_geometry(operation.depth, operation.columns)
    return replace(one, input=(operation.rows, *one.input[1:]), output=(operation.rows, *one.output[1:]))


def float_layer(
    operation: Conv2d | MatMul, geometry: ConvGeometry, weight: Float32Array, bias: Float32Array
) -> FloatConv2d | DepthwiseConv2d | Linear:
    """The layer in float32, as the int8 graph has it."""
    clamp = operation.activation if operation.activation != UNBOUNDED else None
    if isinstance(operation, MatMul) and operation.rows == 1:
        return Linear(weight.reshape(geometry.output[2], geometry.input[2]), bias, clamp)
    top, left = geometry.padding
    window = Window(geometry.kernel, geometry.stride, top, top, left, left)
    shaped = weight.reshape(geometry.weight_shape)
    if geometry.depthwise:
        return DepthwiseConv2d(np.ascontiguousarray(shaped.transpose(2, 0, 1)), bias, window, clamp)
    return FloatConv2d(shaped, bias, window, clamp)
