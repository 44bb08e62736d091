"""How a store keeps latents: sparse bitmaps and product quantisation, in NumPy. No torch in here.

LifeLearner (Kwon et al. 2023, sections 3.3 and 3.4): one bit for each element says whether it is zero; what is not is
lined up, cut into groups, and each group becomes the number of its nearest neighbour in a codebook that was learnt on
the host. This is the reference of ``firmware/runtime/lab_latent_codec.c``, which must yield the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lab.compiler.model import TensorSpec

Int8Array: TypeAlias = npt.NDArray[np.int8]
FloatArray: TypeAlias = npt.NDArray[np.float32]
StoreKind: TypeAlias = Literal["float32", "int8", "bitmap", "pq", "bitmap+pq"]

STORES: tuple[StoreKind, ...] = get_args(StoreKind)
CENTROIDS = 256
MOST_DIMENSION = 32
"""Of a group: ``LAB_LATENT_MOST_DIMENSION``."""
ROUNDS = 8
"""Of Lloyd's algorithm: what is gained afterwards is not seen in the accuracy."""
MOST_GROUPS = 4096
ITEM_BYTES = 5
"""What the store keeps of an item besides what it packed: where it ends, and its class."""


@dataclass(frozen=True)
class Codec:
    """How a latent is packed.

    Attributes:
        latent: the int8 latents, and what makes real values of them.
        sparse: whether a bitmap says what is zero.
        wide: whether values are kept as float32 where there is no codebook.
        codebook: int8, (centroids, dimension); None where values are kept.
    """

    latent: TensorSpec
    sparse: bool
    wide: bool
    codebook: Int8Array | None

    @property
    def elements(self) -> int:
        """Values of a latent."""
        return int(np.prod(self.latent.shape))

    @property
    def dimension(self) -> int:
        """Values in a group."""
        return 1 if self.codebook is None else self.codebook.shape[1]

    def encode(self, latent: Int8Array) -> bytes:
        """Pack one latent, (elements,)."""
        kept = latent != self.latent.zero_point if self.sparse else np.ones(len(latent), bool)
        bitmap = np.packbits(kept, bitorder="little").tobytes() if self.sparse else b""
        values = latent[kept]
        if self.codebook is None:
            real = self.latent.dequantize(values)
            return bitmap + (real.astype("<f4").tobytes() if self.wide else values.tobytes())
        return bitmap + nearest(grouped(values, self.dimension, self.latent.zero_point), self.codebook).tobytes()

    def decode(self, packed: bytes) -> FloatArray:
        """Real values of one latent, (elements,)."""
        border = -(-self.elements // 8) if self.sparse else 0
        bits = np.frombuffer(packed[:border], np.uint8)
        kept = np.unpackbits(bits, bitorder="little")[: self.elements].astype(bool)
        kept = kept if self.sparse else np.ones(self.elements, bool)
        body = packed[border:]
        if self.codebook is not None:
            values = self.latent.dequantize(self.codebook[np.frombuffer(body, np.uint8)].reshape(-1))
        elif self.wide:
            values = np.frombuffer(body, "<f4").astype(np.float32)
        else:
            values = self.latent.dequantize(np.frombuffer(body, np.int8))
        found = np.zeros(self.elements, np.float32)
        found[kept] = values[: int(kept.sum())]
        return found


def codec_of(kind: StoreKind, latent: TensorSpec, learnt_from: Int8Array, dimension: int, seed: int) -> Codec:
    """The codec of a kind of store.

    Args:
        kind: what is done.
        latent: the latents.
        learnt_from: int8 (n, elements), the host's own latents: what the codebook is learnt from.
        dimension: values in a group.
        seed: draws the first centroids.
    """
    sparse = kind.startswith("bitmap")
    if not kind.endswith("pq"):
        return Codec(latent, sparse, kind == "float32", None)
    zero = latent.zero_point
    rows = [grouped(row[row != zero] if sparse else row, dimension, zero) for row in learnt_from]
    return Codec(latent, sparse, wide=False, codebook=learn_codebook(np.concatenate(rows), seed))


def grouped(values: Int8Array, dimension: int, zero: int) -> Int8Array:
    """Values in rows of ``dimension``, the last one filled up with zeros."""
    missing = -len(values) % dimension
    return np.concatenate([values, np.full(missing, zero, np.int8)]).reshape(-1, dimension)


def nearest(groups: Int8Array, codebook: Int8Array) -> npt.NDArray[np.uint8]:
    """Number of each group's nearest centroid by squared differences, the first of equals."""
    first, second = groups.astype(np.int64), codebook.astype(np.int64)
    apart = (first**2).sum(1)[:, None] - 2 * first @ second.T + (second**2).sum(1)
    return np.asarray(apart.argmin(1), np.uint8)


def learn_codebook(
    groups: Int8Array, seed: int, centroids: int = CENTROIDS, most_groups: int = MOST_GROUPS
) -> Int8Array:
    """Lloyd's algorithm from random groups; centroids are rounded to the latents' grid.

    Args:
        groups: int8 (n, dimension).
        seed: draws where it begins, and which of very many groups it learns from.
        centroids: as many, or one for each unlike group where there are fewer.
        most_groups: that it learns from.
    """
    generator = np.random.default_rng(seed)
    rows = groups[generator.permutation(len(groups))[:most_groups]]
    unique = np.unique(rows, axis=0)
    book = unique[generator.permutation(len(unique))[:centroids]]
    for _ in range(ROUNDS):
        owners = nearest(rows, book)
        counts = np.bincount(owners, minlength=len(book))
        sums = np.stack([np.bincount(owners, row, len(book)) for row in rows.T.astype(np.float64)], 1)
        moved = np.rint(sums / np.maximum(counts, 1)[:, None]).astype(np.int8)
        book = np.where(counts[:, None] > 0, moved, book)
    return np.ascontiguousarray(book)
