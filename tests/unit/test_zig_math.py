"""The C library that Zig comes without: each function against double precision, and ISO C99's special values."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from lab.build import FIRMWARE

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """``firmware/freestanding`` as a library of this machine; exp and log are the machine's."""
    if COMPILER is None:
        pytest.skip("no C compiler for this machine")
    target = tmp_path_factory.mktemp("library") / "freestanding.so"
    folder = FIRMWARE / "freestanding"
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{folder}", "-fno-builtin"]
    sources = [str(folder / name) for name in ("math.c", "string.c")]
    subprocess.run([COMPILER, *flags, "-o", str(target), *sources, "-lm"], check=True)
    return ctypes.CDLL(str(target))


def function(library: ctypes.CDLL, name: str, arguments: int) -> Callable[..., float]:
    """A function of floats."""
    found = getattr(library, name)
    found.restype, found.argtypes = ctypes.c_float, [ctypes.c_float] * arguments
    return lambda *values: float(found(*values))


def ulps(found: Floats, expected: Doubles) -> Doubles:
    """Distance in units of the last place of the float nearest to ``expected``."""
    nearest = np.abs(expected.astype(np.float32))
    unit = np.maximum(np.spacing(nearest).astype(np.float64), 2.0**-149)
    return np.asarray(np.abs(found.astype(np.float64) - expected) / unit)


def spread(least: float, most: float) -> Floats:
    """Floats of both signs, evenly over their exponents."""
    sizes = np.exp(np.linspace(math.log(least), math.log(most), 4000)).astype(np.float32)
    return np.concatenate([sizes, -sizes])


@pytest.mark.parametrize(
    ("name", "reference", "inputs"),
    [
        ("expm1f", np.expm1, spread(1e-30, 88.0)),
        ("log1pf", np.log1p, spread(1e-30, 0.999)),
        ("log1pf", np.log1p, np.abs(spread(0.5, 1e30))),
        ("tanhf", np.tanh, spread(1e-30, 30.0)),
        ("erff", special.erf, spread(1e-30, 6.0)),
    ],
)
def test_each_is_rounded_once(
    library: ctypes.CDLL, name: str, reference: Callable[[Doubles], Doubles], inputs: Floats
) -> None:
    call = function(library, name, 1)
    found = np.array([call(float(x)) for x in inputs], np.float32)
    assert ulps(found, reference(inputs.astype(np.float64))).max() <= 0.5 + 2.0**-8


def test_powers_are_rounded_once(library: ctypes.CDLL) -> None:
    call = function(library, "powf", 2)
    generator = np.random.default_rng(7)
    bases = np.exp(generator.uniform(-20, 20, 4000)).astype(np.float32)
    exponents = generator.uniform(-3, 3, 4000).astype(np.float32)
    found = np.array([call(float(x), float(y)) for x, y in zip(bases, exponents, strict=True)], np.float32)
    assert ulps(found, bases.astype(np.float64) ** exponents.astype(np.float64)).max() <= 0.5 + 2.0**-8


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("expm1f", -0.0, -0.0),
        ("expm1f", INF, INF),
        ("expm1f", -INF, -1.0),
        ("expm1f", NAN, NAN),
        ("log1pf", -0.0, -0.0),
        ("log1pf", -1.0, -INF),
        ("log1pf", -2.0, NAN),
        ("log1pf", INF, INF),
        ("tanhf", -0.0, -0.0),
        ("tanhf", INF, 1.0),
        ("tanhf", -INF, -1.0),
        ("tanhf", NAN, NAN),
        ("erff", -0.0, -0.0),
        ("erff", INF, 1.0),
        ("erff", -INF, -1.0),
        ("erff", NAN, NAN),
    ],
)
def test_special_values(library: ctypes.CDLL, name: str, value: float, expected: float) -> None:
    found = function(library, name, 1)(value)
    assert (math.isnan(found) and math.isnan(expected)) or found == expected
    if expected == 0:
        assert math.copysign(1, found) == math.copysign(1, expected)


SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 2.5, INF, -INF, NAN, 2.0**24, 1e30, -1e30)


def test_powers_of_special_values_are_the_machines(library: ctypes.CDLL) -> None:
    """C99, F.9.4.4: all pairs of the values for which it has a rule, as this machine's C library has them."""
    call = function(library, "powf", 2)
    machine = ctypes.CDLL(ctypes.util.find_library("m")).pow
    machine.restype, machine.argtypes = ctypes.c_double, [ctypes.c_double] * 2
    for x in SPECIAL:
        for y in SPECIAL:
            with np.errstate(over="ignore"):
                expected = float(np.float32(machine(x, y)))
            found = call(x, y)
            same = (math.isnan(found) and math.isnan(expected)) or (
                found == expected and math.copysign(1, found) == math.copysign(1, expected)
            )
            assert same, (x, y, found, expected)


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_strings_compare_as_unsigned_bytes(library: ctypes.CDLL, first: bytes, second: bytes) -> None:
    a, b = first.partition(b"\0")[0], second.partition(b"\0")[0]
    found = library.strcmp(first, second)
    assert (found > 0) - (found < 0) == (a > b) - (a < b)
