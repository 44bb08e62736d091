"""The line for a place, against a model of labgrid's coordinator: who is next, who is dead, who comes back where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ConfigError
from lab.labgrid.client import Refused
from lab.labgrid.config import LabgridConfig
from lab.labgrid.line import RANKS, Stand, again
from lab.labgrid.records import OURS, Place, Reservation

CONFIG = LabgridConfig(ttl=8.0)
_SECONDS = st.floats(1.6e9, 4.0e9)


@dataclass
class Model:
    """As much of a coordinator as the line needs: it gives a free place to the first, and lets the first acquire it."""

    now_s: float = 1.8e9
    waiting: dict[str, Reservation] = field(default_factory=dict)
    made: int = 0
    given: str = "desk"
    name: str = ""

    def reserve(self, place: str, priority: float) -> Reservation:
        self.made += 1
        token = f"T{self.made}"
        one = Reservation(token, f"{self.name}{OURS}1", place, "", False, priority, self.now_s, self.now_s + 60)
        self.waiting[token] = one
        return next(found for found in self.line() if found.token == token)

    def cancel(self, token: str) -> None:
        if self.waiting.pop(token, None) is None:
            raise Refused("no such reservation")

    def line(self, token: str = "") -> list[Reservation]:
        if token in self.waiting:
            self.waiting[token] = replace(self.waiting[token], until_s=self.now_s + 60)
        found = sorted(self.waiting.values(), key=lambda one: (-one.priority, one.created_s))
        return [replace(one, given=self.given if one is found[0] else "") for one in found]


def stand_of(model: Model, rank: float = 0.0) -> Stand:
    """The coordinator and all who wait have one clock."""
    return Stand(CONFIG, "desk", rank, lambda: model.now_s)


def is_next(stand: Stand, model: Model, name: str) -> bool:
    model.name, model.now_s = f"host/{name}", model.now_s + 1.0
    return stand.is_next(model, Place("desk"))  # type: ignore[arg-type]


def served(model: Model, stands: dict[str, Stand]) -> list[str]:
    """Everybody in the order in which the place is theirs, each of whom leaves with it."""
    order = []
    while stands:
        (name,) = [name for name, stand in stands.items() if is_next(stand, model, name)]
        stands.pop(name).leave(model)  # type: ignore[arg-type]
        order.append(name)
    return order


def test_a_line_that_was_forgotten_is_the_same_again_whoever_comes_back_first() -> None:
    now = Model()
    ranks = {"night": "nightly", "a": "normal", "b": "normal", "person": "interactive", "c": "normal"}
    stands = {name: stand_of(now, RANKS[rank]) for name, rank in ranks.items()}  # type: ignore[index]
    for name, stand in stands.items():
        is_next(stand, now, name)
    now.waiting.clear()
    for name in ("c", "night", "b", "person", "a"):
        is_next(stands[name], now, name)
        # Twice: they come back to where they came first, not to where they came back.
        now.waiting.clear() if name == "person" else None
    stands["newcomer"] = stand_of(now)
    is_next(stands["newcomer"], now, "newcomer")
    for name in ("b", "a", "night", "c", "person"):
        is_next(stands[name], now, name)
    assert served(now, stands) == ["person", "a", "b", "c", "newcomer", "night"]


@given(first=_SECONDS, later=st.floats(0.001, 1e6), rank=st.sampled_from(sorted(RANKS.values())))
def test_who_comes_back_is_ahead_of_newcomers_and_behind_the_next_rank(first: float, later: float, rank: float) -> None:
    assert rank < again(rank, first + later) < again(rank, first) < rank + 1.0


def test_who_dies_in_the_line_is_taken_out_by_those_behind_and_comes_back_to_its_place() -> None:
    now = Model()
    hangs, behind = stand_of(now), stand_of(now)
    assert is_next(hangs, now, "hangs")
    assert not is_next(behind, now, "behind")
    assert behind.first is not None
    assert behind.first.person == "hangs@host"
    began = now.now_s
    while not is_next(behind, now, "behind"):
        assert now.now_s - began <= CONFIG.ttl + 2.0
    assert now.now_s - began >= CONFIG.ttl - 1.0
    # It only hung: it stands before whoever has come since, and the coordinator decides.
    assert is_next(hangs, now, "hangs")
    assert not is_next(behind, now, "behind")


def test_a_place_that_bears_the_name_of_another_as_a_tag_is_told() -> None:
    now = Model(given="shelf")
    with pytest.raises(ConfigError, match="labgrid takes place 'shelf' for 'desk'"):
        is_next(stand_of(now), now, "a")


def test_a_priority_is_a_finite_number_whatever_the_coordinators_clock_says() -> None:
    for created_s in (-1.0, 0.0, 1e12, math.inf):
        assert 0.0 <= again(0.0, created_s) < 1.0
