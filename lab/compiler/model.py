"""What the compiler yields: C sources, the memory plan and how to feed and read the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int8Array: TypeAlias = npt.NDArray[np.int8]
FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """A quantised tensor at the model's border: ``real = scale · (q − zero_point)``, NHWC, int8.

    Attributes:
        shape: shape of one sample without the batch dimension, in NHWC order.
        scale, zero_point: affine quantisation.
    """

    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def size(self) -> int:
        """Bytes of one sample."""
        return int(np.prod(self.shape))

    def quantize(self, real: FloatArray) -> Int8Array:
        """Quantise samples of shape (n, …) in NHWC order; rounds half to even, saturates."""
        scaled = np.rint(real.astype(np.float64) / self.scale) + self.zero_point
        quantised: Int8Array = np.clip(scaled, -128, 127).astype(np.int8)
        return quantised

    def dequantize(self, quantised: Int8Array) -> FloatArray:
        """Real values of quantised samples."""
        return ((quantised.astype(np.float32) - self.zero_point) * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class LayerInfo:
    """One layer of the schedule.

    Attributes:
        name: name from the user's module.
        operator: ``conv2d``, ``depthwise_conv2d``, ``linear``, ``avg_pool2d`` …
        macs: multiply-accumulates of one pass.
        weights_bytes: weights, biases and requantisation constants in flash.
        input_shape, output_shape: NHWC, without batch.
    """

    name: str
    operator: str
    macs: int
    weights_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class BufferPlan:
    """A buffer of the arena: bytes ``[offset, offset + size)`` from layer ``first`` to layer ``last`` inclusive."""

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class CompiledModel:
    """A model compiled to static C.

    Attributes:
        name: C identifier of the model.
        sources: file name to text; ``model.c`` and ``model.h`` are always there.
        input, output: the tensors at the border.
        layers: the schedule.
        buffers: the arena plan.
        arena_bytes: size of the planned arena.
        lower_bound_bytes: most bytes live at once.
        digest: SHA-256 of the sources, hex.
    """

    name: str
    sources: Mapping[str, str] = field(repr=False)
    input: TensorSpec
    output: TensorSpec
    layers: tuple[LayerInfo, ...]
    buffers: tuple[BufferPlan, ...]
    arena_bytes: int
    lower_bound_bytes: int
    digest: str

    @property
    def weights_bytes(self) -> int:
        """Bytes of constants the model puts in flash."""
        return sum(layer.weights_bytes for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)
