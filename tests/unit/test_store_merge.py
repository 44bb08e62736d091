"""Merging stores: by run id, any number of times, in any order; what differs is named and nothing is overwritten."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.store_runs import earlier_store, make_run, make_trace, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import StoreError
from measurements.record import Run
from measurements.statistics import make_record
from measurements.store import Store, new_run_id
from measurements.store.merge import MergeResult, merge


def fill(folder: Path, numbers: range, device: str = "mcu-0", trace: bool = True) -> Path:
    with Store(folder) as store:
        for number in numbers:
            store.save(make_run(number, device=device), make_trace(number) if trace else None)
    return folder


def content(folder: Path) -> list[tuple[object, ...]]:
    """Every row of the store but the outbox's numbers and this host's own times, and every byte of its traces."""
    with sqlite3.connect(folder / "lab.sqlite") as db:
        names = [row[1] for row in db.execute("PRAGMA table_info(runs)") if row[1] != "saved_ns"]
        rows = db.execute(f"SELECT {', '.join(names)} FROM runs ORDER BY run_id").fetchall()
        rows += db.execute("SELECT * FROM records ORDER BY run_id, position").fetchall()
    return [*rows, *((path.name, path.read_bytes()) for path in sorted((folder / "traces").iterdir()))]


def amended(run: Run, metric: str = "accuracy", value: float = 0.9) -> Run:
    return replace(run, status="failed", records=(*run.records, make_record("run", metric, "1", "emulated", [value])))


def test_runs_traces_and_what_the_mirror_lacks_come_over(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(3))
    fill(tmp_path / "b", range(3, 6), device="mcu-1")
    with Store(tmp_path / "b") as other:
        other.confirm([other.pending()[0].block])
        other.refuse(other.pending()[0].block, "400: no")
        waiting = [block.lines for block in (*other.set_aside(), *other.pending())]
    with Store(tmp_path / "a") as store:
        before = store.outbox_sizes()[0]
        assert merge(store, tmp_path / "b") == MergeResult(runs=3, changed=3)
        assert store.runs()[3:] == [make_run(number, device="mcu-1") for number in range(3, 6)]
        for number in range(3, 6):
            assert same(store.trace(f"run-mcu-1-{number:04}"), make_trace(number))
        assert [block.lines for block in store.pending()[before:]] == waiting
        assert store.verify().problems == ()


def test_merging_again_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(3))
    fill(tmp_path / "b", range(2, 5))
    with Store(tmp_path / "a") as store:
        assert merge(store, tmp_path / "b") == MergeResult(3, 2)
        before, sizes = content(tmp_path / "a"), store.outbox_sizes()
        assert merge(store, tmp_path / "b") == MergeResult(3, 0)
        assert content(tmp_path / "a") == before
        assert store.outbox_sizes() == sizes


def test_the_other_store_is_only_read(tmp_path: Path) -> None:
    fill(tmp_path / "b", range(2))
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.suffix in (".sqlite", ".parquet")}
    with Store(tmp_path / "a") as store:
        merge(store, tmp_path / "b")
    assert {path: path.read_bytes() for path in before} == before


def test_a_store_of_an_earlier_lab_is_merged_and_stays_one(tmp_path: Path) -> None:
    old = earlier_store(tmp_path / "old", 1)
    before = (old / "lab.sqlite").read_bytes()
    with Store(tmp_path / "new") as store:
        assert merge(store, old) == MergeResult(3, 3)
        assert merge(store, old) == MergeResult(3, 0)
        check = store.verify()
        assert (check.runs, check.records, check.traces, check.problems) == (3, 6, 1, ())
        assert store.outbox_sizes() == (3, 0), "what the mirror refused there is tried from here"
    assert (old / "lab.sqlite").read_bytes() == before


def test_the_run_amended_last_stays(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(1), trace=False)
    fill(tmp_path / "b", range(1), trace=False)
    once, twice = amended(make_run(0)), amended(amended(make_run(0)), "loss")
    with Store(tmp_path / "a") as store, Store(tmp_path / "b") as other:
        other.amend(once)
        assert merge(store, tmp_path / "b") == MergeResult(1, 1)
        assert store.runs() == [once]
        other.amend(twice)
        assert merge(other, tmp_path / "a") == MergeResult(1, 0)
        assert other.runs() == [twice]
        assert merge(store, tmp_path / "b") == MergeResult(1, 1)
        assert store.runs() == [twice]
        assert [block.run_id for block in store.pending()] == ["run-mcu-0-0000"] * 3
        assert store.verify().problems == ()


def test_a_status_amended_without_a_record_comes_over(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(1), trace=False)
    fill(tmp_path / "b", range(1), trace=False)
    with Store(tmp_path / "a") as store, Store(tmp_path / "b") as other:
        other.amend(replace(make_run(0), status="failed", error="too slow"))
        assert merge(store, tmp_path / "b").changed == 1
        assert store.run("run-mcu-0-0000").error == "too slow"


def test_a_trace_that_one_store_lacks_comes_over(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(1), trace=False)
    fill(tmp_path / "b", range(1))
    with Store(tmp_path / "a") as store:
        assert merge(store, tmp_path / "b") == MergeResult(1, 1)
        assert same(store.trace("run-mcu-0-0000"), make_trace(0))
        assert merge(store, tmp_path / "b") == MergeResult(1, 0)


@pytest.mark.parametrize("what", ["provenance", "records or status", "traces"])
def test_runs_of_one_id_that_differ_are_named_and_nothing_is_merged(tmp_path: Path, what: str) -> None:
    run = make_run(5)
    other_run, other_trace = {
        "provenance": (replace(run, started_ns=run.started_ns + 1), make_trace(5)),
        "records or status": (replace(run, records=run.records[:1], status="failed"), make_trace(5)),
        "traces": (run, make_trace(6)),
    }[what]
    fill(tmp_path / "a", range(5, 6))
    with Store(tmp_path / "b") as other:
        other.save(make_run(1))
        other.save(other_run, other_trace)
    if what == "records or status":
        with Store(tmp_path / "a") as store:
            store.amend(replace(run, status="error"))
        with Store(tmp_path / "b") as other:
            other.amend(replace(other_run, status="incomplete"))
    before = content(tmp_path / "a")
    with Store(tmp_path / "a") as store, pytest.raises(StoreError, match="nothing was merged") as caught:
        merge(store, tmp_path / "b")
    assert f"run run-mcu-0-0005 differs in its {what}" in caught.value.message
    assert content(tmp_path / "a") == before


def test_a_metric_in_another_unit_is_named_and_nothing_is_merged(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(1))
    with Store(tmp_path / "b") as other:
        other.save(make_run(1, records=(make_record("inference", "energy", "J", "modelled", [1.0]),)))
        other.save(make_run(2, records=(make_record("inference", "latency", "ms", "emulated", [1.0]),)))
    before = content(tmp_path / "a")
    with Store(tmp_path / "a") as store, pytest.raises(StoreError, match="latency is in ms there and in s here"):
        merge(store, tmp_path / "b")
    assert content(tmp_path / "a") == before


def test_damage_does_not_spread(tmp_path: Path) -> None:
    fill(tmp_path / "b", range(2))
    with sqlite3.connect(tmp_path / "b" / "lab.sqlite") as db:
        db.execute("UPDATE records SET median = 1 WHERE run_id = 'run-mcu-0-0001' AND metric = 'cycles'")
    with Store(tmp_path / "a") as store:
        with pytest.raises(StoreError, match=r"run run-mcu-0-0001 differs from its digest .*it is damaged"):
            merge(store, tmp_path / "b")
        assert store.runs() == []


def test_a_damaged_trace_stops_the_merge_and_merging_goes_on_once_it_is_whole(tmp_path: Path) -> None:
    fill(tmp_path / "b", range(3))
    path = tmp_path / "b" / "traces" / "run-mcu-0-0001.parquet"
    whole = path.read_bytes()
    path.write_bytes((tmp_path / "b" / "traces" / "run-mcu-0-0002.parquet").read_bytes())
    with Store(tmp_path / "a") as store:
        with pytest.raises(StoreError, match=r"run-mcu-0-0001\.parquet: differs from its digest") as caught:
            merge(store, tmp_path / "b")
        assert "restore the file" in caught.value.hint
        assert store.run_ids() == ["run-mcu-0-0000"]
        assert (store.verify().problems, store.verify().leftovers) == ((), ())
        path.write_bytes(whole)
        assert merge(store, tmp_path / "b") == MergeResult(3, 2)


def test_no_store_and_the_store_itself_are_named(tmp_path: Path) -> None:
    with Store(tmp_path / "a") as store:
        with pytest.raises(StoreError, match="there is no store to merge"):
            merge(store, tmp_path)
        with pytest.raises(StoreError, match="is the store itself"):
            merge(store, tmp_path / "a")
    assert not (tmp_path / "lab.sqlite").exists()


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shares=st.lists(st.sets(st.integers(0, 9)), min_size=3, max_size=3),
    later=st.sets(st.integers(0, 9)),
    orders=st.lists(st.permutations(range(3)), min_size=2, max_size=2),
)
def test_the_order_of_merging_makes_no_difference(
    tmp_path: Path, shares: list[set[int]], later: set[int], orders: list[list[int]]
) -> None:
    folder = tmp_path / new_run_id()
    for controller, share in enumerate(shares):
        with Store(folder / str(controller)) as store:
            for number in sorted(share):
                store.save(make_run(number), make_trace(number, samples=5))
                if number in later and controller == 0:
                    store.amend(amended(make_run(number)))
    for target, order in zip(("x", "y"), orders, strict=True):
        with Store(folder / target) as store:
            for controller in itertools.chain(order, order[:1]):
                merge(store, folder / str(controller))
    assert content(folder / "x") == content(folder / "y")
    with Store(folder / "x") as store:
        assert store.run_ids() == [f"run-mcu-0-{number:04}" for number in sorted(set().union(*shares))]
