"""The tables of the store, and how a store of an earlier lab becomes one of this lab.

A new store is made by the same steps that bring an old one up to date, so both end with the same tables. Each step
only adds: a process of the lab before it, which has the store open meanwhile, goes on saving.
"""

from __future__ import annotations

import sqlite3

from lab.errors import StoreError

_FIRST = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, session_id TEXT NOT NULL, started_ns INTEGER NOT NULL, status TEXT NOT NULL,
    test TEXT NOT NULL, error TEXT NOT NULL, retries TEXT NOT NULL, provenance TEXT NOT NULL, detail TEXT NOT NULL,
    digest TEXT NOT NULL, trace TEXT
)""",
    "CREATE INDEX runs_by_session ON runs (session_id, started_ns)",
    "CREATE INDEX runs_by_start ON runs (started_ns)",
    """CREATE TABLE records (
    run_id TEXT NOT NULL REFERENCES runs, position INTEGER NOT NULL, region TEXT NOT NULL, metric TEXT NOT NULL,
    unit TEXT NOT NULL, source TEXT NOT NULL, raw BLOB NOT NULL, n INTEGER NOT NULL, median REAL, ci_low REAL,
    ci_high REAL, p95 REAL, p99 REAL, first REAL, alignment TEXT NOT NULL, lost_fraction REAL, note TEXT NOT NULL,
    PRIMARY KEY (run_id, position), UNIQUE (run_id, region, metric)
) WITHOUT ROWID""",
    """CREATE TABLE outbox (
    block INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs, lines BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', answer TEXT NOT NULL DEFAULT ''
)""",
    "CREATE INDEX outbox_by_state ON outbox (state, block)",
    "INSERT INTO meta VALUES ('schema_version', '1')",
)
_SECOND = (
    # How often a run was amended: of two copies of a run, a merge keeps the later one.
    "ALTER TABLE runs ADD COLUMN revision INTEGER NOT NULL DEFAULT 0",
    # SHA-256 of the samples; NULL for traces of an earlier lab.
    "ALTER TABLE runs ADD COLUMN trace_digest TEXT",
    # When the run was saved, by the clock of the host that measured it: a clock that goes backwards is noticed. 0 for
    # runs of an earlier lab, and for those of other hosts.
    "ALTER TABLE runs ADD COLUMN saved_ns INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX runs_by_save ON runs (saved_ns)",
    "CREATE INDEX records_by_metric ON records (metric, unit)",
    "CREATE INDEX outbox_by_run ON outbox (run_id)",
)
_THIRD = (
    # Half-width of what the instrument's class allows at the median; NULL where there is none, and in earlier labs.
    "ALTER TABLE records ADD COLUMN class_uncertainty REAL",
)
_STEPS = (_FIRST, _SECOND, _THIRD)
SCHEMA_VERSION = len(_STEPS)


def version(db: sqlite3.Connection, name: str) -> int:
    """Schema version of a store, 0 where the database holds no table.

    Args:
        db: the database.
        name: its path, for the errors.

    Raises:
        StoreError: the database is another program's, or a newer lab's; it is left as it is.
        sqlite3.Error: it cannot be read.
    """
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not names:
        return 0
    if not {"meta", "runs"} <= names:
        raise StoreError(
            f"{name}: is a database but not a store of this lab; its tables are {sorted(names)}",
            hint="point LAB_STORE at another folder",
        )
    row = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    found = str(row[0]) if row is not None else "none"
    if not found.isdigit() or not 1 <= int(found) <= SCHEMA_VERSION:
        raise StoreError(
            f"{name}: has schema version {found}; this lab knows {SCHEMA_VERSION}. Nothing was changed",
            hint="upgrade the lab, or point LAB_STORE at another folder",
        )
    return int(found)


def migrate(db: sqlite3.Connection, found: int) -> None:
    """Bring a database from version ``found`` (0: empty) to :data:`SCHEMA_VERSION`, all at once or not at all.

    Raises:
        sqlite3.Error: nothing was changed.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in _STEPS[found:]:
            for statement in step:
                db.execute(statement)
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(SCHEMA_VERSION),))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
