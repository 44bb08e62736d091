"""The store as files for other programs: two tables and the traces.

``records`` has one row per record with all its provenance, as :func:`measurements.load` gives it; ``runs`` one row per
run with how it ended. In CSV and JSON lines, ``raw`` and ``parameters`` are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lab.errors import ConfigError, StoreError
from measurements.frame import table
from measurements.store.local import Store
from measurements.store.selection import Selection
from measurements.store.traces import copy_trace

if TYPE_CHECKING:
    import pandas as pd

Format: TypeAlias = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "jsonl")


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        files: the tables.
        runs, records, traces: how many there are.
    """

    files: tuple[Path, ...]
    runs: int
    records: int
    traces: int


def export(store: Store, folder: Path, format: Format, selection: Selection, *, traces: bool = False) -> ExportResult:
    """Write the runs that match to ``folder``: ``records.<format>``, ``runs.<format>`` and, if asked, ``traces/``.

    Args:
        store: the store.
        folder: is made where it is missing; must hold none of these files yet.
        format: ``parquet``, ``csv`` or ``jsonl``.
        selection: which runs.
        traces: also copy the traces, which stay Parquet files.

    Raises:
        ConfigError: the folder holds such a file already.
        StoreError: the store cannot be read or the files not written.
    """
    paths = {name: folder / f"{name}.{format}" for name in ("runs", "records")}
    for path in paths.values():
        if path.exists():
            raise ConfigError(f"{path}: is there already; nothing was overwritten", hint="export to a new folder")
    frames = {"runs": runs_table(store, selection), "records": table(store, selection, {})}
    named = frames["runs"]["trace"].dropna().tolist()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            _write(frames[name], path, format)
        if traces and named:
            (folder / "traces").mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error}", hint="export to a folder with space") from error
    for name in named if traces else ():
        copy_trace(store.trace_path(name), folder / "traces" / name)
    return ExportResult(tuple(paths.values()), len(frames["runs"]), len(frames["records"]), len(named) if traces else 0)


def runs_table(store: Store, selection: Selection) -> pd.DataFrame:
    """One row per run: how it ended, where its trace is, and its provenance; oldest first.

    Raises:
        StoreError: the store cannot be read.
    """
    import pandas as pd

    where, arguments = selection.where()
    rows = store.table(f"SELECT * FROM runs WHERE {where} ORDER BY started_ns, run_id", arguments)
    own = ("run_id", "session_id", "started_ns", "status", "test", "error", "retries", "revision", "trace")
    records = [{name: row[name] for name in own} | json.loads(row["provenance"]) for row in rows]
    frame = pd.DataFrame(records, columns=None if records else list(own))
    frame.insert(2, "started", pd.to_datetime(frame.pop("started_ns").astype("int64"), unit="ns", utc=True))
    return frame


def _write(frame: pd.DataFrame, path: Path, format: Format) -> None:
    plain = frame.copy()
    if "parameters" in plain:
        plain["parameters"] = [json.dumps(value) for value in plain["parameters"]]
    if "raw" in plain:
        plain["raw"] = [list(value) if format == "parquet" else json.dumps(value) for value in plain["raw"]]
    writers: dict[Format, Callable[[], object]] = {
        "parquet": lambda: plain.to_parquet(path, index=False),
        "csv": lambda: plain.to_csv(path, index=False),
        "jsonl": lambda: plain.to_json(path, orient="records", lines=True, date_format="iso", date_unit="ns"),
    }
    writers[format]()
