"""The lab's own trace files (:mod:`measurements.store.traces`): everything is kept, bit for bit."""

from __future__ import annotations

from pathlib import Path

from lab.errors import ConfigError, StoreError
from measurements.record import Trace
from measurements.store import traces


def read(path: Path, voltage_v: float | None) -> Trace:
    """As :func:`measurements.traces_io.read_trace`; the voltage is in the file."""
    try:
        return traces.read_trace(path)
    except StoreError as error:
        raise ConfigError(error.message, hint="restore the file from a copy") from error


def write(path: Path, trace: Trace) -> None:
    """As :func:`measurements.traces_io.write_trace`."""
    try:
        traces.write_trace(path, trace)
    except StoreError as error:
        raise ConfigError(error.message, hint=error.hint) from error
