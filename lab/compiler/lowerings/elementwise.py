"""Functions of two tensors. A uniform operand becomes a constant of the kernel; the result lies as the larger one."""

from __future__ import annotations

import math

import numpy as np
import torch

from lab.compiler.graph import Shape
from lab.compiler.lowering import Call, Lowered, Results, Uniform, View, lowers, permuted_strides
from lab.compiler.lowerings.unary import apply
from lab.compiler.operations.elementwise import AXES, Binary, BroadcastBinary, Function, join_axes
from lab.compiler.operations.unary import (
    COMPARISONS,
    Affine,
    Choose,
    Compare,
    Comparison,
    Divide,
    LabelEquals,
    Reciprocal,
    Softplus,
    Tanh,
    Unary,
)

SWAPPED: dict[Function, Function] = {
    "sum": "sum",
    "product": "product",
    "quotient": "inverse_quotient",
    "inverse_quotient": "quotient",
}


def _operand(call: Call, index: int, name: str) -> Lowered:
    """A tensor or a number."""
    argument = call.argument(index, name)
    if isinstance(argument, (int, float)):
        return Uniform((), float(argument))
    return call.as_float(call.lowered(index, name))


@lowers("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar")
def lower_add(call: Call) -> Results:
    """``a + alpha · b`` and ``a - alpha · b``."""
    sign = -1.0 if call.aten.startswith("aten.sub") else 1.0
    index = 2 if call.aten.endswith(".Scalar") else 3
    alpha = sign * _alpha(call, index)
    return combine(call, _operand(call, 0, "self"), _operand(call, 1, "other"), Binary("sum", 1.0, alpha))


def _alpha(call: Call, index: int) -> float:
    return call.number(index, "alpha", 1.0)


@lowers("aten.rsub.Tensor", "aten.rsub.Scalar")
def lower_rsub(call: Call) -> Results:
    """``b - alpha · a``."""
    index = 2 if call.aten.endswith(".Scalar") else 3
    operation = Binary("sum", -_alpha(call, index), 1.0)
    return combine(call, _operand(call, 0, "self"), _operand(call, 1, "other"), operation)


@lowers("aten.mul.Tensor", "aten.mul.Scalar", "aten.logical_and.default", "aten.bitwise_and.Tensor")
def lower_mul(call: Call) -> Results:
    """``a · b``; of masks, where both are set."""
    return combine(call, _operand(call, 0, "self"), _operand(call, 1, "other"), Binary("product"))


@lowers("aten.div.Tensor", "aten.div.Scalar")
def lower_div(call: Call) -> Results:
    """``a / b``."""
    return combine(call, _operand(call, 0, "self"), _operand(call, 1, "other"), Binary("quotient"))


def combine(call: Call, a: Lowered, b: Lowered, operation: Binary) -> Lowered:
    """``operation`` of two operands that broadcast against each other."""
    shape = call.result_shape()
    if isinstance(a, Uniform) and isinstance(b, Uniform):
        value = operation.of(torch.tensor(a.value), torch.tensor(b.value))
        return Uniform(shape, float(value))
    if isinstance(b, Uniform) and isinstance(a, View) and a.shape == shape:
        return _with_number(call, a, b.value, operation)
    if isinstance(a, Uniform) and isinstance(b, View) and b.shape == shape:
        return _with_number(call, b, a.value, _swapped(operation))
    return _combine_views(call, _repeated(call, a), _repeated(call, b), operation)


def _repeated(call: Call, lowered: Lowered) -> View:
    """A uniform tensor as one constant element, repeated along every axis."""
    if isinstance(lowered, View):
        return lowered
    name = call.builder.constant(f"{call.name}.constant", np.full((1,), lowered.value, dtype=np.float32))
    return View(name, lowered.shape, (0,) * len(lowered.shape))


def _swapped(operation: Binary) -> Binary:
    return Binary(SWAPPED[operation.function], operation.second_scale, operation.first_scale)


def _with_number(call: Call, view: View, number: float, operation: Binary) -> Lowered:
    """``operation`` of a tensor and a number."""
    function = _function(operation, number)
    if function == Affine(1.0, 0.0) or function == Divide(1.0):
        return view
    if function == Affine(0.0, 0.0):
        return Uniform(view.shape, 0.0)
    return apply(call, view, function)


def _function(operation: Binary, number: float) -> Unary:
    if operation.function == "sum":
        return Affine(operation.first_scale, float(np.float32(operation.second_scale * number)))
    if operation.function == "product":
        return Affine(number)
    return Divide(number) if operation.function == "quotient" else Reciprocal(number)


def _combine_views(call: Call, a: View, b: View, operation: Binary) -> View:
    shape = call.result_shape()
    a, b = _with_rank(a, len(shape)), _with_rank(b, len(shape))
    if a.shape != shape and b.shape == shape and operation.function in SWAPPED:
        a, b, operation = b, a, _swapped(operation)
    full = a.shape == shape and 0 not in _walked(a.shape, a.strides)
    order = _memory_order(a) if full else tuple(range(len(shape)))
    if a.tensor == b.tensor and full and b.shape == shape and a.strides != b.strides:
        b = call.ordered(b, order)  # the output could take the memory that is still read in another order
    physical = tuple(shape[axis] for axis in order)
    first, second = (_strides_in(view, order) for view in (a, b))
    sizes, first, second = join_axes(physical, first, second)
    if len(sizes) > AXES:
        raise call.refuse(f"operands of shapes {a.shape} and {b.shape} need more than {AXES} axes", "reshape them")
    alike = full and len(sizes) == 1 and first == second != (0,)
    made_by = (
        operation
        if alike
        else BroadcastBinary(
            operation.function, operation.first_scale, operation.second_scale, sizes, first, second
        )
    )
    (made,) = call.emit(made_by, [a.tensor, b.tensor], physical or (1,))
    return View(made, shape, permuted_strides(shape, order))


def _walked(shape: Shape, strides: Shape) -> Shape:
    return tuple(stride for size, stride in zip(shape, strides, strict=True) if size > 1)


def _memory_order(view: View) -> Shape:
    """PyTorch's axes from the slowest to the fastest in memory."""
    return tuple(sorted(range(len(view.shape)), key=lambda axis: (-view.strides[axis], axis)))


def _strides_in(view: View, order: Shape) -> Shape:
    """Strides of an operand along the result's axes in memory order; 0 where it is repeated."""
    return tuple(view.strides[axis] if view.shape[axis] > 1 else 0 for axis in order)


def _with_rank(view: View, rank: int) -> View:
    """The tensor with axes of size one in front."""
    added = rank - len(view.shape)
    return View(view.tensor, (*(1,) * added, *view.shape), (*(1,) * added, *view.strides))


@lowers(*(f"aten.{name}.Scalar" for name in COMPARISONS))
def lower_compare(call: Call) -> Results:
    """A mask of 0 and 1: ``input`` compared with a number."""
    name = call.aten.split(".")[1]
    comparison: Comparison = next(known for known in COMPARISONS if known == name)
    lowered = call.lowered(0)
    if isinstance(lowered, View) and call.builder.tensors[lowered.tensor].dtype != "float32":
        return _compare_labels(call, lowered, comparison)
    return apply(call, lowered, Compare(comparison, call.number(1, "other", 0.0)))


@lowers(*(f"aten.{name}.Tensor" for name in COMPARISONS))
def lower_compare_tensors(call: Call) -> Results:
    """A mask of 0 and 1: the difference, which is 0 for equal finite numbers alone, compared with 0."""
    name = call.aten.split(".")[1]
    comparison: Comparison = next(known for known in COMPARISONS if known == name)
    difference = combine(call, _operand(call, 0, "self"), _operand(call, 1, "other"), Binary("sum", 1.0, -1.0))
    return apply(call, difference, Compare(comparison, 0.0))


def _compare_labels(call: Call, labels: View, comparison: Comparison) -> View:
    if comparison != "eq":
        raise call.refuse("compares integers", "compare them for equality, or convert them to float32")
    operation = LabelEquals(int(call.number(1, "other", 0.0)))
    (made,) = call.emit(operation, [labels.tensor], call.builder.tensors[labels.tensor].shape)
    return View(made, labels.shape, labels.strides)


@lowers("aten._to_copy.default")
def lower_conversion(call: Call) -> Results:
    """A mask as a float is the same; no other type is changed on the device."""
    lowered = call.lowered(0)
    if isinstance(lowered, View) and call.builder.tensors[lowered.tensor].dtype != "float32":
        raise call.refuse("converts integers", "convert them before they are given to the model")
    if call.node.meta["val"].dtype not in (torch.float32, torch.bool):
        raise call.refuse(f"converts to {call.node.meta['val'].dtype}", "stay in float32")
    return lowered


@lowers("aten.bitwise_not.default", "aten.logical_not.default")
def lower_not(call: Call) -> Results:
    """The mask's opposite."""
    return apply(call, call.lowered(0), Affine(-1.0, 1.0))


@lowers("aten.masked_fill.Scalar")
def lower_masked_fill(call: Call) -> Results:
    """``masked_fill(input, mask, value)``."""
    operation = Binary("keep_unless", call.number(2, "value", 0.0))
    return combine_masked(call, call.lowered(0), call.lowered(1, "mask"), operation)


@lowers("aten.where.self")
def lower_where(call: Call) -> Results:
    """``where(mask, yes, no)``; of two tensors, each with zeros where it is not chosen, and their sum."""
    mask = call.lowered(0, "condition")
    yes, no = (call.as_float(call.lowered(index, name)) for index, name in ((1, "self"), (2, "other")))
    if isinstance(mask, Uniform):
        constant = yes if mask.value != 0.0 else no
        if constant.shape == call.result_shape():
            return constant
    if isinstance(yes, Uniform) and isinstance(no, Uniform) and mask.shape == call.result_shape():
        return apply(call, mask, Choose(yes.value, no.value))
    if isinstance(no, Uniform):
        return combine_masked(call, yes, mask, Binary("keep_where", no.value))
    if isinstance(yes, Uniform):
        return combine_masked(call, no, mask, Binary("keep_unless", yes.value))
    chosen = combine_masked(call, yes, mask, Binary("keep_where", 0.0))
    other = combine_masked(call, no, mask, Binary("keep_unless", 0.0))
    return combine(call, chosen, other, Binary("sum"))


def combine_masked(call: Call, values: Lowered, mask: Lowered, operation: Binary) -> Lowered:
    """``keep_where`` or ``keep_unless``."""
    shape = call.result_shape()
    if isinstance(mask, Uniform) and values.shape == shape:
        kept = (mask.value != 0.0) == (operation.function == "keep_where")
        return values if kept else Uniform(shape, operation.first_scale)
    if isinstance(values, Uniform) and mask.shape == shape:
        pair = (values.value, operation.first_scale)
        yes, no = pair if operation.function == "keep_where" else pair[::-1]
        return apply(call, mask, Choose(yes, no))
    return _combine_views(call, _repeated(call, values), _repeated(call, mask), operation)


@lowers(
    "aten.ones_like.default",
    "aten.zeros_like.default",
    "aten.full_like.default",
    "aten.empty_like.default",
    "aten.ones.default",
    "aten.zeros.default",
    "aten.full.default",
    "aten.empty.memory_format",
    "aten.scalar_tensor.default",
    "aten.fill.Scalar",
    "aten.new_zeros.default",
    "aten.new_ones.default",
    "aten.new_full.default",
)
def lower_filled(call: Call) -> Results:
    """Tensors of one value."""
    name = call.aten.split(".")[1]
    if name == "scalar_tensor":
        return Uniform(call.result_shape(), call.number(0, "s", 0.0))
    if name in ("full", "full_like", "fill"):
        return Uniform(call.result_shape(), call.number(1, "fill_value", math.nan))
    if name == "new_full":
        return Uniform(call.result_shape(), call.number(2, "fill_value", math.nan))
    return Uniform(call.result_shape(), 1.0 if "ones" in name else 0.0)


@lowers("aten.tril.default", "aten.triu.default")
def lower_triangle(call: Call) -> Results:
    """The triangle of a uniform matrix, as causal attention masks are made of."""
    lowered = call.lowered(0)
    if not isinstance(lowered, Uniform):
        raise call.refuse("the triangle of a tensor that is computed", "multiply by a constant mask")
    full = torch.full(lowered.shape, lowered.value)
    cut = torch.tril if call.aten.startswith("aten.tril") else torch.triu
    kept = cut(full, int(call.number(1, "diagonal", 0.0)))
    return call.plain_view(call.builder.constant(f"{call.name}.constant", kept.numpy()), lowered.shape)


@lowers("aten.mish.default")
def lower_mish(call: Call) -> Results:
    """``x · tanh(softplus(x))``, as PyTorch differentiates it."""
    lowered = call.lowered(0)
    gate = apply(call, apply(call, lowered, Softplus(1.0, 20.0)), Tanh())
    return combine(call, lowered, gate, Binary("product"))
