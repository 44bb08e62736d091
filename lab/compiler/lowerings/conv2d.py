"""Convolution of one or two dimensions, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node as FxNode

from lab.compiler.lowering import Call, Results, View, channels_last, lowers, permuted_strides
from lab.compiler.operations.conv2d import (
    ChannelSum,
    Conv2d,
    Conv2dInputGradient,
    Conv2dWeightGradient,
    ConvGeometry,
)


def _pair(values: Sequence[int], default: int) -> tuple[int, int]:
    """(height, width) of a list with one entry per axis; the height of a 1-D convolution is ``default``."""
    return (default, values[0]) if len(values) == 1 else (values[0], values[1])


def _image(shape: Sequence[int]) -> tuple[int, int, int]:
    """(height, width, channels) of (N, C, L) or (N, C, H, W)."""
    return (1, shape[2], shape[1]) if len(shape) == 3 else (shape[2], shape[3], shape[1])


def _geometry(call: Call, first: int, x: Sequence[int], weight: Sequence[int], y: Sequence[int]) -> ConvGeometry:
    """Sizes; ``stride`` is argument ``first``, followed by padding, dilation, transposed, output padding and groups."""
    if call.flag(first + 3, "transposed", False):
        raise call.refuse("transposed convolution", "use an upsampling and a convolution")
    rank = len(x) - 2
    if rank not in (1, 2) or len(weight) != len(x):
        raise call.refuse(f"input of shape {tuple(x)}", "use one or two dimensions, and give it a batch dimension")
    return ConvGeometry(
        batch=x[0],
        input=_image(x),
        output=_image(y),
        kernel=_pair(weight[2:], 1),
        stride=_pair(_all(call.integers(first, "stride", (1,)), rank), 1),
        padding=_pair(_all(call.integers(first + 1, "padding", (0,)), rank), 0),
        dilation=_pair(_all(call.integers(first + 2, "dilation", (1,)), rank), 1),
        groups=int(call.number(first + 5, "groups", 1)),
    )


def _all(values: Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(values) * rank if len(values) == 1 else tuple(values)


def _weight_order(geometry: ConvGeometry, rank: int) -> tuple[int, ...]:
    """Axes of PyTorch's (O, I, K…) in memory: (O, K…, I), or (K…, O, I) for one filter per channel."""
    kernel = tuple(range(2, rank))
    return (*kernel, 0, 1) if geometry.depthwise else (0, *kernel, 1)


@lowers("aten.convolution.default")
def lower_convolution(call: Call) -> Results:
    """``convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)``."""
    shape = call.result_shape()
    weight_shape = _shape(call, 1)
    geometry = _geometry(call, 3, call.lowered(0).shape, weight_shape, shape)
    weight = call.weight(1, _weight_order(geometry, len(weight_shape)))
    inputs = [call.nhwc(0), weight.tensor, call.plain(2, "bias") if call.given(2) else ""]
    (made,) = call.emit(Conv2d(geometry), inputs, tuple(shape[axis] for axis in channels_last(len(shape))))
    return call.nhwc_view(made, shape)


@lowers("aten.convolution_backward.default")
def lower_convolution_backward(call: Call) -> Results:
    """``convolution_backward(grad_output, input, weight, bias_sizes, stride, …, groups, output_mask)``."""
    mask = call.argument(10, "output_mask")
    wants = [bool(item) for item in mask] if isinstance(mask, (list, tuple)) else [True, True, True]
    gradient, x, weight_shape = call.lowered(0), call.lowered(1), _shape(call, 2)
    geometry = _geometry(call, 4, x.shape, weight_shape, gradient.shape)
    order = _weight_order(geometry, len(weight_shape))
    dense = call.nhwc(0, "grad_output")
    results: list[View | None] = [None, None, None]
    if wants[1]:
        (made,) = call.emit(
            Conv2dWeightGradient(geometry),
            [call.nhwc(1), dense],
            tuple(weight_shape[axis] for axis in order),
            suffix=".weight",
        )
        results[1] = View(made, tuple(weight_shape), permuted_strides(weight_shape, order))
    if wants[2]:
        channels = geometry.output[2]
        rows = geometry.batch * geometry.output[0] * geometry.output[1]
        (made,) = call.emit(ChannelSum(rows, channels), [dense], (channels,), suffix=".bias")
        results[2] = call.plain_view(made, (channels,))
    if wants[0]:
        weight = call.weight(2, order)
        shape = x.shape
        (made,) = call.emit(
            Conv2dInputGradient(geometry),
            [dense, weight.tensor],
            tuple(shape[axis] for axis in channels_last(len(shape))),
            suffix=".input",
        )
        results[0] = call.nhwc_view(made, shape)
    return tuple(results)


def _shape(call: Call, index: int) -> tuple[int, ...]:
    argument = call.argument(index, "weight")
    if isinstance(argument, FxNode) and argument in call.builder.joint.parameters:
        return tuple(int(size) for size in call.builder.joint.parameters[argument][1].shape)
    return call.of(argument, "weight").shape
