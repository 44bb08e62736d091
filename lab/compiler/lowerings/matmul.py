"""Matrix products. PyTorch's transposes are not executed: they become flags of the kernel."""

from __future__ import annotations

from lab.compiler.lowering import Call, Results, View, lowers
from lab.compiler.operations.matmul import MatMul


def _operand(call: Call, index: int, name: str) -> tuple[str, bool]:
    """A matrix, or a stack of them: the dense tensor and whether its last two axes lie transposed."""
    view = call.view(index, name)
    rank = len(view.shape)
    straight = tuple(range(rank))
    turned = (*range(rank - 2), rank - 1, rank - 2)
    if _lies(view, turned) and not _lies(view, straight):
        return view.tensor, True
    return call.ordered(view, straight).tensor, False


def _lies(view: View, order: tuple[int, ...]) -> bool:
    step = 1
    for axis in reversed(order):
        if view.shape[axis] != 1 and view.strides[axis] != step:
            return False
        step *= view.shape[axis]
    return True


def _product(call: Call, a: int, b: int, bias: str = "") -> Results:
    """Reshapes are views, so the operands' tensors may have other shapes: the kernel is told the sizes."""
    left, transpose_a = _operand(call, a, "a")
    right, transpose_b = _operand(call, b, "b")
    shape = call.result_shape()
    rows, depth = call.view(a).shape[-2:]
    operation = MatMul(transpose_a, transpose_b, batch=_batch(shape), rows=rows, columns=shape[-1], depth=depth)
    (made,) = call.emit(operation, [left, right, bias], shape)
    return call.plain_view(made, shape)


def _batch(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape[:-2]:
        total *= size
    return total


@lowers("aten.mm.default", "aten.bmm.default")
def lower_mm(call: Call) -> Results:
    """``mm(a, b)`` and ``bmm(a, b)``."""
    return _product(call, 0, 1)


@lowers("aten.addmm.default")
def lower_addmm(call: Call) -> Results:
    """``addmm(bias, a, b)`` with a bias per column."""
    bias = call.view(0, "bias")
    scaled = call.number(3, "beta", 1.0) != 1.0 or call.number(4, "alpha", 1.0) != 1.0
    if scaled or bias.shape != call.result_shape()[-1:]:
        raise call.refuse(f"bias of shape {bias.shape}, or beta and alpha other than 1", "use torch.nn.Linear")
    return _product(call, 1, 2, call.plain(0, "bias"))
