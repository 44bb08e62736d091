"""Variants: what is no finite number is no value of any option, whatever its bounds say."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lab.errors import ConfigError
from lab.workloads.options import Allowed, read, within


@dataclass(frozen=True)
class _Variant:
    rate: float = 0.0
    free: float = 1.0
    steps: int = 1


_ALLOWED = (within("rate", 0.0, float("inf")), Allowed("free", lambda value: value != 0.0, "anything but 0"))


@pytest.mark.parametrize("name", ["rate", "free", "steps"])
@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-Infinity", "1e999"])
def test_what_is_not_finite_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^lean: {name}={value} is no (finite number|int)$"):
        read("lean", _Variant(), _ALLOWED, f"{name}={value}")


def test_finite_numbers_are_read_in_every_form() -> None:
    assert read("lean", _Variant(), _ALLOWED, "rate=1e-4,free=-2,steps=3") == _Variant(1e-4, -2.0, 3)
