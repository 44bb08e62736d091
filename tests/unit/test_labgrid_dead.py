"""Which holders of places are taken for dead, against a model of hearts and a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.labgrid.client import Refused
from lab.labgrid.dead import DeathWatch, release_dead
from lab.labgrid.records import HEARTBEAT, OURS, TTL, Place

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

    def release(self, name: str, acquired: str) -> None:
        if self.refuses:
            raise Refused("no")
        self.released.append((name, acquired))


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
