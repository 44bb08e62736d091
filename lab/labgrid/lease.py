"""Leases of boards on other hosts: this host's own lease, for those who compete here, and the place, for other hosts.

Within a host the line, the priorities and `lab lease` are those of :mod:`lab.lease`; who comes first there stands in
the line among hosts (:mod:`lab.labgrid.line`), and steps aside for whoever comes here with a higher priority. The token
rises on both, so the device can tell the newest holder of all hosts (:mod:`lab.fence`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from lab.errors import ConfigError, InfrastructureError, LeaseLost, TransportError
from lab.fence import Fence
from lab.inventory import Device
from lab.labgrid.client import Coordinator, CoordinatorLost, Refused
from lab.labgrid.config import LabgridConfig
from lab.labgrid.dead import DeathWatch
from lab.labgrid.held import HeldPlace
from lab.labgrid.line import RANKS, Stand
from lab.labgrid.records import HOLDER, OWNER, PID, PURPOSE, SINCE, TTL, Place
from lab.labgrid.tunnel import Tunnel
from lab.labgrid.wiring import features_of
from lab.labgrid.wiring import wired as wire
from lab.lease import Lease, borrowed_token, myself
from lab.lease_records import Holder
from lab.suggestions import nearest

_POLL_S = 0.5


class PlaceLease:
    """A held board of another host, as :class:`lab.lease.Lease` is one of this host."""

    def __init__(self, local: Lease, held: HeldPlace, config: LabgridConfig) -> None:
        self._local = local
        self._held = held
        self._config = config
        self._tunnels: dict[tuple[str, str, int], Tunnel] = {}

    @property
    def record(self) -> Holder:
        """What others on this host see."""
        return self._local.record

    @property
    def token(self) -> int:
        """See :class:`lab.fence.Fence`."""
        return self._held.token

    def check(self) -> None:
        """Make sure that it still is this process's, here and at the coordinator.

        Raises:
            LeaseLost: it is somebody else's; names them.
            InfrastructureError: coordinator or exporter went away and did not come back in time.
        """
        self._local.check()
        self._held.check()

    def release(self) -> None:
        """Free the board; safe to call twice."""
        try:
            self._held.release()
        finally:
            for tunnel in self._tunnels.values():
                tunnel.close()
            self._tunnels.clear()
            self._local.release()

    def wired(self, entry: Device) -> Device:
        """The device with the ports that its exporter serves now.

        Raises:
            ConfigError: the place lacks what such a device needs.
            InfrastructureError: it is not served, or no tunnel leads there.
        """
        resources = self._held.resources()
        config = wire(entry.config, resources, self._config, self._reach)
        reached = {"mcu": config.serial or config.swd, "linux": config.ssh, "phone": config.ssh or config.adb}
        if reached.get(entry.board.device_class, True) is None:
            raise ConfigError(
                f"{entry.origin}: place '{self._held.name}' has {', '.join(features_of(resources)) or 'nothing'}; a "
                f"device of class '{entry.board.device_class}' needs "
                + ("a NetworkSerialPort" if entry.board.device_class == "mcu" else "a NetworkService"),
                hint="`labgrid-client -p PLACE add-match EXPORTER/GROUP/*` gives it more",
            )
        return replace(entry, config=config)

    def _reach(self, destination: str, host: str, port: int) -> tuple[str, int]:
        tunnel = self._tunnels.get((destination, host, port))
        if tunnel is None or not tunnel.alive:
            tunnel = self._tunnels[destination, host, port] = Tunnel(destination, host, port)
        return "127.0.0.1", tunnel.port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take_place(entry: Device, local: Lease, wait_s: float) -> PlaceLease:
    """Acquire the place of a device whose lease on this host is held already; frees that where it fails.

    Args:
        entry: from a bench, with a place.
        local: its lease on this host.
        wait_s: how long to wait for holders on other hosts; a dead one's is over after its time-to-live.

    Raises:
        LeaseLost: still held after ``wait_s``; names the holder.
        ConfigError: no such place, or no coordinator in the bench file.
        InfrastructureError: the coordinator cannot be reached, or the place is not served.
    """
    try:
        config, name = place_of(entry)
        lent = borrowed_token(entry.name)
        if lent is None:
            return _Acquiring(config, name, local, wait_s).take()
        return PlaceLease(local, HeldPlace(config, Coordinator(config), name, lent, {}, lent=True), config)
    except BaseException:
        local.release()
        raise


def place_of(entry: Device) -> tuple[LabgridConfig, str]:
    """The coordinator and the place of a device.

    Raises:
        ConfigError: it has none.
    """
    if entry.labgrid is None or entry.config.place is None:
        raise ConfigError(f"{entry.origin}: device {entry.name!r} is no place of labgrid's", hint="add place: to it")
    return entry.labgrid, entry.config.place


def wired(entry: Device, fence: Fence | None) -> Device:
    """A device with the ports that its place has; any other device as it is.

    Args:
        entry: from a bench.
        fence: its lease.

    Raises:
        ConfigError: it has a place and is used without its lease, or the place lacks what it needs.
        InfrastructureError: see :meth:`PlaceLease.wired`.
    """
    if entry.config.place is None:
        return entry
    if not isinstance(fence, PlaceLease):
        raise ConfigError(
            f"{entry.origin}: device {entry.name!r} is on another host: it has ports only while it is held",
            hint=f"`lab lease take {entry.name}` holds it",
        )
    return fence.wired(entry)


class _Acquiring:
    """One attempt to get a place.

    Args:
        config: its coordinator.
        name: the place.
        local: the device's lease on this host.
        wait_s: how long to wait for others.
    """

    def __init__(self, config: LabgridConfig, name: str, local: Lease, wait_s: float) -> None:
        self._config = config
        self._name = name
        self._local = local
        self._wait_s = wait_s
        self._deadline = monotonic() + wait_s
        self._stand = Stand(config, name, RANKS[local.record.priority])
        self._watch = DeathWatch(config.ttl)
        self._kept_until = 0.0
        self._coordinator = Coordinator(config)

    def take(self) -> PlaceLease:
        try:
            place = self._wait()
            # Of all who ever held it, here or elsewhere, this one has the highest.
            token = max(place.fence + 1, self._local.token)
            self._local.raise_token(token)
            held = HeldPlace(self._config, self._coordinator, self._name, token, self._tags(self._coordinator))
            return PlaceLease(self._local, held, self._config)
        except BaseException:
            # This gives the place back as well, and leaves the line.
            self._coordinator.close()
            self._local.release()
            raise

    def _wait(self) -> Place:
        """Wait for the place in the line, and acquire it."""
        while True:
            place = self._place()
            try:
                self._coordinator.check()
                if self._acquired(place):
                    return place
                problem = self._not_yet(place)
            except CoordinatorLost as lost:
                self._reconnect(lost)
                # Its holder comes back as well, and must not find the place kept for those who wait.
                self._kept_until = monotonic() + self._config.reconnect if place.acquired else 0.0
                continue
            except (Refused, TransportError) as error:
                problem = error
            left_s = self._deadline - monotonic()
            if left_s <= 0:
                problem.message += f"; waited {self._wait_s:g} s"
                raise problem
            if self._local.outranked():
                self._step_aside(left_s)
            else:
                self._coordinator.wait_change(min(_POLL_S, left_s))

    def _step_aside(self, wait_s: float) -> None:
        """Let who waits on this host with a higher priority go first; this one stands where it stood afterwards."""
        self._stand.leave(self._coordinator)
        self._coordinator.close()
        self._local = self._local.step_aside(wait_s)
        self._reconnect(None)

    def _acquired(self, place: Place) -> bool:
        if place.acquired:
            self._kept_until = 0.0
            if self._watch.is_dead(place):
                self._coordinator.release(place.name, place.acquired)
        elif monotonic() < self._kept_until:
            return False
        if not self._stand.is_next(self._coordinator, place) or place.acquired:
            return False
        if lacking := place.lacking(self._coordinator.resources):
            raise TransportError(
                f"place '{place.name}': no exporter offers {', '.join(map(str, lacking))}",
                hint="is `lab labgrid exporter` running there, and the board attached?",
                transient=True,
            )
        self._coordinator.acquire(place.name)
        # From here on it is held, and labgrid would keep it for a reservation even after it is given back.
        self._stand.leave(self._coordinator)
        return True

    def _not_yet(self, place: Place) -> InfrastructureError:
        if place.acquired:
            who = f"held by {place.describe()}"
        elif monotonic() < self._kept_until:
            who = "kept for its holder, of whom the coordinator knows nothing since it restarted"
        elif self._stand.first is not None:
            who = f"kept for {self._stand.first.person}, who comes before in the line ({self._stand.first.owner})"
        else:
            who = "just given to somebody else"
        return LeaseLost(
            f"place '{self._name}' is {who}",
            hint="wait longer or ask the holder; a dead holder's is free after its time-to-live",
        )

    def _reconnect(self, lost: CoordinatorLost | None) -> None:
        """Reach the coordinator anew, which may be about to restart.

        Raises:
            CoordinatorLost: it does not come back in time: ``lost``, else why it was not reached.
        """
        until = min(monotonic() + self._config.reconnect, self._deadline)
        self._coordinator.close()
        while True:
            try:
                self._coordinator = Coordinator(self._config, self._coordinator.name)
                break
            except CoordinatorLost as error:
                if monotonic() >= until:
                    raise lost or error from None
                sleep(_POLL_S)

    def _place(self) -> Place:
        place = self._coordinator.place(self._name)
        if place is None:
            raise _unknown(self._config, self._name, [one.name for one in self._coordinator.places])
        return place

    def _tags(self, coordinator: Coordinator) -> dict[str, str]:
        return {
            OWNER: coordinator.name,
            HOLDER: myself(),
            PID: str(os.getpid()),
            PURPOSE: self._local.record.purpose,
            SINCE: datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            TTL: f"{self._config.ttl:g}",
        }


def _unknown(config: LabgridConfig, name: str, known: Sequence[str]) -> ConfigError:
    guess = nearest(name, known)
    return ConfigError(
        f"labgrid coordinator {config.coordinator} has no place '{name}'; "
        f"{f'did you mean {guess!r}? ' if guess else ''}there are: {', '.join(known) or 'none'}",
        hint=f"`labgrid-client -p {name} create` makes it; one made just before the coordinator died is forgotten",
    )
