"""Layer norm: rows by their own statistics, in integers throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.graph import Float32Array, Operator, Shape
from lab.compiler.operators.sample_norm import reciprocal_root
from lab.compiler.quantized import Affine, Constant, KernelCall, QuantizedOperator
from lab.errors import CompileError

# As in firmware/runtime/lab_layer_norm.h.
MOST_CHANNELS, MOST_FLOOR, MOST_OFFSET = 1 << 14, 1 << 58, 1 << 30
NORMAL_BITS, SQUARE_BITS, FLOOR_BITS, SLOPE_BITS, MOST_SHIFT = 16, 12, 30, 22, 30


@dataclass(frozen=True)
class LayerNorm(Operator):
    """``weight · (x − mean) / √(variance + epsilon) + bias`` over the last dimension.

    Attributes:
        weight, bias: (channels,).
        epsilon: added to the variance.
    """

    kind: ClassVar[str] = "layer_norm"
    weight: Float32Array
    bias: Float32Array
    epsilon: float

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        return torch.nn.functional.layer_norm(inputs[0], weight.shape, weight, bias, self.epsilon)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        channels = len(self.weight)
        if channels > MOST_CHANNELS:
            raise CompileError(
                f"a layer norm over {channels} elements; at most {MOST_CHANNELS} are allowed",
                hint="use precision='float32'",
            )
        slopes = self.weight.astype(np.float64) / output.scale
        largest = float(np.abs(slopes).max())
        if not largest < 1 << SLOPE_BITS:
            raise CompileError(
                f"a layer norm scales by {largest:.3g} output steps per standard deviation; below 2^{SLOPE_BITS} is "
                "allowed",
                hint="calibrate with inputs that reach the network's whole range",
            )
        shift = max(0, min(MOST_SHIFT, SLOPE_BITS - (math.frexp(largest)[1] if largest else 0)))
        offset = self.bias.astype(np.float64) / output.scale + output.zero_point + 0.5
        floor = round(min(self.epsilon * (channels / inputs[0].scale) ** 2 * (1 << SQUARE_BITS), MOST_FLOOR))
        return QuantizedLayerNorm(
            slope=np.rint(slopes * (1 << shift)).astype(np.int32),
            offset=np.clip(np.rint(offset * (1 << NORMAL_BITS)), -MOST_OFFSET, MOST_OFFSET).astype(np.int32),
            floor=max(floor, 1),
            floor_shift=max(0, floor.bit_length() - FLOOR_BITS),
            shift=shift,
        )


@dataclass(frozen=True)
class QuantizedLayerNorm(QuantizedOperator):
    """The same to the bit as ``firmware/runtime/lab_layer_norm.h``; in place where the input dies here.

    Attributes:
        slope: output steps per standard deviation and channel, ``2^shift`` of them are one.
        offset: per channel, Q16.
        floor: epsilon in squared steps of the input, times the square of the channels, Q12; ``floor_shift`` of its bits
            are passed over.
        shift: of the slopes.
    """

    kind: ClassVar[str] = "layer_norm"
    in_place: ClassVar[bool] = True
    slope: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int32]
    floor: int
    floor_shift: int
    shift: int

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        x, channels = inputs[0], len(self.slope)
        total = x.sum(-1, keepdim=True)
        spread = channels * (x * x).sum(-1, keepdim=True) - total * total
        squared = (spread << SQUARE_BITS) + (self.floor >> self.floor_shift << self.floor_shift)
        # Factors of four, one for each step that the kernel takes to bring the value into [2^28, 2^30).
        down = torch.stack([squared >= 1 << bits for bits in range(30, 62, 2)]).sum(0)
        up = torch.stack([squared < 1 << bits for bits in range(2, 30, 2)]).sum(0)
        root = reciprocal_root((squared >> (2 * down)) << (2 * up))
        normal = ((channels * x - total) * root) >> (44 - SQUARE_BITS // 2 - NORMAL_BITS + down - up)
        slope, offset = (torch.from_numpy(one.astype(np.int64)) for one in (self.slope, self.offset))
        return ((((normal * slope) >> self.shift) + offset) >> NORMAL_BITS).clamp(-128, 127)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        constants = (
            Constant("slope", self.slope, f"per standard deviation, 2^{self.shift} are one output step"),
            Constant("offset", self.offset, "Q16"),
        )
        fields = (
            ("floor", self.floor >> self.floor_shift),
            ("floor_shift", self.floor_shift),
            ("rows", math.prod(output[:-1])),
            ("channels", output[-1]),
            ("shift", self.shift),
        )
        return KernelCall("lab_layer_norm", constants, fields)
