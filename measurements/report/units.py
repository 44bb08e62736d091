"""Numbers for people: engineering units and as many digits as mean something."""

from __future__ import annotations

import math
from dataclasses import dataclass

NO_FIGURE = "—"
"""Shown in place of a number that is missing or not finite."""

_THIN_SPACE, _FIXED_SPACE = "\u202f", "\u00a0"
_DIGITS = 4
_SI = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))
_BINARY = ((1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"), (1.0, "B"))
_SI_UNITS = frozenset({"s", "J", "W", "A", "V", "Hz", "F", "C", "B/s", "FLOP", "FLOP/s"})
_CLASSES = ("multiplies", "divides", "branches", "floats")
_COUNTS = frozenset({"cycles", "instructions", "loads", "stores", *_CLASSES, "macs", "samples", "1/inference"})
_RATIOS = ("accuracy", "share", "fraction", "agreement")
_SMALLEST_PLAIN, _LARGEST_PLAIN = 1e-3, 1e15


@dataclass(frozen=True)
class Scale:
    """How the figures of one record are written, so that a median and its interval share unit and decimals.

    Attributes:
        divisor: what a value is divided by.
        unit: text after the number, empty for a bare ratio.
        decimals: digits after the point.
    """

    divisor: float
    unit: str
    decimals: int

    def number(self, value: float | None) -> str:
        """Write ``value`` without its unit; a dash where it is None or not finite."""
        if value is None or not math.isfinite(value):
            return NO_FIGURE
        scaled = value / self.divisor
        if not math.isfinite(scaled):
            return NO_FIGURE
        if scaled != 0.0 and not _SMALLEST_PLAIN <= abs(scaled) < _LARGEST_PLAIN:
            return f"{scaled:.{_DIGITS - 1}e}".replace("-", "−")
        return f"{scaled:,.{self.decimals}f}".replace(",", _THIN_SPACE).replace("-", "−")

    def text(self, value: float | None) -> str:
        """Write ``value`` with its unit."""
        number = self.number(value)
        return number if number == NO_FIGURE or not self.unit else f"{number}{_FIXED_SPACE}{self.unit}"


def is_count(unit: str) -> bool:
    """Whether figures of ``unit`` are counted, hence exact."""
    return unit in _COUNTS


def scale_for(magnitude: float, unit: str, metric: str = "") -> Scale:
    """Choose prefix and decimals for figures of about ``magnitude``.

    Args:
        magnitude: typical value in ``unit``; sign and non-finite values do not matter.
        unit: SI unit, ``bytes``, a count (``cycles``, ``instructions``) or ``1``.
        metric: name of the metric; ratios such as ``accuracy`` are written in percent.
    """
    size = abs(magnitude) if math.isfinite(magnitude) else 0.0
    if unit in _COUNTS:
        return Scale(1.0, unit, 0 if size == math.floor(size) else 1)
    if unit == "bytes":
        divisor, name = _pick(size, _BINARY)
        return Scale(divisor, name, 0 if divisor == 1.0 else _decimals(size / divisor))
    if unit == "1":
        if metric.split(".")[0] in _RATIOS:
            return Scale(0.01, "%", 2)
        return Scale(1.0, "", _decimals(size))
    if unit in _SI_UNITS:
        prefixes = _SI[3:] if unit == "s" else _SI
        divisor, prefix = _pick(_rounded(size), prefixes)
        return Scale(divisor, prefix + unit, _decimals(size / divisor))
    return Scale(1.0, unit, _decimals(size))


def quantity(value: float | None, unit: str, metric: str = "") -> str:
    """Write one figure with its unit, such as ``2.346 ms`` or ``1 234 567 cycles``; no line break parts the two."""
    if value is None or not math.isfinite(value):
        return NO_FIGURE
    return scale_for(value, unit, metric).text(value)


def short(value: float, unit: str) -> str:
    """Write a nominal figure without trailing zeros, such as ``25 MHz``."""
    scale = scale_for(value, unit)
    number = scale.number(value)
    trimmed = number.rstrip("0").rstrip(".") if "." in number and "e" not in number else number
    return f"{trimmed}{_FIXED_SPACE}{scale.unit}".strip()


def exact(value: float | None, unit: str) -> str:
    """Write a figure as stored, all digits, in its own unit: what a tooltip shows."""
    if value is None or not math.isfinite(value):
        return "not a finite number"
    number = str(int(value)) if value == math.floor(value) and abs(value) < _LARGEST_PLAIN else repr(value)
    return number if unit == "1" else f"{number} {unit}"


def _rounded(size: float) -> float:
    """Round to the digits shown, so that 999.99 µs becomes 1.000 ms and not 1000 µs."""
    rounded = float(f"{size:.{_DIGITS - 1}e}")
    return rounded if math.isfinite(rounded) else size


def _pick(size: float, prefixes: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    if size == 0.0:
        return next(entry for entry in prefixes if entry[0] == 1.0)
    return next((entry for entry in prefixes if size >= entry[0]), prefixes[-1])


def _decimals(scaled: float) -> int:
    if scaled == 0.0:
        return 0
    return min(6, max(0, _DIGITS - 1 - math.floor(math.log10(_rounded(scaled)))))
