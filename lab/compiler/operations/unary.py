"""Functions of one tensor, element by element, and their gradients.

The kernels are two: what needs nothing of the C library's mathematics, and what does. A function is a number to them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch.nn import functional

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall
from lab.compiler.square_root import square_root

Comparison: TypeAlias = Literal["gt", "ge", "lt", "le", "eq", "ne"]

PIECEWISE = "lab_f32_piecewise"
TRANSCENDENTAL = "lab_f32_transcendental"


@dataclass(frozen=True)
class Unary(Operation):
    """``y = f(x)``; the output may take the memory of the input.

    Attributes:
        kernel: C function.
        code: number of the function in the kernel's header.
    """

    in_place: ClassVar[tuple[int, ...]] = (0,)
    kernel: ClassVar[str] = PIECEWISE
    code: ClassVar[int]

    @abstractmethod
    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The function."""

    @property
    def first(self) -> float:
        """First constant of the function."""
        return 0.0

    @property
    def second(self) -> float:
        """Second constant of the function."""
        return 0.0

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (self.of(present(inputs[0])),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return _call(self.kernel, outputs[0].elements, self.code, self.first, self.second)


@dataclass(frozen=True)
class UnaryGradient(Operation):
    """``gradient · f'(x)``; inputs are the gradient and ``f``'s input, or its output where a function says so.

    Attributes:
        kernel: C function.
    """

    in_place: ClassVar[tuple[int, ...]] = (0, 1)
    kernel: ClassVar[str] = f"{PIECEWISE}_gradient"

    @property
    @abstractmethod
    def function(self) -> Unary:
        """The function whose gradient it is."""

    @abstractmethod
    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        """``f'``."""

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient, saved = present(inputs[0]), present(inputs[1])
        return (gradient.reshape(saved.shape) * self.slope(saved),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        function = self.function
        return _call(self.kernel, outputs[0].elements, function.code, function.first, function.second)


def _call(kernel: str, count: int, code: int, first: float, second: float) -> KernelCall:
    return KernelCall(kernel, (), (("count", count), ("function", code), ("first", first), ("second", second)))


@dataclass(frozen=True)
class ClampValues(Unary):
    """``x`` within ``[low, high]``; ReLU is ``[0, inf]``."""

    kind: ClassVar[str] = "clamp"
    code: ClassVar[int] = 0
    low: float
    high: float

    @property
    def first(self) -> float:
        return self.low

    @property
    def second(self) -> float:
        return self.high

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(self.low, self.high)


@dataclass(frozen=True)
class ClampGradient(UnaryGradient):
    """The gradient where the clamp's input, or its output, lies strictly inside ``(low, high)``; zero elsewhere."""

    kind: ClassVar[str] = "clamp.gradient"
    low: float
    high: float

    @property
    def function(self) -> Unary:
        return ClampValues(self.low, self.high)

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        return ((saved > self.low) & (saved < self.high)).float()


@dataclass(frozen=True)
class LeakyRelu(Unary):
    """``x`` above zero, ``slope_below · x`` elsewhere."""

    kind: ClassVar[str] = "leaky_relu"
    code: ClassVar[int] = 1
    slope_below: float

    @property
    def first(self) -> float:
        return self.slope_below

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(x, self.slope_below)


@dataclass(frozen=True)
class LeakyReluGradient(UnaryGradient):
    """Gradient of :class:`LeakyRelu`."""

    kind: ClassVar[str] = "leaky_relu.gradient"
    slope_below: float

    @property
    def function(self) -> Unary:
        return LeakyRelu(self.slope_below)

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        return torch.where(saved > 0, 1.0, self.slope_below)


@dataclass(frozen=True)
class Hardsigmoid(Unary):
    """``clamp(x + 3, 0, 6) / 6``."""

    kind: ClassVar[str] = "hardsigmoid"
    code: ClassVar[int] = 2

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return functional.hardsigmoid(x)


@dataclass(frozen=True)
class HardsigmoidGradient(UnaryGradient):
    """Gradient of :class:`Hardsigmoid`."""

    kind: ClassVar[str] = "hardsigmoid.gradient"

    @property
    def function(self) -> Unary:
        return Hardsigmoid()

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        return ((saved > -3) & (saved < 3)).float() / 6


@dataclass(frozen=True)
class Hardswish(Unary):
    """``x · clamp(x + 3, 0, 6) / 6``."""

    kind: ClassVar[str] = "hardswish"
    code: ClassVar[int] = 3

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return functional.hardswish(x)


@dataclass(frozen=True)
class HardswishGradient(UnaryGradient):
    """Gradient of :class:`Hardswish`."""

    kind: ClassVar[str] = "hardswish.gradient"

    @property
    def function(self) -> Unary:
        return Hardswish()

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        inside = torch.where(saved < 3, saved / 3 + 0.5, 1.0)
        return torch.where(saved <= -3, 0.0, inside)


@dataclass(frozen=True)
class Affine(Unary):
    """``scale · x + shift``."""

    kind: ClassVar[str] = "affine"
    code: ClassVar[int] = 4
    scale: float = 1.0
    shift: float = 0.0

    @property
    def first(self) -> float:
        return self.scale

    @property
    def second(self) -> float:
        return self.shift

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x + self.shift


@dataclass(frozen=True)
class Divide(Unary):
    """``x / divisor``."""

    kind: ClassVar[str] = "divide"
    code: ClassVar[int] = 5
    divisor: float

    @property
    def first(self) -> float:
        return self.divisor

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x / self.divisor


@dataclass(frozen=True)
class Reciprocal(Unary):
    """``numerator / x``."""

    kind: ClassVar[str] = "reciprocal"
    code: ClassVar[int] = 6
    numerator: float = 1.0

    @property
    def first(self) -> float:
        return self.numerator

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, self.numerator) / x


@dataclass(frozen=True)
class Absolute(Unary):
    """``|x|``."""

    kind: ClassVar[str] = "absolute"
    code: ClassVar[int] = 7

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()


@dataclass(frozen=True)
class Sign(Unary):
    """-1, 0 or 1."""

    kind: ClassVar[str] = "sign"
    code: ClassVar[int] = 8

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.sgn()


@dataclass(frozen=True)
class Square(Unary):
    """``x²``."""

    kind: ClassVar[str] = "square"
    code: ClassVar[int] = 9

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


@dataclass(frozen=True)
class Cube(Unary):
    """``x³``."""

    kind: ClassVar[str] = "cube"
    code: ClassVar[int] = 10

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x * x * x


COMPARISONS: tuple[Comparison, ...] = ("gt", "ge", "lt", "le", "eq", "ne")


@dataclass(frozen=True)
class Compare(Unary):
    """1 where ``x`` compares with ``threshold``, else 0: masks are float.

    Attributes:
        comparison: PyTorch's name.
        threshold: what ``x`` is compared with.
    """

    kind: ClassVar[str] = "compare"
    comparison: Comparison
    threshold: float

    @property
    def first(self) -> float:
        return self.threshold

    def of(self, x: torch.Tensor) -> torch.Tensor:
        compared: torch.Tensor = getattr(torch, self.comparison)(x, self.threshold)
        return compared.float()

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        code = 11 + COMPARISONS.index(self.comparison)
        return _call(self.kernel, outputs[0].elements, code, self.threshold, 0.0)


@dataclass(frozen=True)
class LabelEquals(Operation):
    """1 where a label is ``value``, else 0; the input is int32."""

    kind: ClassVar[str] = "label_equals"
    value: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return ((present(inputs[0]) == self.value).float(),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_i32_equal", (), (("count", outputs[0].elements), ("value", self.value)))


@dataclass(frozen=True)
class Choose(Unary):
    """``yes`` where the mask is not zero, else ``no``."""

    kind: ClassVar[str] = "choose"
    code: ClassVar[int] = 17
    yes: float
    no: float

    @property
    def first(self) -> float:
        return self.yes

    @property
    def second(self) -> float:
        return self.no

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x != 0, self.yes, self.no)


@dataclass(frozen=True)
class Exp(Unary):
    """``e^x``."""

    kind: ClassVar[str] = "exp"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 0

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()


@dataclass(frozen=True)
class Log(Unary):
    """``ln x``."""

    kind: ClassVar[str] = "log"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 1

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.log()


@dataclass(frozen=True)
class Sqrt(Unary):
    """``√x``."""

    kind: ClassVar[str] = "sqrt"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 2

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return square_root(x)


@dataclass(frozen=True)
class Rsqrt(Unary):
    """``1 / √x``."""

    kind: ClassVar[str] = "rsqrt"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 3

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.rsqrt()


@dataclass(frozen=True)
class Power(Unary):
    """``x^exponent``."""

    kind: ClassVar[str] = "power"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 4
    exponent: float

    @property
    def first(self) -> float:
        return self.exponent

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.pow(self.exponent)


@dataclass(frozen=True)
class Sigmoid(Unary):
    """``1 / (1 + e^-x)``."""

    kind: ClassVar[str] = "sigmoid"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 5

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.sigmoid()


@dataclass(frozen=True)
class SigmoidGradient(UnaryGradient):
    """Gradient of :class:`Sigmoid`, from its output."""

    kind: ClassVar[str] = "sigmoid.gradient"
    kernel: ClassVar[str] = f"{TRANSCENDENTAL}_gradient"

    @property
    def function(self) -> Unary:
        return Sigmoid()

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        return (1 - saved) * saved


@dataclass(frozen=True)
class Tanh(Unary):
    """Hyperbolic tangent."""

    kind: ClassVar[str] = "tanh"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 6

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh()


@dataclass(frozen=True)
class TanhGradient(UnaryGradient):
    """Gradient of :class:`Tanh`, from its output."""

    kind: ClassVar[str] = "tanh.gradient"
    kernel: ClassVar[str] = f"{TRANSCENDENTAL}_gradient"

    @property
    def function(self) -> Unary:
        return Tanh()

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        return 1 - saved * saved


@dataclass(frozen=True)
class Silu(Unary):
    """``x · sigmoid(x)``."""

    kind: ClassVar[str] = "silu"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 7

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return functional.silu(x)


@dataclass(frozen=True)
class SiluGradient(UnaryGradient):
    """Gradient of :class:`Silu`."""

    kind: ClassVar[str] = "silu.gradient"
    kernel: ClassVar[str] = f"{TRANSCENDENTAL}_gradient"

    @property
    def function(self) -> Unary:
        return Silu()

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        gate = saved.sigmoid()
        return gate * (1 + saved * (1 - gate))


@dataclass(frozen=True)
class Gelu(Unary):
    """``x · Φ(x)`` with the normal distribution's ``Φ``, exactly or by PyTorch's ``tanh`` approximation."""

    kind: ClassVar[str] = "gelu"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 8

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x)


@dataclass(frozen=True)
class GeluGradient(UnaryGradient):
    """Gradient of :class:`Gelu`."""

    kind: ClassVar[str] = "gelu.gradient"
    kernel: ClassVar[str] = f"{TRANSCENDENTAL}_gradient"

    @property
    def function(self) -> Unary:
        return Gelu()

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        slope: torch.Tensor = torch.ops.aten.gelu_backward(torch.ones_like(saved), saved)
        return slope


@dataclass(frozen=True)
class GeluTanh(Unary):
    """PyTorch's ``gelu(x, approximate='tanh')``."""

    kind: ClassVar[str] = "gelu_tanh"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 9

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x, approximate="tanh")


@dataclass(frozen=True)
class GeluTanhGradient(UnaryGradient):
    """Gradient of :class:`GeluTanh`."""

    kind: ClassVar[str] = "gelu_tanh.gradient"
    kernel: ClassVar[str] = f"{TRANSCENDENTAL}_gradient"

    @property
    def function(self) -> Unary:
        return GeluTanh()

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        slope: torch.Tensor = torch.ops.aten.gelu_backward(torch.ones_like(saved), saved, approximate="tanh")
        return slope


@dataclass(frozen=True)
class Softplus(Unary):
    """``ln(1 + e^(beta·x)) / beta``; ``x`` where ``beta·x`` is above the threshold."""

    kind: ClassVar[str] = "softplus"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 10
    beta: float
    threshold: float

    @property
    def first(self) -> float:
        return self.beta

    @property
    def second(self) -> float:
        return self.threshold

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return functional.softplus(x, self.beta, self.threshold)


@dataclass(frozen=True)
class SoftplusGradient(UnaryGradient):
    """Gradient of :class:`Softplus`."""

    kind: ClassVar[str] = "softplus.gradient"
    kernel: ClassVar[str] = f"{TRANSCENDENTAL}_gradient"
    beta: float
    threshold: float

    @property
    def function(self) -> Unary:
        return Softplus(self.beta, self.threshold)

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        scaled = self.beta * saved
        return torch.where(scaled > self.threshold, 1.0, scaled.sigmoid())


@dataclass(frozen=True)
class Elu(Unary):
    """``scale · x`` above zero, ``alpha · scale · (e^x - 1)`` elsewhere; SELU is one of these."""

    kind: ClassVar[str] = "elu"
    kernel: ClassVar[str] = TRANSCENDENTAL
    code: ClassVar[int] = 11
    alpha: float
    scale: float

    @property
    def first(self) -> float:
        return self.scale

    @property
    def second(self) -> float:
        return self.alpha * self.scale

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, self.scale * x, self.alpha * self.scale * torch.expm1(x))


@dataclass(frozen=True)
class EluGradient(UnaryGradient):
    """Gradient of :class:`Elu`."""

    kind: ClassVar[str] = "elu.gradient"
    kernel: ClassVar[str] = f"{TRANSCENDENTAL}_gradient"
    alpha: float
    scale: float

    @property
    def function(self) -> Unary:
        return Elu(self.alpha, self.scale)

    def slope(self, saved: torch.Tensor) -> torch.Tensor:
        return torch.where(saved > 0, self.scale, self.alpha * self.scale * saved.exp())


RELU = ClampValues(0.0, math.inf)
