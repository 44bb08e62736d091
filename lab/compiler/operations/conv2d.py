"""Convolution in float32: forward, gradients, and gradient with update in one.

One-dimensional convolution is the same with a height of one. Depthwise convolution (a filter per channel) has kernels
of its own; its weight is ``(KH, KW, C)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from lab.compiler.graph import Clamp
from lab.compiler.operations.copy import present
from lab.compiler.operations.matmul import UNBOUNDED
from lab.compiler.operations.optimizer import sgd_flop
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall

Fields = tuple[tuple[str, int | float | tuple[int, ...]], ...]


@dataclass(frozen=True)
class ConvGeometry:
    """Sizes of a convolution; pairs are (height, width).

    Attributes:
        batch: samples.
        input, output: (height, width, channels).
        kernel, stride, padding, dilation: padding is at the top and left; the rest follows from the output's size.
        groups: independent groups of channels.
    """

    batch: int
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def depthwise(self) -> bool:
        """Whether each channel has one filter of its own."""
        return self.groups == self.input[2] == self.output[2] and self.groups > 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Physical shape of the weight."""
        if self.depthwise:
            return (*self.kernel, self.input[2])
        return (self.output[2], *self.kernel, self.input[2] // self.groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass, and of each of its gradients."""
        return self.batch * self.output[0] * self.output[1] * math.prod(self.weight_shape)

    def fields(self, prefix: str = "") -> Fields:
        """Of ``lab_f32_conv2d_t``."""
        names = (
            ("batch", self.batch),
            ("input_height", self.input[0]),
            ("input_width", self.input[1]),
            ("input_channels", self.input[2]),
            ("output_height", self.output[0]),
            ("output_width", self.output[1]),
            ("output_channels", self.output[2]),
            ("groups", self.groups),
            ("kernel_height", self.kernel[0]),
            ("kernel_width", self.kernel[1]),
            ("stride_height", self.stride[0]),
            ("stride_width", self.stride[1]),
            ("pad_top", self.padding[0]),
            ("pad_left", self.padding[1]),
            ("dilation_height", self.dilation[0]),
            ("dilation_width", self.dilation[1]),
        )
        return tuple((prefix + name, value) for name, value in names)

    def to_torch_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """(O, I / groups, KH, KW) from the physical weight."""
        weight = weight.reshape(self.weight_shape)
        return weight.permute(2, 0, 1)[:, None] if self.depthwise else weight.permute(0, 3, 1, 2)

    def from_torch_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """The physical weight from (O, I / groups, KH, KW)."""
        ordered = weight[:, 0].permute(1, 2, 0) if self.depthwise else weight.permute(0, 2, 3, 1)
        return ordered.contiguous()

    def to_torch_input(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) from the physical input."""
        return x.reshape(self.batch, *self.input).permute(0, 3, 1, 2)

    def to_torch_output(self, y: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) from the physical output."""
        return y.reshape(self.batch, *self.output).permute(0, 3, 1, 2)

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """PyTorch's convolution of physical tensors."""
        y = torch.conv2d(
            self.to_torch_input(x),
            self.to_torch_weight(weight),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y.permute(0, 2, 3, 1).contiguous()

    def input_gradient(self, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """PyTorch's gradient of the input, (N, H, W, C)."""
        filters = self.to_torch_weight(weight)
        x = torch.empty(self.batch, self.input[2], *self.input[:2], dtype=filters.dtype)
        return self._backward(gradient, x, filters)[0].permute(0, 2, 3, 1).contiguous()

    def weight_gradient(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """PyTorch's gradient of the weight, in physical order."""
        filters = self.to_torch_weight(torch.empty(self.weight_shape, dtype=gradient.dtype))
        return self.from_torch_weight(self._backward(gradient, self.to_torch_input(x), filters)[1])

    def _backward(
        self, gradient: torch.Tensor, x: torch.Tensor, filters: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gradients = torch.ops.aten.convolution_backward(
            self.to_torch_output(gradient),
            x,
            filters,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            (0, 0),
            self.groups,
            (True, True, False),
        )
        return gradients[0], gradients[1]


def linear_geometry(inputs: int, outputs: int, batch: int = 1) -> ConvGeometry:
    """A linear layer as a convolution of one pixel."""
    return ConvGeometry(batch, (1, 1, inputs), (1, 1, outputs), (1, 1), (1, 1), (0, 0), (1, 1), 1)


def _kernel(geometry: ConvGeometry, suffix: str = "") -> str:
    return f"lab_f32_{'depthwise_' if geometry.depthwise else ''}conv2d{suffix}"


def _kind(geometry: ConvGeometry) -> str:
    return "depthwise_conv2d" if geometry.depthwise else "conv2d"


def _bounds(clamp: Clamp) -> Fields:
    return (("minimum", clamp.low), ("maximum", clamp.high))


@dataclass(frozen=True)
class Conv2d(Operation):
    """``y = conv(x, w) (+ bias)``, clamped; inputs ``x``, ``w`` and the bias or nothing.

    Attributes:
        geometry: sizes.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "conv2d"
    geometry: ConvGeometry
    activation: Clamp = UNBOUNDED

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        y = self.geometry.forward(present(inputs[0]), present(inputs[1]))
        bias = inputs[2]
        return (self.activation.apply(y if bias is None else y + bias),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (*self.geometry.fields(), *_bounds(self.activation))
        return KernelCall(_kernel(self.geometry), (), fields)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.geometry.macs


@dataclass(frozen=True)
class Conv2dInputGradient(Operation):
    """Gradient of the input; inputs: gradient of the output, ``w``."""

    kind: ClassVar[str] = "conv2d.input_gradient"
    geometry: ConvGeometry

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (self.geometry.input_gradient(present(inputs[0]), present(inputs[1])),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        kernel = _kernel(self.geometry, "_input_gradient")
        return KernelCall(kernel, (), (*self.geometry.fields(), *_bounds(UNBOUNDED)))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.geometry.macs


@dataclass(frozen=True)
class Conv2dWeightGradient(Operation):
    """Gradient of the weight; inputs: ``x``, gradient of the output."""

    kind: ClassVar[str] = "conv2d.weight_gradient"
    geometry: ConvGeometry

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (self.geometry.weight_gradient(present(inputs[0]), present(inputs[1])),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        kernel = _kernel(self.geometry, "_weight_gradient")
        return KernelCall(kernel, (), (*self.geometry.fields(), *_bounds(UNBOUNDED)))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.geometry.macs


@dataclass(frozen=True)
class ChannelSum(Operation):
    """Sum over all positions: the gradient of a bias. Input: gradient of the output.

    Attributes:
        rows: positions, of all samples together.
        channels: length of the sum.
    """

    kind: ClassVar[str] = "bias_gradient"
    rows: int
    channels: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (present(inputs[0]).reshape(self.rows, self.channels).sum(0),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_channel_sum", (), (("rows", self.rows), ("channels", self.channels)))


@dataclass(frozen=True)
class Part:
    """What of a weight is trained: ``count`` channels from ``first`` on, of the input and of the output."""

    first_input: int
    input_count: int
    first_output: int
    output_count: int

    def select(self, weight: torch.Tensor, depthwise: bool) -> torch.Tensor:
        """The trained part of a physical weight, as a view."""
        inputs = slice(self.first_input, self.first_input + self.input_count)
        if depthwise:
            return weight[..., inputs]
        return weight[self.first_output : self.first_output + self.output_count, ..., inputs]

    def fields(self, depthwise: bool) -> Fields:
        """Of the kernels' descriptors."""
        inputs = (("first_channel", self.first_input), ("channel_count", self.input_count))
        outputs = (("first_output", self.first_output), ("output_count", self.output_count))
        return inputs if depthwise else (*inputs, *outputs)


def whole(geometry: ConvGeometry) -> Part:
    """All of the weight."""
    return Part(0, geometry.input[2], 0, geometry.output[2])


def part_gradient(geometry: ConvGeometry, part: Part, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Gradient of a part of the weight; ``x`` holds the part's input channels only."""
    if geometry.depthwise or geometry.groups > 1:
        channels = part.input_count
        groups = channels if geometry.depthwise else geometry.groups
        outputs = channels if geometry.depthwise else geometry.output[2]
        first = part.first_input if geometry.depthwise else 0
    else:
        channels, groups, outputs, first = part.input_count, 1, part.output_count, part.first_output
    small = replace(
        geometry, input=(*geometry.input[:2], channels), output=(*geometry.output[:2], outputs), groups=groups
    )
    cut = gradient.reshape(geometry.batch, *geometry.output)[..., first : first + outputs]
    return small.weight_gradient(x, cut.contiguous())


@dataclass(frozen=True)
class Conv2dWeightSgd(Update):
    """Gradient of the weight and its update in one.

    Inputs: ``x`` (the part's channels), gradient of the output, weight.

    Attributes:
        geometry: sizes of the whole layer.
        rate_scale: the learning rate of the step is multiplied by this.
        weight_decay: L2 penalty.
        part: what of the weight is trained; ``None`` for all of it.
    """

    kind: ClassVar[str] = "conv2d.sgd"
    geometry: ConvGeometry
    rate_scale: float
    weight_decay: float
    part: Part | None = None

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        part = self.part or whole(self.geometry)
        weight = present(inputs[2]).clone().reshape(self.geometry.weight_shape)
        gradient = part_gradient(self.geometry, part, present(inputs[0]), present(inputs[1]))
        trained = part.select(weight, self.geometry.depthwise)
        rate = self.rate_scale * state.learning_rate
        trained -= rate * (gradient.reshape(trained.shape) + self.weight_decay * trained)
        return (weight.reshape(present(inputs[2]).shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        geometry = self.geometry
        fields = (
            *geometry.fields("layer."),
            ("weight_decay", self.weight_decay),
            ("rate_scale", self.rate_scale),
            *(self.part or whole(geometry)).fields(geometry.depthwise),
        )
        return KernelCall(_kernel(geometry, "_weight_sgd"), (), fields, takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.geometry.macs * self._trained_elements() // math.prod(self.geometry.weight_shape)

    def flop(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return super().flop(inputs, outputs) + sgd_flop(self._trained_elements(), self.weight_decay)

    def _trained_elements(self) -> int:
        part = self.part or whole(self.geometry)
        return part.select(torch.empty(self.geometry.weight_shape, device="meta"), self.geometry.depthwise).numel()


@dataclass(frozen=True)
class ChannelSumSgd(Update):
    """Gradient of a bias and its update in one; inputs: gradient of the output, bias.

    Attributes:
        rows, channels: as in :class:`ChannelSum`.
        rate_scale: the learning rate of the step is multiplied by this.
        weight_decay: L2 penalty.
    """

    kind: ClassVar[str] = "bias.sgd"
    rows: int
    channels: int
    rate_scale: float
    weight_decay: float

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        (gradient,) = ChannelSum(self.rows, self.channels).run(inputs[:1])
        bias = present(inputs[1])
        return (bias - self.rate_scale * state.learning_rate * (gradient + self.weight_decay * bias),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("rows", self.rows),
            ("channels", self.channels),
            ("weight_decay", self.weight_decay),
            ("rate_scale", self.rate_scale),
        )
        return KernelCall("lab_f32_channel_sum_sgd", (), fields, takes_state=True)

    def flop(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return sgd_flop(self.channels, self.weight_decay)
