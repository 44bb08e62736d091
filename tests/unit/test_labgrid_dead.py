"""Who holds or waits and is taken for dead, against a model of hearts and a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Self

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lab.cli import main
from lab.labgrid import client
from lab.labgrid.client import Refused
from lab.labgrid.dead import DeathWatch, LineWatch, cancel_dead, release_dead
from lab.labgrid.records import HEARTBEAT, OURS, TTL, Place, Reservation

HOLDER = f"host/user{OURS}1-abcd"


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def place(beat: int, acquired: str = HOLDER, ttl: str = "10") -> Place:
    return Place("board", acquired, {HEARTBEAT: str(beat), TTL: ttl})


def test_a_heart_that_stands_still_for_the_time_to_live_is_dead_and_not_before() -> None:
    clock = Clock()
    watch = DeathWatch(99.0, clock)
    assert not watch.is_dead(place(1))
    clock.now_s += 9.9
    assert not watch.is_dead(place(1))
    clock.now_s += 0.1
    assert watch.is_dead(place(1))
    assert not watch.is_dead(place(2)), "one beat, and it lives"


@given(steps=st.lists(st.tuples(st.floats(0.0, 30.0), st.booleans()), max_size=40), ttl_s=st.floats(1.0, 20.0))
def test_dead_is_who_was_seen_without_a_beat_for_so_long(steps: list[tuple[float, bool]], ttl_s: float) -> None:
    clock = Clock()
    watch = DeathWatch(99.0, clock)
    beat, seen_s = 0, clock.now_s
    watch.is_dead(place(beat, ttl=repr(ttl_s)))
    for pause_s, beats in steps:
        clock.now_s += pause_s
        if beats:
            beat, seen_s = beat + 1, clock.now_s
        assert watch.is_dead(place(beat, ttl=repr(ttl_s))) == (clock.now_s - seen_s >= ttl_s)


def test_a_new_holder_with_the_same_beat_is_another_heart() -> None:
    clock = Clock()
    watch = DeathWatch(10.0, clock)
    watch.is_dead(place(1))
    clock.now_s += 60
    assert not watch.is_dead(place(1, f"other/user{OURS}2-ef"))


@pytest.mark.parametrize("acquired", ["", "host/person"])
def test_what_labgrids_own_users_hold_never_dies(acquired: str) -> None:
    clock = Clock()
    watch = DeathWatch(1.0, clock)
    for _ in range(3):
        assert not watch.is_dead(place(1, acquired))
        clock.now_s += 1000


@pytest.mark.parametrize("ttl", ["", "soon", "-1", "0", "nan", "inf", "1e9"])
def test_a_place_that_says_nothing_sensible_gets_the_watchers_time(ttl: str) -> None:
    clock = Clock()
    watch = DeathWatch(5.0, clock)
    watch.is_dead(place(1, ttl=ttl))
    clock.now_s += 4.9
    assert not watch.is_dead(place(1, ttl=ttl))
    clock.now_s += 0.1
    assert watch.is_dead(place(1, ttl=ttl))


@dataclass
class _Coordinator:
    """As much of a session as giving back needs."""

    places: list[Place]
    refuses: bool = False
    released: list[tuple[str, str]] = field(default_factory=list)
    waiting: list[Reservation] = field(default_factory=list)

    def release(self, name: str, acquired: str) -> None:
        if self.refuses:
            raise Refused("no")
        self.released.append((name, acquired))
        self.places = [replace(one, acquired="") if one.name == name else one for one in self.places]

    def line(self) -> list[Reservation]:
        return list(self.waiting)

    def cancel(self, token: str) -> None:
        if self.refuses:
            raise Refused("no")
        self.waiting = [one for one in self.waiting if one.token != token]

    def wait_change(self, timeout_s: float) -> None:
        sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@pytest.mark.parametrize("refuses", [False, True])
def test_only_the_dead_ones_holder_is_given_back_for_and_a_refusal_stops_nobody(refuses: bool) -> None:
    clock = Clock()
    watch = DeathWatch(10.0, clock)
    person = Place("theirs", "host/person")
    alive = Place("alive", HOLDER, {HEARTBEAT: "1", TTL: "10"})
    coordinator = _Coordinator([place(1), person, alive], refuses)
    assert release_dead(coordinator, watch) == []  # type: ignore[arg-type]
    clock.now_s += 10
    coordinator.places[2] = Place("alive", HOLDER, {HEARTBEAT: "2", TTL: "10"})
    freed = release_dead(coordinator, watch)  # type: ignore[arg-type]
    assert [one.name for one in freed] == ([] if refuses else ["board"])
    assert coordinator.released == ([] if refuses else [("board", HOLDER)])


WAITS = Reservation("L", HOLDER, "board", "", False, 0.0, 1.0, 60.0)


def test_a_heart_of_a_waiter_is_its_call_to_labgrid() -> None:
    clock = Clock()
    watch = LineWatch(5.0, clock)
    lives, acquired = WAITS, replace(WAITS, token="A", acquired=True)
    person = replace(WAITS, token="P", owner="host/person")
    for _ in range(5):
        assert watch.dead([lives, person, acquired]) == []
        clock.now_s += 1.0
        # labgrid itself prolongs what is acquired.
        lives, acquired = (replace(one, until_s=one.until_s + 1.0) for one in (lives, acquired))
    assert watch.dead([lives, person, acquired]) == [acquired]
    clock.now_s += 5.0
    assert watch.dead([lives, person]) == [lives]
    assert watch.dead([person]) == []
    assert watch.dead([lives]) == [], "one who comes again is another"


@pytest.mark.parametrize("refuses", [False, True])
def test_the_dead_leave_the_line_and_somebody_who_did_it_before_stops_nobody(refuses: bool) -> None:
    clock = Clock()
    watch = LineWatch(10.0, clock)
    coordinator = _Coordinator([], refuses, waiting=[WAITS, replace(WAITS, token="P", owner="host/person")])
    cancel_dead(coordinator, watch, coordinator.line())  # type: ignore[arg-type]
    clock.now_s += 10
    assert cancel_dead(coordinator, watch, coordinator.line()) == [WAITS]  # type: ignore[arg-type]
    assert [one.token for one in coordinator.waiting] == (["L", "P"] if refuses else ["P"])


def test_clean_gives_back_what_the_dead_hold_and_takes_them_out_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = _Coordinator([place(1, ttl="0.2")], waiting=[WAITS])
    monkeypatch.setattr(client, "Coordinator", lambda config: coordinator)
    bench = tmp_path / "bench.yaml"
    bench.write_text("labgrid: {ttl: 1 s}\ndevices: {m: {board: mps2-an386, emulated: true}}\n")
    done = CliRunner().invoke(main, ["--config", str(bench), "labgrid", "clean"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "1 given back"
    assert f"{HOLDER} was taken out of the line for board" in done.output
    assert (coordinator.released, coordinator.waiting) == ([("board", HOLDER)], [])
