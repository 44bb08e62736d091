"""Layers that train in int8: forward on the integer grid, gradients of real values in float32.

A real weight is ``scale · w`` with ``w`` in int8, one scale per output channel. SGD on real weights, expressed on the
grid, is ``w -= rate · gradient / scale``: quantisation-aware scaling (Lin et al. 2022, "On-Device Training Under
256KB Memory", section 2.1). The result is rounded stochastically and saturates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.graph import Shape
from lab.compiler.operations.conv2d import ConvGeometry, Fields, Part, part_gradient
from lab.compiler.operations.copy import present
from lab.compiler.operators.conv2d import QuantizedConv2d
from lab.compiler.operators.depthwise_conv2d import QuantizedDepthwiseConv2d
from lab.compiler.operators.linear import QuantizedLinear
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import Affine, Constant, KernelCall
from lab.compiler.random_numbers import RANDOM_BITS, random_at
from lab.compiler.random_numbers import random_words as random_words
from lab.compiler.storage import Int8Array, Storage

WeightedLayer: TypeAlias = QuantizedConv2d | QuantizedDepthwiseConv2d | QuantizedLinear
BIAS_LIMIT = 1 << 29
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class WeightedInt8(Operation):
    """A convolution or linear layer whose weights and bias are tensors: inputs ``x``, weights, bias.

    Attributes:
        layer: the layer with its first weights.
        storage: how weights and bias lie in memory.
        input_shape, output_shape: as the layer sees them, without batch.
    """

    kind: ClassVar[str] = "int8"
    layer: WeightedLayer
    storage: Storage
    input_shape: Shape
    output_shape: Shape

    @property
    def label(self) -> str:
        return self.layer.kind

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        weight = self.storage.load(present(inputs[1]).numpy())
        bias = self.storage.unfold(weight, present(inputs[2]).numpy())
        layer = replace(self.layer, weights=replace(self.layer.weights, weight=weight, bias=bias))
        x = present(inputs[0]).to(torch.int64).reshape(1, *self.input_shape)
        return (layer.run([x]).to(torch.int8),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        plain = self.layer.call([self.input_shape], self.output_shape)
        weights = self.layer.weights
        constants = (
            Constant("multiplier", weights.multiplier, "Q31"),
            Constant("shift", weights.shift, "right shift after the Q31 product"),
        )
        return replace(plain, constants=constants, bound=(("weights", 1), ("bias", 2)))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.layer.macs([self.input_shape], self.output_shape)

    def scratch_bytes(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.layer.scratch_bytes([self.input_shape], self.output_shape)


@dataclass(frozen=True)
class Dequantize(Operation):
    """int8 to real values."""

    kind: ClassVar[str] = "dequantize"
    affine: Affine

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        centred = present(inputs[0]).to(torch.float32) - self.affine.zero_point
        return (centred * np.float32(self.affine.scale).item(),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("count", outputs[0].elements),
            ("zero_point", self.affine.zero_point),
            ("scale", self.affine.scale),
        )
        return KernelCall("lab_dequantize", (), fields)


@dataclass(frozen=True)
class Quantize(Operation):
    """Real values to int8: rounded half to even, saturated."""

    kind: ClassVar[str] = "quantize"
    affine: Affine

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        steps = torch.round(present(inputs[0]) / np.float32(self.affine.scale).item()) + self.affine.zero_point
        return (steps.clamp(-128, 127).to(torch.int8),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("count", outputs[0].elements),
            ("zero_point", self.affine.zero_point),
            ("scale", self.affine.scale),
        )
        return KernelCall("lab_quantize", (), fields)


def _kernel(geometry: ConvGeometry, suffix: str) -> str:
    return f"lab_q_{'depthwise_' if geometry.depthwise else ''}conv2d{suffix}"


def real_weight(storage: Storage, scales: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """Real weights (outputs, …) of weights as they lie in memory."""
    weight = torch.from_numpy(storage.load(stored.numpy()).astype(np.float32))
    return weight * scales.reshape(-1, *(1,) * (weight.ndim - 1))


def _physical(geometry: ConvGeometry, weight: torch.Tensor) -> torch.Tensor:
    """Weights (outputs, KH, KW, …) in the order of :attr:`ConvGeometry.weight_shape`."""
    return weight.permute(1, 2, 0).contiguous() if geometry.depthwise else weight


@dataclass(frozen=True)
class Int8InputGradient(Operation):
    """Gradient of a layer's input; inputs: gradient of the output, weights, weight scales.

    Attributes:
        geometry: sizes; a linear layer is a 1×1 convolution of one pixel.
        storage: how the weights lie in memory.
    """

    kind: ClassVar[str] = "conv2d.input_gradient"
    geometry: ConvGeometry
    storage: Storage

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        weight = real_weight(self.storage, present(inputs[2]), present(inputs[1]))
        weight = _physical(self.geometry, weight.reshape(len(weight), *self.geometry.kernel, -1).squeeze(
            -1 if self.geometry.depthwise else ()
        ))
        return (self.geometry.input_gradient(present(inputs[0]), weight),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = self.geometry.fields("layer.")
        return KernelCall(_kernel(self.geometry, "_input_gradient"), (), fields, bound=(("weight_scale", 2),))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.geometry.macs


@dataclass(frozen=True)
class Int8WeightGradient(Operation):
    """Gradient of real weights from the int8 input; inputs: ``x`` (the part's channels), gradient of the output.

    Attributes:
        geometry: sizes of the whole layer.
        part: what of the weight is trained.
        affine: quantisation of ``x``.
    """

    kind: ClassVar[str] = "conv2d.weight_gradient"
    geometry: ConvGeometry
    part: Part
    affine: Affine

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (self.sums(inputs) * np.float32(self.affine.scale).item(),)

    def sums(self, inputs: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """The gradient without the scale of ``x``."""
        centred = present(inputs[0]).to(torch.float32) - self.affine.zero_point
        return part_gradient(self.geometry, self.part, centred, present(inputs[1]))

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        part = self.part
        outputs_ = () if self.geometry.depthwise else (
            ("first_output", part.first_output),
            ("output_count", part.output_count),
        )
        first = (("first_channel", part.first_input),) if self.geometry.depthwise else ()
        fields = (
            *self.geometry.fields("layer."),
            *outputs_,
            *first,
            ("channel_count", part.input_count),
            ("input_scale", self.affine.scale),
            ("input_zero_point", self.affine.zero_point),
        )
        return KernelCall(_kernel(self.geometry, "_weight_gradient"), (), fields)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return part_macs(self.geometry, self.part)


def part_macs(geometry: ConvGeometry, part: Part) -> int:
    """Multiply-accumulates of the gradient of a part of the weight."""
    share = part.select(torch.empty(geometry.weight_shape, device="meta"), geometry.depthwise).numel()
    return geometry.macs * share // math.prod(geometry.weight_shape)


def random_step(state: TrainingState) -> int:
    """One step of xorshift32 (Marsaglia 2003): the key of one kernel call."""
    value = state.random
    value ^= (value << 13) & 0xFFFFFFFF
    value ^= value >> 17
    value ^= (value << 5) & 0xFFFFFFFF
    state.random = value
    return value


def rounded_update(
    weight: Int8Array,
    gradient: npt.NDArray[np.float32],
    factor: npt.NDArray[np.float32],
    random: npt.NDArray[np.int64],
) -> Int8Array:
    """The update of ``firmware/runtime/lab_q_update.h``, element by element; a NaN changes nothing."""
    step = np.nan_to_num((gradient * factor).astype(np.float32), nan=0.0).astype(np.float64)
    limited = np.clip(np.trunc(step), INT32.min, INT32.max).astype(np.int64)
    scaled = np.clip(weight.astype(np.int64) * (1 << RANDOM_BITS) + random - limited, INT32.min, INT32.max)
    updated: Int8Array = np.clip(scaled >> RANDOM_BITS, -127, 127).astype(np.int8)
    return updated


@dataclass(frozen=True)
class GridUpdate:
    """The update of int8 weights by a gradient of real weights.

    Attributes:
        geometry: sizes of the layer.
        part: what of the weight is trained.
        storage: how weights and bias lie in memory.
        rate_scale: the learning rate of the step is multiplied by this.
    """

    geometry: ConvGeometry
    part: Part
    storage: Storage
    rate_scale: float

    def apply(
        self,
        sums: torch.Tensor,
        variables: Sequence[torch.Tensor | None],
        state: TrainingState,
        input_scale: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New weights and bias as they lie in memory; ``variables`` are weights, bias and weight scales.

        The gradient of the real weights is ``input_scale · sums``.

        What is folded into the bias moves with the weights; the real bias stays.
        """
        stored, bias, scales = (present(one).numpy() for one in variables)
        weight = self.storage.load(stored)
        unfolded = self.storage.unfold(weight, bias)
        rate = np.float32(np.float32(state.learning_rate) * np.float32(self.rate_scale))
        scaled = np.float32(np.float32(input_scale) * np.float32(1 << RANDOM_BITS))
        factor = ((rate / scales).astype(np.float32) * scaled).astype(np.float32)
        key = random_step(state)
        # In the order of the kernel: outputs last for a filter per channel, first otherwise.
        physical = _physical_int8(self.geometry, weight)
        index = np.arange(physical.size, dtype=np.int64).reshape(physical.shape)
        chosen = self.part.select(torch.from_numpy(index), self.geometry.depthwise).numpy()
        outputs = chosen % len(scales) if self.geometry.depthwise else chosen // (physical.size // len(scales))
        flat = physical.reshape(-1).copy()
        flat[chosen] = rounded_update(
            flat[chosen],
            sums.numpy().reshape(chosen.shape),
            factor[outputs],
            random_at(key, chosen.astype(np.uint32)),
        )
        changed = flat.reshape(physical.shape)
        if self.geometry.depthwise:
            changed = np.ascontiguousarray(changed.transpose(2, 0, 1))
        changed = changed.reshape(self.storage.shape)
        new = self.storage.store(changed).reshape(stored.shape)
        return torch.from_numpy(new), torch.from_numpy(self.storage.fold(changed, unfolded))

    def fields(self) -> Fields:
        """Of the kernels' descriptors."""
        return (
            *self.geometry.fields("layer."),
            *self.part.fields(self.geometry.depthwise),
            ("bias_offset", self.storage.bias_offset),
            ("rate_scale", self.rate_scale),
        )


@dataclass(frozen=True)
class Int8WeightUpdate(Update):
    """Update of int8 weights by a stored gradient.

    Inputs: weights, gradient of the part, bias, weight scales; outputs: weights and bias.

    Attributes:
        update: what is updated and how.
    """

    kind: ClassVar[str] = "int8_sgd"
    update: GridUpdate

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        weights, gradient, bias, scales = inputs
        return self.update.apply(present(gradient), (weights, bias, scales), state)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        kernel = _kernel(self.update.geometry, "_sgd")
        return KernelCall(kernel, (), self.update.fields(), bound=(("weight_scale", 3),), takes_state=True)


@dataclass(frozen=True)
class Int8WeightSgd(Update):
    """Gradient of real weights and their update on the int8 grid in one.

    Inputs: ``x`` (the part's channels), gradient of the output, weights, bias, weight scales; outputs: weights, bias.

    Attributes:
        gradient: the gradient.
        update: what is updated and how.
    """

    kind: ClassVar[str] = "conv2d.sgd"
    gradient: Int8WeightGradient
    update: GridUpdate

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        sums = self.gradient.sums(inputs[:2])
        return self.update.apply(sums, inputs[2:5], state, self.gradient.affine.scale)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        affine = self.gradient.affine
        fields = (
            *self.update.fields(),
            ("input_scale", affine.scale),
            ("input_zero_point", affine.zero_point),
        )
        kernel = _kernel(self.update.geometry, "_weight_sgd")
        return KernelCall(kernel, (), fields, bound=(("weight_scale", 4),), takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return part_macs(self.gradient.geometry, self.gradient.part)


def _physical_int8(geometry: ConvGeometry, weight: Int8Array) -> Int8Array:
    if geometry.depthwise:
        return np.ascontiguousarray(weight.transpose(1, 2, 0))
    return weight.reshape(geometry.weight_shape)


@dataclass(frozen=True)
class Int8BiasSgd(Update):
    """Gradient of a real bias and its update on the int32 grid in one.

    Inputs: gradient of the output, bias, bias scales (weight scale · input scale). Rounds stochastically, as
    weights do.

    Attributes:
        rows, channels: positions summed over, length of the bias.
        rate_scale: the learning rate of the step is multiplied by this.
    """

    kind: ClassVar[str] = "bias.sgd"
    rows: int
    channels: int
    rate_scale: float

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        gradient = present(inputs[0]).reshape(self.rows, self.channels).sum(0).numpy()
        bias, scales = present(inputs[1]).numpy(), present(inputs[2]).numpy()
        rate = np.float32(np.float32(state.learning_rate) * np.float32(self.rate_scale))
        step = (gradient * (rate / scales).astype(np.float32)).astype(np.float32)
        key = random_step(state)
        drawn = random_at(key, np.arange(self.channels, dtype=np.uint32)).astype(np.float32)
        limit = np.float32(2.0**30)
        rounded = np.floor(np.clip(step, -limit, limit) + drawn * np.float32(2.0**-RANDOM_BITS))
        limited = np.clip(bias.astype(np.int64) - rounded.astype(np.int64), -BIAS_LIMIT, BIAS_LIMIT)
        return (torch.from_numpy(limited.astype(np.int32)),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("rows", self.rows),
            ("channels", self.channels),
            ("rate_scale", self.rate_scale),
            ("limit", BIAS_LIMIT),
        )
        return KernelCall("lab_q_bias_sgd", (), fields, bound=(("bias_scale", 2),), takes_state=True)


