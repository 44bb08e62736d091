"""Leases of boards on other hosts: this host's own lease, for those who compete here, and the place, for other hosts.

Within a host the line, the priorities and `lab lease` are those of :mod:`lab.lease`; who comes first there then asks
the coordinator. The token rises on both, so the device can tell the newest holder of all hosts (:mod:`lab.fence`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from types import TracebackType
from typing import Self

from lab.errors import ConfigError, InfrastructureError, LeaseLost, TransportError
from lab.fence import Fence
from lab.inventory import Device
from lab.labgrid.client import Coordinator, Refused
from lab.labgrid.config import LabgridConfig
from lab.labgrid.dead import DeathWatch
from lab.labgrid.held import HeldPlace
from lab.labgrid.records import HOLDER, OWNER, PID, PURPOSE, SINCE, TTL, Place
from lab.labgrid.tunnel import Tunnel
from lab.labgrid.wiring import features_of
from lab.labgrid.wiring import wired as wire
from lab.lease import Holder, Lease, borrowed_token, myself
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
            held = _Acquiring(config, name, local.record.purpose, wait_s).take(local)
        else:
            held = HeldPlace(config, Coordinator(config), name, lent, {}, lent=True)
    except BaseException:
        local.release()
        raise
    return PlaceLease(local, held, config)


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
    """One attempt to get a place."""

    def __init__(self, config: LabgridConfig, name: str, purpose: str, wait_s: float) -> None:
        self._config = config
        self._name = name
        self._purpose = purpose
        self._wait_s = wait_s

    def take(self, local: Lease) -> HeldPlace:
        coordinator = Coordinator(self._config)
        try:
            place = self._acquire(coordinator)
            # Of all who ever held it, here or elsewhere, this one has the highest.
            token = max(place.fence + 1, local.token)
            local.raise_token(token)
            return HeldPlace(self._config, coordinator, self._name, token, self._tags(coordinator))
        except BaseException:
            # This gives the place back as well.
            coordinator.close()
            raise

    def _acquire(self, coordinator: Coordinator) -> Place:
        watch = DeathWatch(self._config.ttl)
        deadline = monotonic() + self._wait_s
        while True:
            place = coordinator.place(self._name)
            if place is None:
                raise _unknown(self._config, self._name, [one.name for one in coordinator.places])
            try:
                if self._try(coordinator, place, watch):
                    return place
                problem: InfrastructureError = LeaseLost(
                    f"place '{self._name}' is held by {place.describe()}",
                    hint="wait longer or ask the holder; a dead holder's is free after its time-to-live",
                )
            except (Refused, TransportError) as error:
                problem = error
            left_s = deadline - monotonic()
            if left_s <= 0:
                problem.message += f"; waited {self._wait_s:g} s"
                raise problem
            coordinator.wait_change(min(_POLL_S, left_s))

    def _try(self, coordinator: Coordinator, place: Place, watch: DeathWatch) -> bool:
        if place.acquired:
            if watch.is_dead(place):
                coordinator.release(place.name, place.acquired)
            return False
        if lacking := place.lacking(coordinator.resources):
            raise TransportError(
                f"place '{place.name}': no exporter offers {', '.join(map(str, lacking))}",
                hint="is `lab labgrid exporter` running there, and the board attached?",
                transient=True,
            )
        coordinator.acquire(place.name)
        return True

    def _tags(self, coordinator: Coordinator) -> dict[str, str]:
        return {
            OWNER: coordinator.name,
            HOLDER: myself(),
            PID: str(os.getpid()),
            PURPOSE: self._purpose,
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
