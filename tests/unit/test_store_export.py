"""Exports that pandas, pyarrow and DuckDB read back, SQL over the store, and pruning."""

from __future__ import annotations

import builtins
import json
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.store_runs import make_run, make_trace, same

import measurements
from lab.errors import ConfigError, StoreError, ToolMissing
from measurements.store import Store
from measurements.store.export import FORMATS, Format, export
from measurements.store.merge import merge
from measurements.store.prune import plan, prune
from measurements.store.selection import EVERYTHING, Selection
from measurements.store.sql import sql


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "it's a store"
    with Store(path) as store:
        for number in range(6):
            run = make_run(number, device=f"mcu-{number % 2}")
            store.save(replace(run, error='said "no", then\nnothing'), make_trace(number) if number < 4 else None)
    return path


def read_back(path: Path, kind: Format) -> pd.DataFrame:
    if kind == "parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path) if kind == "csv" else pd.read_json(path, lines=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_comes_back_with_every_figure(folder: Path, tmp_path: Path, kind: Format) -> None:
    with Store(folder) as store:
        result = export(store, tmp_path / "out", kind, EVERYTHING)
    assert (result.runs, result.records, result.traces) == (6, 12, 0)
    assert [path.name for path in result.files] == [f"runs.{kind}", f"records.{kind}"]
    expected = measurements.load(folder)
    records = read_back(tmp_path / "out" / f"records.{kind}", kind)
    assert list(records.columns) == list(expected.columns)
    for name in ("run_id", "metric", "unit", "device", "toolchain", "n"):
        assert list(records[name]) == list(expected[name])
    for name in ("median", "ci_low", "ci_high", "p99", "lost_fraction"):
        np.testing.assert_allclose(records[name], expected[name], rtol=1e-9)
    raw = [value if kind == "parquet" else json.loads(value) for value in records["raw"]]
    assert [tuple(value) for value in raw] == [pytest.approx(value) for value in expected["raw"]]
    assert json.loads(records["parameters"][0]) == {"width": "1"}
    assert list(pd.to_datetime(records["started"], utc=True)) == list(expected["started"])
    runs = read_back(tmp_path / "out" / f"runs.{kind}", kind)
    assert list(runs["error"]) == ['said "no", then\nnothing'] * 6
    assert runs["trace"].notna().sum() == 4


def test_a_choice_is_exported_with_its_traces_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    with Store(folder) as store:
        result = export(store, tmp_path / "out", "csv", Selection(device="mcu-1"), traces=True)
    assert (result.runs, result.records, result.traces) == (3, 6, 2)
    copies = sorted((tmp_path / "out" / "traces").iterdir())
    assert [path.name for path in copies] == ["run-mcu-1-0001.parquet", "run-mcu-1-0003.parquet"]
    for copy in copies:
        assert copy.read_bytes() == (folder / "traces" / copy.name).read_bytes()
    assert pq.read_metadata(copies[0]).num_rows == 200


def test_an_export_overwrites_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "records.csv").write_text("mine")
    with Store(folder) as store, pytest.raises(ConfigError, match=r"records\.csv: is there already; nothing was over"):
        export(store, tmp_path / "out", "csv", EVERYTHING)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["records.csv"]
    assert (tmp_path / "out" / "records.csv").read_text() == "mine"


def test_an_export_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Store(folder) as store, pytest.raises(StoreError, match="file/out: cannot be written: "):
        export(store, tmp_path / "file" / "out", "csv", EVERYTHING)


def test_an_empty_store_is_exported_as_empty_tables(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        export(store, tmp_path / "out", "parquet", EVERYTHING, traces=True)
    assert len(pd.read_parquet(tmp_path / "out" / "records.parquet")) == 0
    assert "run_id" in pd.read_parquet(tmp_path / "out" / "runs.parquet")


def test_duckdb_reads_an_export_without_the_lab(folder: Path, tmp_path: Path) -> None:
    with Store(folder) as store:
        export(store, tmp_path / "out", "parquet", EVERYTHING)
    query = f"SELECT device, median(median) FROM '{tmp_path}/out/records.parquet' WHERE metric = 'cycles' GROUP BY ALL"
    assert sorted(duckdb.sql(query).fetchall()) == [("mcu-0", 1002.0), ("mcu-1", 1003.0)]


# SQL


def test_sql_over_records_equals_pandas(folder: Path) -> None:
    frame = measurements.load(folder)
    answer = sql(folder, "SELECT device, metric, avg(median) AS mean FROM records GROUP BY ALL ORDER BY ALL")
    expected = frame.groupby(["device", "metric"])["median"].mean().reset_index()
    assert answer["mean"].tolist() == pytest.approx(expected["median"].tolist(), rel=1e-12)
    assert answer["device"].tolist() == expected["device"].tolist()
    longest = sql(folder, "SELECT list_max(raw) AS m FROM records WHERE metric = 'latency' ORDER BY run_id")
    assert longest["m"].tolist() == [max(raw) for raw in frame[frame.metric == "latency"].sort_values("run_id")["raw"]]


def test_sql_over_traces_has_time_and_adds_up(folder: Path) -> None:
    answer = sql(
        folder,
        "SELECT run_id, count(*) AS n, min(t_s) AS begin, max(t_s) AS end, sum(current_a::DOUBLE) AS total, "
        "sum(logic) AS high FROM traces GROUP BY run_id ORDER BY begin, run_id",
    )
    with Store(folder) as store:
        for row in answer.itertuples():
            trace = store.trace(str(row.run_id))
            assert trace is not None
            assert row.n == trace.current_a.size == 200
            assert (row.begin, row.end) == (pytest.approx(0.25), pytest.approx(0.25 + 199e-5))
            assert row.total == pytest.approx(float(trace.current_a.astype(np.float64).sum()), rel=1e-12)
            assert row.high == int(trace.logic.sum())
    assert sorted(answer["run_id"]) == sorted(f"run-mcu-{number % 2}-{number:04}" for number in range(4))


def test_sql_joins_runs_and_traces(folder: Path) -> None:
    answer = sql(folder, "SELECT runs.device, count(*) AS n FROM runs JOIN traces USING (run_id) GROUP BY 1 ORDER BY 1")
    assert answer.to_dict("list") == {"device": ["mcu-0", "mcu-1"], "n": [400, 400]}


def test_sql_changes_nothing(folder: Path) -> None:
    before = measurements.load(folder)
    sql(folder, "CREATE OR REPLACE VIEW records AS SELECT 1")
    pd.testing.assert_frame_equal(measurements.load(folder), before)


def test_sql_without_traces_and_without_runs(tmp_path: Path) -> None:
    Store(tmp_path).close()
    assert sql(tmp_path, "SELECT count(*) AS n FROM traces").n[0] == 0
    assert sql(tmp_path, "SELECT count(*) AS n FROM records").n[0] == 0


def test_a_wrong_query_is_named_with_duckdbs_words(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r'the query failed: .*"medan" not found') as caught:
        sql(folder, "SELECT medan FROM records")
    assert caught.value.hint == "the tables are records, runs and traces"


def test_sql_over_no_store_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        sql(tmp_path / "nowhere", "SELECT 1")
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_duckdb_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> ModuleType:
        if name == "duckdb":
            raise ModuleNotFoundError(name)
        return real_import(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "duckdb")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ToolMissing, match="duckdb") as caught:
        sql(folder, "SELECT 1")
    assert "hil-lab[sql]" in caught.value.hint


# Pruning


def confirm_all(store: Store) -> None:
    store.confirm([block.block for block in store.pending()])


def test_what_the_mirror_has_not_confirmed_stays(folder: Path) -> None:
    with Store(folder) as store:
        store.confirm([block.block for block in store.pending() if block.run_id == "run-mcu-0-0000"])
        planned = plan(store, EVERYTHING)
        assert planned.run_ids == ("run-mcu-0-0000",)
        assert len(planned.unsent) == 5
        assert plan(store, EVERYTHING, even_unsent=True).unsent == ()
        assert len(plan(store, EVERYTHING, even_unsent=True).run_ids) == 6


def test_pruned_runs_are_gone_with_all_that_belongs_to_them(folder: Path) -> None:
    with Store(folder) as store:
        kept = store.runs()[3:]
        planned = plan(store, Selection(until="2023-11-14T22:13:23"), even_unsent=True)
        sizes = sum((folder / "traces" / f"run-mcu-{n % 2}-{n:04}.parquet").stat().st_size for n in range(3))
        assert planned.trace_bytes == sizes
        assert len(store.runs()) == 6, "a plan removes nothing"
        prune(store, planned)
        assert store.runs() == kept
        check = store.verify()
        assert (check.runs, check.records, check.traces, check.problems, check.leftovers) == (3, 6, 1, (), ())
        assert {block.run_id for block in store.pending()} == {run.run_id for run in kept}
        prune(store, planned)
        assert store.runs() == kept
    assert len(list((folder / "traces").iterdir())) == 1


def test_the_latest_of_every_series_can_be_kept(folder: Path) -> None:
    with Store(folder) as store:
        confirm_all(store)
        assert plan(store, EVERYTHING, keep=2).run_ids == ("run-mcu-0-0000", "run-mcu-1-0001")
        assert plan(store, Selection(device="mcu-1"), keep=1).run_ids == ("run-mcu-1-0001", "run-mcu-1-0003")
        assert plan(store, EVERYTHING, keep=3).run_ids == ()


def test_traces_alone_can_go_and_their_runs_stay(folder: Path) -> None:
    with Store(folder) as store:
        runs = store.runs()
        planned = plan(store, EVERYTHING, traces_only=True)
        assert (len(planned.run_ids), planned.unsent) == (4, ())
        prune(store, planned)
        assert store.runs() == runs
        assert store.trace("run-mcu-0-0000") is None
        assert (store.verify().traces, store.verify().problems) == (0, ())
        assert store.outbox_sizes() == (6, 0)
        store.save(runs[0], make_trace(0))
        assert same(store.trace("run-mcu-0-0000"), make_trace(0))
    assert len(list((folder / "traces").iterdir())) == 1


def test_files_that_no_run_names_go_and_the_others_stay(folder: Path) -> None:
    (folder / "traces" / ".run-9.parquet.77.tmp").write_bytes(b"torn")
    (folder / "traces" / "run-9.parquet").write_bytes(b"whole, but never committed")
    with Store(folder) as store:
        assert [path.name for path in store.leftovers()] == [".run-9.parquet.77.tmp", "run-9.parquet"]
        assert len(store.remove_leftovers()) == 2
        check = store.verify()
        assert (check.traces, check.problems, check.leftovers) == (4, (), ())


def test_the_space_is_given_back(folder: Path) -> None:
    with Store(folder) as store:
        for number in range(10, 60):
            run = make_run(number)
            store.save(replace(run, detail=replace(run.detail, notes=("x" * 20_000,))))
        before = sum(path.stat().st_size for path in folder.glob("lab.sqlite*"))
        prune(store, plan(store, Selection(since="2023-11-14T22:13:30"), even_unsent=True))
        assert sum(path.stat().st_size for path in folder.glob("lab.sqlite*")) < before / 4
        assert len(store.runs()) == 6


def test_a_store_opened_for_reading_cannot_be_pruned(folder: Path) -> None:
    with Store(folder, read_only=True) as store:
        for refused in (lambda: prune(store, plan(store, EVERYTHING, even_unsent=True)), store.remove_leftovers):
            with pytest.raises(StoreError, match=r"nothing was removed: .*opened for reading only"):
                refused()
        assert len(store.runs()) == 6


def test_a_pruned_run_comes_back_by_a_merge_only(folder: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "copy") as copy:
        merge(copy, folder)
    with Store(folder) as store:
        runs = store.runs()
        prune(store, plan(store, EVERYTHING, keep=2, even_unsent=True))
        merge(store, tmp_path / "copy")
        assert store.runs() == runs


def test_a_run_is_removed_whole_in_one_transaction(folder: Path) -> None:
    with Store(folder) as store:
        store.remove(["run-mcu-0-0000", "unknown"], traces_only=False)
    with sqlite3.connect(folder / "lab.sqlite") as db:
        for table in ("runs", "records", "outbox"):
            query = f"SELECT count(*) FROM {table} WHERE run_id = 'run-mcu-0-0000'"
            assert db.execute(query).fetchone() == (0,)
