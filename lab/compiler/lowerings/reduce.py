"""Reductions. Neighbours in memory are reduced together; axes that do not lie together, one run after the other."""

from __future__ import annotations

import math
from itertools import groupby

from lab.compiler.graph import Shape
from lab.compiler.lowering import Call, Lowered, Results, Uniform, View, lowers, row_major
from lab.compiler.operations.reduce import Sum


@lowers("aten.sum.default", "aten.sum.dim_IntList", "aten.mean.default", "aten.mean.dim")
def lower_reduce(call: Call) -> Results:
    """``sum(input, dims, keepdim)`` and ``mean``; no dims means all."""
    lowered = call.lowered(0)
    rank = len(lowered.shape)
    named = () if call.aten.endswith(".default") else call.integers(1, "dim")
    dims = sorted({axis % rank for axis in named}) if rank else []
    reduced = tuple(dims) if dims else tuple(range(rank))
    return reduce(call, lowered, reduced, is_mean=call.aten.startswith("aten.mean"))


def reduce(call: Call, lowered: Lowered, reduced: Shape, *, is_mean: bool) -> Lowered:
    """Sum or mean over PyTorch's axes ``reduced``, in the shape the call yields."""
    count = math.prod(lowered.shape[axis] for axis in reduced)
    shape = call.result_shape()
    if isinstance(lowered, Uniform):
        return Uniform(shape, lowered.value if is_mean else lowered.value * count)
    order = sorted(range(len(lowered.shape)), key=lambda axis: (-lowered.strides[axis], axis))
    order = [axis for axis in order if lowered.shape[axis] > 1]
    tensor = _reduce_runs(call, lowered, order, reduced, float(count) if is_mean else 1.0)
    kept = [axis for axis in order if axis not in reduced]
    dense = dict(zip(kept, row_major([lowered.shape[axis] for axis in kept]), strict=True))
    strides = tuple(dense.get(axis, 1) for axis in range(len(lowered.shape)))
    if len(shape) != len(lowered.shape):
        strides = tuple(stride for axis, stride in enumerate(strides) if axis not in reduced)
    return View(tensor, shape, strides)


def _reduce_runs(call: Call, view: View, order: list[int], reduced: Shape, divisor: float) -> str:
    """Reduce every run of neighbouring axes, the last one in memory first; the last step divides."""
    runs = [
        (is_reduced, math.prod(view.shape[axis] for axis in axes))
        for is_reduced, axes in groupby(order, key=lambda axis: axis in reduced)
    ]
    places = [place for place, (is_reduced, _) in enumerate(runs) if is_reduced]
    tensor = view.tensor
    while places:
        place = places.pop()
        outer = math.prod(size for _, size in runs[:place])
        inner = math.prod(size for _, size in runs[place + 1 :])
        operation = Sum(outer, runs[place][1], inner, 1.0 if places else divisor)
        kept = tuple(size for _, size in (*runs[:place], *runs[place + 1 :]))
        (tensor,) = call.emit(operation, [tensor], kept or (1,))
        runs = [*runs[:place], *runs[place + 1 :]]
    return tensor
