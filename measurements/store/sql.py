"""SQL over a store, by DuckDB.

DuckDB reads the tables from memory and the traces straight from their Parquet files; nothing is written. Views:

``records``
    one row per record with its provenance, as :func:`measurements.load` gives it.
``runs``
    one row per run.
``traces``
    one row per sample: ``run_id``, ``t_s`` (device time, seconds), ``current_a`` (ampere), ``logic``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import ConfigError, StoreError, ToolMissing
from measurements.frame import table
from measurements.store.export import runs_table
from measurements.store.local import Store
from measurements.store.opening import DATABASE
from measurements.store.selection import EVERYTHING
from measurements.store.traces import SUFFIX

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_NO_TRACES = """CREATE VIEW traces AS SELECT NULL::VARCHAR AS run_id, NULL::DOUBLE AS t_s, NULL::FLOAT AS current_a,
    NULL::UTINYINT AS logic WHERE false"""
# The facts of a trace are in its file's metadata; DuckDB gives them as blobs.
_TRACES = """CREATE VIEW traces AS
    WITH facts AS (
        SELECT file_name,
            max(CASE WHEN decode(key) = 't0_s' THEN decode(value)::DOUBLE END) AS t0_s,
            max(CASE WHEN decode(key) = 'dt_s' THEN decode(value)::DOUBLE END) AS dt_s
        FROM parquet_kv_metadata({files}) WHERE decode(key) IN ('t0_s', 'dt_s') GROUP BY file_name
    )
    SELECT parse_filename(filename)[:-{suffix}] AS run_id, t0_s + dt_s * file_row_number AS t_s, current_a, logic
    FROM read_parquet({files}, filename = true, file_row_number = true, union_by_name = true)
    JOIN facts ON filename = file_name"""


def sql(store_path: Path | str, query: str) -> pd.DataFrame:
    """The answer to an SQL query over a store's ``records``, ``runs`` and ``traces``.

    Args:
        store_path: the store's folder.
        query: in DuckDB's SQL.

    Raises:
        ToolMissing: DuckDB is not installed.
        ConfigError: the query is wrong; DuckDB's own words say where.
        StoreError: there is no store, or it cannot be read.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ToolMissing(
            "SQL over the store needs the package duckdb, which is not installed", hint="pip install 'hil-lab[sql]'"
        ) from error
    path = Path(store_path)
    if not (path / DATABASE).is_file():
        raise StoreError(f"{path}: there is no store", hint="it is made by the first run; LAB_STORE says where")
    with duckdb.connect(":memory:") as database:
        _register(database, path)
        try:
            return database.execute(query).df()
        except duckdb.Error as error:
            raise ConfigError(f"the query failed: {error}", hint="the tables are records, runs and traces") from error


def _register(database: duckdb.DuckDBPyConnection, path: Path) -> None:
    with Store(path) as store:
        runs, records = runs_table(store, EVERYTHING), table(store, EVERYTHING, {})
        files = [str(store.trace_path(name)) for name in runs["trace"].dropna()]
    for name, frame in (("runs", runs), ("records", records)):
        if "parameters" in frame:
            frame["parameters"] = [json.dumps(value) for value in frame["parameters"]]
        if "raw" in frame:
            frame["raw"] = [list(value) for value in frame["raw"]]
        database.register(name, frame)
    listed = "[" + ", ".join("'" + file.replace("'", "''") + "'" for file in files) + "]"
    database.execute(_TRACES.format(files=listed, suffix=len(SUFFIX) + 1) if files else _NO_TRACES)
