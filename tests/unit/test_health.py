"""What the outcomes of a device say of it, and that none is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab import health
from lab.errors import BudgetExceeded, Crash, Hang, LeaseLost, MeterError, StoreError, TransportError, WorkloadError
from lab.health import Outcome, Verdict, judge, note, outcome_of, outcomes

_LETTERS: dict[str, Verdict] = {
    ".": "passed", "p": "product", "d": "device", "i": "infrastructure", "h": "healed", "e": "elsewhere",
}  # fmt: skip


def history(text: str) -> list[Outcome]:
    """``a. bd`` is a test that passed and another under which the device failed."""
    return [Outcome("left", word[0], f"2026-11-21T00:00:{at:02d}Z", _LETTERS[word[1]])
            for at, word in enumerate(text.split())]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("", "well"),
        ("a. b. ap", "well"),
        ("ad ad", "well"),
        ("ad bd", "well"),
        ("ad bd c. ad bd", "well"),
        ("ad bd ci", "sick"),
        ("ad ad bd", "sick"),
        ("c. ai bi ad bi", "sick"),
        ("ad ad ad", "suspect"),
        ("b. ad ad ad", "suspect"),
        ("ad b. ad b. ad", "one-test"),
        ("ad bp ad ad", "one-test"),
        ("ad b. ad b. a. ad", "well"),
        ("ad b. ad b. ad ah", "well"),
        ("ad bd cd xh ad bd", "well"),
        ("ad bd cd xh ad bd ad", "sick"),
        ("ap ap ap ap", "well"),
        ("ad ae bd be ce ae bd", "sick"),
    ],
)
def test_judgements(text: str, state: str) -> None:
    assert judge(history(text)).state == state


def test_the_evidence_is_what_failed() -> None:
    found = judge(history("c. ad bi ad"))
    assert [one.test for one in found.evidence] == ["a", "b", "a"]
    assert found.reason == "failed 3 times in a row, under 2 tests"
    assert judge(history("ad b. ad c. ad")).reason == (
        "failed 3 times in a row under a; other tests worked 2 times in between"
    )


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, "passed"),
        (AssertionError("1 == 2"), "product"),
        (WorkloadError("accuracy 0.1"), "product"),
        (BudgetExceeded("too slow"), "product"),
        (Hang("silent"), "device"),
        (Crash("fault"), "device"),
        (TransportError("pulled"), "infrastructure"),
        (MeterError("gone"), "infrastructure"),
        (LeaseLost("taken"), "elsewhere"),
        (StoreError("full"), "elsewhere"),
    ],
)
def test_who_is_to_blame(error: BaseException | None, verdict: str) -> None:
    found = outcome_of("left", "test_a", error, rung="resync", recovery_s=1.25)
    assert found.verdict == verdict
    assert found.trouble == (verdict in ("device", "infrastructure"))
    assert found.error == ("" if error is None else f"{type(error).__name__}: {error}")
    assert "back by resync in 1.2 s" in str(found)


def test_outcomes_come_back_by_device_in_their_order(tmp_path: Path) -> None:
    first, second = outcome_of("left", "a", None), outcome_of("left", "b", Hang("silent"), rung="soft-reset")
    for one in (first, outcome_of("right", "a", None), second):
        note(tmp_path / "store", one)
    assert outcomes(tmp_path / "store", "left") == [first, second]
    assert outcomes(tmp_path / "elsewhere", "left") == []


def test_a_torn_line_and_one_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    note(tmp_path, outcome_of("left", "a", None))
    with (tmp_path / health.FILE).open("a") as log:
        log.write('{"device": "left", "moon_phase": 3}\n{"device": "le')
    note(tmp_path, outcome_of("left", "b", None))
    assert [one.test for one in outcomes(tmp_path, "left")] == ["a", "b"]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    write = (
        "import sys; from pathlib import Path; from lab.health import note, outcome_of\n"
        "for index in range(20): note(Path(sys.argv[1]), outcome_of('left', f'{sys.argv[2]}-{index}', None))"
    )
    running = [subprocess.Popen([sys.executable, "-c", write, str(tmp_path), str(who)]) for who in range(3)]
    assert [one.wait() for one in running] == [0, 0, 0]
    assert len({one.test for one in outcomes(tmp_path, "left")}) == 60


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"health\.jsonl: cannot be written"):
        note(tmp_path / "file", outcome_of("left", "a", None))
