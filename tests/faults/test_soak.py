"""A short soak; and that a soak sees what is lost and what is judged wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import soak
from faults.soak import Asked
from helpers.toolchain import entry, needs_host_compiler

from lab.doctor import availability

BAD = """
import os
from pathlib import Path
from helpers.store_runs import make_run
from measurements.store import Store

def test_that_loses_a_run_and_fails(tmp_path):
    with Store(tmp_path / "store") as store:
        store.save(make_run(1))
        store.remove(["run-mcu-0-0001"], traces_only=False)
    raise AssertionError("not what the catalogue says")
"""


@needs_host_compiler
def test_a_short_soak_loses_nothing_and_judges_rightly(capsys: pytest.CaptureFixture[str]) -> None:
    if reason := next(filter(None, (availability(entry(name)) for name in soak.HEALTHY)), ""):
        pytest.skip(reason)
    few = ("--faults", "3", "--only", "InfluxDB or locked or clock", "--folder", f"{soak.FOLDER}/test_store_faults.py")
    status = soak.main(["--seconds", "3600", "--seed", "7", "--processes", "1", *few])
    told = capsys.readouterr().out
    assert status == 0, told
    assert "--seed 7" in told
    assert "faults met          3\n" in told
    assert "healthy runs        3\n" in told
    assert "records lost        0\nwrong verdicts      0\n" in told


def test_what_is_lost_or_wrong_is_counted(tmp_path: Path) -> None:
    (tmp_path / "test_bad.py").write_text(BAD)
    started = soak.started(Asked(3600.0, 1, str(tmp_path), faults=2), 1, tmp_path / "scratch")
    assert started.wait(soak.GRACE_S) == 0
    outcome = soak.read(tmp_path / "scratch")
    assert outcome.acknowledged == 4, "two records in each of two runs"
    assert len(outcome.lost) == 2
    assert len(outcome.wrong) == 2
    assert "not what the catalogue says" in outcome.wrong[0]
    outcome.healthy = 1
    assert outcome.status == 1
    assert "records lost        2\nwrong verdicts      2\nLOST 2 records of run-mcu-0-0001" in outcome.table()


def test_a_process_that_dies_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"outcome\.json"):
        soak.read(tmp_path)


def test_a_soak_that_did_nothing_shows_nothing() -> None:
    assert soak.Outcome().status == 1
