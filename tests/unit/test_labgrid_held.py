"""A held place is brought back, against a model of the coordinator whose exporter went away and came again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event
from time import monotonic, sleep

import pytest

from lab.errors import LeaseLost, TransportError
from lab.labgrid import held
from lab.labgrid.config import LabgridConfig
from lab.labgrid.held import HeldPlace
from lab.labgrid.records import OURS, Match, Place, Reservation, Resource

NAME, HOLDER = "board", f"host/user{OURS}1-abcd"
PORT = Resource(("bench", "board", "RawSerialPort"), "NetworkSerialPort", acquired=NAME)
SOON_S = 10.0


@dataclass
class Model:
    """One place and one port; ``refusals`` are how often it cannot be acquired, ``thief`` has it in between."""

    refusals: int = 0
    thief: str = ""
    name: str = HOLDER
    lost: bool = False
    own: Place = field(default_factory=lambda: Place(NAME, HOLDER, {}, (Match("*", NAME, "*"),)))
    resources: list[Resource] = field(default_factory=lambda: [PORT])
    changed: Event = field(default_factory=Event)

    def place(self, _: str) -> Place:
        return self.own

    def check(self) -> None: ...

    def close(self) -> None: ...

    def tag(self, _: str, tags: Mapping[str, str]) -> None:
        self.own = replace(self.own, tags={**self.own.tags, **tags})

    def wait(self, holds: Callable[[], bool], _: float) -> bool:
        return holds()

    def wait_change(self, _: float) -> None:
        self.changed.wait(0.01)

    def wake(self) -> None:
        self.changed.set()

    def reserve(self, name: str, priority: float) -> Reservation:
        return Reservation("token", HOLDER, name, "", acquired=False, priority=priority, created_s=0.0, until_s=60.0)

    def cancel(self, _: str) -> None: ...

    def release(self, _: str, __: str) -> None:
        self.own = replace(self.own, acquired="")

    def acquire(self, _: str) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            self.own = replace(self.own, acquired=self.thief)
            raise TransportError("the exporter does not answer yet")
        self.own = replace(self.own, acquired=HOLDER)
        self.resources = [PORT]


@contextmanager
def holding(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldPlace]:
    monkeypatch.setattr(held, "interrupt_main", lambda _: None)
    config = LabgridConfig(coordinator="127.0.0.1:1", reconnect=SOON_S)
    place = HeldPlace(config, model, NAME, 1, {})  # type: ignore[arg-type]
    try:
        yield place
    finally:
        place.release()


def restart_exporter(model: Model) -> None:
    """What it served is another thing now, which the place does not have yet."""
    model.resources = [replace(PORT, acquired="")]
    model.changed.set()


def until_tried(model: Model) -> None:
    end = monotonic() + SOON_S
    while model.refusals and monotonic() < end:
        sleep(0.01)


def check_until_lost(place: HeldPlace) -> None:
    end = monotonic() + SOON_S
    while monotonic() < end:
        place.check()
        sleep(0.01)


def test_a_place_that_it_gave_back_itself_and_could_not_take_at_once_is_taken_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(refusals=2)
    with holding(model, monkeypatch) as place:
        restart_exporter(model)
        until_tried(model)
        place.check()
        assert model.own.acquired == HOLDER


def test_a_place_that_somebody_took_in_between_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(refusals=1, thief="elsewhere/person")
    with holding(model, monkeypatch) as place:
        restart_exporter(model)
        until_tried(model)
        with pytest.raises(LeaseLost, match="taken away from this process: it is held by elsewhere/person"):
            check_until_lost(place)


def test_a_place_that_somebody_gave_back_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    with holding(model, monkeypatch) as place:
        model.own = replace(model.own, acquired="")
        model.changed.set()
        with pytest.raises(LeaseLost, match="given back for this process by somebody else"):
            check_until_lost(place)
