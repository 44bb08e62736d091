"""The store as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.errors import StoreError
from measurements.record import Provenance, Record
from measurements.store.local import Store
from measurements.store.opening import DATABASE
from measurements.store.rows import Value
from measurements.store.selection import Selection, When

if TYPE_CHECKING:
    import pandas as pd

_OF_RUN = ("run_id", "session_id", "started", "status", "test")
COLUMNS = (*_OF_RUN, *(field.name for field in fields(Provenance)), *(field.name for field in fields(Record)))
_OWN = frozenset({"run_id", "session_id", "status", "test", *(field.name for field in fields(Record))})
_FIGURES = ("median", "ci_low", "ci_high", "p95", "p99", "first", "lost_fraction", "class_uncertainty")


def load(
    store_path: Path | str,
    *,
    workload: str | None = None,
    variant: str | None = None,
    device: str | None = None,
    board: str | None = None,
    commit: str | None = None,
    session: str | None = None,
    status: str | None = None,
    since: When | None = None,
    until: When | None = None,
    region: str | None = None,
    metric: str | None = None,
    source: str | None = None,
) -> pd.DataFrame:
    """The records of a store, one row each: the run, its provenance and the record's own fields, oldest run first.

    ``raw`` is a tuple per row; ``started`` is a UTC timestamp. Runs without a record have no row. Every argument that
    is given narrows the choice; a table without rows has all its columns.

    Args:
        store_path: the store's folder.
        workload, variant, device, board, commit: as in the run's provenance.
        session, status: of the run.
        since, until: runs that start at or after, and before; text is ISO 8601, and UTC where it names no zone.
        region, metric, source: of the record.

    Raises:
        ConfigError: ``since`` or ``until`` is no time.
        StoreError: there is no store, or it cannot be read.
    """
    selection = Selection(
        workload=workload, variant=variant, device=device, board=board, commit=commit, session=session, status=status,
        since=since, until=until,
    )  # fmt: skip
    path = Path(store_path)
    if not (path / DATABASE).is_file():
        raise StoreError(f"{path}: there is no store", hint="it is made by the first run; LAB_STORE says where")
    of_record = {"region": region, "metric": metric, "source": source}
    with Store(path) as store:
        return table(store, selection, {name: value for name, value in of_record.items() if value is not None})


def table(store: Store, selection: Selection, of_record: Mapping[str, str]) -> pd.DataFrame:
    """The same of an open store; ``of_record`` maps fields of the record to the value they must have.

    Raises:
        StoreError: the store cannot be read.
    """
    import pandas as pd

    where, arguments = selection.where()
    terms = " AND ".join((where, *(f"records.{name} = :record_{name}" for name in of_record)))
    query = (
        "SELECT session_id, started_ns, status, test, provenance, records.* FROM runs JOIN records USING (run_id) "
        f"WHERE {terms} ORDER BY started_ns, run_id, position"
    )
    values: dict[str, Value] = {**arguments, **{f"record_{name}": value for name, value in of_record.items()}}
    rows = store.table(query, values)
    columns: dict[str, list[object]] = {name: [] for name in COLUMNS}
    provenance, of = {}, ""
    for row in rows:
        if row["run_id"] != of:
            provenance, of = json.loads(row["provenance"]), row["run_id"]
        for name, column in columns.items():
            column.append(row[name] if name in _OWN else provenance.get(name))
    columns["started"] = [row["started_ns"] for row in rows]
    columns["raw"] = [tuple(np.frombuffer(row["raw"], dtype="<f8").tolist()) for row in rows]
    frame = pd.DataFrame(columns)
    frame["started"] = pd.to_datetime(frame["started"].astype("int64"), unit="ns", utc=True)
    return frame.astype(dict.fromkeys(_FIGURES, "float64"))
