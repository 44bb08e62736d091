"""What the formats share: whole files or none, one error for a file that is not what its name says, the voltage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lab.errors import ConfigError
from measurements.record import Float32Array, Trace


def damaged(path: Path, kind: str, why: str) -> ConfigError:
    """The error of a file that is no whole one of its kind; raise it."""
    return ConfigError(
        f"{path}: is no whole {kind}: {why}", hint="export it again from the program that made it, or restore a copy"
    )


def voltage_of(path: Path, told: float | None, given: float | None) -> float:
    """The supply voltage: the file's, else the caller's, volt.

    Raises:
        ConfigError: neither is known.
    """
    voltage = told if told is not None else given
    if voltage is None:
        raise ConfigError(
            f"{path}: tells currents but no supply voltage, without which there is no energy",
            hint="give the voltage that the device was supplied with",
        )
    return voltage


def count_lost(current_a: Float32Array) -> int:
    """Samples that are NaN."""
    return int(np.count_nonzero(np.isnan(current_a)))


def check_shapes(trace: Trace, path: Path) -> None:
    """A trace whose arrays do not fit each other is written nowhere.

    Raises:
        ConfigError: they do not.
    """
    shapes = {trace.current_a.shape, trace.logic.shape}
    if trace.measured_v is not None:
        shapes.add(trace.measured_v.shape)
    if len(shapes) > 1 or trace.current_a.ndim != 1:
        raise ConfigError(f"{path}: the trace's arrays have shapes {sorted(shapes)}; they must be (n,) and the same")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; the file takes the place of ``path`` when the block ends without error.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}", hint="choose another folder, or free space") from error
    finally:
        temporary.unlink(missing_ok=True)
