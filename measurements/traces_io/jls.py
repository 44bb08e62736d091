"""Joulescope's ``.jls`` (version 2), by its makers' library, pyjls.

The library is C code that a damaged file can make crash or never return, so it reads in a process of its own
(:mod:`measurements.traces_io.jls_reader`), which hands the samples over as an ``.npz``.

Signals by name: ``current``, ``voltage`` and ``gpi[0]`` to ``gpi[7]``, all of one sample rate; others are passed over.
The format has whole samples per second only. Files of this lab carry start, sample period, nominal voltage and losses
as user data; in others the mean of the measured voltage is the nominal one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError, ToolMissing
from measurements.record import Trace
from measurements.traces_io.files import check_shapes, count_lost, damaged, replacing, voltage_of

KIND = "Joulescope recording (.jls)"
USER_DATA_KIND = 0x1AB
"""Chunk of user data with the facts of a trace, JSON."""
INPUTS = 8

_MAGIC = b"jlsfmt\r\n"
_MAGIC_V1 = b"\xd3tagfmt"
_LEAST_S = 30.0
_BYTES_PER_S = 5e6


def read(path: Path, voltage_v: float | None) -> Trace:
    """As :func:`measurements.traces_io.read_trace`."""
    _must_have_library()
    _check_magic(path)
    with tempfile.TemporaryDirectory(prefix="lab-jls-") as folder:
        target = Path(folder) / "trace.npz"
        command = [sys.executable, "-m", "measurements.traces_io.jls_reader", str(path), str(target)]
        limit_s = _LEAST_S + path.stat().st_size / _BYTES_PER_S
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise damaged(path, KIND, f"its reader was stopped after {limit_s:.0f} s") from error
        if ended.returncode or not target.is_file():
            why = ended.stderr.strip().splitlines()
            died = f"its reader died of signal {-ended.returncode}" if ended.returncode < 0 else "it cannot be read"
            raise damaged(path, KIND, why[-1] if why and ended.returncode > 0 else died)
        with np.load(target, allow_pickle=False) as arrays:
            return _trace(path, dict(arrays), voltage_v)


def write(path: Path, trace: Trace) -> None:
    """As :func:`measurements.traces_io.write_trace`."""
    _must_have_library()
    check_shapes(trace, path)
    rate_hz = round(1.0 / trace.dt_s)
    if rate_hz < 1 or abs(rate_hz * trace.dt_s - 1.0) > 1e-9:
        raise ConfigError(
            f"{path}: .jls holds whole samples per second, the trace has {1.0 / trace.dt_s:.9g}",
            hint="write .parquet or .csv",
        )
    with replacing(path) as temporary:
        _write(temporary, trace, rate_hz)


def _write(path: Path, trace: Trace, rate_hz: int) -> None:
    from pyjls import DataType, SignalType, Writer  # type: ignore[import-untyped]

    facts = {"t0_s": trace.t0_s, "dt_s": trace.dt_s, "voltage_v": trace.voltage_v, "lost": trace.lost}
    try:
        with Writer(str(path)) as writer:
            writer.source_def(source_id=1, name="hil-lab", vendor="", model="", version="1", serial_number="")
            writer.user_data(USER_DATA_KIND, json.dumps(facts))
            floats = {"current": (trace.current_a, "A")}
            if trace.measured_v is not None:
                floats["voltage"] = (trace.measured_v, "V")
            signal = 0
            for name, (values, unit) in floats.items():
                signal += 1
                writer.signal_def(signal, 1, SignalType.FSR, DataType.F32, rate_hz, name=name, units=unit)
                # pyjls takes no read-only array, which is what stored traces have.
                writer.fsr(signal, 0, np.require(values, np.float32, ["C", "W"]))
            for bit in range(INPUTS):
                signal += 1
                levels = np.packbits(trace.logic >> bit & 1, bitorder="little")
                writer.signal_def(signal, 1, SignalType.FSR, DataType.U1, rate_hz, name=f"gpi[{bit}]", units="")
                writer.fsr(signal, 0, levels)
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error


def _trace(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]], voltage_v: float | None) -> Trace:
    facts: dict[str, float] = json.loads(str(arrays["facts"]))
    current = arrays["current"].astype(np.float32, copy=False)
    measured = arrays["voltage"].astype(np.float32, copy=False) if "voltage" in arrays else None
    told = facts.get("voltage_v")
    if told is None and measured is not None and np.isfinite(measured).any():
        told = float(np.nanmean(measured, dtype=np.float64))
    return Trace(
        t0_s=facts.get("t0_s", 0.0),
        dt_s=facts.get("dt_s", 1.0 / facts["rate_hz"]),
        voltage_v=voltage_of(path, told, voltage_v),
        current_a=current,
        logic=arrays["logic"].astype(np.uint8, copy=False),
        lost=int(facts.get("lost", count_lost(current))),
        measured_v=measured,
    )


def _must_have_library() -> None:
    if find_spec("pyjls") is None:
        raise ToolMissing("Joulescope's files need the package pyjls", hint="pip install 'hil-lab[joulescope]'")


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            begin = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if begin.startswith(_MAGIC_V1):
        raise ConfigError(
            f"{path}: is a .jls file of version 1, which pyjls does not read",
            hint="open it in Joulescope's application and save it as version 2, or export CSV",
        )
    if begin != _MAGIC:
        raise damaged(path, KIND, f"it begins with {begin!r}")
