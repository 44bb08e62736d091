"""Weights as numbers of codebook entries: the C against NumPy byte for byte, and both against plain arithmetic."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest
from helpers.kernel_runner import kernel_library
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.workloads.many_models.coding import Codebook, Coder, Layer, book_of, learn, turned

GUARD = 16
FILL = 0xA5


class BookStruct(ctypes.Structure):
    """``lab_weight_codebook_t``."""

    _fields_ = (
        ("entries", ctypes.c_void_p),
        ("subspaces", ctypes.c_uint32),
        ("words", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("index_bits", ctypes.c_uint32),
    )


class LayerStruct(ctypes.Structure):
    """``lab_stored_weights_t``."""

    _fields_ = (
        ("codebook", ctypes.POINTER(BookStruct)),
        ("stored", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("bytes", ctypes.c_uint32),
    )


def decoded_in_c(book: Codebook | None, stored: bytes, size: int) -> npt.NDArray[np.uint8]:
    """What the C writes, between guards; what it reads lies in buffers of exact size."""
    weights = np.full(size + 2 * GUARD, FILL, np.uint8)
    given_ = ctypes.create_string_buffer(stored, len(stored))
    struct = None
    if book is not None:
        entries = ctypes.create_string_buffer(book.in_memory(), book.entries.size)
        struct = ctypes.pointer(BookStruct(ctypes.addressof(entries), *book.entries.shape, book.index_bits))
    layer = LayerStruct(struct, ctypes.addressof(given_), weights.ctypes.data + GUARD, size)
    kernel_library("lab_weight_codec.h").lab_weight_decode(ctypes.byref(layer))
    assert (weights[:GUARD] == FILL).all()
    assert (weights[GUARD + size :] == FILL).all()
    return weights[GUARD : GUARD + size]


def layer(outputs: int, inputs: int, seed: int, kernel: int = 1, network: str = "one") -> Layer:
    generator = np.random.default_rng(seed)
    weights = generator.integers(-127, 128, (outputs, kernel, kernel, inputs)).astype(np.int8)
    return Layer(network, "layer", weights, generator.uniform(0.01, 0.1, outputs))


@settings(max_examples=40, deadline=None)
@given(
    coder=st.sampled_from(["product", "kmeans"]),
    outputs=st.integers(1, 6).map(lambda n: 2 * n),
    inputs=st.integers(1, 6).map(lambda n: 4 * n),
    kernel=st.sampled_from([1, 3]),
    words=st.sampled_from([2, 5, 256]),
    bits=st.sampled_from([2, 4]),
    seed=st.integers(0, 1000),
)
def test_the_device_decodes_what_the_host_says(
    coder: Coder, outputs: int, inputs: int, kernel: int, words: int, bits: int, seed: int
) -> None:
    own = layer(outputs, inputs, seed, kernel)
    book = learn(coder, [own], words, bits, seed)[book_of(coder, own)]
    numbers = book.numbers(own)
    expected = book.decoded(own, numbers)
    stored = book.stored(numbers)
    assert len(stored) == -(-len(numbers) * book.index_bits // 8)
    found = decoded_in_c(book, stored, own.weights.size)
    assert np.array_equal(found, expected.in_memory())
    assert np.array_equal(own.from_memory(found).weights, expected.weights)


def test_every_group_gets_the_nearest_entry_of_its_own_subspace() -> None:
    own = layer(4, 8, 3)
    book = learn("product", [own], 4, 4, 3)["pointwise"]
    groups = turned(own.in_memory()).view(np.int8).reshape(-1, 2, 4).astype(int)
    numbers = book.numbers(own).reshape(-1, 2)
    for group, chosen in zip(groups, numbers, strict=True):
        for subspace in range(2):
            apart = ((book.entries[subspace].astype(int) - group[subspace]) ** 2).sum(1)
            assert apart[chosen[subspace]] == apart.min()


def test_as_many_entries_as_groups_lose_nothing() -> None:
    own = layer(8, 16, 5, kernel=3)
    book = learn("product", [own], 256, 4, 5)["spatial"]
    assert np.array_equal(book.decoded(own, book.numbers(own)).weights, own.weights)
    few = Layer("one", "layer", np.sign(own.weights) * np.int8(50), own.scales)
    exact = learn("kmeans", [few], 256, 2, 5)["one"]
    assert np.array_equal(exact.decoded(few, exact.numbers(few)).weights, few.weights)


def test_weights_themselves_are_copied() -> None:
    own = layer(6, 12, 7).in_memory()
    assert np.array_equal(decoded_in_c(None, own.tobytes(), own.size), own)


def test_networks_share_product_codes_by_the_reach_of_a_kernel_and_have_k_means_of_their_own() -> None:
    layers = [layer(4, 8, n, kernel, name) for n, (kernel, name) in enumerate([(1, "a"), (3, "a"), (1, "b"), (3, "b")])]
    assert set(learn("product", layers, 8, 4, 1)) == {"spatial", "pointwise"}
    found = learn("kmeans", layers, 8, 2, 1)
    assert set(found) == {"a", "b"}
    assert all(book.entries.shape == (2, 4, 1) for book in found.values())


@pytest.mark.parametrize(("outputs", "inputs", "codable"), [(4, 8, True), (5, 8, False), (4, 9, False), (2, 4, True)])
def test_layers_with_padding_are_not_coded(outputs: int, inputs: int, codable: bool) -> None:
    own = layer(outputs, inputs, 1)
    assert own.codable == codable
    assert (own.in_memory().size == own.weights.size) == codable
