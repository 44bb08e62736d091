"""int8 weights and their bias as they lie in a device's memory, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int8Array: TypeAlias = npt.NDArray[np.int8]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Storage:
    """How the weights of a layer lie in memory, and what the bias holds besides.

    Attributes:
        shape: (outputs, …) of the weights, channels last.
        depthwise: ``(KH, KW, C)`` in int8; otherwise packed as ``lab_dense.h`` says.
        input_zero_point: of the layer's input.
    """

    shape: Shape
    depthwise: bool
    input_zero_point: int

    @property
    def bias_offset(self) -> int:
        """``bias_offset · Σ weights`` of an output is subtracted from its bias in memory."""
        from lab.compiler.operators.weights import PACKED_INPUT_OFFSET

        return self.input_zero_point + (0 if self.depthwise else PACKED_INPUT_OFFSET)

    def store(self, weight: Int8Array) -> npt.NDArray[np.int8] | npt.NDArray[np.int32]:
        """Weights (outputs, …) as they lie in memory."""
        from lab.compiler.operators.weights import pack_weights

        return np.ascontiguousarray(weight.transpose(1, 2, 0)) if self.depthwise else pack_weights(weight)

    def load(self, stored: npt.NDArray[np.generic]) -> Int8Array:
        """Inverse of :meth:`store`."""
        if self.depthwise:
            rows, columns = self.shape[1:]
            plain: Int8Array = stored.reshape(rows, columns, self.shape[0]).transpose(2, 0, 1).astype(np.int8)
            return np.ascontiguousarray(plain)
        from lab.compiler.operators.weights import padded_inputs

        outputs, inputs = self.shape[0], math.prod(self.shape[1:])
        octets = stored.reshape(-1).astype("<i4").view(np.uint8).reshape(-1, padded_inputs(inputs) // 4, 2, 2, 2).copy()
        octets[..., 0] ^= 0x80
        matrix = octets.transpose(0, 4, 1, 3, 2).reshape(outputs + outputs % 2, -1).view(np.int8)
        return np.ascontiguousarray(matrix[:outputs, :inputs].reshape(self.shape))

    def fold(self, weight: Int8Array, bias: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The bias as it lies in memory."""
        return self._folded(weight, bias, self.bias_offset)

    def unfold(self, weight: Int8Array, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
        """Inverse of :meth:`fold`."""
        return self._folded(weight, stored.astype(np.int32), -self.bias_offset)

    def _folded(self, weight: Int8Array, bias: npt.NDArray[np.int32], offset: int) -> npt.NDArray[np.int32]:
        from lab.compiler.operators.weights import folded_bias

        return folded_bias(weight, bias, offset)


@dataclass(frozen=True)
class Grid:
    """What makes real values of an int8 weight, or of the bias of such a layer.

    Attributes:
        storage: how the weights lie in memory.
        scales: real value of one step, per output.
        weight: for a bias, the variable that holds the layer's weights; empty where they are frozen.
        weight_sums: for a bias of frozen weights, the sum of the weights per output.
    """

    storage: Storage
    scales: tuple[float, ...]
    weight: str = ""
    weight_sums: tuple[int, ...] = ()

    def real_weight(self, stored: npt.NDArray[np.generic]) -> Float32Array:
        """Real weights (outputs, …, inputs) of weights as they lie in memory."""
        weight = self.storage.load(stored)
        scales = np.asarray(self.scales, dtype=np.float32).reshape(-1, *(1,) * (weight.ndim - 1))
        return (weight.astype(np.float32) * scales).astype(np.float32)

    def real_bias(self, stored: npt.NDArray[np.generic], weight: npt.NDArray[np.generic] | None) -> Float32Array:
        """Real bias (outputs,) of a bias and, where they are trained, the weights as they lie in memory."""
        if weight is None:
            sums = np.asarray(self.weight_sums, dtype=np.int64)
        else:
            plain = self.storage.load(weight).astype(np.int64)
            sums = plain.reshape(len(plain), -1).sum(axis=1)
        unfolded = stored.reshape(-1).astype(np.int64) + self.storage.bias_offset * sums
        return (unfolded * np.asarray(self.scales, dtype=np.float64)).astype(np.float32)
