"""Quantities as people write them (``256 KiB``, ``20 ms``, ``1 mJ``) to and from plain SI numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from lab.errors import ConfigError

_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ]*)\s*")

_SI_EXPONENTS: Mapping[str, int] = {
    "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12,
}  # fmt: skip
_BYTE_FACTORS: Mapping[str, int] = {
    "": 1, "B": 1, "bytes": 1,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_PREFIXES = ((-12, "p"), (-9, "n"), (-6, "µ"), (-3, "m"), (0, ""), (3, "k"), (6, "M"), (9, "G"), (12, "T"))
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_UNPREFIXED_UNITS = frozenset({"1", "", "%", "cycles", "instructions", "°C"})


def parse_bytes(text: str | int | float) -> int:
    """Bytes of a size: ``"256 KiB"`` (binary), ``"256 kB"`` (decimal), ``4096``.

    Raises:
        ConfigError: not a size, negative, or not a whole number of bytes.
    """
    example = '"256 KiB", "100 kB", 4096'
    number, suffix = _split(text, "a size", "B, kB, MB, GB, KiB, MiB, GiB", example)
    factor = _BYTE_FACTORS.get(suffix)
    if factor is None:
        raise _refused(text, f"unknown unit '{suffix}'", "a size", "B, kB, MB, GB, KiB, MiB, GiB", example)
    value = number * factor
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise _refused(text, "not a whole number of bytes ≥ 0", "a size", "B, kB, MB, GB, KiB, MiB, GiB", example)
    return int(value)


def parse_seconds(text: str | int | float) -> float:
    """Seconds of a duration: ``"20 ms"``, ``"3.5 µs"``, ``"2 min"``, ``0.02``.

    Raises:
        ConfigError: not a duration, or negative.
    """
    return _parse_si(text, "s", "a duration", '"20 ms", "3.5 us", 0.02', {"min": 60.0, "h": 3600.0})


def parse_joules(text: str | int | float) -> float:
    """Joules of an energy: ``"1 mJ"``, ``"250 µJ"``, ``0.001``.

    Raises:
        ConfigError: not an energy, or negative.
    """
    return _parse_si(text, "J", "an energy", '"1 mJ", "250 uJ", 0.001', {"Wh": 3600.0, "mWh": 3.6})


def parse_hertz(text: str | int | float) -> float:
    """Hertz of a rate: ``"180 MHz"``, ``25000000``.

    Raises:
        ConfigError: not a rate, or negative.
    """
    return _parse_si(text, "Hz", "a rate", '"180 MHz", 25000000', {})


def format_quantity(value: float, unit: str) -> str:
    """A number in engineering units with four significant digits: ``format_quantity(0.0021, "s") == "2.1 ms"``.

    ``bytes`` are shown exactly below 1 KiB and with binary prefixes above; counts (``cycles``, ``instructions``, ``1``)
    are never prefixed.
    """
    if not math.isfinite(value):
        return f"{value} {unit}".rstrip()
    if unit in ("bytes", "B"):
        return _format_bytes(value)
    if unit in _UNPREFIXED_UNITS:
        text = f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
        return text if unit in ("1", "") else f"{text} {unit}"
    if value == 0.0:
        return f"0 {unit}"
    magnitude = abs(value)
    exponent = min(12, max(-12, 3 * math.floor(math.log10(magnitude) / 3)))
    if exponent < 12 and float(f"{magnitude / 10**exponent:.4g}") >= 1000:
        exponent += 3
    prefix = dict(_PREFIXES)[exponent]
    scaled = value / 10.0**exponent
    return f"{scaled:.4g} {prefix}{unit}"


def _format_bytes(value: float) -> str:
    for factor, name in _BINARY:
        if abs(value) >= factor:
            return f"{value / factor:.4g} {name}"
    return f"{value:.4g} B"


def _parse_si(text: str | int | float, unit: str, what: str, example: str, extra: Mapping[str, float]) -> float:
    allowed = ", ".join([f"{prefix}{unit}" for prefix in ("p", "n", "u", "µ", "m", "", "k", "M", "G")] + list(extra))
    number, suffix = _split(text, what, allowed, example)
    if suffix in extra:
        value = number * extra[suffix]
    elif suffix == "":
        value = number
    elif suffix.endswith(unit) and suffix.removesuffix(unit) in _SI_EXPONENTS:
        exponent = _SI_EXPONENTS[suffix.removesuffix(unit)]
        # Dividing by an exact power of ten rounds once; multiplying by 1e-3 would round twice.
        value = number * 10**exponent if exponent >= 0 else number / 10**-exponent
    else:
        raise _refused(text, f"unknown unit '{suffix}'", what, allowed, example)
    if not math.isfinite(value) or value < 0:
        raise _refused(text, "must be a finite number ≥ 0", what, allowed, example)
    return value


def _split(text: str | int | float, what: str, allowed: str, example: str) -> tuple[float, str]:
    if isinstance(text, bool):
        raise _refused(text, "a truth value", what, allowed, example)
    if isinstance(text, int | float):
        return text, ""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise _refused(text, "no number with a unit", what, allowed, example)
    digits = match.group(1)
    return (int(digits) if re.fullmatch(r"[+-]?\d+(?:_\d+)*", digits) else float(digits)), match.group(2)


def _refused(text: str | int | float, why: str, what: str, allowed: str, example: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is not {what}: {why}; allowed: a number, alone or with one of {allowed}",
        hint=f"write for example {example}",
    )
