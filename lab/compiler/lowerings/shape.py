"""Operators that only move elements. Views and permutations cost nothing; copies are made where memory must change."""

from __future__ import annotations

import torch

from lab.compiler.graph import Shape
from lab.compiler.lowering import (
    Call,
    Lowered,
    Results,
    Uniform,
    View,
    channels_last,
    lowers,
    permuted_strides,
    row_major,
)
from lab.compiler.operations.copy import StridedCopy, StridedExtend, StridedWrite


def _dense_copy(call: Call, shape: Shape, strides: Shape, view: View, offset: int) -> View:
    """Copy a part of a tensor; the copy keeps the memory order of the axes."""
    order = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
    physical = tuple(shape[axis] for axis in order)
    read = tuple(strides[axis] for axis in order)
    dtype = call.builder.tensors[view.tensor].dtype
    (made,) = call.emit(StridedCopy(physical, read, offset), [view.tensor], (physical, dtype))
    dense = row_major(physical)
    placed = [0] * len(shape)
    for place, axis in enumerate(order):
        placed[axis] = dense[place]
    return View(made, shape, tuple(placed))


@lowers(
    "aten.detach.default",
    "aten.alias.default",
    "aten.lift_fresh_copy.default",
    "aten.contiguous.default",
    "aten.clone.default",
)
def lower_same(call: Call) -> Results:
    """The same elements; nothing writes to a tensor twice, so a clone needs no copy."""
    return call.lowered(0)


@lowers("aten.permute.default")
def lower_permute(call: Call) -> Results:
    """``permute(input, dims)``."""
    lowered = call.lowered(0)
    return _permuted(lowered, [axis % len(lowered.shape) for axis in call.integers(1, "dims")])


@lowers("aten.transpose.int")
def lower_transpose(call: Call) -> Results:
    """``transpose(input, dim0, dim1)``."""
    lowered = call.lowered(0)
    order = list(range(len(lowered.shape)))
    first, second = int(call.number(1, "dim0", 0)), int(call.number(2, "dim1", 1))
    order[first], order[second] = order[second], order[first]
    return _permuted(lowered, order)


@lowers("aten.t.default")
def lower_t(call: Call) -> Results:
    """Transpose of a matrix; a vector as it is."""
    lowered = call.lowered(0)
    return _permuted(lowered, list(reversed(range(len(lowered.shape)))))


def _permuted(lowered: Lowered, order: list[int]) -> Lowered:
    shape = tuple(lowered.shape[axis] for axis in order)
    if isinstance(lowered, Uniform):
        return Uniform(shape, lowered.value)
    return View(lowered.tensor, shape, tuple(lowered.strides[axis] for axis in order))


@lowers(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.unsqueeze.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
)
def lower_view(call: Call) -> Results:
    """Another shape over the same elements in PyTorch's order; a copy only where memory has another order."""
    lowered = call.lowered(0)
    shape = call.result_shape()
    if isinstance(lowered, Uniform):
        return Uniform(shape, lowered.value)
    strides = _view_strides(lowered, shape)
    if strides is None:
        lowered = call.ordered(lowered, tuple(range(len(lowered.shape))))
        strides = row_major(shape)
    return View(lowered.tensor, shape, strides)


def _view_strides(view: View, shape: Shape) -> Shape | None:
    """Strides of ``view`` under another shape, by PyTorch's own rule; ``None`` where it takes a copy."""
    probe = torch.empty_strided(view.shape, view.strides, device="meta")
    try:
        seen = probe.view(shape)
    except RuntimeError:
        return None
    return tuple(int(stride) for stride in seen.stride())


@lowers("aten.expand.default")
def lower_expand(call: Call) -> Results:
    """``expand(input, sizes)``: repeats along axes of size one, and along new axes in front."""
    lowered = call.lowered(0)
    shape = call.result_shape()
    if isinstance(lowered, Uniform):
        return Uniform(shape, lowered.value)
    added = len(shape) - len(lowered.shape)
    old = (*(1,) * added, *lowered.shape)
    strides = (*(0,) * added, *lowered.strides)
    if old == shape:
        return View(lowered.tensor, shape, tuple(stride or 1 for stride in strides))
    read = tuple(0 if was == 1 and now != 1 else stride for was, now, stride in zip(old, shape, strides, strict=True))
    # Repeated images meet feature maps, which have their channels last.
    order = channels_last(len(shape)) if len(shape) == 4 else tuple(range(len(shape)))
    physical, turned = tuple(shape[axis] for axis in order), tuple(read[axis] for axis in order)
    dtype = call.builder.tensors[lowered.tensor].dtype
    (made,) = call.emit(StridedCopy(physical, turned, 0), [lowered.tensor], (physical, dtype))
    return View(made, shape, permuted_strides(shape, order))


@lowers("aten.select.int")
def lower_select(call: Call) -> Results:
    """``select(input, dim, index)``."""
    lowered = call.lowered(0)
    shape = call.result_shape()
    if isinstance(lowered, Uniform):
        return Uniform(shape, lowered.value)
    axis = int(call.number(1, "dim", 0)) % len(lowered.shape)
    index = int(call.number(2, "index", 0)) % lowered.shape[axis]
    strides = tuple(stride for at, stride in enumerate(lowered.strides) if at != axis)
    return _part(call, lowered, shape, strides, index * lowered.strides[axis])


@lowers("aten.slice.Tensor")
def lower_slice(call: Call) -> Results:
    """``slice(input, dim, start, end, step)``."""
    lowered = call.lowered(0)
    shape = call.result_shape()
    if isinstance(lowered, Uniform):
        return Uniform(shape, lowered.value)
    axis = int(call.number(1, "dim", 0)) % len(lowered.shape)
    start = _start(call, lowered.shape[axis], 2)
    step = int(call.number(4, "step", 1))
    strides = tuple(stride * step if at == axis else stride for at, stride in enumerate(lowered.strides))
    return _part(call, lowered, shape, strides, start * lowered.strides[axis])


@lowers("aten.unbind.int")
def lower_unbind(call: Call) -> Results:
    """``unbind(input, dim)``: as many copies as parts that are read."""
    view = call.view(0)
    axis = int(call.number(1, "dim", 0)) % len(view.shape)
    strides = tuple(stride for at, stride in enumerate(view.strides) if at != axis)
    return tuple(
        _part(call, view, call.result_shape(index), strides, index * view.strides[axis])
        if index in _picked(call)
        else None
        for index in range(view.shape[axis])
    )


def _picked(call: Call) -> set[object]:
    """Which of several results are read."""
    return {user.args[1] for user in call.node.users if user.users}


def _part(call: Call, view: View, shape: Shape, strides: Shape, offset: int) -> View:
    if shape == view.shape:
        return view
    return _dense_copy(call, shape, strides, view, offset)


def _start(call: Call, size: int, index: int) -> int:
    start = int(call.number(index, "start", 0))
    return min(max(start + size if start < 0 else start, 0), size)


@lowers("aten.split.Tensor", "aten.unsafe_split.Tensor", "aten.split_with_sizes.default")
def lower_split(call: Call) -> Results:
    """``split(input, size | sizes, dim)``: as many copies as parts that are read."""
    view = call.view(0)
    axis = int(call.number(2, "dim", 0)) % len(view.shape)
    wanted = _picked(call)
    parts: list[Lowered | None] = []
    start = 0
    for index in range(len(call.node.meta["val"])):
        shape = call.result_shape(index)
        is_read = index in wanted
        parts.append(_part(call, view, shape, view.strides, start * view.strides[axis]) if is_read else None)
        start += shape[axis]
    return tuple(parts)


@lowers("aten.constant_pad_nd.default")
def lower_pad(call: Call) -> Results:
    """``constant_pad_nd(input, pad, value)``: (before, after) from the last axis on; negative ones crop."""
    if call.number(2, "value", 0.0) != 0.0:
        raise call.refuse("pads with a number other than 0", "pad with zeros")
    lowered, shape = call.lowered(0), call.result_shape()
    if isinstance(lowered, Uniform):
        lowered = call.materialised(lowered)
    amounts = call.integers(1, "pad")
    rank = len(shape)
    before = [0] * rank
    for number in range(len(amounts) // 2):
        before[rank - 1 - number] = amounts[2 * number]
    starts = [max(0, -one) for one in before]
    kept = tuple(
        min(size - start, total - max(0, one))
        for size, start, total, one in zip(lowered.shape, starts, shape, before, strict=True)
    )
    offset = sum(start * stride for start, stride in zip(starts, lowered.strides, strict=True))
    part = _part(call, lowered, kept, lowered.strides, offset)
    if kept == shape:
        return part
    order = sorted(range(rank), key=lambda axis: (-part.strides[axis], axis))
    dense = call.ordered(part, order).tensor
    total, placed = tuple(shape[axis] for axis in order), _ordered_strides(shape, order)
    at = sum(max(0, one) * stride for one, stride in zip(before, placed, strict=True))
    physical, strides = tuple(kept[axis] for axis in order), tuple(placed[axis] for axis in order)
    dtype = call.builder.tensors[dense].dtype
    (made,) = call.emit(StridedWrite(physical, total, strides, at), [dense], (total, dtype))
    return View(made, shape, placed)


@lowers("aten._assert_tensor_metadata.default")
def lower_assertion(call: Call) -> Results:
    """What a change of type or device leaves behind where it changes nothing."""
    return ()


@lowers("aten.cat.default", "aten.stack.default")
def lower_cat(call: Call) -> Results:
    """``cat(tensors, dim)`` and ``stack``: each part is written to its place."""
    tensors = call.argument(0, "tensors")
    if not isinstance(tensors, (list, tuple)):
        raise call.refuse("argument 'tensors' is no list")
    shape = call.result_shape()
    axis = int(call.number(1, "dim", 0)) % len(shape)
    parts = [call.materialised(call.of(one)) for one in tensors]
    if call.aten.startswith("aten.stack"):
        parts = [
            View(part.tensor, _with_one(part.shape, axis), _with_one(part.strides, axis)) for part in parts
        ]
    order = sorted(range(len(shape)), key=lambda at: (-parts[0].strides[at], at))
    placed = _ordered_strides(shape, order)
    total = tuple(shape[at] for at in order)
    made, start = "", 0
    for number, part in enumerate(parts):
        dense = call.ordered(part, order).tensor
        physical = tuple(part.shape[at] for at in order)
        strides = tuple(placed[at] for at in order)
        kind = StridedExtend if number else StridedWrite
        inputs = [dense, made] if number else [dense]
        dtype = call.builder.tensors[dense].dtype
        (made,) = call.emit(kind(physical, total, strides, start * placed[axis]), inputs, (total, dtype))
        start += part.shape[axis]
    return View(made, shape, placed)


def _with_one(sizes: Shape, axis: int) -> Shape:
    return (*sizes[:axis], 1, *sizes[axis:])


def _ordered_strides(shape: Shape, order: list[int]) -> Shape:
    dense = row_major([shape[at] for at in order])
    strides = [0] * len(shape)
    for place, at in enumerate(order):
        strides[at] = dense[place]
    return tuple(strides)


@lowers("aten.select_backward.default")
def lower_select_backward(call: Call) -> Results:
    """``select_backward(gradient, sizes, dim, index)``: zeros but for the selected part."""
    shape = call.result_shape()
    axis = int(call.number(2, "dim", 0)) % len(shape)
    index = int(call.number(3, "index", 0)) % shape[axis]
    strides = row_major(shape)
    placed = tuple(stride for at, stride in enumerate(strides) if at != axis)
    return _written(call, shape, placed, index * strides[axis])


@lowers("aten.slice_backward.default")
def lower_slice_backward(call: Call) -> Results:
    """``slice_backward(gradient, sizes, dim, start, end, step)``: zeros but for the slice."""
    shape = call.result_shape()
    axis = int(call.number(2, "dim", 0)) % len(shape)
    start = _start(call, shape[axis], 3)
    step = int(call.number(5, "step", 1))
    strides = row_major(shape)
    placed = tuple(stride * step if at == axis else stride for at, stride in enumerate(strides))
    return _written(call, shape, placed, start * strides[axis])


def _written(call: Call, shape: Shape, placed: Shape, offset: int) -> View:
    part = call.view(0, "grad_output")
    dense = call.plain(0, "grad_output")
    dtype = call.builder.tensors[dense].dtype
    (made,) = call.emit(StridedWrite(part.shape, shape, placed, offset), [dense], (shape, dtype))
    return call.plain_view(made, shape)

