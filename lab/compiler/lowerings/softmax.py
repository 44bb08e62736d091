"""Softmax over any axis, in whatever memory order its input has."""

from __future__ import annotations

import math

from lab.compiler.lowering import Call, Results, View, lowers
from lab.compiler.operations.softmax import Softmax, SoftmaxGradient


def _sizes(view: View, axis: int) -> tuple[int, int, int]:
    """Elements before, along and after an axis in memory."""
    axis %= len(view.shape) or 1
    if not view.shape:
        return 1, 1, 1
    depth, inner = view.shape[axis], view.strides[axis]
    if depth == 1:
        return math.prod(view.shape), 1, 1
    return math.prod(view.shape) // (depth * inner), depth, inner


@lowers("aten._softmax.default", "aten._log_softmax.default", "aten._safe_softmax.default")
def lower_softmax(call: Call) -> Results:
    """``_softmax(input, dim, half_to_float)`` and its relatives."""
    view = call.view(0)
    outer, depth, inner = _sizes(view, int(call.number(1, "dim", -1)))
    operation = Softmax(
        outer, depth, inner, logarithm="log" in call.aten, all_masked=call.aten.startswith("aten._safe")
    )
    (made,) = call.emit(operation, [view.tensor], call.builder.tensors[view.tensor].shape)
    return View(made, view.shape, view.strides)


@lowers("aten._softmax_backward_data.default", "aten._log_softmax_backward_data.default")
def lower_softmax_backward(call: Call) -> Results:
    """``_softmax_backward_data(grad_output, output, dim, input_dtype)``."""
    saved = call.view(1, "output")
    gradient = call.like(call.lowered(0, "grad_output"), saved)
    outer, depth, inner = _sizes(saved, int(call.number(2, "dim", -1)))
    operation = SoftmaxGradient(outer, depth, inner, logarithm="log" in call.aten)
    (made,) = call.emit(operation, [gradient, saved.tensor], call.builder.tensors[saved.tensor].shape)
    return View(made, saved.shape, saved.strides)
