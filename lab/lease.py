"""One holder per hardware device across the processes of this host.

A lock of the kernel's on a file per device (:mod:`lab.filelock`) is what counts: it falls free the moment its holder
dies, however that happens, so no lock is ever orphaned. Beside it stands a JSON record for people and for fencing: who
holds the device, why, since when and until when. Its token rises with every lease, and a holder whose token is not the
newest has lost the device; the lab's runner on the device refuses it as well (:mod:`lab.fence`).

A holder that lives but hangs is the one case the kernel cannot see: it stops renewing its deadline, and once that has
passed the next process that asks takes the device over, under a lock file of the next generation. Who waits stands in
line (:mod:`lab.waiting_line`). A holder whose device was taken over, or taken away (:func:`kick`), learns of it within
a second: the error is raised in its main thread where that allows it (:mod:`lab.interrupt`), else by the next check.

A process that was started by a holder can use the holder's device: ``LAB_LEASE`` says ``device:token`` (``lab lease
take``), and processes that use it so exclude each other.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lab.errors import LeaseLost, StoreError
from lab.filelock import try_lock
from lab.interrupt import interrupt_main, interruptible
from lab.inventory import Device
from lab.lease_records import (
    Holder,
    file_name,
    guarded,
    is_held,
    open_file,
    open_lock,
    read_record,
    write_record,
)
from lab.paths import state_dir
from lab.waiting_line import PRIORITIES, Place, Priority, Waiter, WaitingLine

if TYPE_CHECKING:
    from lab.labgrid.lease import PlaceLease

DEFAULT_TTL_S = 30.0
WAIT_S = 60.0
"""How long the lab's commands wait for a device."""
BORROWED = "LAB_LEASE"
_POLL_S = 0.02
_LONGEST_POLL_S = 0.5
_WATCH_S = 1.0


class Lease:
    """A held device: a context manager that renews its own deadline and frees the device at the end.

    Attributes:
        record: what others see.
    """

    def __init__(self, folder: Path, record: Holder, descriptor: int, ttl_s: float, *, borrowed: bool = False) -> None:
        self.record = record
        self._folder = folder
        self._descriptor = descriptor
        self._ttl_s = ttl_s
        self._borrowed = borrowed
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._heartbeat = threading.Thread(target=self._renew, name=f"lease-{record.device}", daemon=True)
        self._heartbeat.start()

    @property
    def token(self) -> int:
        """See :class:`lab.fence.Fence`."""
        return self.record.token

    def check(self) -> None:
        """Make sure that this lease is still the newest one.

        Raises:
            LeaseLost: released, or somebody else holds the device now; names them.
        """
        if self._stopped.is_set():
            raise LeaseLost(f"the lease of '{self.record.device}' has been released")
        with guarded(self._folder, self.record.device):
            newest = read_record(self._folder, self.record.device)
        if newest is None or newest.token != self.record.token:
            raise self._lost(newest)

    def raise_token(self, token: int) -> None:
        """Give this lease a higher token: that of a lease which holds the device on other hosts as well.

        Raises:
            LeaseLost: somebody else holds the device now.
        """
        with guarded(self._folder, self.record.device):
            newest = read_record(self._folder, self.record.device)
            if newest is None or newest.token != self.record.token:
                raise self._lost(newest)
            self.record = replace(newest, token=max(token, newest.token))
            write_record(self._folder, self.record)

    def outranked(self) -> bool:
        """Whether somebody of a higher priority waits here for this device."""
        rank = PRIORITIES.index(self.record.priority)
        if rank == 0:
            return False
        line = WaitingLine(self._folder / "line")
        with line.guarded():
            return line.first(self.record.device, None, PRIORITIES[rank - 1]) is not None

    def step_aside(self, wait_s: float) -> Lease:
        """Let those of a higher priority go first: free the device, and take it before all others of this priority.

        Raises:
            LeaseLost, StoreError: as :func:`lease`.
        """
        one = self.record
        waiter = Waiter((one.device,), one.holder, one.pid, one.purpose, time.time(), one.priority)
        with _written(self._folder):
            taking = _Taking(self._folder, waiter, self._ttl_s)
            taking.stand_first()
            self.release()
            return taking.wait(wait_s)

    def release(self) -> None:
        """Free the device; safe to call twice."""
        with self._guard:
            if self._stopped.is_set():
                return
            self._stopped.set()
        self._heartbeat.join()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._stopped.wait(min(_WATCH_S, self._ttl_s / 3)):
            # A full disk or a damaged record must not end the heartbeat: the next beat may succeed, and check() tells.
            with suppress(OSError, StoreError):
                if not self._beat(renew=time.monotonic() - renewed >= self._ttl_s / 3):
                    return
                if time.monotonic() - renewed >= self._ttl_s / 3:
                    renewed = time.monotonic()

    def _beat(self, *, renew: bool) -> bool:
        with guarded(self._folder, self.record.device):
            newest = read_record(self._folder, self.record.device)
            mine = newest is not None and newest.token == self.record.token
            if newest is not None and mine and renew and not self._borrowed:
                write_record(self._folder, replace(newest, deadline=time.monotonic() + self._ttl_s))
        if not mine and not self._stopped.is_set():
            interrupt_main(self._lost(newest))
        return mine

    def _lost(self, newest: Holder | None) -> LeaseLost:
        device = self.record.device
        if newest is None:
            return LeaseLost(
                f"device '{device}' was taken over from this process: its lease record is gone",
                hint="the record was removed by hand",
            )
        if newest.kicked_token == self.record.token:
            return LeaseLost(
                f"device '{device}' was taken away from this process by {newest.kicked}",
                hint="ask them; the run can be started again",
            )
        return LeaseLost(
            f"device '{device}' was taken over from this process: it is now held by {newest.describe()}",
            hint=f"this holder did not renew within {self._ttl_s:g} s",
        )


def lease(
    device: str | Sequence[str],
    purpose: str,
    wait_s: float = 0.0,
    *,
    ttl_s: float = DEFAULT_TTL_S,
    folder: Path | None = None,
    priority: Priority = "normal",
) -> Lease:
    """Take a device, for use in a ``with`` statement.

    Who waits is served in the order of coming, the higher priority first.

    Args:
        device: name in the bench file; of several the first that is free, which ``lease.record.device`` tells.
        purpose: shown to whoever waits.
        wait_s: how long to wait for the present holder.
        ttl_s: how long this lease outlives a hang of this process.
        folder: where the records are; the same for all who share devices (default: ``leases`` in the state folder).
        priority: who of those who wait goes first.

    Raises:
        LeaseLost: still held after ``wait_s``; names holder, process, purpose and since when.
        StoreError: the folder cannot be written.
    """
    place = folder or leases_dir()
    devices = (device,) if isinstance(device, str) else tuple(device)
    waiter = Waiter(devices, myself(), os.getpid(), purpose, time.time(), priority)
    with _written(place):
        place.mkdir(parents=True, exist_ok=True)
        return _Taking(place, waiter, ttl_s).wait(wait_s)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder}: leases cannot be written: {error.strerror or error}",
            hint="set LAB_STATE to a folder that all users of this bench can write",
        ) from error


@contextmanager
def held(entry: Device, purpose: str, *, priority: Priority = "normal") -> Iterator[Lease | PlaceLease | None]:
    """Hold a device of a bench while the context lasts; losing it raises :class:`lab.errors.LeaseLost` in there.

    Devices that each user starts for themselves are nobody's, and are not leased: then there is None.

    Args:
        entry: from :class:`lab.bench.Bench`.
        purpose, priority: as for :func:`lease`.

    Raises:
        LeaseLost, StoreError, InfrastructureError: as :func:`lease_of`.
    """
    if not entry.needs_lease:
        yield None
        return
    with interruptible(), lease_of(entry, purpose, WAIT_S, priority=priority) as taken:
        yield taken


def lease_of(entry: Device, purpose: str, wait_s: float, *, priority: Priority = "normal") -> Lease | PlaceLease:
    """Take a device of a bench; one that is a place of labgrid's from all other hosts as well.

    Args:
        entry: one that needs a lease.
        purpose, wait_s, priority: as for :func:`lease`.

    Raises:
        LeaseLost, StoreError: as :func:`lease`.
        ConfigError, InfrastructureError: see :func:`lab.labgrid.lease.take_place`.
    """
    until = time.monotonic() + wait_s
    taken = lease(entry.name, purpose, wait_s, priority=priority)
    if entry.config.place is None:
        return taken
    from lab.labgrid.lease import take_place

    return take_place(entry, taken, max(0.0, until - time.monotonic()))


def leases_dir() -> Path:
    """Where the records are, where nothing else is said."""
    return state_dir() / "leases"


def holder(device: str, *, folder: Path | None = None) -> Holder | None:
    """Who holds a device now; None when it is free."""
    place = folder or leases_dir()
    if not place.is_dir():
        return None
    # Trying the lock holds it for an instant; the guard keeps that from looking like a holder to somebody else.
    with guarded(place, device):
        record = read_record(place, device)
        return record if record is not None and is_held(place, record) else None


def waiting(*, folder: Path | None = None) -> list[Waiter]:
    """Who waits for devices, first of all who goes first."""
    place = folder or leases_dir()
    return WaitingLine(place / "line").waiting() if place.is_dir() else []


def kick(device: str, reason: str, *, folder: Path | None = None) -> Holder | None:
    """Take a device away from its holder, who learns of it within a second; it is free at once.

    Args:
        device: name in the bench file.
        reason: told to the holder.
        folder: as for :func:`lease`.

    Returns:
        Who held it, None where nobody did.
    """
    place = folder or leases_dir()
    if not place.is_dir():
        return None
    with guarded(place, device):
        record = read_record(place, device)
        if record is None or not is_held(place, record):
            return None
        by = f"{myself()} (pid {os.getpid()}): {reason}"
        free = replace(record, token=record.token + 1, generation=record.generation + 1, deadline=0.0)
        write_record(place, replace(free, kicked=by, kicked_token=record.token))
    return record


class _Taking:
    """One attempt to get one of several devices."""

    def __init__(self, folder: Path, waiter: Waiter, ttl_s: float) -> None:
        self._folder = folder
        self._waiter = waiter
        self._ttl_s = ttl_s
        self._line = WaitingLine(folder / "line")
        self._place: Place | None = None

    def wait(self, wait_s: float) -> Lease:
        deadline = time.monotonic() + wait_s
        try:
            while True:
                taken = self._borrow() or self._take()
                if taken is not None:
                    return taken
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise self._held(wait_s)
                time.sleep(min(self._pause_s(), left_s))
        finally:
            if self._place is not None:
                self._place.leave()

    def stand_first(self) -> None:
        """Stand in the line, before all others of this priority."""
        with self._line.guarded():
            self._place = self._line.join(self._waiter, first=True)

    def _take(self) -> Lease | None:
        with self._line.guarded():
            for device in self._waiter.devices:
                if self._line.first(device, self._place, self._waiter.priority) is None:
                    taken = _try_take(self._folder, device, self._waiter, self._ttl_s)
                    if taken is not None:
                        return taken
            if self._place is None:
                self._place = self._line.join(self._waiter)
        return None

    def _pause_s(self) -> float:
        """The first in line looks often; for those behind, looking is work that the first pays for."""
        if self._place is None:
            return _POLL_S
        with self._line.guarded():
            return min(_POLL_S * (1 + self._line.ahead(self._waiter.devices, self._place)), _LONGEST_POLL_S)

    def _borrow(self) -> Lease | None:
        """The device of the process that started this one, while no other of its children uses it."""
        for device in self._waiter.devices:
            token = borrowed_token(device)
            if token is None:
                continue
            with guarded(self._folder, device):
                record = read_record(self._folder, device)
                if record is None or record.token != token or not is_held(self._folder, record):
                    raise LeaseLost(
                        f"{BORROWED} names device '{device}' with token {token}, which is no longer held",
                        hint=f"take it again with `lab lease take`, or unset {BORROWED}",
                    )
            descriptor = open_file(self._folder / f"{file_name(device)}.borrowed.lock")
            if try_lock(descriptor):
                return Lease(self._folder, record, descriptor, self._ttl_s, borrowed=True)
            os.close(descriptor)
        return None

    def _held(self, wait_s: float) -> LeaseLost:
        waited = f"; waited {wait_s:g} s" if wait_s else ""
        return LeaseLost(
            "; ".join(self._describe(device) for device in self._waiter.devices) + waited,
            hint="wait longer, choose another device, or ask the holder; a dead holder's device is freed at once",
        )

    def _describe(self, device: str) -> str:
        now = holder(device, folder=self._folder)
        if now is not None:
            return f"device '{device}' is held by {now.describe()}"
        with self._line.guarded():
            first = self._line.first(device, self._place, self._waiter.priority)
        if first is None:
            return f"device '{device}' was held until now"
        return f"device '{device}' goes to {first.holder} (pid {first.pid}) for '{first.purpose}', who waited before"


def borrowed_token(device: str) -> int | None:
    """The token with which ``LAB_LEASE`` lends a device to this process; None where it does not."""
    for lent in os.environ.get(BORROWED, "").split(","):
        name, colon, token = lent.rpartition(":")
        if colon and name == device and token.isdigit():
            return int(token)
    return None


def _try_take(folder: Path, device: str, waiter: Waiter, ttl_s: float) -> Lease | None:
    with guarded(folder, device):
        last = read_record(folder, device)
        generation = last.generation if last else 0
        descriptor = open_lock(folder, device, generation)
        if not try_lock(descriptor):
            os.close(descriptor)
            if last is None or time.monotonic() < last.deadline:
                return None
            generation += 1
            descriptor = open_lock(folder, device, generation)
            if not try_lock(descriptor):
                os.close(descriptor)
                return None
        now = time.time()
        record = Holder(
            device=device,
            holder=waiter.holder,
            pid=waiter.pid,
            purpose=waiter.purpose,
            since=now,
            deadline=time.monotonic() + ttl_s,
            token=max((last.token if last else 0) + 1, int(1000 * now)),
            generation=generation,
            priority=waiter.priority,
            # Whoever lost the device so may not have looked yet.
            kicked=last.kicked if last else "",
            kicked_token=last.kicked_token if last else 0,
        )
        try:
            write_record(folder, record)
        except OSError:
            os.close(descriptor)
            raise
    return Lease(folder, record, descriptor, ttl_s)


def myself() -> str:
    """Who holds what this process takes: ``user@host``."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
