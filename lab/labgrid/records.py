"""Places and resources as labgrid's coordinator tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeAlias

Value: TypeAlias = "str | int | float | bool"
Path: TypeAlias = "tuple[str, str, str]"

OURS = "+lab-"
"""Stands in the name under which the lab acquires places, so that nobody else's are ever given back for them."""

_TAG = "lab_"


@dataclass(frozen=True)
class Match:
    """A pattern for resources: exporter, group, class and name, each as ``fnmatch`` knows them."""

    exporter: str
    group: str
    cls: str
    name: str = "*"

    def fits(self, path: Path, cls: str) -> bool:
        """Whether a resource is meant."""
        pairs = zip((*path[:2], cls, path[2]), (self.exporter, self.group, self.cls, self.name), strict=True)
        return all(fnmatchcase(found, pattern) for found, pattern in pairs)

    def __str__(self) -> str:
        return f"{self.exporter}/{self.group}/{self.cls}/{self.name}"


@dataclass(frozen=True)
class Resource:
    """What an exporter offers.

    Attributes:
        path: exporter, group and name.
        cls: labgrid's class: ``NetworkSerialPort``, ``NetworkService``, ``NetworkPowerPort`` …
        params: where it is; a serial port's is known only while it is acquired.
        extra: what else the exporter says: ``proxy``, ``proxy_required``, ``path``, ``broken``.
        acquired: the place that has it, empty while none has.
        available: whether what it stands for is attached.
    """

    path: Path
    cls: str
    params: Mapping[str, Value] = field(default_factory=dict)
    extra: Mapping[str, Value] = field(default_factory=dict)
    acquired: str = ""
    available: bool = True

    @property
    def exporter(self) -> str:
        """Its exporter's name."""
        return self.path[0]

    def __str__(self) -> str:
        return f"{self.path[0]}/{self.path[1]}/{self.cls}/{self.path[2]}"


@dataclass(frozen=True)
class Place:
    """A place of the coordinator.

    Attributes:
        name: its name.
        acquired: who has it (``host/user``), empty while nobody has.
        tags: the lab's own begin with ``lab_``.
        matches: which resources belong to it.
        reserved: token of the reservation for which it is kept, empty where for none.
    """

    name: str
    acquired: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    matches: tuple[Match, ...] = ()
    reserved: str = ""

    @property
    def by_lab(self) -> bool:
        """Whether a lab has it, and not a person with ``labgrid-client``."""
        return OURS in self.acquired

    @property
    def heartbeat(self) -> str:
        """Changes for as long as its holder lives."""
        return self.tags.get(HEARTBEAT, "")

    @property
    def fence(self) -> int:
        """The highest token with which it was ever held; 0 where none was."""
        text = self.tags.get(FENCE, "")
        return int(text) if text.isdecimal() else 0

    @property
    def ttl_s(self) -> float | None:
        """How long its holder's heart may stop; None where nothing sensible stands there."""
        try:
            seconds = float(self.tags.get(TTL, ""))
        except ValueError:
            return None
        return seconds if 0 < seconds < 86400 else None

    @property
    def own_tags(self) -> Mapping[str, str]:
        """Tags that people gave it."""
        return {key: value for key, value in self.tags.items() if not key.startswith(_TAG)}

    def describe(self) -> str:
        """``user@host (pid 12) for 'nightly' since …`` of a lab, else what labgrid knows."""
        if not self.by_lab or OWNER not in self.tags:
            return f"{self.acquired} (labgrid)"
        said = {key: self.tags.get(key, "?") for key in (HOLDER, PID, PURPOSE, SINCE)}
        return f"{said[HOLDER]} (pid {said[PID]}) for '{said[PURPOSE]}' since {said[SINCE]}"

    def having(self, resources: Iterable[Resource]) -> list[Resource]:
        """Which of these belong to it."""
        return [one for one in resources if any(match.fits(one.path, one.cls) for match in self.matches)]

    def lacking(self, resources: Iterable[Resource]) -> list[Match]:
        """Patterns to which nothing fits that is there and works."""
        there = [one for one in resources if one.available or one.acquired == self.name]
        return [match for match in self.matches if not any(match.fits(one.path, one.cls) for one in there)]


@dataclass(frozen=True)
class Reservation:
    """Somebody in the line for places.

    Attributes:
        token: names it.
        owner: who made it (``host/user``).
        wanted: name of the place; empty where it asks for other tags.
        given: the place that is kept for it, empty while none is.
        acquired: whether its owner has acquired that place.
        priority: the higher goes first, then who came first.
        created_s: when it was made, in seconds since the epoch by the coordinator's clock.
        until_s: when labgrid forgets it; rises as long as its owner asks for it.
    """

    token: str
    owner: str
    wanted: str
    given: str
    acquired: bool
    priority: float
    created_s: float
    until_s: float

    @property
    def by_lab(self) -> bool:
        """Whether a lab made it, and not a person with ``labgrid-client``."""
        return OURS in self.owner

    @property
    def person(self) -> str:
        """``user@host``."""
        host, _, user = self.owner.partition(OURS)[0].partition("/")
        return f"{user}@{host}"


OWNER = "lab_owner"
HOLDER = "lab_holder"
PID = "lab_pid"
PURPOSE = "lab_purpose"
SINCE = "lab_since"
HEARTBEAT = "lab_heartbeat"
TTL = "lab_ttl"
FENCE = "lab_fence"
OF_ONE_LEASE = (OWNER, HOLDER, PID, PURPOSE, SINCE, HEARTBEAT, TTL)
"""Tags that go when a lease ends; the fence stays."""
