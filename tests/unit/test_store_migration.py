"""A store of every earlier lab opens, is brought up to date whole or not at all, and loses nothing."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from helpers.store_runs import EARLIER, earlier_store, make_run

from lab.errors import StoreError
from measurements.store import Store
from measurements.store.opening import connect
from measurements.store.schema import SCHEMA_VERSION, migrate, version
from measurements.store.traces import trace_digest

KILLS = int(os.environ.get("STORE_KILLS", "12"))
SEED = int(os.environ.get("STORE_SEED", "7"))
VERSIONS = sorted(int(folder.name.removeprefix("v")) for folder in EARLIER.iterdir())


def schema(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "lab.sqlite") as db:
        return dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def rows(folder: Path, table: str, columns: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "lab.sqlite") as db:
        return db.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()


OLD_RUNS = "run_id, session_id, started_ns, status, test, error, retries, provenance, detail, digest, trace"
OLD_RECORDS = "run_id, position, region, metric, unit, source, raw, n, median, ci_low, ci_high, p95, p99, first, note"
OLD_OUTBOX = "block, run_id, lines, state, answer"


def test_there_is_a_store_of_every_earlier_version() -> None:
    assert list(range(1, SCHEMA_VERSION)) == VERSIONS


@pytest.mark.parametrize("number", VERSIONS)
def test_an_earlier_store_is_brought_up_to_date_and_keeps_every_byte(tmp_path: Path, number: int) -> None:
    folder = earlier_store(tmp_path / "old", number)
    tables = (("runs", OLD_RUNS), ("records", OLD_RECORDS), ("outbox", OLD_OUTBOX))
    before = [rows(folder, *table) for table in tables]
    with Store(folder) as store:
        check = store.verify()
        assert (check.runs, check.records, check.traces, check.problems, check.leftovers) == (3, 6, 1, (), ())
        ids = [run.run_id for run in store.runs()]
        assert ids == ["run-1", "run-2", "run-3"]
        assert store.run("run-2").error == "assert 0.97 > 0.98"
        assert store.run("run-2").records[2].median == 0.97
        trace = store.trace("run-1")
        assert trace is not None
        assert trace.current_a.size == 300
        assert store.outbox_sizes() == (2, 1)
        assert gzip.decompress(store.pending()[0].lines).startswith(b"accuracy,board=mps2-an386")
        assert store.set_aside()[0].answer == "400: partial write"
        store.save(make_run(1))
    assert [rows(folder, *table)[: len(old)] for table, old in zip(tables, before, strict=True)] == before
    Store(tmp_path / "new").close()
    assert schema(folder) == schema(tmp_path / "new"), "an old store ends with the tables of a new one"


@pytest.mark.parametrize("number", VERSIONS)
def test_an_earlier_store_that_may_only_be_read_is_left_as_it_is(tmp_path: Path, number: int) -> None:
    folder = earlier_store(tmp_path / "old", number)
    before = (folder / "lab.sqlite").read_bytes()
    with Store(folder, read_only=True) as store:
        assert [run.run_id for run in store.runs()] == ["run-1", "run-2", "run-3"]
        assert store.verify().problems == ()
        with pytest.raises(StoreError, match=r"run run-mcu-0-0001 was not saved: .*opened for reading only"):
            store.save(make_run(1))
        copy = store._opened.copy
        assert copy is not None
    assert not Path(copy.name).exists(), "the copy stays behind"
    assert (folder / "lab.sqlite").read_bytes() == before


def test_an_amended_run_of_an_earlier_lab_can_be_amended_again(tmp_path: Path) -> None:
    folder = earlier_store(tmp_path / "old", 1)
    with Store(folder) as store:
        run = store.run("run-1")
        changed = replace(run, records=(*run.records, replace(make_run(1).records[1], region="idle")))
        store.amend(changed)
        assert store.run("run-1") == changed
        found = store.find("run-1")
        assert found is not None
        assert (found.revision, found.trace_digest) == (1, None)
        trace = store.trace("run-1")
        assert trace is not None
        assert store.with_digest(found).trace_digest == trace_digest(trace)


def test_a_lab_of_the_version_before_goes_on_saving_while_the_store_is_brought_up_to_date(tmp_path: Path) -> None:
    folder = earlier_store(tmp_path / "old", 1)
    old = connect((folder / "lab.sqlite").as_uri())
    row = dict(old.execute("SELECT * FROM runs WHERE run_id = 'run-3'").fetchone()) | {"run_id": "run-4"}
    Store(folder).close()
    names = ", ".join(row)
    old.execute(f"INSERT INTO runs ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    old.close()
    with Store(folder) as store:
        assert store.run_ids() == ["run-1", "run-2", "run-3", "run-4"]
        assert store.outbox_sizes() == (2, 1)


@pytest.mark.parametrize("value", ["0", "none", "3.5", str(SCHEMA_VERSION + 1)])
def test_a_version_that_this_lab_does_not_know_is_named(tmp_path: Path, value: str) -> None:
    folder = earlier_store(tmp_path / "old", 1)
    with sqlite3.connect(folder / "lab.sqlite") as db:
        db.execute("UPDATE meta SET value = ?", (value,))
    for read_only in (False, True):
        with pytest.raises(StoreError, match=f"has schema version {value}; this lab knows .* Nothing was changed"):
            Store(folder, read_only=read_only)


# Kills. The first kind falls on a step of SQLite's machine inside the migration, the second at any moment.


def migrate_and_die(folder: Path, steps: int) -> None:
    """Migrate, and be killed by kill -9 after so many steps of SQLite's machine."""
    db = connect((folder / "lab.sqlite").as_uri())
    found = version(db, "lab.sqlite")
    left = steps

    def count() -> int:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    db.set_progress_handler(count, 1)
    migrate(db, found)


def steps_of_a_migration(folder: Path) -> int:
    db = connect((folder / "lab.sqlite").as_uri())
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    db.set_progress_handler(count, 1)
    migrate(db, 1)
    db.close()
    return steps


def test_a_migration_that_is_killed_is_whole_or_not_there(tmp_path: Path) -> None:
    steps = steps_of_a_migration(earlier_store(tmp_path / "count", 1))
    rng = random.Random(SEED)
    folder = earlier_store(tmp_path / "old", 1)
    context = multiprocessing.get_context("fork")
    killed = outlived = 0
    while killed < KILLS:
        process = context.Process(target=migrate_and_die, args=(folder, rng.randrange(1, steps + 1)))
        process.start()
        process.join()
        if process.exitcode == 0:  # some steps depend on where the pages lie: it was done before its step came
            outlived += 1
            folder = earlier_store(tmp_path / f"old-{outlived}", 1)
            continue
        killed += 1
        assert process.exitcode == -signal.SIGKILL
        with sqlite3.connect(folder / "lab.sqlite") as db:
            assert db.execute("SELECT value FROM meta").fetchone() == ("1",)
            names = {row[1] for row in db.execute("PRAGMA table_info(runs)")}
        assert "revision" not in names, "half a migration was kept"
        with Store(folder, read_only=True) as store:
            assert store.verify().problems == ()
    with Store(folder) as store:
        check = store.verify()
    assert (check.runs, check.records, check.problems) == (3, 6, ())


def open_and_tell(folder: Path, acknowledge: Connection) -> None:
    acknowledge.send("here")
    with Store(folder) as store:
        store.save(make_run(1))
        acknowledge.send("saved")


def test_opening_an_earlier_store_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    context = multiprocessing.get_context("fork")
    for number in range(KILLS):
        folder = earlier_store(tmp_path / str(number), 1)
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=open_and_tell, args=(folder, writer))
        process.start()
        writer.close()
        assert reader.recv() == "here"
        time.sleep(rng.uniform(0.0, 0.03))  # not to wait for anything: the kill is to fall anywhere in the opening
        process.kill()
        process.join()
        try:
            saved = reader.recv() == "saved"
        except EOFError:
            saved = False
        with Store(folder) as store:
            assert store.verify().problems == ()
            ids = store.run_ids()
        assert ids[:3] == ["run-1", "run-2", "run-3"]
        assert ids[3:] in ([["run-mcu-0-0001"]] if saved else [[], ["run-mcu-0-0001"]])
