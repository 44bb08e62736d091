"""Power traces from and to other programs' files, told apart by how the file's name ends.

One file per format; each has ``read(path, voltage_v)`` and ``write(path, trace)``. A file that is damaged or of another
kind is one :class:`lab.errors.ConfigError`. Formats that hold less than a :class:`measurements.record.Trace` say so in
their module.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from lab.errors import ConfigError
from measurements.record import Trace

# Ending → module. The heavy libraries behind a format are imported with its module, or later.
_FORMATS = {
    ".parquet": "measurements.traces_io.parquet",
    ".csv": "measurements.traces_io.csv",
    ".ppk2": "measurements.traces_io.ppk2",
    ".ppk": "measurements.traces_io.ppk",
    ".jls": "measurements.traces_io.jls",
}
READ_ONLY = ".ppk"
"""Nordic's older format."""


class _Format(Protocol):
    def read(self, path: Path, voltage_v: float | None) -> Trace: ...
    def write(self, path: Path, trace: Trace) -> None: ...


def suffixes() -> tuple[str, ...]:
    """The endings that can be written; all of them can be read, and :data:`READ_ONLY` too."""
    return tuple(suffix for suffix in _FORMATS if suffix != READ_ONLY)


def read_trace(path: Path, voltage_v: float | None = None) -> Trace:
    """Read a trace.

    Args:
        path: its ending says the format.
        voltage_v: supply voltage, volt, for a file that does not tell it; a file's own word goes first.

    Raises:
        ConfigError: an unknown ending; a file that is missing, damaged, of another kind, or tells no voltage when none
            is given.
        ToolMissing: the format needs a package that is not installed.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    return _format(path).read(path, voltage_v)


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace; an older file of that name is replaced once the new one is whole.

    Raises:
        ConfigError: an unknown ending, a trace that the format cannot hold, or a file that cannot be written.
        ToolMissing: as in :func:`read_trace`.
    """
    _format(path).write(path, trace)


def _format(path: Path) -> _Format:
    module = _FORMATS.get(path.suffix.lower())
    if module is None:
        raise ConfigError(
            f"{path}: no format of traces ends in {path.suffix or 'nothing'!r}", hint=f"use {', '.join(_FORMATS)}"
        )
    return cast(_Format, import_module(module))
