"""Quantities: literal values, round trips, refusals."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ConfigError
from lab.units import format_quantity, parse_bytes, parse_hertz, parse_joules, parse_seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [("256 KiB", 262144), ("100 kB", 100_000), ("4096", 4096), (4096, 4096), ("1.5MiB", 1572864), ("1 GiB", 2**30)],
)
def test_sizes(text: str | int, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("20 ms", 0.02), ("3.5 µs", 3.5e-6), ("3.5 us", 3.5e-6), ("3.5 μs", 3.5e-6), ("2 min", 120.0), (0.25, 0.25)],
)
def test_durations(text: str | float, value: float) -> None:
    assert parse_seconds(text) == value


def test_energies_and_rates() -> None:
    assert parse_joules("1 mJ") == 0.001
    assert parse_joules("1 mWh") == 3.6
    assert parse_hertz("180 MHz") == 180e6


@pytest.mark.parametrize("text", ["256 Kib", "lots", "", "-1 KiB", "1 ms", "0.3 B", "1e999", True])
def test_bad_sizes_name_the_text_and_a_way_out(text: str | bool) -> None:
    with pytest.raises(ConfigError, match="allowed") as caught:
        parse_bytes(text)
    assert repr(text) in caught.value.message
    assert "256 KiB" in caught.value.hint


@pytest.mark.parametrize("text", ["20 mz", "20 m", "ms", "-3 ms", "nan s", "inf", "20 mJ", "1 2 s"])
def test_bad_durations_name_the_text_and_a_way_out(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed") as caught:
        parse_seconds(text)
    assert repr(text) in caught.value.message
    assert "20 ms" in caught.value.hint


@given(
    st.integers(0, 10**6),
    st.sampled_from([("n", -9), ("u", -6), ("µ", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6)]),
)
def test_prefixes_agree_with_decimal_arithmetic(number: int, prefix: tuple[str, int]) -> None:
    assert parse_joules(f"{number} {prefix[0]}J") == float(Decimal(number).scaleb(prefix[1]))


@given(st.floats(min_value=1e-12, max_value=9e14, allow_nan=False))
def test_what_is_formatted_parses_back_to_four_digits(value: float) -> None:
    text = format_quantity(value, "s")
    assert math.isclose(parse_seconds(text), value, rel_tol=5.1e-4)
    number = float(text.split()[0])
    assert 1 <= number < 1000


@given(st.integers(0, 2**50))
def test_sizes_round_trip(value: int) -> None:
    text = format_quantity(value, "bytes")
    number, unit = text.split()
    factor = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    assert math.isclose(float(number) * factor, value, rel_tol=5.1e-4)
    if value < 1024:
        assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0021, "s", "2.1 ms"),
        (999.96e-6, "s", "1 ms"),
        (-0.0021, "A", "-2.1 mA"),
        (0.0, "J", "0 J"),
        (262144, "bytes", "256 KiB"),
        (1234567, "instructions", "1,234,567 instructions"),
        (0.93, "1", "0.93"),
        (math.nan, "s", "nan s"),
        (1e-15, "J", "0.001 pJ"),
    ],
)
def test_formatting(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text
