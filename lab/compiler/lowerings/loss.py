"""Losses. Cross-entropy arrives as log-softmax and negative log likelihood; with soft targets or label smoothing as
products and sums."""

from __future__ import annotations

import math

from lab.compiler.lowering import Call, Results, Uniform, View, lowers
from lab.compiler.operations.loss import NllLoss, NllLossGradient, PairFunction, PairLoss, PairLossGradient

NONE, MEAN = 0, 1
"""PyTorch's numbers for reductions."""

PAIR_LOSSES: dict[str, PairFunction] = {
    "mse_loss": "squared",
    "huber_loss": "huber",
    "smooth_l1_loss": "smooth_l1",
    "binary_cross_entropy_with_logits": "binary",
}


def _is_mean(call: Call, index: int) -> bool:
    reduction = int(call.number(index, "reduction", MEAN))
    if reduction == NONE:
        raise call.refuse("reduction='none'", "reduce the loss to one number with 'mean' or 'sum'")
    return reduction == MEAN


def _scalar(tensor: str) -> View:
    return View(tensor, (), ())


def _weights(call: Call, index: int) -> str:
    return call.plain(index, "weight") if call.given(index, "weight") else ""


def _rows(call: Call, index: int) -> tuple[int, int]:
    """(rows, classes) of log probabilities with classes at axis 1, or 0 where there is no batch."""
    shape = call.lowered(index).shape
    classes = shape[0] if len(shape) == 1 else shape[1]
    return math.prod(shape) // classes, classes


def _classes_last(call: Call, index: int) -> str:
    return call.plain(index) if len(call.lowered(index).shape) == 1 else call.nhwc(index)


@lowers("aten.nll_loss_forward.default", "aten.nll_loss2d_forward.default")
def lower_nll_loss(call: Call) -> Results:
    """``nll_loss_forward(self, target, weight, reduction, ignore_index)``: the loss and the weights' sum."""
    rows, classes = _rows(call, 0)
    operation = NllLoss(rows, classes, int(call.number(4, "ignore_index", -100)), _is_mean(call, 3))
    inputs = [_classes_last(call, 0), call.plain(1, "target"), _weights(call, 2)]
    loss, total = call.emit(operation, inputs, (1,), (1,))
    return _scalar(loss), _scalar(total)


@lowers("aten.nll_loss_backward.default", "aten.nll_loss2d_backward.default")
def lower_nll_loss_backward(call: Call) -> Results:
    """``nll_loss_backward(grad_output, self, target, weight, reduction, ignore_index, total_weight)``."""
    rows, classes = _rows(call, 1)
    given, scale = _given(call)
    operation = NllLossGradient(rows, classes, int(call.number(5, "ignore_index", -100)), _is_mean(call, 4), scale)
    inputs = [given, call.plain(2, "target"), _weights(call, 3), call.plain(6, "total_weight")]
    shape = call.result_shape()
    (made,) = call.emit(operation, inputs, (rows, classes))
    return call.plain_view(made, shape) if len(shape) == 1 else call.nhwc_view(made, shape)


def _given(call: Call) -> tuple[str, float]:
    """The gradient of the loss: a tensor, or a factor where it is known."""
    gradient = call.lowered(0, "grad_output")
    return ("", gradient.value) if isinstance(gradient, Uniform) else (gradient.tensor, 1.0)


def _scale(call: Call, index: int, elements: int) -> float:
    return 1.0 / elements if _is_mean(call, index) else 1.0


@lowers(*(f"aten.{name}.default" for name in PAIR_LOSSES if name != "binary_cross_entropy_with_logits"))
def lower_pair_loss(call: Call) -> Results:
    """``mse_loss(self, target, reduction)``, and with a border as last argument Huber's and smooth L1."""
    function = PAIR_LOSSES[call.aten.split(".")[1]]
    view = call.view(0)
    operation = PairLoss(function, _scale(call, 2, math.prod(view.shape)), _border(call, 3))
    return _pair_loss(call, view, operation)


def _pair_loss(call: Call, view: View, operation: PairLoss) -> View:
    target = call.lowered(1, "target")
    if target.shape != view.shape:
        raise call.refuse(f"output {view.shape} and target {target.shape} differ", "give both the same shape")
    (made,) = call.emit(operation, [view.tensor, call.like(target, view)], (1,))
    return _scalar(made)


def _border(call: Call, index: int) -> float:
    return call.number(index, "delta", call.number(index, "beta", 1.0))


@lowers("aten.binary_cross_entropy_with_logits.default")
def lower_binary_cross_entropy(call: Call) -> Results:
    """``binary_cross_entropy_with_logits(self, target, weight, pos_weight, reduction)`` without weights."""
    if call.given(2, "weight") or call.given(3, "pos_weight"):
        raise call.refuse("weights", "multiply the loss of each class by hand, or leave them out")
    view = call.view(0)
    return _pair_loss(call, view, PairLoss("binary", _scale(call, 4, math.prod(view.shape))))


@lowers("aten.mse_loss_backward.default", "aten.huber_loss_backward.default", "aten.smooth_l1_loss_backward.default")
def lower_pair_loss_backward(call: Call) -> Results:
    """``mse_loss_backward(grad_output, self, target, reduction)`` and its relatives."""
    function = PAIR_LOSSES[call.aten.split(".")[1].removesuffix("_backward")]
    view = call.view(1, "self")
    given, scale = _given(call)
    operation = PairLossGradient(function, scale * _scale(call, 3, math.prod(view.shape)), _border(call, 4))
    target = call.like(call.lowered(2, "target"), view)
    (made,) = call.emit(operation, [given, view.tensor, target], call.builder.tensors[view.tensor].shape)
    return View(made, view.shape, view.strides)
