"""Normalisation by the sample's own statistics or by given ones, and its gradients.

One kernel serves group, layer and instance norm, and batch norm by the batch's statistics: they differ in what a group
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall
from lab.compiler.square_root import square_root


@dataclass(frozen=True)
class Groups:
    """How a tensor falls into groups: (batch, positions, groups, channels) in memory.

    Layer norm has one position and one group, instance norm one channel per group, batch norm a batch of one as well.

    Attributes:
        batch, positions, groups, channels: sizes; statistics are taken over positions and channels.
    """

    batch: int
    positions: int
    groups: int
    channels: int

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor as (batch, positions, groups, channels)."""
        return x.reshape(self.batch, self.positions, self.groups, self.channels)

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """Statistics, one per batch and group, so that they broadcast."""
        return x.reshape(self.batch, 1, self.groups, 1)

    def scales(self, x: torch.Tensor | None, default: float) -> torch.Tensor:
        """Values per channel, so that they broadcast."""
        return torch.tensor(default) if x is None else x.reshape(self.groups, self.channels)

    def fields(self) -> tuple[tuple[str, int], ...]:
        """Sizes in the kernels' descriptors."""
        return (
            ("batch", self.batch),
            ("positions", self.positions),
            ("groups", self.groups),
            ("channels", self.channels),
        )


@dataclass(frozen=True)
class GroupNorm(Operation):
    """``(x - mean) / √(variance + epsilon) · scale + shift``; inputs ``x`` and optionally scale and shift.

    Outputs are ``y``, and mean and ``1 / √(variance + epsilon)`` of every group, which the gradients need.

    Attributes:
        sizes: the groups.
        epsilon: added to the variance.
    """

    kind: ClassVar[str] = "group_norm"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    sizes: Groups
    epsilon: float

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        tensor = present(inputs[0])
        x = self.sizes.rows(tensor)
        mean = x.mean((1, 3), keepdim=True)
        deviation = 1 / square_root((x - mean).square().mean((1, 3), keepdim=True) + self.epsilon)
        scale, shift = self.sizes.scales(inputs[1], 1.0), self.sizes.scales(inputs[2], 0.0)
        y = (x - mean) * deviation * scale + shift
        return y.reshape(tensor.shape), mean.flatten(), deviation.flatten()

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_group_norm", (), (*self.sizes.fields(), ("epsilon", self.epsilon)))


@dataclass(frozen=True)
class LayerNorm(GroupNorm):
    """:class:`GroupNorm` of one group per row."""

    kind: ClassVar[str] = "layer_norm"


@dataclass(frozen=True)
class GroupNormInputGradient(Operation):
    """Gradient with respect to ``x``; inputs are the gradient, ``x``, mean, deviation and optionally the scale.

    Attributes:
        sizes: the groups.
    """

    kind: ClassVar[str] = "group_norm.input_gradient"
    in_place: ClassVar[tuple[int, ...]] = (0, 1)
    sizes: Groups

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        tensor = present(inputs[1])
        deviation = self.sizes.statistics(present(inputs[3]))
        normal = (self.sizes.rows(tensor) - self.sizes.statistics(present(inputs[2]))) * deviation
        h = self.sizes.rows(present(inputs[0])) * self.sizes.scales(inputs[4], 1.0)
        means = h.mean((1, 3), keepdim=True) + normal * (h * normal).mean((1, 3), keepdim=True)
        return ((deviation * (h - means)).reshape(tensor.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_group_norm_input_gradient", (), self.sizes.fields())


@dataclass(frozen=True)
class LayerNormInputGradient(GroupNormInputGradient):
    """:class:`GroupNormInputGradient` of one group per row."""

    kind: ClassVar[str] = "layer_norm.input_gradient"


@dataclass(frozen=True)
class NormScaleGradient(Operation):
    """Gradient with respect to the scale of any normalisation; inputs are the gradient, ``x``, mean and deviation.

    Attributes:
        sizes: the groups.
    """

    kind: ClassVar[str] = "norm.scale_gradient"
    sizes: Groups

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        mean, deviation = (self.sizes.statistics(present(one)) for one in inputs[2:4])
        normal = (self.sizes.rows(present(inputs[1])) - mean) * deviation
        return ((self.sizes.rows(present(inputs[0])) * normal).sum((0, 1)).flatten(),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_norm_scale_gradient", (), self.sizes.fields())


@dataclass(frozen=True)
class BatchNorm(Operation):
    """``(x - mean) · deviation · scale + shift`` with given statistics; inputs ``x``, mean, deviation, scale, shift.

    Attributes:
        positions, channels: sizes.
    """

    kind: ClassVar[str] = "batch_norm"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    positions: int
    channels: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        tensor = present(inputs[0])
        x = tensor.reshape(self.positions, self.channels)
        factor = present(inputs[2]) * (1.0 if inputs[3] is None else inputs[3])
        y = (x - present(inputs[1])) * factor + (0.0 if inputs[4] is None else inputs[4])
        return (y.reshape(tensor.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_batch_norm", (), (("positions", self.positions), ("channels", self.channels)))


@dataclass(frozen=True)
class BatchNormInputGradient(Operation):
    """Gradient of :class:`BatchNorm` with respect to ``x``; inputs are the gradient, deviation and scale.

    Attributes:
        positions, channels: sizes.
    """

    kind: ClassVar[str] = "batch_norm.input_gradient"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    positions: int
    channels: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        tensor = present(inputs[0])
        factor = present(inputs[1]) * (1.0 if inputs[2] is None else inputs[2])
        return ((tensor.reshape(self.positions, self.channels) * factor).reshape(tensor.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("positions", self.positions), ("channels", self.channels))
        return KernelCall("lab_f32_batch_norm_input_gradient", (), fields)


@dataclass(frozen=True)
class RunningNorm(Operation):
    """``(x - mean) / √(variance + epsilon) · scale + shift``; inputs ``x``, running mean and variance, scale, shift.

    Attributes:
        positions, channels: sizes.
        epsilon: added to the variance.
    """

    kind: ClassVar[str] = "running_norm"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    positions: int
    channels: int
    epsilon: float

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        tensor = present(inputs[0])
        x = tensor.reshape(self.positions, self.channels)
        deviation = 1 / square_root(present(inputs[2]) + self.epsilon)
        factor = deviation * (1.0 if inputs[3] is None else inputs[3])
        y = (x - present(inputs[1])) * factor + (0.0 if inputs[4] is None else inputs[4])
        return (y.reshape(tensor.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("positions", self.positions), ("channels", self.channels), ("epsilon", self.epsilon))
        return KernelCall("lab_f32_running_norm", (), fields)


@dataclass(frozen=True)
class RunningStatistics(Update):
    """Running mean and variance, which are changed, follow mean and deviation of a batch; inputs in this order.

    Attributes:
        values: of a channel in a batch.
        momentum: share of the batch's statistics in the new ones.
        epsilon: that is in the deviation.
    """

    kind: ClassVar[str] = "running_statistics"
    values: int
    momentum: float
    epsilon: float

    @property
    def unbiased(self) -> float:
        """What makes the variance that is followed of the batch's."""
        return self.values / (self.values - 1)

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        running_mean, running_variance, mean, deviation = (present(one) for one in inputs)
        variance = 1 / deviation.square() - self.epsilon
        return (
            (1 - self.momentum) * running_mean + self.momentum * mean,
            (1 - self.momentum) * running_variance + self.momentum * self.unbiased * variance,
        )

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("channels", outputs[0].elements),
            ("momentum", self.momentum),
            ("epsilon", self.epsilon),
            ("unbiased", self.unbiased),
        )
        return KernelCall("lab_f32_running_statistics", (), fields)
