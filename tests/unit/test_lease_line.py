"""Who is served first, who is told what, and how a device is taken away or lent."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.errors import LabError, LeaseLost
from lab.interrupt import interrupt_main, interruptible, shielded
from lab.lease import BORROWED, Lease, holder, kick, lease, waiting
from lab.waiting_line import Priority, Waiter, WaitingLine


class Waiting(threading.Thread):
    """Somebody who waits for devices, uses one for an instant and writes down that they had it."""

    def __init__(self, folder: Path, name: str, served: list[str], wanted: tuple[str, ...], priority: Priority) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._wanted = wanted
        self._priority = priority
        self._name = name
        self._served = served

    def run(self) -> None:
        with lease(self._wanted, self._name, 60, folder=self._folder, priority=self._priority) as held:
            self._served.append(f"{self._name} {held.record.device}")


def stand_in_line(
    folder: Path, served: list[str], name: str, *wanted: str, priority: Priority = "normal"
) -> Waiting:
    """A waiter that stands in the line when this returns."""
    before = len(waiting(folder=folder))
    thread = Waiting(folder, name, served, wanted, priority)
    thread.start()
    while len(waiting(folder=folder)) == before:
        time.sleep(0.005)
    return thread


def test_who_came_first_is_served_first(tmp_path: Path) -> None:
    served: list[str] = []
    with lease("board", "now", folder=tmp_path):
        line = [stand_in_line(tmp_path, served, f"w{number}", "board") for number in range(6)]
    for one in line:
        one.join()
    assert served == [f"w{number} board" for number in range(6)]


def test_a_person_goes_before_tests_and_those_before_the_night(tmp_path: Path) -> None:
    served: list[str] = []
    with lease("board", "now", folder=tmp_path):
        line = [
            stand_in_line(tmp_path, served, "night", "board", priority="nightly"),
            stand_in_line(tmp_path, served, "tests", "board"),
            stand_in_line(tmp_path, served, "person", "board", priority="interactive"),
        ]
        assert [one.purpose for one in waiting(folder=tmp_path)] == ["person", "tests", "night"]
    for one in line:
        one.join()
    assert served == ["person board", "tests board", "night board"]


def test_who_steps_aside_is_next_after_those_of_a_higher_priority(tmp_path: Path) -> None:
    """One who has a device and cannot use it yet, as while it is held on another host."""
    served: list[str] = []
    for number in range(2):
        with lease("board", "night", folder=tmp_path, priority="nightly") as held:
            # Twice in front: ticket by ticket, down to below the first.
            line = [stand_in_line(tmp_path, served, "night after", "board", priority="nightly")]
            assert not held.outranked()
            line.append(stand_in_line(tmp_path, served, "tests", "board"))
            line.append(stand_in_line(tmp_path, served, "person", "board", priority="interactive"))
            assert held.outranked()
            with held.step_aside(60) as again:
                served.append("night board")
                assert again.token > held.token
                assert (again.record.purpose, again.record.priority) == ("night", "nightly")
        for one in line:
            one.join()
        assert served == ["person board", "tests board", "night board", "night after board"] * (number + 1)
    with lease("board", "a person", folder=tmp_path, priority="interactive") as held:
        last = stand_in_line(tmp_path, served, "person", "board", priority="interactive")
        assert not held.outranked()
    last.join()


def test_a_newcomer_does_not_slip_in_between(tmp_path: Path) -> None:
    """The device is free for an instant, while the first in line still sleeps."""
    line = WaitingLine(tmp_path / "line")
    with line.guarded():
        place = line.join(Waiter(("board",), "ann@bench", 7, "patient", time.time()))
    with pytest.raises(LeaseLost, match=r"goes to ann@bench \(pid 7\) for 'patient', who waited before"):
        lease("board", "newcomer", folder=tmp_path)
    with lease("board", "urgent", folder=tmp_path, priority="interactive"):
        pass
    place.leave()
    with lease("board", "newcomer", folder=tmp_path):
        pass


def test_any_of_several_is_the_first_that_is_free(tmp_path: Path) -> None:
    with lease("a", "one", folder=tmp_path), lease(("a", "b"), "any", folder=tmp_path) as second:
        assert second.record.device == "b"
        with pytest.raises(LeaseLost) as caught:
            lease(("a", "b"), "none left", wait_s=0.05, folder=tmp_path)
    assert "'a' is held by" in caught.value.message
    assert "'b' is held by" in caught.value.message
    assert "for 'any'" in caught.value.message


def test_who_waits_for_another_device_is_in_nobodys_way(tmp_path: Path) -> None:
    served: list[str] = []
    with lease("a", "now", folder=tmp_path):
        line = stand_in_line(tmp_path, served, "for a", "a")
        with lease("b", "other", folder=tmp_path) as held:
            assert held.record.device == "b"
    line.join()


_WAIT = """
import sys
from pathlib import Path
from lab.lease import lease
lease("board", "dies in the line", wait_s=60, folder=Path(sys.argv[1]))
"""


def test_one_who_dies_in_the_line_holds_nobody_up(tmp_path: Path) -> None:
    served: list[str] = []
    with (
        lease("board", "now", folder=tmp_path),
        subprocess.Popen([sys.executable, "-c", _WAIT, str(tmp_path)]) as dying,
    ):
        while not waiting(folder=tmp_path):
            time.sleep(0.01)
        behind = stand_in_line(tmp_path, served, "behind", "board")
        dying.kill()
    behind.join()
    assert served == ["behind board"]
    assert waiting(folder=tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "line").iterdir()) == ["guard", "tickets"]


def test_a_damaged_counter_and_a_damaged_entry_stop_nobody(tmp_path: Path) -> None:
    served: list[str] = []
    with lease("board", "now", folder=tmp_path):
        first = stand_in_line(tmp_path, served, "first", "board")
        (tmp_path / "line" / "tickets").write_text("{")
        (tmp_path / "line" / "1-000000000000.json").write_text("{")
        second = stand_in_line(tmp_path, served, "second", "board")
    first.join()
    second.join()
    assert served == ["first board", "second board"]


def test_a_kicked_holder_is_told_by_whom_and_why_while_it_waits_for_the_device(tmp_path: Path) -> None:
    """The main thread sits in a system call that knows no time-out, as in a driver."""
    silent, _other_end = os.pipe()
    with lease("board", "long run", folder=tmp_path) as held:
        kicker = threading.Timer(0.05, kick, ("board", "the demo is now"), {"folder": tmp_path})
        kicker.start()
        with pytest.raises(LeaseLost, match=r"taken away from this process by .*: the demo is now"), interruptible():
            select.select([silent], [], [])
        kicker.join()
        with pytest.raises(LeaseLost, match="the demo is now"):
            held.check()
        assert holder("board", folder=tmp_path) is None
        with lease("board", "demo", folder=tmp_path) as newer:
            assert newer.record.token >= held.record.token + 2
            with pytest.raises(LeaseLost, match="the demo is now"):
                held.check()
            with lease("other", "x", folder=tmp_path), pytest.raises(LeaseLost, match="for 'demo'"):
                lease("board", "third", folder=tmp_path)
            newer.check()


def test_kicking_nobody_does_nothing(tmp_path: Path) -> None:
    assert kick("board", "why not", folder=tmp_path / "none") is None
    with lease("board", "was here", folder=tmp_path):
        pass
    record = next(tmp_path.glob("*.json")).read_bytes()
    assert kick("board", "why not", folder=tmp_path) is None
    assert next(tmp_path.glob("*.json")).read_bytes() == record


@contextmanager
def lent(monkeypatch: pytest.MonkeyPatch, *leases: Lease) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setenv(BORROWED, ",".join(f"{one.record.device}:{one.record.token}" for one in leases))
        yield


def test_what_a_holder_started_uses_the_holders_device_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease("a", "by hand", folder=tmp_path) as a, lease("b", "by hand", folder=tmp_path) as b:
        with lent(monkeypatch, a, b), lease("b", "lab run", folder=tmp_path) as used:
            assert used.record.token == b.record.token
            used.check()
            with pytest.raises(LeaseLost, match="held by"):
                lease("b", "another", wait_s=0.05, folder=tmp_path)
        b.check()
        assert holder("b", folder=tmp_path) == b.record, "given back by the borrower, not by the holder"


def test_a_loan_ends_with_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease("board", "by hand", folder=tmp_path) as held:
        pass
    named = f"{BORROWED} names device 'board' with token {held.token}"
    with lent(monkeypatch, held), pytest.raises(LeaseLost, match=named):
        lease("board", "lab run", folder=tmp_path)


def test_an_interruption_nobody_takes_is_refused() -> None:
    assert not interrupt_main(LabError("too late"))


def test_clean_up_is_finished_before_an_interruption_comes() -> None:
    steps: list[str] = []

    def work() -> None:
        try:
            steps.append("work")
        finally:
            with shielded():
                assert interrupt_main(LabError("stop"))
                assert not interrupt_main(LabError("a second one"))
                steps.append("clean-up")

    with interruptible(), pytest.raises(LabError, match="stop"):
        work()
    assert steps == ["work", "clean-up"]


def test_other_threads_can_enter_what_only_the_main_thread_can_use() -> None:
    entered: list[bool] = []

    def enter() -> None:
        with interruptible(), shielded():
            entered.append(interrupt_main(LabError("nobody takes it")))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [False]
