"""Pooling of one or two dimensions; PyTorch hands over one dimension as images of height one."""

from __future__ import annotations

from collections.abc import Sequence

from lab.compiler.lowering import Call, Results, View, channels_last, lowers
from lab.compiler.operations.pool import (
    BYTE_PLACES,
    AvgPool2d,
    AvgPool2dGradient,
    MaxPool2d,
    MaxPool2dGradient,
    MaxPool2dPlaces,
    Windows,
)
from lab.compiler.program import DType


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _image(call: Call, shape: Sequence[int]) -> tuple[int, int, int]:
    """(height, width, channels) of (N, C, H, W)."""
    if len(shape) != 4:
        raise call.refuse(f"the input has shape {tuple(shape)}", "give it a batch dimension")
    return shape[2], shape[3], shape[1]


def _physical(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in channels_last(len(shape)))


def _windows(call: Call, first: int, x: Sequence[int], y: Sequence[int], *, dilated: bool) -> Windows:
    """Sizes; the kernel is argument ``first``, followed by stride and padding, and dilation of maxima."""
    kernel = _pair(call.integers(first, "kernel_size"))
    stride = call.integers(first + 1, "stride")
    windows = Windows(
        batch=x[0],
        input=_image(call, x),
        output=_image(call, y),
        kernel=kernel,
        stride=_pair(stride) if stride else kernel,
        padding=_pair(call.integers(first + 2, "padding", (0,))),
        dilation=_pair(call.integers(first + 3, "dilation", (1,))) if dilated else (1, 1),
    )
    if not windows.touch_input:
        raise call.refuse("a window lies in the padding alone", "use less padding or dilation")
    return windows


def _average(call: Call, first: int, x: Sequence[int], y: Sequence[int]) -> AvgPool2d:
    return AvgPool2d(
        _windows(call, first, x, y, dilated=False),
        count_padding=call.flag(first + 4, "count_include_pad", True),
        divisor=int(call.number(first + 5, "divisor_override", 0)),
    )


def _even(call: Call, x: Sequence[int], y: Sequence[int]) -> AvgPool2d:
    """Windows that split the input evenly; plain ones where the sizes divide."""
    source, target = _image(call, x), _image(call, y)
    if source[0] % target[0] == 0 and source[1] % target[1] == 0:
        kernel = (source[0] // target[0], source[1] // target[1])
        return AvgPool2d(Windows(x[0], source, target, kernel, kernel, (0, 0)))
    return AvgPool2d(Windows(x[0], source, target, (0, 0), (0, 0), (0, 0)), adaptive=True)


@lowers("aten.avg_pool2d.default")
def lower_avg_pool2d(call: Call) -> Results:
    """``avg_pool2d(input, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)``."""
    return _emit(call, _average(call, 1, call.lowered(0).shape, call.result_shape()))


@lowers("aten._adaptive_avg_pool2d.default")
def lower_adaptive_avg_pool2d(call: Call) -> Results:
    """``_adaptive_avg_pool2d(input, output_size)``."""
    return _emit(call, _even(call, call.lowered(0).shape, call.result_shape()))


def _emit(call: Call, operation: AvgPool2d | MaxPool2d) -> View:
    shape = call.result_shape()
    (made,) = call.emit(operation, [call.nhwc(0)], _physical(shape))
    return call.nhwc_view(made, shape)


@lowers("aten.avg_pool2d_backward.default")
def lower_avg_pool2d_backward(call: Call) -> Results:
    """``avg_pool2d_backward(grad_output, self, kernel, stride, padding, ceil_mode, count_include_pad, divisor)``."""
    return _backward(call, _average(call, 2, call.result_shape(), call.lowered(0).shape))


@lowers("aten._adaptive_avg_pool2d_backward.default")
def lower_adaptive_avg_pool2d_backward(call: Call) -> Results:
    """``_adaptive_avg_pool2d_backward(grad_output, self)``."""
    return _backward(call, _even(call, call.result_shape(), call.lowered(0).shape))


def _backward(call: Call, layer: AvgPool2d) -> View:
    shape = call.result_shape()
    (made,) = call.emit(AvgPool2dGradient(layer), [call.nhwc(0, "grad_output")], _physical(shape))
    return call.nhwc_view(made, shape)


@lowers("aten.max_pool2d_with_indices.default")
def lower_max_pool2d(call: Call) -> Results:
    """``max_pool2d_with_indices(input, kernel, stride, padding, dilation, ceil_mode)``.

    The places are kept inside the window: one byte for all common layers where PyTorch has eight.
    """
    shape = call.result_shape(0)
    windows = _windows(call, 1, call.lowered(0).shape, shape, dilated=True)
    if not any(user.args[1] == 1 and user.users for user in call.node.users):
        (made,) = call.emit(MaxPool2d(windows), [call.nhwc(0)], _physical(shape))
        return call.nhwc_view(made, shape), None
    dtype: DType = "uint8" if windows.kernel[0] * windows.kernel[1] <= BYTE_PLACES else "int32"
    physical = _physical(shape)
    made, places = call.emit(MaxPool2dPlaces(windows), [call.nhwc(0)], physical, (physical, dtype))
    return call.nhwc_view(made, shape), call.nhwc_view(places, shape)


@lowers("aten.max_pool2d.default")
def lower_max_pool2d_alone(call: Call) -> Results:
    """``max_pool2d(input, kernel, stride, padding, dilation, ceil_mode)``: inference."""
    return _emit(call, MaxPool2d(_windows(call, 1, call.lowered(0).shape, call.result_shape(), dilated=True)))


@lowers("aten.max_pool2d_with_indices_backward.default")
def lower_max_pool2d_backward(call: Call) -> Results:
    """``…(grad_output, self, kernel, stride, padding, dilation, ceil_mode, indices)``."""
    shape = call.result_shape()
    layer = MaxPool2d(_windows(call, 2, shape, call.lowered(0).shape, dilated=True))
    inputs = [call.nhwc(0, "grad_output"), call.nhwc(7, "indices")]
    (made,) = call.emit(MaxPool2dGradient(layer), inputs, _physical(shape))
    return call.nhwc_view(made, shape)
