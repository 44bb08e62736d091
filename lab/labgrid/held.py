"""A place that is held: its heart beats, and what goes away around it is brought back, or told.

labgrid keeps a place acquired for ever where its holder dies, forgets who had it where the coordinator restarts, and
keeps what an exporter that restarted no longer serves. Here the heart is a tag that changes: whoever wants the place
gives it back for a dead holder (:mod:`lab.labgrid.dead`). A coordinator or exporter that comes back in time is made use
of again, under the same token; one that does not ends the run as an infrastructure error.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic

from lab.errors import InfrastructureError, LeaseLost, TransportError
from lab.interrupt import interrupt_main
from lab.labgrid import records
from lab.labgrid.client import Coordinator
from lab.labgrid.config import LabgridConfig
from lab.labgrid.line import HOLDERS_RANK
from lab.labgrid.records import FENCE, HEARTBEAT, OF_ONE_LEASE, Place, Resource, Value

_WATCH_S = 1.0
_POLL_S = 0.1
_UNNOTICED_S = 2.0
"""How long the main thread may go on without having met that its connection broke, before it is told."""
_SERVED_S = 15.0

Wiring = Mapping[records.Path, Mapping[str, Value]]


class HeldPlace:
    """A place of a coordinator, acquired by this process.

    Args:
        config: the coordinator.
        coordinator: a session under whose name the place is acquired; closed by :meth:`release`.
        name: the place.
        token: of the lease.
        tags: what to write to the place: who holds it, and why.
        lent: whether it is held by the process that started this one, which also lets its heart beat.

    Raises:
        InfrastructureError: its resources are not served.
    """

    def __init__(
        self,
        config: LabgridConfig,
        coordinator: Coordinator,
        name: str,
        token: int,
        tags: Mapping[str, str],
        *,
        lent: bool = False,
    ) -> None:
        self.name = name
        self.token = token
        self._config = config
        self._coordinator = coordinator
        self._tags = {**tags, FENCE: str(token)}
        self._lent = lent
        self._beats = 0
        self._had: frozenset[records.Path] = frozenset()
        self._used: Wiring | None = None
        self._state = threading.Condition()
        self._broken: InfrastructureError | None = None
        self._failed: InfrastructureError | None = None
        self._noticed = True
        self._forgotten = False
        self._stopped = threading.Event()
        self._settle()
        self._thread = threading.Thread(target=self._watch, name=f"labgrid-{name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the place is held and served; waits while what went away is being brought back.

        Raises:
            LeaseLost: somebody else has it.
            InfrastructureError: the coordinator or an exporter did not come back in time.
        """
        with self._state:
            self._noticed = True
            while self._broken is not None and self._failed is None:
                self._state.wait(_WATCH_S)
            if self._failed is not None:
                raise self._failed
            if self._stopped.is_set():
                raise LeaseLost(f"the lease of place '{self.name}' has been released")

    def resources(self) -> list[Resource]:
        """What the place has now; what was made of an earlier answer is to be made anew.

        Raises:
            LeaseLost, InfrastructureError: as :meth:`check`.
        """
        self.check()
        found = self._own()
        with self._state:
            self._used = _wiring(found)
        return found

    def release(self) -> None:
        """Give the place back; safe to call twice. Where the coordinator is gone it falls free by itself."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._coordinator.wake()
        self._thread.join()
        coordinator = self._coordinator
        place = coordinator.place(self.name)
        if not self._lent and place is not None and place.acquired == coordinator.name:
            with suppress(InfrastructureError):
                coordinator.tag(self.name, dict.fromkeys(OF_ONE_LEASE, ""))
                coordinator.release(self.name, coordinator.name)
        coordinator.close()

    def _settle(self) -> None:
        """Write down who holds it, and wait until everything it has is served."""
        coordinator = self._coordinator
        if not self._lent:
            self._beat()
        # Answers and news come on two streams: what was done is known here only once it has been told.
        coordinator.wait(lambda: self._known() and not self._unserved(), _SERVED_S)
        self._still_mine(self._place())
        if unserved := self._unserved():
            raise self._absent(unserved)
        self._had = frozenset(one.path for one in self._own())

    def _known(self) -> bool:
        place = self._coordinator.place(self.name)
        return place is not None and bool(place.acquired) and place.fence >= self.token

    def _beat(self) -> None:
        self._beats += 1
        beat = {HEARTBEAT: str(self._beats)}
        # All of them every time: the coordinator may have forgotten some when it restarted.
        self._coordinator.tag(self.name, {**self._tags, **beat})

    def _watch(self) -> None:
        beaten = monotonic()
        while not self._stopped.is_set():
            self._coordinator.wait_change(min(_WATCH_S, self._config.ttl / 3))
            if self._stopped.is_set():
                return
            try:
                self._inspect()
                if not self._lent and monotonic() - beaten >= self._config.ttl / 3:
                    beaten = monotonic()
                    self._beat()
            except LeaseLost as lost:
                self._fail(lost)
                return
            except InfrastructureError as broken:
                if not self._heal(broken):
                    return

    def _inspect(self) -> None:
        """Look whether all is as it was.

        Raises:
            LeaseLost: the place is somebody else's, or nobody's.
            InfrastructureError: the coordinator, an exporter or what it serves is gone.
        """
        self._coordinator.check()
        self._still_mine(self._place())
        serving = {one.path for one in self._own() if one.available and one.acquired == self.name}
        if gone := self._had - serving:
            raise self._absent("/".join(path) for path in sorted(gone))

    def _still_mine(self, place: Place) -> None:
        mine = place.by_lab and place.acquired != "" if self._lent else place.acquired == self._coordinator.name
        if mine and place.fence <= self.token:
            return
        if place.acquired:
            raise LeaseLost(f"place '{self.name}' was taken away from this process: it is held by {place.describe()}")
        raise LeaseLost(
            f"place '{self.name}' was given back for this process by somebody else",
            hint="by `labgrid-client release --kick`, `lab labgrid kick`, or because its heart stood still for longer "
            f"than {self._config.ttl:g} s",
        )

    def _heal(self, broken: InfrastructureError) -> bool:
        """Bring back what went away; False where that failed, or the lease ended."""
        began = monotonic()
        with self._state:
            self._broken, self._noticed = broken, False
        while not self._stopped.is_set():
            try:
                self._mend()
            except LeaseLost as lost:
                return self._fail(lost)
            except InfrastructureError as error:
                if monotonic() - began >= self._config.reconnect:
                    return self._fail(self._given_up(error))
            else:
                break
            self._tell(broken, began)
            self._stopped.wait(_POLL_S)
        with self._state:
            self._broken = None
            self._state.notify_all()
        # A connection that leads nowhere may stay silent for ever.
        while not self._stopped.is_set() and self._stale():
            self._tell(broken, began)
            self._stopped.wait(_POLL_S)
        return True

    def _stale(self) -> bool:
        with self._state:
            return not self._noticed and self._used is not None and self._used != _wiring(self._own())

    def _tell(self, broken: InfrastructureError, began: float) -> None:
        with self._state:
            if self._noticed or self._used is None or monotonic() - began < _UNNOTICED_S:
                return
            self._noticed = True
        interrupt_main(TransportError(broken.message, hint=broken.hint, transient=True))

    def _mend(self) -> None:
        if self._coordinator.lost:
            again = Coordinator(self._config, self._coordinator.name)
            self._coordinator.close()
            self._coordinator = again
            # A coordinator that restarted knows of no holders.
            self._forgotten = not self._lent
        coordinator, place = self._coordinator, self._place()
        if not self._forgotten or place.acquired or place.fence > self.token:
            self._still_mine(place)
        if lacking := place.lacking(coordinator.resources):
            raise self._absent(map(str, lacking))
        if place.acquired and self._served(place):
            self._forgotten = False
            return
        if self._lent:
            raise self._absent([f"what '{self.name}' has"])
        # Once it is given back it goes to whoever waits, unless its holder stands before them.
        own = coordinator.reserve(self.name, HOLDERS_RANK)
        try:
            if place.acquired:
                # It still has what the exporter that is gone served; or somebody just gives it back for this process.
                self._catch_up()
                coordinator.release(self.name, coordinator.name)
                # Where it cannot be taken again at once, nobody else has given it back.
                self._forgotten = True
            coordinator.acquire(self.name)
        finally:
            with suppress(InfrastructureError):
                coordinator.cancel(own.token)
        self._forgotten = False
        self._settle()

    def _catch_up(self) -> None:
        """Wait for news of all that the coordinator has done until now: it does one thing after the other.

        Raises:
            LeaseLost: the place is this process's no more.
        """
        self._beat()
        beat = str(self._beats)
        self._coordinator.wait(lambda: self._place().heartbeat == beat, _SERVED_S)
        self._still_mine(self._place())

    def _served(self, place: Place) -> bool:
        own = place.having(self._coordinator.resources)
        return {one.path for one in own if one.acquired == self.name} >= self._had

    def _fail(self, error: InfrastructureError) -> bool:
        with self._state:
            self._broken, self._failed = None, error
            self._state.notify_all()
        if not self._stopped.is_set():
            interrupt_main(error)
        return False

    def _given_up(self, error: InfrastructureError) -> InfrastructureError:
        message = f"{error.message}; not back within {self._config.reconnect:g} s"
        return TransportError(message, hint=error.hint, transient=True)

    def _place(self) -> Place:
        place = self._coordinator.place(self.name)
        if place is None:
            raise LeaseLost(f"place '{self.name}' does not exist any more at {self._config.coordinator}")
        return place

    def _own(self) -> list[Resource]:
        place = self._coordinator.place(self.name)
        return [] if place is None else place.having(self._coordinator.resources)

    def _unserved(self) -> list[str]:
        return [str(one) for one in self._own() if one.acquired != self.name]

    def _absent(self, what: Iterable[str]) -> TransportError:
        return TransportError(
            f"place '{self.name}': no exporter serves {', '.join(what)}",
            hint="is `lab labgrid exporter` running there, and the board attached? its log says",
            transient=True,
        )


def _wiring(resources: list[Resource]) -> Wiring:
    return {one.path: one.params for one in resources}
