"""``measurements.load``: one call to a table, and any choice of rows equals the same choice made in pandas."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest
from helpers.store_runs import START_NS, make_run, provenance

import measurements
from lab.errors import ConfigError, StoreError
from measurements.frame import COLUMNS
from measurements.statistics import make_record
from measurements.store import Store

START = datetime.fromtimestamp(START_NS // 10**9, tz=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    with Store(path) as store:
        for number in range(12):
            odd = number % 2
            run = make_run(number, device=f"mcu-{number % 3}", workload=("kws", "vww")[odd], session=f"s{number // 6}")
            named = replace(run.provenance, board=f"board-{odd}", variant=("", "int8")[odd], git_commit=f"c{number}")
            store.save(replace(run, provenance=named, status="failed" if number == 7 else "passed"))
    return path


def test_one_row_per_record_with_run_provenance_and_figures(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in (2, 1):
            store.save(make_run(number))
        store.save(make_run(3, records=()))
    frame = measurements.load(tmp_path)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["run_id"]) == ["run-mcu-0-0001"] * 2 + ["run-mcu-0-0002"] * 2
    assert list(frame["metric"]) == ["latency", "cycles"] * 2
    assert frame.loc[0, "raw"] == make_run(1).records[0].raw
    assert frame.loc[0, "parameters"] == {"width": "1"}
    assert frame.loc[0, "board"] == "mps2-an386"
    assert frame.loc[2, "started"] == pd.Timestamp(START_NS + 2_000_000_000, tz="UTC")
    assert str(frame["started"].dtype) == "datetime64[ns, UTC]"
    assert frame.groupby("metric")["median"].mean()["cycles"] == 1001.5


def test_every_figure_of_every_record_is_there(tmp_path: Path) -> None:
    record = make_record("inference", "latency", "s", "hardware", [0.1, 0.3], alignment="marker", lost_fraction=0.01)
    record = replace(record, class_uncertainty=0.002)
    with Store(tmp_path) as store:
        store.save(make_run(1, records=(record,)))
    row = measurements.load(tmp_path).iloc[0]
    for name, value in record.__dict__.items():
        assert row[name] == value
    for name, value in provenance().__dict__.items():
        assert row[name] == value or (value is None and pd.isna(row[name]))


@pytest.mark.parametrize(
    "terms",
    [
        {"workload": "kws"}, {"device": "mcu-1"}, {"board": "board-1"}, {"variant": ""}, {"session": "s1"},
        {"status": "failed"}, {"metric": "cycles"}, {"region": "inference"}, {"source": "emulated"},
        {"commit": "c4"}, {"workload": "vww", "device": "mcu-1", "metric": "latency"}, {"workload": "nothing"},
        {"source": "hardware"},
    ],
)  # fmt: skip
def test_a_choice_is_the_same_as_in_pandas(folder: Path, terms: dict[str, str]) -> None:
    everything = measurements.load(folder)
    assert len(everything) == 24
    columns = {"session": "session_id", "commit": "git_commit"}
    expected = everything
    for name, value in terms.items():
        expected = expected[expected[columns.get(name, name)] == value]
    chosen = measurements.load(folder, **terms)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(chosen, expected.reset_index(drop=True), check_dtype=not expected.empty)
    assert tuple(chosen.columns) == COLUMNS


@pytest.mark.parametrize(
    "since",
    [
        START + timedelta(seconds=4),
        (START + timedelta(seconds=4)).replace(tzinfo=None),
        (START + timedelta(seconds=4)).astimezone(timezone(timedelta(hours=5, minutes=30))),
        (START + timedelta(seconds=4)).isoformat(),
        (START + timedelta(seconds=4)).replace(tzinfo=None).isoformat(),
    ],
)
def test_since_and_until_are_half_open_and_utc_by_default(folder: Path, since: datetime | str) -> None:
    frame = measurements.load(folder, since=since, until=START + timedelta(seconds=6))
    assert sorted({int(run_id[-1]) for run_id in frame["run_id"]}) == [4, 5]


@pytest.mark.parametrize("terms", [{"since": "yesterday"}, {"until": "2026-13-01"}])
def test_what_is_no_time_is_named(folder: Path, terms: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is no time") as caught:
        measurements.load(folder, **terms)  # type: ignore[arg-type]
    assert "2026-11-21" in caught.value.hint


def test_an_empty_span_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no run starts since 2026-02-01 and until 2026-01-01"):
        measurements.load(folder, since="2026-02-01", until="2026-01-01")


def test_no_store_is_an_error_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        measurements.load(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_store_is_an_empty_table(tmp_path: Path) -> None:
    Store(tmp_path).close()
    frame = measurements.load(tmp_path)
    assert (len(frame), tuple(frame.columns)) == (0, COLUMNS)
    assert str(frame["started"].dtype) == "datetime64[ns, UTC]"
