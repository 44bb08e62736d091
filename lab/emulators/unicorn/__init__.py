"""Microcontrollers emulated in this process by Unicorn: all it takes is ``pip``. See ``docs/without-qemu.md``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def unicorn_version() -> str:
    """``Unicorn x.y.z``, or an empty string where it is not installed."""
    try:
        return f"Unicorn {version('unicorn')}"
    except PackageNotFoundError:
        return ""
