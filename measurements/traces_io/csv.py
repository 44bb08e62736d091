"""CSV with the units in the header.

What is written here: one comment line of facts (``# t0_s=… dt_s=… voltage_V=… lost=…``), then the columns ``time_s``,
``current_A``, ``logic`` (0 to 255, D0 is the lowest bit) and, where it was measured, ``voltage_V``. Numbers have as
many digits as tell every float32 from its neighbours, so they come back bit for bit; a lost sample is ``nan``.

What is read: that, and tables of other programs with a time and a current column, each with its unit as ``name_unit``,
``name (unit)``, ``name[unit]``; Nordic's export ``Timestamp(ms),Current(uA),D0,…`` is one. Their times must be evenly
spaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from measurements.record import Trace, UInt8Array
from measurements.traces_io.files import check_shapes, count_lost, damaged, replacing, voltage_of

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "CSV trace"
UNEVEN_SAMPLES = 0.1
"""How far a time may lie from its place, in sample periods: rounding of the digits, not missing lines."""

_UNITS: Mapping[str, Mapping[str, float]] = {
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9},
    "current": {"A": 1.0, "mA": 1e-3, "uA": 1e-6, "µA": 1e-6, "nA": 1e-9},
    "voltage": {"V": 1.0, "mV": 1e-3},
}
_NAMES = {"time": "time", "timestamp": "time", "t": "time", "current": "current", "i": "current", "voltage": "voltage"}
_LOGIC = "logic"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Column:
    """A column of the table: what it holds, its place, and what its values are multiplied with."""

    quantity: str
    place: int
    factor: float


def read(path: Path, voltage_v: float | None) -> Trace:
    """As :func:`measurements.traces_io.read_trace`."""
    facts, names, skipped = _header(path)
    columns = {column.quantity: column for place, name in enumerate(names) if (column := _column(name, place))}
    missing = [quantity for quantity in ("time", "current") if quantity not in columns]
    if missing:
        raise damaged(path, KIND, f"no column of {missing[0]} with a unit, only {', '.join(map(repr, names))}")
    table = _table(path, names, skipped, columns)

    def values(quantity: str) -> FloatArray:
        raw: FloatArray = table.column(columns[quantity].place).to_numpy().astype(np.float64)
        return raw * columns[quantity].factor if columns[quantity].factor != 1.0 else raw

    current = values("current").astype(np.float32)
    t0_s, dt_s = _clock(path, facts, values("time"))
    measured = values("voltage").astype(np.float32) if "voltage" in columns else None
    told = facts.get("voltage_V")
    if told is None and measured is not None and np.isfinite(measured).any():
        told = float(np.nanmean(measured, dtype=np.float64))
    logic = _logic(table, columns)
    lost = int(facts.get("lost", count_lost(current)))
    return Trace(t0_s, dt_s, voltage_of(path, told, voltage_v), current, logic, lost, measured)


def write(path: Path, trace: Trace) -> None:
    """As :func:`measurements.traces_io.write_trace`."""
    import pyarrow as pa
    import pyarrow.csv as pc

    check_shapes(trace, path)
    time_s = trace.t0_s + np.arange(trace.current_a.size) * trace.dt_s
    arrays = {"time_s": time_s, "current_A": trace.current_a, "logic": trace.logic}
    if trace.measured_v is not None:
        arrays["voltage_V"] = trace.measured_v
    table = pa.table({name: pa.array(array) for name, array in arrays.items()})
    facts = f"# t0_s={trace.t0_s!r} dt_s={trace.dt_s!r} voltage_V={trace.voltage_v!r} lost={trace.lost}\n"
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(facts.encode())
        pc.write_csv(table, file, pc.WriteOptions(quoting_style="none"))


def _header(path: Path) -> tuple[dict[str, float], list[str], int]:
    """The facts of comment lines, the names of the columns, and how many lines that took."""
    facts: dict[str, float] = {}
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            for number, line in enumerate(file, 1):
                if line.startswith("#"):
                    facts |= {key: float(value) for key, value in re.findall(r"(\w+)=(\S+)", line)}
                elif line.strip():
                    return facts, [name.strip().strip('"') for name in line.rstrip("\n").split(",")], number
    except (UnicodeDecodeError, ValueError) as error:
        raise damaged(path, KIND, str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    raise damaged(path, KIND, "no line with the names of its columns")


def _column(name: str, place: int) -> _Column | None:
    """What a column's name says; None for one that is not used."""
    if name == _LOGIC or re.fullmatch(r"D[0-7]", name):
        return _Column(name, place, 1.0)
    match = re.fullmatch(r"(\w+?)[ _]*[(\[_ ]\s*([a-zA-Zµ]+)\s*[)\]]?", name)
    quantity = _NAMES.get(match[1].lower()) if match else None
    if match is None or quantity is None or match[2] not in _UNITS[quantity]:
        return None
    return _Column(quantity, place, _UNITS[quantity][match[2]])


def _table(path: Path, names: Sequence[str], skipped: int, columns: Mapping[str, _Column]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv as pc

    # Nine digits of a float32 and its nearest float64 round to the same float32; times need the float64.
    exact = columns["current"].factor == 1.0
    types = {str(k): pa.string() for k in range(len(names))}
    for column in columns.values():
        types[str(column.place)] = pa.float64()
    if exact:
        types[str(columns["current"].place)] = pa.float32()
    try:
        return pc.read_csv(
            path,
            read_options=pc.ReadOptions(
                use_threads=False, column_names=[str(k) for k in range(len(names))], skip_rows=skipped
            ),
            convert_options=pc.ConvertOptions(column_types=types),
        )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise damaged(path, KIND, str(error)) from error


def _clock(path: Path, facts: Mapping[str, float], time_s: FloatArray) -> tuple[float, float]:
    """Start and sample period, seconds: the facts, or the times where they are evenly spaced."""
    if "t0_s" in facts and "dt_s" in facts:
        return facts["t0_s"], facts["dt_s"]
    if time_s.size < 2 or not np.isfinite(time_s).all():
        raise damaged(path, KIND, f"{time_s.size} samples with a time; at least two, and a time for each, are needed")
    dt_s = float(time_s[-1] - time_s[0]) / (time_s.size - 1)
    off = np.abs(time_s - time_s[0] - np.arange(time_s.size) * dt_s)
    if dt_s <= 0 or off.max() > UNEVEN_SAMPLES * dt_s:
        raise damaged(
            path, KIND, f"its times are not evenly spaced (sample {int(off.argmax())} is off by {off.max():g} s)"
        )
    return float(time_s[0]), dt_s


def _logic(table: pa.Table, columns: Mapping[str, _Column]) -> UInt8Array:
    """Levels D0..D7 from one column of all or columns of one; low where the file has none."""
    levels = np.zeros(table.num_rows, np.uint8)
    for bit, name in enumerate(f"D{bit}" for bit in range(8)):
        if name in columns:
            levels |= (table.column(columns[name].place).to_numpy() > 0).astype(np.uint8) << np.uint8(bit)
    if _LOGIC in columns:
        levels |= np.nan_to_num(table.column(columns[_LOGIC].place).to_numpy()).astype(np.uint8)
    return levels
