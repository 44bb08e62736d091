"""The grid that int8 layers train on, after the headers of ``firmware/runtime``: packed weights, the rule of an update.

Written anew from ``lab_dense.h``, ``lab_random.h`` and ``lab_q_update.h``: nothing here comes from the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from helpers.convolutions import Convolution, Double
from helpers.training_kernels import Field, Float, Int8, Int32

LEVEL = 1 << 24
PACKED_OFFSET = 128


def xorshift32(value: int) -> int:
    """Marsaglia 2003."""
    value ^= value << 13 & 0xFFFFFFFF
    value ^= value >> 17
    return value ^ value << 5 & 0xFFFFFFFF


def random_bits(key: int, index: int) -> int:
    """24 bits for the weight at an index."""
    value = (key + index * 0x85EBCA6B) & 0xFFFFFFFF
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return (value ^ value >> 16) % LEVEL


def moved(weight: int, step: float, random: int) -> int:
    """A weight after a step, which is in 1 / LEVEL and not more than 128 levels."""
    whole = 0 if np.isnan(step) else int(np.clip(step, -128.0 * LEVEL, 128.0 * LEVEL - 1))  # towards zero
    return int(np.clip((weight * LEVEL + random - whole) // LEVEL, -127, 127))


def pack(weight: Int8) -> Int32:
    """Rows (outputs, inputs) as ``lab_dense.h`` packs them."""
    outputs, inputs = weight.shape
    rows = np.zeros((outputs + outputs % 2, inputs + -inputs % 4), np.int64)
    rows[:outputs, :inputs] = weight
    octets: list[int] = []
    for pair in range(0, len(rows), 2):
        for k in range(0, rows.shape[1], 4):
            for first in (k, k + 1):
                for one in (first, first + 2):
                    octets += [int(rows[pair, one]) + 128, int(rows[pair + 1, one]) & 0xFF]
    return np.frombuffer(bytes(octets), "<i4").astype(np.int32)


def unpack(stored: Int8 | Int32, outputs: int, inputs: int) -> Int8:
    """Inverse of :func:`pack`."""
    octets = stored.astype("<i4").tobytes()
    words = -(-inputs // 4) * 2
    weight = np.empty((outputs, inputs), np.int8)
    for output, k in np.ndindex(outputs, inputs):
        at = 4 * (output // 2 * words + k // 4 * 2 + k % 2) + k % 4 // 2 * 2 + output % 2
        weight[output, k] = np.uint8(octets[at]).view(np.int8) if output % 2 else octets[at] - 128
    return weight


@dataclass(frozen=True)
class Grid:
    """A layer on the int8 grid.

    Attributes:
        layer: geometry.
        input_scale, input_zero_point: quantisation of the input.
        weight_scale: float32 (outputs,).
        weight: int8 in the physical order of :attr:`Convolution.weight_shape`.
        bias: int32 (outputs,), as it lies in memory.
    """

    layer: Convolution
    input_scale: float
    input_zero_point: int
    weight_scale: Float
    weight: Int8
    bias: Int32

    @property
    def bias_offset(self) -> int:
        """The bias in memory is the real one less this times the sum of an output's weights."""
        return self.input_zero_point + (0 if self.layer.depthwise else PACKED_OFFSET)

    def real_weight(self) -> Double:
        """What the weights are worth."""
        scale = self.weight_scale.astype(np.float64)
        return self.weight * (scale if self.layer.depthwise else scale[:, None, None, None])

    def stored(self) -> Int8 | Int32:
        """The weights as they lie in memory."""
        return self.weight.copy() if self.layer.depthwise else pack(self.weight.reshape(self.layer.outputs, -1))

    def weights_in(self, stored: Int8 | Int32) -> Int8:
        """Weights in physical order of what lies in memory."""
        plain = stored if self.layer.depthwise else unpack(stored, self.layer.outputs, self.weight[0].size)
        return plain.astype(np.int8).reshape(self.weight.shape)

    def input_fields(self) -> dict[str, Field]:
        """Quantisation of the input, as descriptors name it."""
        return {"input_scale": self.input_scale, "input_zero_point": self.input_zero_point}

    def updated(
        self, sums: Float, chosen: tuple[slice, ...], rate: np.float32, input_scale: float, key: int
    ) -> tuple[Int8, Int32]:
        """Weights and bias after an update of the chosen weights; the gradient is ``input_scale · sums``."""
        weight = self.weight.copy()
        factor = (rate / self.weight_scale) * np.float32(np.float32(input_scale) * np.float32(LEVEL))
        index = np.arange(weight.size).reshape(weight.shape)
        for at, place in zip(index[chosen].reshape(-1), np.ndindex(*sums.shape), strict=True):
            output = int(at % len(factor) if self.layer.depthwise else at // (weight.size // len(factor)))
            with np.errstate(over="ignore", invalid="ignore"):
                step = float(sums[place] * factor[output])
            weight.flat[at] = moved(int(self.weight.flat[at]), step, random_bits(key, int(at)))
        axes = (0, 1) if self.layer.depthwise else (1, 2, 3)
        change = weight.astype(np.int64).sum(axis=axes) - self.weight.astype(np.int64).sum(axis=axes)
        return weight, (self.bias - self.bias_offset * change).astype(np.int32)


def grid(layer: Convolution, seed: int) -> Grid:
    """A layer with random numbers; weights at the ends of their range among them."""
    generator = np.random.default_rng(seed)
    return Grid(
        layer,
        float(np.float32(generator.uniform(0.001, 0.2))),
        int(generator.integers(-128, 128)),
        generator.uniform(0.001, 0.2, layer.outputs).astype(np.float32),
        np.clip(generator.integers(-160, 161, layer.weight_shape), -127, 127).astype(np.int8),
        generator.integers(-(1 << 20), 1 << 20, layer.outputs, dtype=np.int32),
    )
