"""Which holders of places have died: those whose heart did not beat for their time-to-live, while somebody looked.

So with those who wait: the heart of a reservation is the time until which labgrid keeps it, which rises with every call
of its owner's. labgrid's own minute for that is longer than most times-to-live.

What counts is the clock of the one who looks, from when it saw the last beat: clocks of several hosts need not agree,
and none may be set in the meantime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from lab.labgrid.client import Coordinator, Refused
from lab.labgrid.records import Place, Reservation


@dataclass(frozen=True)
class _Seen:
    acquired: str
    heartbeat: str
    since_s: float


class DeathWatch:
    """Watches hearts.

    Args:
        ttl_s: where a place does not say how long its holder's heart may stop.
        clock: seconds that nobody sets.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def is_dead(self, place: Place) -> bool:
        """Whether a place is held by a lab whose heart has stopped for longer than it may; never one of labgrid's."""
        if not place.by_lab:
            self._seen.pop(place.name, None)
            return False
        now = self._clock()
        seen = self._seen.get(place.name)
        if seen is None or (seen.acquired, seen.heartbeat) != (place.acquired, place.heartbeat):
            self._seen[place.name] = _Seen(place.acquired, place.heartbeat, now)
            return False
        return now - seen.since_s >= (place.ttl_s or self._ttl_s)


class LineWatch:
    """Watches the hearts of those who wait.

    Args:
        ttl_s: how long one may stop.
        clock: seconds that nobody sets.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}

    def dead(self, line: Sequence[Reservation]) -> list[Reservation]:
        """Who has died of those who wait now; never one of labgrid's own users."""
        now = self._clock()
        seen = {}
        for one in line:
            if one.by_lab:
                # labgrid itself prolongs what is acquired, and a lab has no use for that.
                beat = 0.0 if one.acquired else one.until_s
                last = self._seen.get(one.token)
                seen[one.token] = last if last is not None and last[0] == beat else (beat, now)
        self._seen = seen
        return [one for one in line if one.by_lab and now - seen[one.token][1] >= self._ttl_s]


def cancel_dead(coordinator: Coordinator, watch: LineWatch, line: Sequence[Reservation]) -> list[Reservation]:
    """Take those who have died out of the line; call it again and again.

    Args:
        coordinator: a session.
        watch: keeps what was seen from call to call.
        line: as it is now.

    Returns:
        Who was taken out.

    Raises:
        CoordinatorLost: the coordinator went away.
    """
    dead = watch.dead(line)
    for one in dead:
        # Somebody else may have done it.
        with suppress(Refused):
            coordinator.cancel(one.token)
    return dead


def release_dead(coordinator: Coordinator, watch: DeathWatch) -> list[Place]:
    """Give back all places of dead holders; call it again and again.

    Returns:
        What was given back, as it was.

    Raises:
        CoordinatorLost: the coordinator went away.
    """
    freed = []
    for place in coordinator.places:
        if watch.is_dead(place):
            try:
                # Compared by the coordinator: whoever acquired it since the last change that came here keeps it.
                coordinator.release(place.name, place.acquired)
            except Refused:
                continue
            freed.append(place)
    return freed
