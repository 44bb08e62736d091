"""Weights as numbers of codebook entries: product quantisation, and k-means of single weights. Imports torch.

YONO (Kwon et al. 2022, section 2) codes the weights of all networks by one pair of codebooks for 3×3 kernels and one
for everything else. What is grouped here are int8 weights in the order of a device's memory, so that decoding copies:
each output channel has a scale of its own, and no conversion is left to do. This is the reference of
``firmware/runtime/lab_weight_codec.c``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.operators.weights import pack_weights
from lab.compiler.storage import Storage
from lab.workloads.continual.codes import learn_codebook, nearest

Int8Array: TypeAlias = npt.NDArray[np.int8]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Coder: TypeAlias = Literal["product", "kmeans"]

SUBSPACES, WIDTH = 2, 4
"""M and D/M of a product code with D = 8: a word of packed weights, two inputs of two outputs."""
MOST_GROUPS = 8192
INPUTS_MULTIPLE, OUTPUTS_MULTIPLE = 4, 2
"""Of a layer that is coded: with others the packed weights have padding, which must stay zero."""


@dataclass(frozen=True)
class Layer:
    """A layer's weights in int8.

    Attributes:
        network, name: whose, and which module.
        weights: (outputs, height, width, inputs).
        scales: of each output channel; real weights are ``scales · weights``.
    """

    network: str
    name: str
    weights: Int8Array
    scales: Float64Array

    @property
    def spatial(self) -> bool:
        """Whether it looks further than one pixel."""
        return self.weights.shape[1:3] != (1, 1)

    @property
    def codable(self) -> bool:
        """Whether its packed weights have no padding."""
        outputs = len(self.weights)
        return not (self.weights[0].size % INPUTS_MULTIPLE or outputs % OUTPUTS_MULTIPLE)

    @property
    def real(self) -> Float64Array:
        """Real values, (outputs, height, width, inputs)."""
        return self.weights * self.scales[:, None, None, None]

    def in_memory(self) -> ByteArray:
        """The packed bytes, as ``lab_dense.h`` says."""
        return np.ascontiguousarray(pack_weights(self.weights)).astype("<i4").view(np.uint8)

    def from_memory(self, packed: ByteArray) -> Layer:
        """The layer with weights that lie in memory as these bytes."""
        loaded = Storage(self.weights.shape, False, 0).load(packed.view("<i4"))
        return replace(self, weights=loaded)


def turned(packed: ByteArray) -> ByteArray:
    """Packed bytes as signed weights, or the other way round: every other one has 128 added to it in memory."""
    found = packed.copy()
    found[..., ::2] ^= 0x80
    return found


@dataclass(frozen=True)
class Codebook:
    """Entries that weights are coded by.

    Attributes:
        entries: int8 (subspaces, words, width); groups take the subspaces in turn.
        index_bits: of a number: 8 with a width of 4, 4 or 2 with one of 1.
    """

    entries: Int8Array
    index_bits: int

    def numbers(self, layer: Layer) -> ByteArray:
        """The number of each group of a layer: the nearest entry's by squared differences, the first of equals."""
        subspaces, _, width = self.entries.shape
        groups = turned(layer.in_memory()).view(np.int8).reshape(-1, subspaces, width)
        found = [nearest(groups[:, one], self.entries[one]) for one in range(subspaces)]
        return np.ascontiguousarray(np.stack(found, 1).reshape(-1))

    def decoded(self, layer: Layer, numbers: ByteArray) -> Layer:
        """The layer with the weights that these numbers stand for."""
        subspaces = len(self.entries)
        rows = numbers.reshape(-1, subspaces)
        groups = np.stack([self.entries[one][rows[:, one]] for one in range(subspaces)], 1)
        return layer.from_memory(turned(np.ascontiguousarray(groups).reshape(-1).view(np.uint8)))

    def stored(self, numbers: ByteArray) -> bytes:
        """Numbers as a device has them: the first in the lowest bits."""
        each = 8 // self.index_bits
        rows = np.pad(numbers, (0, -len(numbers) % each)).reshape(-1, each).astype(np.uint16)
        shifts = np.arange(each, dtype=np.uint16) * self.index_bits
        packed: ByteArray = (rows << shifts).sum(1).astype(np.uint8)
        return packed.tobytes()

    def in_memory(self) -> bytes:
        """Entries as packed weights lie in memory."""
        subspaces, words, width = self.entries.shape
        columns = self.entries.view(np.uint8).transpose(1, 0, 2).reshape(words, subspaces * width)
        packed = turned(np.ascontiguousarray(columns)).reshape(words, subspaces, width)
        return np.ascontiguousarray(packed.transpose(1, 0, 2)).tobytes()


def book_of(coder: Coder, layer: Layer) -> str:
    """The name of the codebook that codes a layer: shared by all networks, or its network's own."""
    if coder == "kmeans":
        return layer.network
    return "spatial" if layer.spatial else "pointwise"


def learn(coder: Coder, layers: Sequence[Layer], words: int, bits: int, seed: int) -> Mapping[str, Codebook]:
    """Codebooks by name, learnt from layers that are codable.

    Args:
        coder: product codes of D = 8 and M = 2, or k-means of single weights.
        layers: of all networks.
        words: K, entries of each sub-codebook of a product code.
        bits: of a number of k-means, which has as many entries as they tell apart.
        seed: draws where the search begins.
    """
    found: dict[str, Codebook] = {}
    for name in sorted({book_of(coder, one) for one in layers}):
        own = [one for one in layers if book_of(coder, one) == name]
        values = np.concatenate([turned(one.in_memory()).view(np.int8) for one in own])
        if coder == "kmeans":
            single = learn_codebook(values.reshape(-1, 1), seed, 1 << bits, MOST_GROUPS)
            # Even and odd bytes of packed weights differ by 128: the same entries, once for each.
            found[name] = Codebook(np.stack([single, single]), bits)
            continue
        groups = values.reshape(-1, SUBSPACES, WIDTH)
        parts = [learn_codebook(groups[:, one], seed, words, MOST_GROUPS) for one in range(SUBSPACES)]
        # Sub-codebooks of few unlike groups may differ in length.
        least = min(map(len, parts))
        found[name] = Codebook(np.stack([one[:least] for one in parts]), 8)
    return found
