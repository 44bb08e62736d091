"""How latents are packed: the C against NumPy's codes byte for byte, and both against the paper's arithmetic."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from helpers.kernel_runner import kernel_library
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.model import TensorSpec
from lab.workloads.continual.codes import (
    MOST_DIMENSION,
    STORES,
    Codec,
    StoreKind,
    codec_of,
    grouped,
    learn_codebook,
    nearest,
)

GUARD = 32


class CodecStruct(ctypes.Structure):
    """``lab_latent_codec_t``."""

    _fields_ = (
        ("codebook", ctypes.c_void_p),
        ("elements", ctypes.c_uint32),
        ("dimension", ctypes.c_uint32),
        ("centroids", ctypes.c_uint32),
        ("value_bytes", ctypes.c_uint32),
        ("is_sparse", ctypes.c_uint32),
        ("zero_point", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class CCodec:
    """The C of the same codec, every buffer between guards."""

    def __init__(self, codec: Codec) -> None:
        self._library = kernel_library("lab_latent_codec.h")
        self._elements = codec.elements
        self._book = codec.codebook
        self._struct = CodecStruct(
            None if codec.codebook is None else codec.codebook.ctypes.data, codec.elements, codec.dimension,
            0 if codec.codebook is None else len(codec.codebook), 4 if codec.wide else 1, int(codec.sparse),
            codec.latent.zero_point, codec.latent.scale,
        )  # fmt: skip

    def size(self, latent: npt.NDArray[np.int8]) -> int:
        """Bytes that it says a latent takes."""
        given = latent.ctypes.data_as(ctypes.c_void_p)
        return int(self._library.lab_latent_packed_bytes(ctypes.byref(self._struct), given))

    def encode(self, latent: npt.NDArray[np.int8]) -> bytes:
        """A packed latent."""
        memory = np.full(self.size(latent) + 2 * GUARD, 0xA5, np.uint8)
        inside = memory[GUARD : len(memory) - GUARD]
        written = self._library.lab_latent_encode(
            ctypes.byref(self._struct), latent.ctypes.data_as(ctypes.c_void_p), inside.ctypes.data_as(ctypes.c_void_p)
        )
        assert written == len(inside)
        assert set(memory[:GUARD]) == set(memory[-GUARD:]) == {0xA5}, "written outside"
        return inside.tobytes()

    def decode(self, packed: bytes) -> npt.NDArray[np.float32]:
        """Real values."""
        found = np.full(self._elements + 2, np.nan, np.float32)
        self._library.lab_latent_decode(ctypes.byref(self._struct), packed, found[1:].ctypes.data_as(ctypes.c_void_p))
        assert np.isnan(found[[0, -1]]).all(), "written outside"
        return found[1:-1]


def latents_of(seed: int, elements: int, zero: int, share: float, count: int = 12) -> npt.NDArray[np.int8]:
    """Latents of which a share is zero."""
    generator = np.random.default_rng(seed)
    values = generator.integers(-128, 128, (count, elements)).astype(np.int8)
    values[generator.random((count, elements)) < share] = zero
    return values


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 16),
    elements=st.integers(1, 70),
    zero=st.sampled_from([-128, -3, 0, 127]),
    share=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    kind=st.sampled_from(STORES),
    dimension=st.sampled_from([1, 2, 7, 16, MOST_DIMENSION]),
)
def test_c_and_numpy_pack_the_same_bytes_and_unpack_the_same_values(
    seed: int, elements: int, zero: int, share: float, kind: StoreKind, dimension: int
) -> None:
    spec = TensorSpec((elements,), 0.037, zero)
    learnt_from = np.concatenate([latents_of(seed + 1, elements, zero, 0.3), np.full((1, elements), zero, np.int8)])
    codec = codec_of(kind, spec, learnt_from if share < 1 else latents_of(1, elements, zero, 0.0), dimension, seed)
    compiled = CCodec(codec)
    for latent in latents_of(seed, elements, zero, share, 3):
        packed = codec.encode(latent)
        assert compiled.encode(latent) == packed
        assert np.array_equal(compiled.decode(packed), codec.decode(packed))
        if codec.codebook is None:
            assert np.array_equal(codec.decode(packed), spec.dequantize(latent)), "nothing is lost without codes"


@pytest.mark.parametrize(("kind", "expected"), [
    ("float32", 4 * 80), ("int8", 80), ("bitmap", 10 + 20), ("pq", 80 // 8), ("bitmap+pq", 10 + 3),
])  # fmt: skip
def test_sizes_are_those_of_the_papers_arithmetic(kind: StoreKind, expected: int) -> None:
    latent = np.full(80, -128, np.int8)
    latent[::4] = np.arange(20)
    codec = codec_of(kind, TensorSpec((80,), 0.1, -128), latents_of(0, 80, -128, 0.5), 8, 1)
    assert len(codec.encode(latent)) == CCodec(codec).size(latent) == expected


def test_the_bitmap_caps_the_reduction_at_32() -> None:
    """However little is left beside it: a bit for each float32 value."""
    empty = np.full(256, -128, np.int8)
    codec = codec_of("bitmap+pq", TensorSpec((256,), 0.1, -128), latents_of(0, 256, -128, 0.5), 32, 1)
    assert 4 * 256 / len(codec.encode(empty)) == 32


def test_a_codebook_says_what_it_has_learnt_exactly() -> None:
    groups = np.array([[1, 2, 3, 4], [-5, 6, -7, 8], [0, 0, 0, 0]], np.int8)
    book = learn_codebook(np.repeat(groups, 9, 0), 5)
    assert len(book) == 3
    assert np.array_equal(book[nearest(groups, book)], groups)


def test_nearest_is_the_first_of_equals() -> None:
    book = np.array([[4], [0], [2], [0]], np.int8)
    assert nearest(np.array([[1], [3], [0]], np.int8), book).tolist() == [1, 0, 1]


def test_codes_are_learnt_alike_at_every_call_and_lower_the_error_with_more_centroids() -> None:
    rows = latents_of(4, 64, -128, 0.4, 40).reshape(-1, 8)
    book = learn_codebook(rows, 7)
    assert np.array_equal(book, learn_codebook(rows, 7))
    assert not np.array_equal(book, learn_codebook(rows, 8))

    def error(centroids: Sequence[int]) -> float:
        few = book[list(centroids)]
        return float(((few[nearest(rows, few)].astype(float) - rows) ** 2).mean())

    assert error(range(len(book))) < error(range(16)) < error(range(2))


def test_a_last_group_is_filled_up_with_zeros() -> None:
    assert grouped(np.array([1, 2, 3], np.int8), 2, -9).tolist() == [[1, 2], [3, -9]]
    assert grouped(np.zeros(0, np.int8), 4, 0).shape == (0, 4)
