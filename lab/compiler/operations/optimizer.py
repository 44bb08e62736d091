"""Optimisers: updates of parameters by stored gradients, as ``torch.optim`` computes them.

The learning rate and the number of the step come with the training state, so they can change without a new build.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall
from lab.compiler.square_root import square_root
from lab.errors import CompileError


class Optimizer(ABC):
    """How parameters change."""

    @abstractmethod
    def update(self, parameter: Tensor) -> tuple[OptimizerUpdate, tuple[Tensor, ...]]:
        """The update of a parameter, and its state. Inputs of the step: the parameter, its gradient and the state."""

    @abstractmethod
    def describe(self) -> str:
        """One line for tables and headers."""


def sgd_flop(elements: int, weight_decay: float) -> int:
    """Floating-point operations of plain SGD on so many elements: a product and a difference, twice with decay."""
    return elements * (4 if weight_decay else 2)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value and (value < high or (high == math.inf and math.isfinite(value)))):
        raise CompileError(f"{name} is {value}", hint=f"it must be at least {low:g} and below {high:g}")


def _state(parameter: Tensor, suffix: str) -> Tensor:
    """A tensor like the parameter that starts at zero."""
    return Tensor(
        f"{parameter.name}.{suffix}",
        parameter.shape,
        "float32",
        "state",
        np.zeros(parameter.shape, dtype=np.float32),
        permutation=parameter.permutation,
        torch_shape=parameter.torch_shape,
    )


@dataclass(frozen=True)
class Sgd(Optimizer):
    """``torch.optim.SGD`` without momentum.

    Attributes:
        weight_decay: L2 penalty.
        rate_scale: the learning rate of a step is multiplied by this.

    Raises:
        CompileError: a value out of range.
    """

    weight_decay: float = 0.0
    rate_scale: float = 1.0

    def __post_init__(self) -> None:
        _check("weight_decay", self.weight_decay, 0.0, math.inf)
        _check("rate_scale", self.rate_scale, 0.0, math.inf)

    def update(self, parameter: Tensor) -> tuple[OptimizerUpdate, tuple[Tensor, ...]]:
        return SgdUpdate(self.weight_decay, self.rate_scale), ()

    def describe(self) -> str:
        return f"SGD(weight_decay={self.weight_decay:g})"


@dataclass(frozen=True)
class SgdMomentum(Optimizer):
    """``torch.optim.SGD`` with momentum; one tensor of state per parameter.

    Attributes:
        momentum: share of the velocity that stays.
        dampening: share of the gradient that is left out, but in the first step.
        nesterov: whether the gradient looks ahead.
        weight_decay: L2 penalty.
        rate_scale: the learning rate of a step is multiplied by this.

    Raises:
        CompileError: a value out of range, or Nesterov momentum with dampening.
    """

    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    rate_scale: float = 1.0

    def __post_init__(self) -> None:
        _check("momentum", self.momentum, 0.0, math.inf)
        _check("weight_decay", self.weight_decay, 0.0, math.inf)
        _check("rate_scale", self.rate_scale, 0.0, math.inf)
        if self.nesterov and (self.momentum == 0.0 or self.dampening != 0.0):
            raise CompileError("Nesterov momentum needs a momentum and no dampening", hint="set dampening=0")

    def update(self, parameter: Tensor) -> tuple[OptimizerUpdate, tuple[Tensor, ...]]:
        operation = MomentumUpdate(
            self.momentum, self.dampening, self.nesterov, self.weight_decay, self.rate_scale
        )
        return operation, (_state(parameter, "momentum_buffer"),)

    def describe(self) -> str:
        nesterov = ", nesterov" if self.nesterov else ""
        return f"SGD(momentum={self.momentum:g}, weight_decay={self.weight_decay:g}{nesterov})"


@dataclass(frozen=True)
class Adam(Optimizer):
    """``torch.optim.Adam``, or ``AdamW`` where decoupled; two tensors of state per parameter.

    Attributes:
        beta1, beta2: shares of the averages of gradient and squared gradient that stay.
        epsilon: keeps the quotient finite.
        weight_decay: L2 penalty, or with ``decoupled`` the decay of AdamW.
        decoupled: AdamW.
        rate_scale: the learning rate of a step is multiplied by this.

    Raises:
        CompileError: a value out of range.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    rate_scale: float = 1.0

    def __post_init__(self) -> None:
        _check("beta1", self.beta1, 0.0, 1.0)
        _check("beta2", self.beta2, 0.0, 1.0)
        _check("epsilon", self.epsilon, 0.0, math.inf)
        _check("weight_decay", self.weight_decay, 0.0, math.inf)
        _check("rate_scale", self.rate_scale, 0.0, math.inf)

    def update(self, parameter: Tensor) -> tuple[OptimizerUpdate, tuple[Tensor, ...]]:
        operation = AdamUpdate(
            self.beta1, self.beta2, self.epsilon, self.weight_decay, self.decoupled, self.rate_scale
        )
        return operation, (_state(parameter, "exp_avg"), _state(parameter, "exp_avg_sq"))

    def describe(self) -> str:
        name = "AdamW" if self.decoupled else "Adam"
        return f"{name}(betas={self.beta1:g}/{self.beta2:g}, weight_decay={self.weight_decay:g})"


@dataclass(frozen=True)
class Rows:
    """A part of a parameter: ``rows`` of ``columns`` elements, ``stride`` apart, from element ``first`` on."""

    first: int
    rows: int
    columns: int
    stride: int

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """The part as a view of a contiguous parameter, (rows, columns)."""
        return parameter.view(-1).as_strided((self.rows, self.columns), (self.stride, 1), self.first)


@dataclass(frozen=True, kw_only=True)
class OptimizerUpdate(Update):
    """An update by a stored gradient. Inputs: the parameter, the gradient of its part and the part's state.

    Attributes:
        part: what of the parameter changes; ``None`` for all of it.
    """

    part: Rows | None = None

    @abstractmethod
    def changed(
        self, parameter: torch.Tensor, inputs: Sequence[torch.Tensor], state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """New values of a parameter and its state; ``inputs`` are gradient and state, of the parameter's shape."""

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        whole = present(inputs[0]).clone().contiguous()
        part = whole if self.part is None else self.part.of(whole)
        others = [present(one) for one in inputs[1:]]
        new, *states = self.changed(part.clone(), [one.reshape(part.shape) for one in others], state)
        part.copy_(new)
        return (whole, *(one.reshape(old.shape) for one, old in zip(states, others[1:], strict=True)))

    def rows(self, parameter: Tensor) -> tuple[tuple[str, int], ...]:
        """Of the kernels' descriptors."""
        part = self.part or Rows(0, 1, parameter.elements, parameter.elements)
        return (("first", part.first), ("rows", part.rows), ("columns", part.columns), ("stride", part.stride))


@dataclass(frozen=True)
class SgdUpdate(OptimizerUpdate):
    """``p -= rate · (g + weight_decay · p)``; inputs parameter and gradient.

    Attributes:
        weight_decay, rate_scale: as in :class:`Sgd`.
    """

    kind: ClassVar[str] = "sgd"
    weight_decay: float
    rate_scale: float

    def changed(
        self, parameter: torch.Tensor, inputs: Sequence[torch.Tensor], state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        (gradient,) = inputs
        return (parameter - self.rate_scale * state.learning_rate * (gradient + self.weight_decay * parameter),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (*self.rows(outputs[0]), ("rate_scale", self.rate_scale), ("weight_decay", self.weight_decay))
        return KernelCall("lab_f32_sgd", (), fields, takes_state=True)

    def flop(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        elements = outputs[0].elements if self.part is None else self.part.rows * self.part.columns
        return sgd_flop(elements, self.weight_decay)


@dataclass(frozen=True)
class MomentumUpdate(OptimizerUpdate):
    """``v = momentum · v + (1 - dampening) · g``, ``p -= rate · v``; inputs parameter, gradient and velocity.

    Attributes:
        momentum, dampening, nesterov, weight_decay, rate_scale: as in :class:`SgdMomentum`.
    """

    kind: ClassVar[str] = "sgd_momentum"
    momentum: float
    dampening: float
    nesterov: bool
    weight_decay: float
    rate_scale: float

    def changed(
        self, parameter: torch.Tensor, inputs: Sequence[torch.Tensor], state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        gradient, velocity = inputs
        gradient = gradient + self.weight_decay * parameter
        later = self.momentum * velocity + (1 - self.dampening) * gradient
        velocity = gradient if state.step == 1 else later
        step = gradient + self.momentum * velocity if self.nesterov else velocity
        return parameter - self.rate_scale * state.learning_rate * step, velocity

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            *self.rows(outputs[0]),
            ("nesterov", int(self.nesterov)),
            ("rate_scale", self.rate_scale),
            ("weight_decay", self.weight_decay),
            ("momentum", self.momentum),
            ("gain", 1 - self.dampening),
        )
        return KernelCall("lab_f32_sgd_momentum", (), fields, takes_state=True)


@dataclass(frozen=True)
class AdamUpdate(OptimizerUpdate):
    """Adam (Kingma & Ba, 2015) or AdamW (Loshchilov & Hutter, 2019); inputs parameter, gradient and two averages.

    Attributes:
        beta1, beta2, epsilon, weight_decay, decoupled, rate_scale: as in :class:`Adam`.
    """

    kind: ClassVar[str] = "adam"
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    decoupled: bool
    rate_scale: float

    def changed(
        self, parameter: torch.Tensor, inputs: Sequence[torch.Tensor], state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        gradient, mean, square = inputs
        rate = self.rate_scale * state.learning_rate
        if self.decoupled:
            parameter = parameter * (1 - rate * self.weight_decay)
        else:
            gradient = gradient + self.weight_decay * parameter
        mean = mean + (1 - self.beta1) * (gradient - mean)
        square = self.beta2 * square + (1 - self.beta2) * gradient * gradient
        root = math.sqrt(1 - self.beta2**state.step)
        size = rate / (1 - self.beta1**state.step)
        return parameter - size * mean / (square_root(square) / root + self.epsilon), mean, square

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            *self.rows(outputs[0]),
            ("decoupled", int(self.decoupled)),
            ("rate_scale", self.rate_scale),
            ("weight_decay", self.weight_decay),
            ("epsilon", self.epsilon),
            ("mean_gain", 1 - self.beta1),
            ("mean_log", _log(self.beta1)),
            ("square_keep", self.beta2),
            ("square_gain", 1 - self.beta2),
            ("square_log", _log(self.beta2)),
        )
        return KernelCall("lab_f32_adam", (), fields, takes_state=True)


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0.0 else -math.inf
