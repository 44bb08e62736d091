"""The store as a table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import StoreError
from measurements.store.local import DATABASE, Store

if TYPE_CHECKING:
    import pandas as pd


def load(store_path: Path | str) -> pd.DataFrame:
    """All records of a store, one row each: the run, its provenance and the record's own fields.

    ``raw`` is a tuple per row; ``started`` is a UTC timestamp. Runs without a record have no row.

    Args:
        store_path: the store's folder.

    Raises:
        StoreError: there is no store, or it cannot be read.
    """
    import pandas as pd

    path = Path(store_path)
    if not (path / DATABASE).is_file():
        raise StoreError(f"{path}: there is no store", hint="it is made by the first run; LAB_STORE says where")
    with Store(path) as store:
        rows = [
            {
                "run_id": run.run_id,
                "session_id": run.session_id,
                "started": pd.Timestamp(run.started_ns, unit="ns", tz="UTC"),
                "status": run.status,
                "test": run.test,
                **asdict(run.provenance),
                **asdict(record),
            }
            for run in store.runs()
            for record in run.records
        ]
    return pd.DataFrame(rows)
