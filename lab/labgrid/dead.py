"""Which holders of places have died: those whose heart did not beat for their time-to-live, while somebody looked.

What counts is the clock of the one who looks, from when it saw the last beat: clocks of several hosts need not agree,
and none may be set in the meantime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from lab.labgrid.client import Coordinator, Refused
from lab.labgrid.records import Place


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
