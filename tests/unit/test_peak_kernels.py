"""The two loops that find a device's peaks, by their C on this computer."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from helpers.kernel_runner import kernel_library
from hypothesis import given
from hypothesis import strategies as st

CHAINS = 8


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = kernel_library("lab_peaks.h")
    found.lab_peak_flop.restype = ctypes.c_uint32
    found.lab_peak_multiply_add.restype = ctypes.c_float
    found.lab_peak_multiply_add.argtypes = [ctypes.c_uint32, ctypes.c_float, ctypes.c_float]
    return found


@given(blocks=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_a_copy_is_a_copy_and_touches_nothing_else(library: ctypes.CDLL, blocks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory = rng.integers(0, 2**32, 2 * 320 + 16, dtype=np.uint32)
    expected, words = memory.copy(), 8 * blocks
    expected[320 : 320 + words] = memory[:words]
    address = memory.ctypes.data
    library.lab_peak_copy(ctypes.c_void_p(address + 4 * 320), ctypes.c_void_p(address), ctypes.c_uint32(words))
    assert np.array_equal(memory, expected)


@given(
    goes=st.integers(0, 50), value=st.floats(-4, 4, width=32), factor=st.floats(-0.0625, 0.0625, width=32)
)  # fmt: skip
def test_chains_come_to_what_the_power_of_their_matrix_says(
    library: ctypes.CDLL, goes: int, value: float, factor: float
) -> None:
    """The work that is told is what was done: 8 chains of a multiplication and an addition in each lane."""
    lanes, rest = divmod(library.lab_peak_flop(), 2 * CHAINS)
    assert rest == 0
    assert lanes in (1, 4)
    one_round = np.eye(CHAINS)
    for chain in range(CHAINS):
        one_round[chain] += factor * one_round[(chain + 1) % CHAINS]
    power = np.linalg.matrix_power(one_round, 4 * goes)
    start = value + np.arange(CHAINS)
    expected, size = lanes * float((power @ start).sum()), lanes * float((abs(power) @ abs(start)).sum())
    assert library.lab_peak_multiply_add(4 * goes, value, factor) == pytest.approx(expected, abs=1e-5 * size)


def test_what_the_job_computes_stays_an_ordinary_number(library: ctypes.CDLL) -> None:
    lanes = library.lab_peak_flop() // (2 * CHAINS)
    start = lanes * sum(1.0 + chain for chain in range(CHAINS))
    assert start < library.lab_peak_multiply_add(256, 1.0, 2.0**-12) < 1.1 * start
