"""What convolutions and the linear layer share: per-output-channel weights, int32 bias, fixed-point requantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.arithmetic import quantize_multiplier, requantize
from lab.compiler.graph import Clamp, Float32Array
from lab.compiler.quantized import Affine, Constant
from lab.errors import CompileError

Float64Array: TypeAlias = npt.NDArray[np.float64]
ACCUMULATOR_LIMIT = 1 << 30
"""Accumulators stay below this, so that rounding in the requantisation cannot overflow int32."""
BIAS_LIMIT = 1 << 29
MULTIPLIER_MARGIN = 1.0 + 2.0**-16
"""Keeps every requantisation multiplier below one: a finer output grid than the accumulator's would carry no more
information, and the kernels need no left shift."""


PACKED_INPUT_OFFSET = 128
"""What the kernels with packed weights add to every input."""
PACKED_LAYOUT = "packed as in lab_dense.h: two inputs of two outputs per word"
BEYOND_INT8 = 1 << 10


def folded_bias(weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], input_offset: int) -> npt.NDArray[np.int32]:
    """``bias - input_offset · Σ weights`` per output, modulo 2^32."""
    axes = tuple(range(1, weight.ndim))
    folded: npt.NDArray[np.int64] = bias.astype(np.int64) - input_offset * weight.astype(np.int64).sum(axis=axes)
    return folded.astype(np.int32)


def padded_inputs(inputs: int) -> int:
    """Inputs of a packed row: a multiple of four."""
    return -(-inputs // 4) * 4


def pack_weights(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Weights of shape (outputs, …) as ``firmware/runtime/lab_dense.h`` describes, flat."""
    matrix = weight.reshape(len(weight), -1)
    outputs, inputs = matrix.shape
    padded = np.zeros((outputs + outputs % 2, padded_inputs(inputs)), np.int8)
    padded[:outputs, :inputs] = matrix
    # (pair, output of the pair, four inputs, half of the four, even or odd) to the order of the bytes.
    bytes_ = padded.view(np.uint8).reshape(len(padded) // 2, 2, -1, 2, 2).transpose(0, 2, 4, 3, 1).copy()
    bytes_[..., 0] ^= 0x80
    return bytes_.reshape(-1).view("<i4").astype(np.int32)


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights of one layer in int8.

    Attributes:
        weight: int8, first axis is the output channel.
        bias: int32, scale ``s_input · s_weight[channel]``.
        multiplier, shift: requantisation per channel.
        input: quantisation of the input.
        output: quantisation of the output.
        minimum, maximum: clamp of the output.
    """

    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.int32]
    shift: npt.NDArray[np.uint8]
    input: Affine
    output: Affine
    minimum: int
    maximum: int

    def finish(self, accumulator: torch.Tensor) -> torch.Tensor:
        """Accumulators of real zero-based inputs, channel last, to int8 values."""
        biased = accumulator + torch.from_numpy(self.bias.astype(np.int64))
        multiplier = torch.from_numpy(self.multiplier.astype(np.int64))
        shift = torch.from_numpy(self.shift.astype(np.int64))
        scaled = requantize(biased, multiplier, shift) + self.output.zero_point
        return scaled.clamp(self.minimum, self.maximum)

    def constants(self, weight: npt.NDArray[np.int8], layout: str) -> tuple[Constant, ...]:
        """The arrays of a kernel's descriptor, weights in the given order; the input's zero point is folded into the
        bias."""
        bias, multiplier, shift = self.requantization(self.input.zero_point)
        return (
            Constant("weights", weight.reshape(-1), layout),
            Constant("bias", bias, "with the input's zero point folded in"),
            Constant("multiplier", multiplier, "Q31"),
            Constant("shift", shift, "right shift after the Q31 product"),
        )

    def packed_constants(self) -> tuple[Constant, ...]:
        """As :meth:`constants`, with weights packed as ``lab_dense.h`` says."""
        bias, multiplier, shift = self.requantization(self.input.zero_point + PACKED_INPUT_OFFSET)
        return (
            Constant("weights", pack_weights(self.weight), PACKED_LAYOUT),
            Constant("bias", bias, "with the input's zero point plus 128 folded in"),
            Constant("multiplier", multiplier, "Q31"),
            Constant("shift", shift, "right shift after the Q31 product"),
        )

    def requantization(
        self, input_offset: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """Bias with the input's offset folded in, multiplier and shift, per output.

        Outputs without weights get a multiplier of one and a shift of one, whatever they had: a kernel that takes only
        some shifts is not lost to a whole layer for the sake of a dead channel.
        """
        multiplier, shift = self.multiplier.copy(), self.shift.copy()
        folded = folded_bias(self.weight, self.bias, input_offset)
        for channel in np.flatnonzero(~self.weight.reshape(len(self.weight), -1).any(axis=1)).tolist():
            numbers = (self.bias[channel], multiplier[channel], shift[channel])
            value = requantize(*(torch.tensor(int(number)) for number in numbers))
            # Beyond int8 with any zero point all values are alike.
            folded[channel] = 2 * min(max(int(value), -BEYOND_INT8), BEYOND_INT8)
            multiplier[channel], shift[channel] = (1 << 31) - 1, 1
        return folded, multiplier, shift

    def fields(self) -> tuple[tuple[str, int], ...]:
        """The scalar fields of the kernel's requantisation."""
        return (
            ("output_zero_point", self.output.zero_point),
            ("output_minimum", self.minimum),
            ("output_maximum", self.maximum),
        )


def weight_scales(weight: Float32Array, bias: Float32Array, input_scale: float) -> Float64Array:
    """Symmetric scale per output channel: the largest weight at 127, and the bias within int32."""
    largest = np.abs(weight.astype(np.float64)).reshape(weight.shape[0], -1).max(axis=1)
    for_bias = np.abs(bias.astype(np.float64)) / (input_scale * BIAS_LIMIT)
    scales: Float64Array = np.maximum(largest / 127.0, for_bias)
    # A channel of zeros has no range of its own; any scale represents it exactly.
    return np.where(scales > 0, scales, 1e-6 / input_scale)


def minimum_output_scale(weight: Float32Array, bias: Float32Array, source: Affine) -> float:
    """Smallest output scale for which all requantisation multipliers are below one."""
    return float(weight_scales(weight, bias, source.scale).max()) * source.scale * MULTIPLIER_MARGIN


def round_weights(
    weight: Float32Array, bias: Float32Array, source: Affine
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], Float64Array]:
    """Weights in int8, bias in int32 and the weight scales; rounds half to even."""
    scales = weight_scales(weight, bias, source.scale)
    column = scales.reshape(-1, *([1] * (weight.ndim - 1)))
    rounded = np.clip(np.rint(weight.astype(np.float64) / column), -127, 127).astype(np.int8)
    rounded_bias = np.rint(bias.astype(np.float64) / (scales * source.scale)).astype(np.int32)
    return rounded, rounded_bias, scales


def quantize_weights(
    weight: Float32Array, bias: Float32Array, activation: Clamp | None, source: Affine, output: Affine
) -> QuantizedWeights:
    """Quantise weights of shape (output channels, …) and bias.

    Raises:
        CompileError: an accumulator could overflow int32.
    """
    rounded, rounded_bias, scales = round_weights(weight, bias, source)
    reach = 255 * np.abs(rounded.astype(np.int64)).reshape(weight.shape[0], -1).sum(axis=1)
    if int((reach + np.abs(rounded_bias.astype(np.int64))).max()) >= ACCUMULATOR_LIMIT:
        raise CompileError(
            f"sums over {weight[0].size} weights per output can reach 2^30 and overflow int32 accumulators",
            hint="split the layer: fewer inputs per output",
        )
    pairs = [quantize_multiplier(float(scale) * source.scale / output.scale) for scale in scales]
    minimum, maximum = output.bounds(activation)
    return QuantizedWeights(
        weight=rounded,
        bias=rounded_bias,
        multiplier=np.array([pair[0] for pair in pairs], dtype=np.int32),
        shift=np.array([pair[1] for pair in pairs], dtype=np.uint8),
        input=source,
        output=output,
        minimum=minimum,
        maximum=maximum,
    )


def fake_quantize_weights(
    weight: Float32Array, bias: Float32Array, source: Affine
) -> tuple[Float32Array, Float32Array]:
    """Weights and bias on their int8 and int32 grids, by PyTorch's own fake quantisation."""
    scales = weight_scales(weight, bias, source.scale)
    fake = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight),
        torch.from_numpy(scales.astype(np.float32)),
        torch.zeros(len(scales), dtype=torch.int32),
        0,
        -127,
        127,
    )
    grid = scales * source.scale
    return fake.numpy(), (np.rint(bias.astype(np.float64) / grid) * grid).astype(np.float32)
