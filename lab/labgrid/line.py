"""The line for a place among hosts: labgrid's reservations, which the coordinator keeps in order.

The coordinator lets nobody acquire a place that it keeps for a reservation, so none slips in between, not even with
labgrid's own client. What labgrid does not do is done here: who dies in the line is taken out of it after the
time-to-live (:mod:`lab.labgrid.dead`), and whoever falls out of it while alive, because the coordinator forgot all
reservations when it restarted, stands again where it stood: the priority then says when it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic

from lab.errors import ConfigError
from lab.labgrid.client import Coordinator, Refused
from lab.labgrid.config import LabgridConfig
from lab.labgrid.dead import LineWatch, cancel_dead
from lab.labgrid.records import Place, Reservation
from lab.waiting_line import Priority

RANKS: Mapping[Priority, float] = {"interactive": 1.0, "normal": 0.0, "nightly": -1.0}
"""Priorities as labgrid numbers them; its own client's is 0 where nothing is said."""
HOLDERS_RANK = 100.0
"""Of a holder that has to give its place back for an instant."""
_BEAT_S = 1.0
_LATEST_S = float(2**33)
"""In seconds since the epoch, later than any reservation is made."""


def again(rank: float, created_s: float) -> float:
    """The priority of one who stood in the line before: ahead of all newcomers of its rank, and behind the next rank.

    Args:
        rank: of :data:`RANKS`.
        created_s: when it came first, by the coordinator's clock; who came earlier goes earlier.
    """
    return rank + 1.0 - min(max(created_s, 1.0), _LATEST_S) / _LATEST_S


class Stand:
    """One who stands in the line for a place.

    Args:
        config: the coordinator.
        place: its name.
        rank: of :data:`RANKS`.
        clock: seconds that nobody sets.
    """

    def __init__(self, config: LabgridConfig, place: str, rank: float, clock: Callable[[], float] = monotonic) -> None:
        self._place = place
        self._rank = rank
        self._beat_s = min(_BEAT_S, config.ttl / 4)
        self._clock = clock
        self._watch = LineWatch(config.ttl, clock)
        self._came_s: float | None = None
        self._own: Reservation | None = None
        self._beaten_s = 0.0
        self.first: Reservation | None = None
        """Somebody else for whom the place is kept."""

    def is_next(self, coordinator: Coordinator, place: Place) -> bool:
        """Stay in the line, and tell whether the place is kept for this one; call it at least every second.

        Raises:
            Refused, CoordinatorLost: the coordinator says no, or went away.
            ConfigError: the coordinator keeps another place in its stead.
        """
        if self._own is None or self._clock() - self._beaten_s >= self._beat_s:
            self._beaten_s = self._clock()
            self._own = self._look(coordinator, "" if self._own is None else self._own.token)
        if self._own.given not in ("", self._place):
            raise ConfigError(
                f"labgrid takes place '{self._own.given}' for '{self._place}': it has that name as a tag",
                hint=f"labgrid-client -p {self._own.given} set-tags name=",
            )
        return self._own.given == self._place or place.reserved == self._own.token

    def leave(self, coordinator: Coordinator) -> None:
        """Go; :meth:`is_next` stands in the line again, where it was.

        Raises:
            CoordinatorLost: it went away.
        """
        if self._own is not None:
            with suppress(Refused):
                coordinator.cancel(self._own.token)
        self._own = None

    def _look(self, coordinator: Coordinator, token: str) -> Reservation:
        """Beat, and see who is there; returns this one's own reservation."""
        line = [one for one in coordinator.line(token) if self._place in (one.wanted, one.given)]
        others = [one for one in line if one.token != token]
        self.first = next((one for one in others if one.given == self._place), None)
        cancel_dead(coordinator, self._watch, others)
        own = next((one for one in line if one.token == token), None)
        if own is None:
            priority = self._rank if self._came_s is None else again(self._rank, self._came_s)
            own = coordinator.reserve(self._place, priority)
            self._came_s = self._came_s or own.created_s
        return own
