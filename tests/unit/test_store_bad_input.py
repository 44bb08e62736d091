"""What the store refuses: each refusal is named, says the way out, and overwrites nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.store_runs import START_NS, make_run, make_trace, provenance, same

from lab.errors import StoreError
from measurements.record import Record, Run, Trace
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store import local as local_store
from measurements.store.merge import merge
from measurements.store.traces import write_trace


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        opened.save(make_run(1), make_trace(1))
        yield opened


def unchanged(store: Store) -> None:
    assert store.runs() == [make_run(1)]
    assert same(store.trace(make_run(1).run_id), make_trace(1))
    assert store.outbox_sizes() == (1, 0)
    check = store.verify()
    assert (check.problems, check.leftovers) == ((), ())


def spoilt(**changes: object) -> Run:
    record: Record = replace(make_run(2).records[0], **changes)  # type: ignore[arg-type]
    return replace(make_run(2), records=(make_run(2).records[1], record))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["median", "ci_low", "ci_high", "p95", "p99", "first", "lost_fraction"])
def test_a_figure_that_is_not_finite_is_named(store: Store, field: str, value: float) -> None:
    with pytest.raises(StoreError, match=f"latency of region 'inference' is not a finite number in {field}; it was"):
        store.save(spoilt(**{field: value}), make_trace(2))
    unchanged(store)


def test_a_repeat_that_is_not_finite_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match="is not a finite number in repeat 1; it was not saved") as caught:
        store.save(spoilt(raw=(0.1, math.nan, 0.2)))
    assert "leave out what could not be measured" in caught.value.hint
    unchanged(store)


def test_an_amendment_that_is_not_finite_changes_nothing(store: Store) -> None:
    added = replace(make_run(1).records[0], region="idle", median=math.nan)
    with pytest.raises(StoreError, match="latency of region 'idle' is not a finite number in median"):
        store.amend(replace(make_run(1), status="failed", records=(*make_run(1).records, added)))
    unchanged(store)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda trace: replace(trace, dt_s=0.0), "dt_s of its trace is 0.0"),
        (lambda trace: replace(trace, dt_s=math.nan), "dt_s of its trace is nan"),
        (lambda trace: replace(trace, voltage_v=math.inf), "voltage_v of its trace is inf"),
        (lambda trace: replace(trace, t0_s=-math.inf), "t0_s of its trace is -inf"),
        (
            lambda trace: replace(trace, current_a=np.where(np.arange(200) == 7, np.inf, 1).astype(np.float32)),
            "1 samples of its trace are infinite, the first is sample 7",
        ),
    ],
)
def test_a_trace_of_impossible_numbers_is_named(store: Store, spoil: Callable[[Trace], Trace], words: str) -> None:
    with pytest.raises(StoreError, match=words):
        store.save(make_run(2), spoil(make_trace(2)))
    unchanged(store)


def test_a_lost_sample_is_no_bad_input(store: Store) -> None:
    trace = make_trace(2)
    trace.current_a[3] = np.nan
    store.save(make_run(2), replace(trace, lost=1))
    assert same(store.trace(make_run(2).run_id), replace(trace, lost=1))


# Units


def test_a_metric_in_another_unit_is_named_with_both(store: Store) -> None:
    words = "latency of region 'inference' is in 'ms', the store has latency in 's'"
    with pytest.raises(StoreError, match=words) as caught:
        store.save(spoilt(unit="ms"), make_trace(2))
    assert "one metric has one unit" in caught.value.hint
    unchanged(store)


def test_a_metric_in_two_units_in_one_run_is_named(tmp_path: Path) -> None:
    records = (make_record("a", "energy", "J", "modelled", [1.0]), make_record("b", "energy", "mJ", "modelled", [1.0]))
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match="energy of region 'b' is in 'mJ', the store has energy in 'J'"):
            store.save(make_run(1, records=records))
        assert store.runs() == []


def test_an_amendment_in_another_unit_changes_nothing(store: Store) -> None:
    added = make_record("idle", "latency", "us", "emulated", [1.0])
    with pytest.raises(StoreError, match="is in 'us', the store has latency in 's'"):
        store.amend(replace(make_run(1), records=(*make_run(1).records, added)))
    unchanged(store)


def test_a_mixture_that_an_earlier_lab_let_in_is_found_and_can_be_added_to(store: Store, tmp_path: Path) -> None:
    store.save(make_run(2))
    store._db.execute("UPDATE records SET unit = 'ms' WHERE metric = 'latency' AND run_id = 'run-mcu-0-0002'")
    problems = store.verify().problems
    assert "latency is stored in several units: ms, s" in problems
    store.save(make_run(3))


# The clock


def test_a_run_from_the_future_is_named(store: Store) -> None:
    ahead = replace(make_run(2), started_ns=time.time_ns() + 3600 * 10**9)
    words = r"starts 3(600|599)\.\d+ s after now: the clock of this host went backwards"
    with pytest.raises(StoreError, match=words) as caught:
        store.save(ahead, make_trace(2))
    assert caught.value.transient
    assert "timedatectl" in caught.value.hint
    unchanged(store)


def test_a_clock_that_went_back_behind_the_last_save_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns() - 7200 * 10**9
    monkeypatch.setattr(local_store.time, "time_ns", lambda: now_ns)
    late = replace(make_run(2), started_ns=now_ns - 5)
    with pytest.raises(StoreError, match=r"comes after run run-mcu-0-0001, which was saved here (7200|7199)\."):
        store.save(late, make_trace(2))
    unchanged(store)


def test_what_ntp_does_while_a_run_is_under_way_is_let_pass(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns() - 2 * 10**8
    monkeypatch.setattr(local_store.time, "time_ns", lambda: now_ns)
    store.save(replace(make_run(2), started_ns=now_ns + 10**8))
    assert len(store.runs()) == 2


def test_two_runs_of_one_series_at_one_nanosecond_are_named(store: Store) -> None:
    twin = replace(make_run(2), started_ns=make_run(1).started_ns)
    with pytest.raises(StoreError, match="starts at the very nanosecond of run run-mcu-0-0001 of the same workload"):
        store.save(twin, make_trace(2))
    unchanged(store)
    store.save(replace(twin, provenance=provenance(device="mcu-1")))
    store.save(replace(twin, run_id="run-x", provenance=provenance(workload="vww")))


def test_runs_may_be_saved_in_another_order_than_they_began(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in (3, 1, 2):
            store.save(make_run(number))
        assert [run.started_ns - START_NS for run in store.runs()] == [1e9, 2e9, 3e9]


def test_the_clock_of_another_controller_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "other") as other:
        other.save(make_run(1))
    with Store(tmp_path / "mine") as store:
        merge(store, tmp_path / "other")
        monkeypatch.setattr(local_store.time, "time_ns", lambda: START_NS + 10**11)
        store.save(make_run(2))


# Run ids


def test_a_run_id_with_other_content_is_named(store: Store) -> None:
    other = replace(make_run(2), run_id=make_run(1).run_id)
    with pytest.raises(StoreError, match="holds a run run-mcu-0-0001 with other content; nothing was overwritten"):
        store.save(other, make_trace(2))
    unchanged(store)


def test_a_run_id_with_another_trace_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match="holds a run run-mcu-0-0001 with another trace; nothing was overwritten"):
        store.save(make_run(1), make_trace(2))
    unchanged(store)
    store.save(make_run(1), make_trace(1))
    unchanged(store)


def test_a_trace_that_was_changed_on_the_disk_is_found(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "traces" / "run-mcu-0-0001.parquet"
    write_trace(path, replace(make_trace(1), voltage_v=3.0))
    assert store.verify().problems == (f"{path}: the trace differs from its digest",)
