"""Requantisation: C and PyTorch against the definition in unbounded Python integers."""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.arithmetic import quantize_multiplier, requantize
from lab.compiler.host import TRAP_UNDEFINED, build_shared_library

DRIVER = """
#include "lab_requantize.h"
int32_t drive(int32_t value, int32_t multiplier, uint32_t shift);
int32_t drive(int32_t value, int32_t multiplier, uint32_t shift) { return lab_requantize(value, multiplier, shift); }
int32_t drive_clamp(int32_t value, int32_t minimum, int32_t maximum);
int32_t drive_clamp(int32_t value, int32_t minimum, int32_t maximum)
{
    return lab_clamp_int8(value, minimum, maximum);
}
"""
VALUES = st.integers(-(2**30) + 1, 2**30 - 1)
MULTIPLIERS = st.integers(2**30, 2**31 - 1)
SHIFTS = st.integers(0, 31)


@pytest.fixture(scope="module", params=["gcc", "clang-14"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("requantize")
    source = folder / "driver.c"
    source.write_text(DRIVER)
    output = Path(folder / "driver.so")
    build_shared_library([source], output, compiler=request.param, flags=["-O2", *TRAP_UNDEFINED])
    return ctypes.CDLL(str(output))


def by_definition(value: int, multiplier: int, shift: int) -> int:
    """Round value·multiplier/2^31 with ties up, then divide by 2^shift with ties away from zero."""
    high = math.floor(Fraction(value * multiplier, 2**31) + Fraction(1, 2))
    magnitude = math.floor(Fraction(abs(high), 2**shift) + Fraction(1, 2))
    return magnitude if high >= 0 else -magnitude


@given(value=VALUES, multiplier=MULTIPLIERS, shift=SHIFTS)
@settings(max_examples=300, deadline=None)
def test_c_equals_definition(library: ctypes.CDLL, value: int, multiplier: int, shift: int) -> None:
    assert library.drive(value, multiplier, shift) == by_definition(value, multiplier, shift)


@given(value=VALUES, multiplier=MULTIPLIERS, shift=SHIFTS)
@settings(max_examples=300, deadline=None)
def test_torch_equals_definition(value: int, multiplier: int, shift: int) -> None:
    got = requantize(torch.tensor([value]), torch.tensor([multiplier]), torch.tensor([shift]))
    assert got.item() == by_definition(value, multiplier, shift)


@pytest.mark.parametrize("shift", [0, 1, 2, 5, 30, 31])
@pytest.mark.parametrize("base", [0, 1, 3, 7])
@pytest.mark.parametrize("sign", [1, -1])
def test_ties(library: ctypes.CDLL, shift: int, base: int, sign: int) -> None:
    """Exact halves of both roundings: multiplier 2^30 halves odd values, 2^shift then makes halves again."""
    for value in (2 * base + 1, 2 * ((base << shift) + (1 << shift >> 1)), 2 * base):
        value = min(value, 2**30 - 1) * sign
        expected = by_definition(value, 2**30, shift)
        assert library.drive(value, 2**30, shift) == expected
        assert requantize(torch.tensor([value]), torch.tensor([2**30]), torch.tensor([shift])).item() == expected


@given(value=st.integers(-(2**31), 2**31 - 1), low=st.integers(-128, 127), high=st.integers(-128, 127))
@settings(max_examples=50, deadline=None)
def test_clamp(library: ctypes.CDLL, value: int, low: int, high: int) -> None:
    low, high = min(low, high), max(low, high)
    assert library.drive_clamp(value, low, high) == min(max(value, low), high)


@given(real=st.floats(2.0**-31, 1 - 2.0**-31))
def test_multiplier_is_within_half_a_unit(real: float) -> None:
    q31, shift = quantize_multiplier(real)
    assert 2**30 <= q31 < 2**31
    assert 0 <= shift <= 31
    assert abs(q31 * 2.0 ** (-31 - shift) - real) <= 2.0 ** (-32 - shift)


def test_multiplier_borders() -> None:
    assert quantize_multiplier(0.5) == (2**30, 0)
    assert quantize_multiplier(2.0**-40) == (0, 0)
    # Rounds up to the next power of two, which has a mantissa of its own.
    assert quantize_multiplier(0.5 - 2.0**-40) == (2**30, 0)


@pytest.mark.parametrize("real", [0.0, -0.5, 1.0, 1.5, 1.0 - 2.0**-40])
def test_multiplier_outside_is_refused(real: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        quantize_multiplier(real)
