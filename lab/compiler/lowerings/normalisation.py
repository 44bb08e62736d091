"""Normalisation layers. Every gradient is a step of its own, so that those nobody needs are never made."""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node as FxNode

from lab.compiler.lowering import Call, Results, Uniform, View, channels_last, lowers
from lab.compiler.operations.copy import StridedCopy
from lab.compiler.operations.normalisation import (
    BatchNorm,
    BatchNormInputGradient,
    GroupNorm,
    GroupNormInputGradient,
    Groups,
    LayerNorm,
    LayerNormInputGradient,
    NormScaleGradient,
)
from lab.compiler.operations.reduce import Sum
from lab.compiler.operations.unary import Affine, Rsqrt


def _optional(call: Call, index: int, name: str) -> str:
    return call.plain(index, name) if call.given(index, name) else ""


def _mask(call: Call, index: int) -> list[bool]:
    mask = call.argument(index, "output_mask")
    return [bool(item) for item in mask] if isinstance(mask, (list, tuple)) else [True, True, True]


def _vector(tensor: str, size: int) -> View:
    return View(tensor, (size,), (1,))


def _parameter_gradients(
    call: Call, wants: list[bool], sizes: Groups, inputs: list[str]
) -> tuple[View | None, View | None]:
    """Gradients of scale and shift; ``inputs`` are the gradient, ``x``, mean and deviation."""
    channels = sizes.groups * sizes.channels
    scale = shift = None
    if wants[1]:
        (made,) = call.emit(NormScaleGradient(sizes), inputs, (channels,), suffix=".scale")
        scale = _vector(made, channels)
    if wants[2]:
        total = Sum(1, sizes.batch * sizes.positions, channels)
        (made,) = call.emit(total, inputs[:1], (channels,), suffix=".shift")
        shift = _vector(made, channels)
    return scale, shift


@lowers("aten.native_layer_norm.default")
def lower_layer_norm(call: Call) -> Results:
    """``native_layer_norm(input, normalized_shape, weight, bias, eps)``: the output, means and deviations."""
    x, inner = call.view(0), call.integers(1, "normalized_shape")
    sizes = _row_sizes(x, inner)
    inputs = [call.plain(0), _optional(call, 2, "weight"), _optional(call, 3, "bias")]
    operation = LayerNorm(sizes, call.number(4, "eps", 1e-5))
    made, mean, deviation = call.emit(operation, inputs, x.shape, (sizes.batch,), (sizes.batch,))
    statistics = (*x.shape[: len(x.shape) - len(inner)], *(1,) * len(inner))
    return call.plain_view(made, x.shape), call.plain_view(mean, statistics), call.plain_view(deviation, statistics)


def _row_sizes(x: View, inner: tuple[int, ...]) -> Groups:
    columns = math.prod(inner)
    return Groups(math.prod(x.shape) // columns, 1, 1, columns)


@lowers("aten.native_layer_norm_backward.default")
def lower_layer_norm_backward(call: Call) -> Results:
    """``native_layer_norm_backward(grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask)``."""
    x, inner = call.view(1, "input"), call.integers(2, "normalized_shape")
    sizes, wants = _row_sizes(x, inner), _mask(call, 7)
    inputs = [call.plain(0, "grad_out"), call.plain(1, "input"), call.plain(3, "mean"), call.plain(4, "rstd")]
    result = None
    if wants[0]:
        operation = LayerNormInputGradient(sizes)
        (made,) = call.emit(operation, [*inputs, _optional(call, 5, "weight")], x.shape)
        result = call.plain_view(made, x.shape)
    # A row is a position here: scale and shift are summed over all of them.
    scale, shift = _parameter_gradients(call, wants, sizes, inputs)
    return (
        result,
        None if scale is None else call.plain_view(scale.tensor, inner),
        None if shift is None else call.plain_view(shift.tensor, inner),
    )


@lowers("aten.native_group_norm.default")
def lower_group_norm(call: Call) -> Results:
    """``native_group_norm(input, weight, bias, N, C, HxW, group, eps)``: the output, means and deviations."""
    shape, sizes = call.lowered(0).shape, _group_sizes(call, 3)
    inputs = [call.nhwc(0), _optional(call, 1, "weight"), _optional(call, 2, "bias")]
    statistics = (sizes.batch, sizes.groups)
    operation = GroupNorm(sizes, call.number(7, "eps", 1e-5))
    made, mean, deviation = call.emit(operation, inputs, _physical(shape), statistics, statistics)
    return call.nhwc_view(made, shape), call.plain_view(mean, statistics), call.plain_view(deviation, statistics)


def _physical(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in channels_last(len(shape)))


def _group_sizes(call: Call, index: int) -> Groups:
    batch, channels, positions, groups = (int(call.number(index + i, "N", 1)) for i in range(4))
    return Groups(batch, positions, groups, channels // groups)


@lowers("aten.native_group_norm_backward.default")
def lower_group_norm_backward(call: Call) -> Results:
    """``native_group_norm_backward(grad_out, input, mean, rstd, weight, N, C, HxW, group, output_mask)``."""
    shape, sizes = call.lowered(1).shape, _group_sizes(call, 5)
    inputs = [call.nhwc(0, "grad_out"), call.nhwc(1, "input"), call.plain(2, "mean"), call.plain(3, "rstd")]
    return _norm_backward(call, sizes, shape, inputs, _optional(call, 4, "weight"), _mask(call, 9))


def _norm_backward(
    call: Call, sizes: Groups, shape: tuple[int, ...], inputs: list[str], scale: str, wants: list[bool]
) -> Results:
    result = None
    if wants[0]:
        (made,) = call.emit(GroupNormInputGradient(sizes), [*inputs, scale], _physical(shape))
        result = call.nhwc_view(made, shape)
    return result, *_parameter_gradients(call, wants, sizes, inputs)


def _channel_sizes(shape: tuple[int, ...]) -> Groups:
    """One group per channel, over the whole batch."""
    return Groups(1, math.prod(shape) // shape[1], shape[1], 1)


@lowers("aten._native_batch_norm_legit_no_training.default")
def lower_batch_norm(call: Call) -> Results:
    """``…(input, weight, bias, running_mean, running_var, momentum, eps)``: the output, mean and deviation."""
    shape, sizes = call.lowered(0).shape, _channel_sizes(call.lowered(0).shape)
    mean, deviation = call.plain(3, "running_mean"), _deviation(call, 4, call.number(6, "eps", 1e-5))
    inputs = [call.nhwc(0), mean, deviation, _optional(call, 1, "weight"), _optional(call, 2, "bias")]
    (made,) = call.emit(BatchNorm(sizes.positions, sizes.groups), inputs, _physical(shape))
    # PyTorch yields nothing for the statistics here; the gradients find them in these places all the same.
    return call.nhwc_view(made, shape), _vector(mean, sizes.groups), _vector(deviation, sizes.groups)


def _deviation(call: Call, index: int, epsilon: float) -> str:
    """``1 / √(variance + epsilon)``: of a buffer computed here, of a variance that is computed on the device, there."""
    argument = call.argument(index, "running_var")
    known = call.builder.joint.parameters
    if not isinstance(argument, FxNode) or argument not in known:
        shape = call.builder.tensors[call.plain(index, "running_var")].shape
        (shifted,) = call.emit(Affine(1.0, epsilon), [call.plain(index)], shape, suffix=".shifted")
        (made,) = call.emit(Rsqrt(), [shifted], shape, suffix=".deviation")
        return made
    name, variance = known[argument]
    value = 1.0 / np.sqrt(variance.detach().cpu().double().numpy() + epsilon)
    return call.builder.constant(f"{name}.deviation", value.astype(np.float32))


@lowers("aten._native_batch_norm_legit.no_stats")
def lower_batch_norm_of_batch(call: Call) -> Results:
    """``…(input, weight, bias, training, momentum, eps)``: statistics of the batch itself; instance norm too."""
    shape, sizes = call.lowered(0).shape, _channel_sizes(call.lowered(0).shape)
    inputs = [call.nhwc(0), _optional(call, 1, "weight"), _optional(call, 2, "bias")]
    statistics = (sizes.groups,)
    operation = GroupNorm(sizes, call.number(5, "eps", 1e-5))
    made, mean, deviation = call.emit(operation, inputs, _physical(shape), statistics, statistics)
    return call.nhwc_view(made, shape), _vector(mean, sizes.groups), _vector(deviation, sizes.groups)


@lowers("aten.repeat.default")
def lower_repeat(call: Call) -> Results:
    """``repeat(input, sizes)``: instance norm has one scale per sample and channel."""
    lowered, repeats = call.lowered(0), call.integers(1, "repeats")
    if isinstance(lowered, Uniform):
        return Uniform(call.result_shape(), lowered.value)
    if all(size == 1 for size in repeats) and len(repeats) == len(lowered.shape):
        return lowered
    added = len(repeats) - len(lowered.shape)
    sizes = (*(1,) * added, *lowered.shape)
    strides = (*(0,) * added, *lowered.strides)
    shape = tuple(one for pair in zip(repeats, sizes, strict=True) for one in pair)
    read = tuple(one for stride in strides for one in (0, stride))
    kept = [axis for axis, size in enumerate(shape) if size > 1] or [0]
    operation = StridedCopy(tuple(shape[axis] for axis in kept), tuple(read[axis] for axis in kept), 0)
    (made,) = call.emit(operation, [lowered.tensor], call.result_shape())
    return call.plain_view(made, call.result_shape())


@lowers("aten.native_batch_norm_backward.default")
def lower_batch_norm_backward(call: Call) -> Results:
    """``…(grad_out, input, weight, running_mean, running_var, save_mean, save_invstd, train, eps, output_mask)``."""
    shape, sizes, wants = call.lowered(1).shape, _channel_sizes(call.lowered(1).shape), _mask(call, 9)
    scale = _optional(call, 2, "weight")
    mean, deviation = call.view(5, "save_mean").tensor, call.view(6, "save_invstd").tensor
    gradient = call.nhwc(0, "grad_out")
    inputs = [gradient, call.nhwc(1, "input") if call.flag(7, "train", False) or wants[1] else "", mean, deviation]
    if call.flag(7, "train", False):
        return _norm_backward(call, sizes, shape, inputs, scale, wants)
    result = None
    if wants[0]:
        operation = BatchNormInputGradient(sizes.positions, sizes.groups)
        (made,) = call.emit(operation, [gradient, deviation, scale], _physical(shape))
        result = call.nhwc_view(made, shape)
    return result, *_parameter_gradients(call, wants, sizes, inputs)
