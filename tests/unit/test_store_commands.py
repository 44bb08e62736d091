"""``lab store …`` by hand: what it prints, what it changes, and its exit status."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from helpers.store_runs import make_run, make_trace

from lab.cli import main
from measurements.store import Store


@pytest.fixture
def folder(private_lab: Path) -> Path:
    with Store(private_lab / "store") as store:
        for number in range(3):
            store.save(make_run(number), make_trace(number))
    return private_lab / "store"


def lab(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["store", *arguments])


def test_verify_a_sound_store(folder: Path) -> None:
    result = lab("verify")
    assert result.exit_code == 0
    assert f"{folder}: 3 runs, 6 records, 3 traces" in result.output
    assert "outbox: 3 blocks wait, 0 were refused" in result.output
    assert result.output.endswith("sound\n")


def test_verify_names_damage_and_fails(folder: Path) -> None:
    (folder / "traces" / "run-mcu-0-0001.parquet").write_bytes(b"no")
    (folder / "traces" / ".x.tmp").write_bytes(b"no")
    result = lab("verify")
    assert result.exit_code == 1
    assert "PROBLEM  " in result.output
    assert "run-mcu-0-0001.parquet: the trace cannot be read" in result.output
    assert "1 files of saves that never finished" in result.output
    assert result.output.endswith("1 problems\n")


def test_verify_the_mirror_needs_one(folder: Path) -> None:
    result = lab("verify", "--mirror")
    assert result.exit_code == 1
    assert "no mirror is configured" in result.output


COMMANDS = [["verify"], ["export", "x"], ["prune", "--keep", "1"], ["mirror"], ["sql", "SELECT 1"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_store_is_named_and_none_is_made(
    private_lab: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("URL", "http://127.0.0.1:1"), ("BUCKET", "lab"), ("TOKEN", "t")):
        monkeypatch.setenv(f"LAB_INFLUX_{name}", value)
    result = lab(*command)
    assert result.exit_code == 1
    assert "there is no store" in result.output
    assert not (private_lab / "store").exists()


def test_merge_several(folder: Path, tmp_path: Path) -> None:
    for name, numbers in (("a", (2, 3)), ("b", (4,))):
        with Store(tmp_path / name) as store:
            for number in numbers:
                store.save(make_run(number), make_trace(number))
    result = lab("merge", str(tmp_path / "a"), str(tmp_path / "b"))
    assert result.exit_code == 0
    assert "a: 1 of 2 runs added" in result.output
    assert "b: 1 of 1 runs added" in result.output
    assert "0 of 2 runs added" in lab("merge", str(tmp_path / "a")).output
    with Store(folder) as store:
        assert len(store.runs()) == 5


def test_merge_names_what_differs(folder: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "a") as store:
        store.save(replace(make_run(1), session_id="another"))
    result = lab("merge", str(tmp_path / "a"))
    assert result.exit_code == 1
    assert "nothing was merged: run run-mcu-0-0001 differs in its provenance" in result.output


def test_export_a_choice(folder: Path, tmp_path: Path) -> None:
    result = lab("export", str(tmp_path / "out"), "--format", "csv", "--since", "2023-11-14T22:13:21", "--traces")
    assert result.exit_code == 0, result.output
    assert "2 runs, 4 records, 2 traces" in result.output
    assert len(pd.read_csv(tmp_path / "out" / "records.csv")) == 4
    again = lab("export", str(tmp_path / "out"), "--format", "csv")
    assert again.exit_code == 1
    assert "nothing was overwritten" in again.output
    assert lab("export", str(tmp_path / "new"), "--since", "tomorrow").exit_code == 1


def test_prune_says_first_and_removes_with_yes(folder: Path) -> None:
    said = lab("prune", "--keep", "1", "--unsent")
    assert "2 runs (0.0 MB of traces) would go; --yes removes them\n  run-mcu-0-0000\n" in said.output
    with Store(folder) as store:
        assert len(store.runs()) == 3
    done = lab("prune", "--keep", "1", "--unsent", "--yes")
    assert (done.exit_code, "2 runs (0.0 MB of traces) removed" in done.output) == (0, True)
    with Store(folder) as store:
        assert store.run_ids() == ["run-mcu-0-0002"]


def test_prune_keeps_what_no_mirror_confirmed(folder: Path) -> None:
    result = lab("prune", "--older-than", "1", "--yes")
    assert "0 runs (0.0 MB of traces) removed" in result.output
    assert "3 runs stay: no mirror has confirmed them; --unsent" in result.output


def test_prune_by_age(folder: Path) -> None:
    with Store(folder) as store:
        store.save(replace(make_run(9), started_ns=time.time_ns()))
    lab("prune", "--older-than", "1", "--unsent", "--yes")
    with Store(folder) as store:
        assert store.run_ids() == ["run-mcu-0-0009"]


def test_prune_traces_and_leftovers(folder: Path) -> None:
    (folder / "traces" / ".x.tmp").write_bytes(b"torn")
    assert "1 files that no run names would go" in lab("prune", "--leftovers").output
    assert (folder / "traces" / ".x.tmp").exists()
    assert "1 files that no run names removed" in lab("prune", "--leftovers", "--yes").output
    assert "1 traces" in lab("prune", "--keep", "2", "--traces-only", "--yes").output
    with Store(folder) as store:
        assert len(store.runs()) == 3
    assert len(list((folder / "traces").iterdir())) == 2


@pytest.mark.parametrize("arguments", [[], ["--yes"], ["--unsent"], ["--older-than", "1", "--until", "2026-01-01"]])
def test_prune_asks_which(folder: Path, arguments: list[str]) -> None:
    result = lab("prune", *arguments)
    assert result.exit_code == 2
    with Store(folder) as store:
        assert len(store.runs()) == 3


def test_sql(folder: Path) -> None:
    query = "SELECT metric, count(*) AS n FROM records GROUP BY 1 ORDER BY 1"
    assert lab("sql", query, "--csv").output == "metric,n\ncycles,3\nlatency,3\n"
    assert lab("sql", query).output.split() == ["metric", "n", "cycles", "3", "latency", "3"]
    wrong = lab("sql", "SELEC")
    assert (wrong.exit_code, "the query failed" in wrong.output) == (1, True)


def test_a_store_copied_by_hand_while_it_is_open_merges(folder: Path, tmp_path: Path) -> None:
    with Store(folder) as store:
        store.save(make_run(7), make_trace(7))
        shutil.copytree(folder, tmp_path / "copy")
    with Store(tmp_path / "central") as store:
        pass
    result = lab("merge", str(tmp_path / "copy"))
    assert "0 of 4 runs added" in result.output
