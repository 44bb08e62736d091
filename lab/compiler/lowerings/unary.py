"""Functions of one tensor: the result lies as the input does."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lab.compiler.lowering import Call, Lowered, Results, Uniform, View, lowers
from lab.compiler.operations.unary import (
    RELU,
    Absolute,
    Affine,
    ClampGradient,
    ClampValues,
    Cube,
    Elu,
    EluGradient,
    Exp,
    Gelu,
    GeluGradient,
    GeluTanh,
    GeluTanhGradient,
    Hardsigmoid,
    HardsigmoidGradient,
    Hardswish,
    HardswishGradient,
    LeakyRelu,
    LeakyReluGradient,
    Log,
    Power,
    Reciprocal,
    Rsqrt,
    Sigmoid,
    SigmoidGradient,
    Sign,
    Silu,
    SiluGradient,
    Softplus,
    SoftplusGradient,
    Sqrt,
    Square,
    Tanh,
    TanhGradient,
    Unary,
    UnaryGradient,
)

PLAIN: dict[str, Callable[[], Unary]] = {
    "aten.relu.default": lambda: RELU,
    "aten.hardsigmoid.default": Hardsigmoid,
    "aten.hardswish.default": Hardswish,
    "aten.neg.default": lambda: Affine(-1.0),
    "aten.abs.default": Absolute,
    "aten.sgn.default": Sign,
    "aten.sign.default": Sign,
    "aten.reciprocal.default": Reciprocal,
    "aten.exp.default": Exp,
    "aten.log.default": Log,
    "aten.sqrt.default": Sqrt,
    "aten.rsqrt.default": Rsqrt,
    "aten.sigmoid.default": Sigmoid,
    "aten.tanh.default": Tanh,
    "aten.silu.default": Silu,
}
PLAIN_GRADIENTS: dict[str, Callable[[], UnaryGradient]] = {
    "aten.hardsigmoid_backward.default": HardsigmoidGradient,
    "aten.hardswish_backward.default": HardswishGradient,
    "aten.sigmoid_backward.default": SigmoidGradient,
    "aten.tanh_backward.default": TanhGradient,
    "aten.silu_backward.default": SiluGradient,
}


def apply(call: Call, lowered: Lowered, operation: Unary) -> Lowered:
    """A function of a tensor; of a uniform one it is computed here."""
    if isinstance(lowered, Uniform):
        (value,) = operation.run([torch.tensor([lowered.value])])
        return Uniform(lowered.shape, float(value))
    shape = call.builder.tensors[lowered.tensor].shape
    (made,) = call.emit(operation, [lowered.tensor], shape)
    return View(made, lowered.shape, lowered.strides)


def apply_gradient(call: Call, operation: UnaryGradient) -> View:
    """A gradient from arguments 0 and 1, in the memory order of the saved tensor."""
    saved = call.view(1, "saved")
    gradient = call.like(call.lowered(0, "grad_output"), saved)
    shape = call.builder.tensors[saved.tensor].shape
    (made,) = call.emit(operation, [gradient, saved.tensor], shape)
    return View(made, saved.shape, saved.strides)


@lowers(*PLAIN)
def lower_plain(call: Call) -> Results:
    """Functions without attributes."""
    return apply(call, call.lowered(0), PLAIN[call.aten]())


@lowers(*PLAIN_GRADIENTS)
def lower_plain_gradient(call: Call) -> Results:
    """Gradients without attributes, of ``(grad_output, saved)``."""
    return apply_gradient(call, PLAIN_GRADIENTS[call.aten]())


@lowers("aten.hardtanh.default")
def lower_hardtanh(call: Call) -> Results:
    """``hardtanh(input, min_val, max_val)``: ReLU6 among others."""
    return apply(call, call.lowered(0), ClampValues(call.number(1, "min_val", -1.0), call.number(2, "max_val", 1.0)))


@lowers("aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default")
def lower_clamp(call: Call) -> Results:
    """``clamp(input, min, max)`` with numbers."""
    if call.aten == "aten.clamp_max.default":
        return apply(call, call.lowered(0), ClampValues(-math.inf, call.number(1, "max", math.inf)))
    return apply(call, call.lowered(0), ClampValues(call.number(1, "min", -math.inf), call.number(2, "max", math.inf)))


@lowers("aten.hardtanh_backward.default")
def lower_hardtanh_backward(call: Call) -> Results:
    """``hardtanh_backward(grad_output, input, min_val, max_val)``."""
    return apply_gradient(call, ClampGradient(call.number(2, "min_val", -1.0), call.number(3, "max_val", 1.0)))


@lowers("aten.threshold_backward.default")
def lower_threshold_backward(call: Call) -> Results:
    """``threshold_backward(grad_output, result, threshold)``: what ReLU's gradient is."""
    return apply_gradient(call, ClampGradient(call.number(2, "threshold", 0.0), math.inf))


@lowers("aten.leaky_relu.default")
def lower_leaky_relu(call: Call) -> Results:
    """``leaky_relu(input, negative_slope)``."""
    return apply(call, call.lowered(0), LeakyRelu(call.number(1, "negative_slope", 0.01)))


@lowers("aten.leaky_relu_backward.default")
def lower_leaky_relu_backward(call: Call) -> Results:
    """``leaky_relu_backward(grad_output, self, negative_slope, self_is_result)``."""
    return apply_gradient(call, LeakyReluGradient(call.number(2, "negative_slope", 0.01)))


@lowers("aten.gelu.default")
def lower_gelu(call: Call) -> Results:
    """``gelu(input, approximate)``."""
    return apply(call, call.lowered(0), GeluTanh() if _is_tanh(call, 1) else Gelu())


@lowers("aten.gelu_backward.default")
def lower_gelu_backward(call: Call) -> Results:
    """``gelu_backward(grad_output, self, approximate)``."""
    return apply_gradient(call, GeluTanhGradient() if _is_tanh(call, 2) else GeluGradient())


def _is_tanh(call: Call, index: int) -> bool:
    return call.argument(index, "approximate") == "tanh"


@lowers("aten.softplus.default")
def lower_softplus(call: Call) -> Results:
    """``softplus(input, beta, threshold)``."""
    return apply(call, call.lowered(0), Softplus(call.number(1, "beta", 1.0), call.number(2, "threshold", 20.0)))


@lowers("aten.softplus_backward.default")
def lower_softplus_backward(call: Call) -> Results:
    """``softplus_backward(grad_output, self, beta, threshold)``."""
    return apply_gradient(call, SoftplusGradient(call.number(2, "beta", 1.0), call.number(3, "threshold", 20.0)))


@lowers("aten.elu.default")
def lower_elu(call: Call) -> Results:
    """``elu(input, alpha, scale, input_scale)``."""
    if call.number(3, "input_scale", 1.0) != 1.0:
        raise call.refuse("input_scale other than 1", "use torch.nn.ELU, SELU or Softplus")
    return apply(call, call.lowered(0), Elu(call.number(1, "alpha", 1.0), call.number(2, "scale", 1.0)))


@lowers("aten.elu_backward.default")
def lower_elu_backward(call: Call) -> Results:
    """``elu_backward(grad_output, alpha, scale, input_scale, is_result, self_or_result)``."""
    if call.number(3, "input_scale", 1.0) != 1.0 or call.flag(4, "is_result", False):
        raise call.refuse("input_scale other than 1, or computed in place", "use torch.nn.ELU(inplace=False)")
    saved = call.view(5, "self")
    gradient = call.like(call.lowered(0, "grad_output"), saved)
    operation = EluGradient(call.number(1, "alpha", 1.0), call.number(2, "scale", 1.0))
    (made,) = call.emit(operation, [gradient, saved.tensor], call.builder.tensors[saved.tensor].shape)
    return View(made, saved.shape, saved.strides)


@lowers("aten.pow.Tensor_Scalar")
def lower_pow(call: Call) -> Results:
    """``pow(input, exponent)``; the exponents autograd makes of common ones need no ``powf``."""
    lowered, exponent = call.lowered(0), call.number(1, "exponent", 1.0)
    if exponent == 1.0:
        return lowered
    cheap: dict[float, Unary] = {2.0: Square(), 3.0: Cube(), 0.5: Sqrt(), -0.5: Rsqrt(), -1.0: Reciprocal()}
    return apply(call, lowered, cheap.get(exponent, Power(exponent)))
