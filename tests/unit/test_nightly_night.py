"""The night against a scripted bench: health, quarantine, retries, verdicts, the time budget, resuming."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from helpers.scripted_bench import ScriptedBench, devices, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import health, progress
from lab.durable import Json
from lab.errors import (
    CompileError,
    Crash,
    EmulatorError,
    Hang,
    InfrastructureError,
    LabError,
    LeaseLost,
    StoreError,
    ToolMissing,
    TransportError,
    WorkloadError,
)
from lab.nightly.config import Cell, Plan
from lab.nightly.journal import Journal, Outcome, newest
from lab.nightly.night import Night, exit_status, only_one, open_night, unreached_before
from lab.quarantine import Quarantine, quarantined, set_quarantine
from measurements.record import Run
from measurements.report.night import Verdict


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_sink", lambda line: None)


class Killed(BaseException):
    """Stands for the end of the controller: nothing handles it."""


def cells(folder: Path, *keys: str) -> list[Cell]:
    known = devices(folder)
    return [Cell(known[key.partition("/")[0]], key.partition("/")[2]) for key in keys]


def night(folder: Path, bench: ScriptedBench, what: Plan, first: frozenset[str] = frozenset()) -> dict[str, Outcome]:
    """Run a night, or go on with the one that broke off; its outcomes by key."""
    journal, _ = open_night(folder, what, "c0", "20260101-000000-000000", fresh=False, now_s=1000.0)
    Night(what, bench, journal, folder, first, bench.clock, bench.sleep).run()
    return journal.progress.outcomes


def verdicts(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {key: outcome.verdict for key, outcome in outcomes.items()}


# verdicts


def test_every_cell_has_an_outcome_and_the_health_check_comes_first(tmp_path: Path) -> None:
    bench = ScriptedBench()
    outcomes = night(tmp_path, bench, plan(cells(tmp_path, "left/a", "left/b", "m4f/a")))
    assert bench.calls == ["check left", "check m4f", "left/a", "left/b", "m4f/a"]
    assert verdicts(outcomes) == {"left/a": "passed", "left/b": "passed", "m4f/a": "passed"}
    assert outcomes["left/b"].runs == ("run-001",)
    assert outcomes["left/b"].seconds == 1.0


@pytest.mark.parametrize(
    ("error", "verdict", "attempts"),
    [
        (WorkloadError("accuracy 0.1 is below its floor"), "failed", 1),
        (Hang("m4f is silent"), "failed", 1),
        (Crash("hard fault"), "failed", 1),
        (CompileError("operator unknown"), "failed", 1),
        (ValueError("a bug nobody foresaw"), "failed", 1),
        (ToolMissing("no gcc"), "infrastructure", 1),
        (EmulatorError("QEMU died"), "infrastructure", 3),
        (TransportError("port gone", transient=True), "infrastructure", 3),
        (LeaseLost("held by somebody"), "infrastructure", 3),
    ],
)
def test_the_product_and_the_bench_are_kept_apart(
    tmp_path: Path, error: LabError | ValueError, verdict: str, attempts: int
) -> None:
    bench = ScriptedBench(script={"m4f/a": [error] * 9})
    outcomes = night(tmp_path, bench, plan(cells(tmp_path, "m4f/a", "m4f/b"), retries=2))
    assert verdicts(outcomes) == {"m4f/a": verdict, "m4f/b": "passed"}
    assert outcomes["m4f/a"].attempts == attempts
    assert outcomes["m4f/a"].retries == (str(error),) * (attempts - 1)
    assert str(error) in outcomes["m4f/a"].message
    assert bench.slept == [7.0] * (attempts - 1)


def test_a_failure_of_the_bench_that_goes_away_leaves_a_pass_and_its_trace(tmp_path: Path) -> None:
    bench = ScriptedBench(script={"m4f/a": [EmulatorError("QEMU died\nwith a long log"), None]})
    outcome = night(tmp_path, bench, plan(cells(tmp_path, "m4f/a")))["m4f/a"]
    assert (outcome.verdict, outcome.attempts, outcome.retries) == ("passed", 2, ("QEMU died",))


def test_an_unforeseen_error_is_told_with_its_place(tmp_path: Path) -> None:
    bench = ScriptedBench(script={"m4f/a": [ZeroDivisionError("oops")]})
    message = night(tmp_path, bench, plan(cells(tmp_path, "m4f/a")))["m4f/a"].message
    assert "ZeroDivisionError: oops" in message
    assert "scripted_bench.py" in message


def test_a_full_disk_ends_the_night_and_it_goes_on_afterwards(tmp_path: Path) -> None:
    bench = ScriptedBench(script={"m4f/b": [StoreError("disk full"), None]})
    what = plan(cells(tmp_path, "m4f/a", "m4f/b", "m4f/c"))
    with pytest.raises(StoreError, match="disk full"):
        night(tmp_path, bench, what)
    assert verdicts(night(tmp_path, bench, what)) == dict.fromkeys(("m4f/a", "m4f/b", "m4f/c"), "passed")
    assert bench.measured == ["m4f/a", "m4f/b", "m4f/b", "m4f/c"]


def test_a_disk_that_stays_full_is_not_taken_for_a_cell_that_kills_the_controller(tmp_path: Path) -> None:
    bench = ScriptedBench(script={"m4f/a": [StoreError("disk full"), StoreError("disk full"), None]})
    what = plan(cells(tmp_path, "m4f/a"))
    for _ in range(2):
        with pytest.raises(StoreError, match="disk full"):
            night(tmp_path, bench, what)
    assert verdicts(night(tmp_path, bench, what)) == {"m4f/a": "passed"}


def test_a_store_that_fails_the_health_check_makes_no_device_sick(tmp_path: Path) -> None:
    bench = ScriptedBench(health={"left": [StoreError("disk full")]})
    with pytest.raises(StoreError, match="disk full"):
        night(tmp_path, bench, plan(cells(tmp_path, "left/a")))
    assert quarantined(tmp_path) == {}
    assert bench.slept == []


@given(st.sets(st.sampled_from(get_args(Verdict)), min_size=1), st.integers(0, 2))
def test_exit_status(found: set[Verdict], regressions: int) -> None:
    status = exit_status(found, regressions)
    assert (status == 0) == (found == {"passed"} and not regressions)
    assert (status == 1) == ("failed" in found or regressions > 0)
    if status == 4:
        assert found <= {"passed", "unreached"}
    assert status in (0, 1, 3, 4)


# health and quarantine


def test_a_sick_device_is_quarantined_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    bench = ScriptedBench(health={"left": [TransportError("no answer on the port")] * 3})
    what = plan(cells(tmp_path, "left/a", "right/a"), retries=2)
    outcomes = night(tmp_path, bench, what)
    assert verdicts(outcomes) == {"left/a": "unavailable", "right/a": "passed"}
    assert bench.calls == ["check left"] * 3 + ["check right", "right/a"]
    assert bench.slept == [7.0] * 2
    assert "no answer on the port" in outcomes["left/a"].message
    assert quarantined(tmp_path)["left"].reason == "no answer on the port"


def test_a_quarantined_device_stays_out_until_it_is_healed(tmp_path: Path) -> None:
    set_quarantine(tmp_path, "left", Quarantine("smells of smoke", "2026-01-01T00:00:00Z"))
    what = plan(cells(tmp_path, "left/a", "right/a"))
    bench = ScriptedBench()
    outcomes = night(tmp_path, bench, what)
    assert bench.calls == ["check right", "right/a"]
    assert outcomes["left/a"].message == "in quarantine since 2026-01-01T00:00:00Z: smells of smoke"
    set_quarantine(tmp_path, "left", None)
    assert verdicts(night(tmp_path, bench, what)) == {"left/a": "passed", "right/a": "passed"}


def test_a_board_that_alone_of_its_kind_does_not_start_is_sick(tmp_path: Path) -> None:
    bench = ScriptedBench(health={"left": [Hang("silent")]})
    outcomes = night(tmp_path, bench, plan(cells(tmp_path, "left/a", "right/a")))
    assert verdicts(outcomes) == {"left/a": "unavailable", "right/a": "passed"}
    assert set(quarantined(tmp_path)) == {"left"}


def test_where_no_board_of_a_kind_starts_the_image_is_the_suspect(tmp_path: Path) -> None:
    broken: list[BaseException | None] = [Hang("silent")]
    bench = ScriptedBench(
        health={"left": broken[:1], "right": broken[:1]}, script={"left/a": broken[:1], "right/a": broken[:1]}
    )
    outcomes = night(tmp_path, bench, plan(cells(tmp_path, "left/a", "right/a")))
    assert verdicts(outcomes) == {"left/a": "failed", "right/a": "failed"}
    assert quarantined(tmp_path) == {}


def test_an_emulator_is_never_quarantined_for_good(tmp_path: Path) -> None:
    bench = ScriptedBench(health={"m4f": [EmulatorError("cannot start")] * 3})
    outcomes = night(tmp_path, bench, plan(cells(tmp_path, "m4f/a"), retries=2))
    assert verdicts(outcomes) == {"m4f/a": "unavailable"}
    assert quarantined(tmp_path) == {}


def test_an_emulator_that_does_not_start_the_image_leaves_it_to_the_cell(tmp_path: Path) -> None:
    bench = ScriptedBench(health={"m4f": [Hang("silent")]}, script={"m4f/a": [Hang("silent")]})
    outcomes = night(tmp_path, bench, plan(cells(tmp_path, "m4f/a", "twin/a")))
    assert verdicts(outcomes) == {"m4f/a": "failed", "twin/a": "passed"}
    assert quarantined(tmp_path) == {}


@pytest.mark.parametrize("error", [CompileError("does not fit"), WorkloadError("no data"), ValueError("a bug")])
def test_what_is_not_the_devices_fault_does_not_make_it_sick(tmp_path: Path, error: Exception) -> None:
    bench = ScriptedBench(health={"left": [error]}, script={"left/a": [error]})
    assert verdicts(night(tmp_path, bench, plan(cells(tmp_path, "left/a", "left/b")))) == {
        "left/a": "failed",
        "left/b": "passed",
    }


def test_an_unplugged_or_held_device_is_not_sick(tmp_path: Path) -> None:
    bench = ScriptedBench(gone={"left": "not attached"}, health={"right": [LeaseLost("held by ann")]})
    outcomes = night(tmp_path, bench, plan(cells(tmp_path, "left/a", "right/a")))
    assert [(one.verdict, one.message) for one in outcomes.values()] == [
        ("unavailable", "not attached"),
        ("unavailable", "held by ann"),
    ]
    assert quarantined(tmp_path) == {}


def test_a_device_that_fails_cell_after_cell_is_taken_out(tmp_path: Path) -> None:
    dead: list[BaseException | None] = [TransportError("port gone")] * 9
    bench = ScriptedBench(script={"left/a": [None], "left/b": dead[:], "left/c": dead[:], "left/d": dead[:]})
    what = plan(cells(tmp_path, "left/a", "left/b", "left/c", "left/d", "right/a"), retries=0, quarantine_after=2)
    outcomes = night(tmp_path, bench, what)
    assert list(verdicts(outcomes).values()) == ["passed", "infrastructure", "infrastructure", "unavailable", "passed"]
    kept_out = quarantined(tmp_path)["left"]
    assert kept_out.reason == "failed 2 times in a row, under 2 tests; the last one: port gone"
    assert [line.partition(" ")[2] for line in kept_out.evidence] == [
        "nightly left/b: infrastructure: port gone", "nightly left/c: infrastructure: port gone",
    ]  # fmt: skip
    assert [one.verdict for one in health.outcomes(tmp_path, "left")] == ["passed", "infrastructure", "infrastructure"]


def test_what_failed_in_tests_by_day_counts_at_night_until_somebody_heals_the_device(tmp_path: Path) -> None:
    gone = TransportError("port gone")
    what = plan(cells(tmp_path, "left/a", "left/b"), retries=0, quarantine_after=2)
    health.note(tmp_path, health.outcome_of("left", "test_by_day", gone))
    outcomes = night(tmp_path, ScriptedBench(script={"left/a": [gone]}), what)
    assert list(verdicts(outcomes).values()) == ["infrastructure", "unavailable"]
    set_quarantine(tmp_path, "left", None)
    health.note(tmp_path, health.healed("left"))
    outcomes = night(tmp_path, ScriptedBench(script={"left/a": [gone]}), what)
    assert list(verdicts(outcomes).values()) == ["infrastructure", "passed"]


def test_a_device_that_people_take_away_is_not_sick(tmp_path: Path) -> None:
    taken: list[BaseException | None] = [LeaseLost("held by ann")]
    what = plan(cells(tmp_path, "left/a", "left/b", "left/c"), retries=0, quarantine_after=2)
    outcomes = night(tmp_path, ScriptedBench(script={"left/a": taken[:], "left/b": taken[:]}), what)
    assert list(verdicts(outcomes).values()) == ["infrastructure", "infrastructure", "passed"]
    assert quarantined(tmp_path) == {}


def test_an_emulator_that_fails_cell_after_cell_is_left_out_tonight(tmp_path: Path) -> None:
    dead: list[BaseException | None] = [EmulatorError("died")]
    what = plan(cells(tmp_path, "m4f/a", "m4f/b", "m4f/c"), retries=0, quarantine_after=2)
    outcomes = night(tmp_path, ScriptedBench(script={"m4f/a": dead[:], "m4f/b": dead[:]}), what)
    assert list(verdicts(outcomes).values()) == ["infrastructure", "infrastructure", "unavailable"]
    assert quarantined(tmp_path) == {}
    assert health.outcomes(tmp_path, "m4f") == []


def test_what_the_product_does_wrong_again_and_again_takes_no_device_out(tmp_path: Path) -> None:
    wrong: dict[str, list[BaseException | None]] = {
        "left/a": [WorkloadError("wrong")], "left/b": [Hang("silent")], "left/c": [TransportError("port gone")],
    }  # fmt: skip
    what = plan(cells(tmp_path, "left/a", "left/b", "left/c", "left/d"), retries=0, quarantine_after=2)
    outcomes = night(tmp_path, ScriptedBench(script=wrong), what)
    assert list(verdicts(outcomes).values()) == ["failed", "failed", "infrastructure", "passed"]
    assert quarantined(tmp_path) == {}


def test_the_quarantine_survives_others_and_damage_is_named(tmp_path: Path) -> None:
    set_quarantine(tmp_path / "new", "a", Quarantine("x", "t"))
    set_quarantine(tmp_path / "new", "b", Quarantine("y", "t"))
    set_quarantine(tmp_path / "new", "a", None)
    assert quarantined(tmp_path / "new") == {"b": Quarantine("y", "t")}
    (tmp_path / "new" / "quarantine.json").write_text("[1]")
    with pytest.raises(StoreError, match="not a quarantine file"):
        quarantined(tmp_path / "new")
    with pytest.raises(StoreError, match="not a quarantine file"):
        set_quarantine(tmp_path / "new", "c", None)
    assert (tmp_path / "new" / "quarantine.json").read_text() == "[1]"


# time


def test_cells_beyond_the_budget_are_not_reached_and_come_first_the_next_night(tmp_path: Path) -> None:
    what = plan(cells(tmp_path, "m4f/a", "m4f/b", "m4f/c", "m4f/d"), budget=25.0, cell_limit=100.0)
    bench = ScriptedBench(cell_s=10.0)
    assert list(verdicts(night(tmp_path, bench, what)).values()) == ["passed"] * 3 + ["unreached"]
    assert unreached_before(tmp_path) == {"m4f/d"}
    later = ScriptedBench(cell_s=10.0)
    night(tmp_path, later, what, unreached_before(tmp_path))
    assert later.measured == ["m4f/d", "m4f/a", "m4f/b"]


def test_the_budget_counts_what_was_spent_before_a_crash(tmp_path: Path) -> None:
    what = plan(cells(tmp_path, "m4f/a", "m4f/b", "m4f/c"), budget=15.0, cell_limit=100.0)
    bench = ScriptedBench(script={"m4f/b": [Killed()]}, cell_s=10.0)
    with pytest.raises(Killed):
        night(tmp_path, bench, what)
    assert list(verdicts(night(tmp_path, bench, what)).values()) == ["passed", "passed", "unreached"]


def test_where_no_time_is_left_no_device_is_touched(tmp_path: Path) -> None:
    what = plan(cells(tmp_path, "left/a", "m4f/a"), budget=60.0)
    open_night(tmp_path, what, "c0", "n", fresh=False, now_s=1000.0)[0].retry("left/a", "port gone", 60.0)
    bench = ScriptedBench()
    assert verdicts(night(tmp_path, bench, what)) == {"left/a": "unreached", "m4f/a": "unreached"}
    assert bench.calls == []


def test_a_cell_that_does_not_end_is_broken_off(tmp_path: Path) -> None:
    class Endless(ScriptedBench):
        def measure(self, cell: Cell) -> Run:
            if cell.workload == "a":
                signal.pause()
            return super().measure(cell)

    outcomes = night(tmp_path, Endless(), plan(cells(tmp_path, "m4f/a", "m4f/b"), cell_limit=0.05, budget=1000.0))
    assert verdicts(outcomes) == {"m4f/a": "failed", "m4f/b": "passed"}
    assert "may" in outcomes["m4f/a"].message
    outcomes = night(tmp_path, Endless(), plan(cells(tmp_path, "m4f/a"), cell_limit=1000.0, budget=0.05))
    assert verdicts(outcomes) == {"m4f/a": "unreached"}


# resuming


def test_after_a_crash_the_night_goes_on_at_the_cell_where_it_stopped(tmp_path: Path) -> None:
    bench = ScriptedBench(script={"m4f/b": [Killed(), None]})
    what = plan(cells(tmp_path, "m4f/a", "m4f/b", "m4f/c"))
    with pytest.raises(Killed):
        night(tmp_path, bench, what)
    outcomes = night(tmp_path, bench, what)
    assert bench.measured == ["m4f/a", "m4f/b", "m4f/b", "m4f/c"]
    assert verdicts(outcomes) == dict.fromkeys(("m4f/a", "m4f/b", "m4f/c"), "passed")
    assert outcomes["m4f/b"].attempts == 2


def _killed_after(lines: int) -> Callable[[Journal, dict[str, Json]], None]:
    """A journal that dies after so many lines, for odd numbers with half of the next one written."""
    whole, written = Journal._write, 0

    def write(journal: Journal, entry: dict[str, Json]) -> None:
        nonlocal written
        written += 1
        if written <= lines:
            whole(journal, entry)
            return
        if lines % 2 and journal.path.exists():
            with journal.path.open("ab") as stream:
                stream.write(b'{"step": "end", "outc')
        raise Killed

    return write


@settings(max_examples=40)
@given(st.lists(st.integers(0, 11), max_size=3))
def test_wherever_it_is_killed_every_cell_is_passed_once_and_none_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int]
) -> None:
    """The kill comes before a line of the journal is written, or with the line torn in half."""
    folder = tmp_path_factory.mktemp("killed")
    what = plan(cells(folder, "m4f/a", "m4f/b", "m4f/c"))
    bench = ScriptedBench()
    for kill in kills:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "_write", _killed_after(kill))
            with suppress(Killed):
                night(folder, bench, what)
    outcomes = night(folder, bench, what)
    assert verdicts(outcomes) == dict.fromkeys(("m4f/a", "m4f/b", "m4f/c"), "passed")
    last = newest(folder)
    assert last is not None
    assert last.progress.closed
    assert last.progress.outcomes == outcomes


def test_a_device_that_is_back_when_the_night_goes_on_takes_part_again(tmp_path: Path) -> None:
    what = plan(cells(tmp_path, "right/a", "left/a"))
    with pytest.raises(Killed):
        night(tmp_path, ScriptedBench(gone={"left": "not attached"}, script={"right/a": [Killed()]}), what)
    broken = newest(tmp_path)
    assert broken is not None
    assert broken.progress.health == {"left": "not attached"}
    assert verdicts(night(tmp_path, ScriptedBench(), what)) == {"right/a": "passed", "left/a": "passed"}


def test_a_run_that_was_stored_just_before_the_crash_is_not_run_again(tmp_path: Path) -> None:
    what = plan(cells(tmp_path, "m4f/a"))
    bench = ScriptedBench()
    journal, _ = open_night(tmp_path, what, "c0", "n", fresh=False, now_s=0.0)
    journal.begin("m4f/a")
    bench.measure(what.cells[0])
    outcome = night(tmp_path, bench, what)["m4f/a"]
    assert (outcome.verdict, outcome.runs) == ("passed", ("run-000",))
    assert bench.measured == ["m4f/a"]


def test_a_cell_that_kills_the_controller_twice_is_left_alone(tmp_path: Path) -> None:
    bench = ScriptedBench(script={"m4f/a": [Killed(), Killed(), Killed()]})
    what = plan(cells(tmp_path, "m4f/a", "m4f/b"))
    for _ in range(2):
        with pytest.raises(Killed):
            night(tmp_path, bench, what)
    outcomes = night(tmp_path, bench, what)
    assert verdicts(outcomes) == {"m4f/a": "infrastructure", "m4f/b": "passed"}
    assert "died 2 times" in outcomes["m4f/a"].message


def test_what_was_tried_again_is_no_death_of_the_controller(tmp_path: Path) -> None:
    bench = ScriptedBench(script={"m4f/a": [EmulatorError("QEMU died"), Killed(), None]})
    what = plan(cells(tmp_path, "m4f/a"))
    with pytest.raises(Killed):
        night(tmp_path, bench, what)
    outcome = night(tmp_path, bench, what)["m4f/a"]
    assert (outcome.verdict, outcome.attempts, outcome.retries) == ("passed", 3, ("QEMU died",))


def test_another_plan_commit_or_day_begins_a_new_night(tmp_path: Path) -> None:
    what = plan(cells(tmp_path, "m4f/a"))
    other = Plan(what.config, what.devices, what.cells, "f" * 16)

    def opened(plan: Plan, commit: str, now_s: float, *, fresh: bool = False) -> tuple[str, str]:
        night_id = f"night-{len(list(tmp_path.glob('nights/*.jsonl')))}"
        journal, told = open_night(tmp_path, plan, commit, night_id, fresh=fresh, now_s=now_s)
        return journal.progress.night, told

    assert opened(what, "c0", 0.0) == ("night-0", "")
    assert opened(what, "c0", 60.0) == ("night-0", "night night-0 broke off after 0 cells; resumed")
    assert opened(what, "c0", 60.0, fresh=True)[1] == "night night-0 broke off after 0 cells; begun anew as asked"
    assert [
        opened(other, "c0", 60.0)[0],
        opened(other, "c1", 60.0)[0],
        opened(other, "c1", 21 * 3600.0)[0],
    ] == ["night-2", "night-3", "night-4"]


def test_the_newest_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    Journal.create(tmp_path, "20260101-000000", "d", "c0", 1.0).close()
    journal = Journal.create(tmp_path, "20260102-000000", "d", "c1", 2.0)
    steps: list[Callable[[], None]] = [
        lambda: journal.begin("a"),
        lambda: journal.retry("a", "port gone", 3.0),
        lambda: journal.begin("a"),
        lambda: journal.end(Outcome("a", "failed", "why", 2, ("port gone",), ("run-1",), 4.0), 7.0),
        lambda: journal.unwell("left", "sick"),
        journal.close,
    ]
    for step in steps:
        step()
        last = newest(tmp_path)
        assert last is not None
        assert last.progress == journal.progress
    Journal.create(tmp_path, "20251231-000000", "d", "c2", 9.0)
    again = newest(tmp_path)
    assert again is not None
    assert (again.progress.night, again.progress.spent_s) == ("20260102-000000", 7.0)


def test_a_damaged_journal_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    what = plan(cells(tmp_path, "m4f/a"))
    journal, _ = open_night(tmp_path, what, "c0", "n", fresh=False, now_s=0.0)
    for line in ('{"step": "end", "outcome": 3}', '{"step": "end", "outcome": {"cell": "m4f/a", "verdict": "great"}}'):
        text = journal.path.read_text()
        journal.path.write_text(text + line + "\n")
        with pytest.raises(StoreError, match="no journal of a night"):
            newest(tmp_path)
        assert journal.path.read_text() == text + line + "\n"
        journal.path.write_text(text)


def test_a_store_that_cannot_be_written_is_an_error_of_the_bench(tmp_path: Path) -> None:
    (tmp_path / "nights").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        open_night(tmp_path, plan(cells(tmp_path, "m4f/a")), "c0", "n", fresh=False, now_s=0.0)
    with pytest.raises(StoreError, match="cannot be written"), only_one(tmp_path):
        pass


def _hold(folder: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with only_one(folder):
        ready.set()
        done.wait(60.0)


def test_two_nights_at_once_are_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done))
    other.start()
    try:
        assert ready.wait(60.0)
        with pytest.raises(InfrastructureError, match="another `lab nightly`"), only_one(tmp_path):
            pass
    finally:
        done.set()
        other.join()
    with only_one(tmp_path):
        pass
