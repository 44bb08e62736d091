"""One holder per hardware device across the processes of this host.

The kernel's ``flock`` on a file per device is the lock: it falls free the moment its holder dies, however that happens,
so no lock is ever orphaned. Beside it stands a JSON record for people and for fencing: who holds the device, why, since
when and until when. Its token rises with every lease, and a holder whose token is not the newest has lost the device.

A holder that lives but hangs is the one case the kernel cannot see: it stops renewing its deadline, and once that has
passed the next process that asks takes the device over, under a lock file of the next generation.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.errors import LeaseLost, StoreError
from lab.paths import state_dir

DEFAULT_TTL_S = 30.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Holder:
    """Who holds, or last held, a device.

    Attributes:
        device: name in the bench file.
        holder: ``user@host``.
        pid: process id on that host.
        purpose: what for, in the holder's words.
        since: seconds since the epoch.
        deadline: seconds since the epoch after which an unrenewed lease may be taken over.
        token: fencing token; strictly rises from lease to lease of a device.
        generation: number of the lock file, rises when a hung holder is passed over.
    """

    device: str
    holder: str
    pid: int
    purpose: str
    since: float
    deadline: float
    token: int
    generation: int = 0

    def describe(self) -> str:
        """``user@host (pid 12) for 'nightly' since 2026-01-31 12:00:00 UTC``."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.holder} (pid {self.pid}) for '{self.purpose}' since {since}"


class Lease:
    """A held device: a context manager that renews its own deadline and frees the device at the end.

    Attributes:
        record: what others see.
    """

    def __init__(self, folder: Path, record: Holder, descriptor: int, ttl_s: float) -> None:
        self.record = record
        self._folder = folder
        self._descriptor = descriptor
        self._ttl_s = ttl_s
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._heartbeat = threading.Thread(target=self._renew, name=f"lease-{record.device}", daemon=True)
        self._heartbeat.start()

    def check(self) -> None:
        """Make sure that this lease is still the newest one.

        Raises:
            LeaseLost: released, or somebody else holds the device now; names them.
        """
        if self._stopped.is_set():
            raise LeaseLost(f"the lease of '{self.record.device}' has been released")
        with _guarded(self._folder, self.record.device):
            newest = _read(self._folder, self.record.device)
        if newest is None or newest.token != self.record.token:
            raise LeaseLost(
                f"device '{self.record.device}' was taken over from this process: "
                + (f"it is now held by {newest.describe()}" if newest else "its lease record is gone"),
                hint=f"this holder did not renew within {self._ttl_s:g} s, or the record was removed by hand",
            )

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
        while not self._stopped.wait(self._ttl_s / 3):
            # A full disk or a damaged record must not end the heartbeat: the next beat may succeed, and check() tells.
            with suppress(OSError, StoreError), _guarded(self._folder, self.record.device):
                newest = _read(self._folder, self.record.device)
                if newest is None or newest.token != self.record.token:
                    return
                _write(self._folder, replace(newest, deadline=time.time() + self._ttl_s))


def lease(
    device: str,
    purpose: str,
    wait_s: float = 0.0,
    *,
    ttl_s: float = DEFAULT_TTL_S,
    folder: Path | None = None,
) -> Lease:
    """Take a device, for use in a ``with`` statement.

    Args:
        device: name in the bench file.
        purpose: shown to whoever waits.
        wait_s: how long to wait for the present holder.
        ttl_s: how long this lease outlives a hang of this process.
        folder: where the records are; the same for all who share devices (default: ``leases`` in the state folder).

    Raises:
        LeaseLost: still held after ``wait_s``; names holder, process, purpose and since when.
        StoreError: the folder cannot be written.
    """
    place = folder or state_dir() / "leases"
    try:
        place.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + wait_s
        while True:
            taken = _try_take(place, device, purpose, ttl_s)
            if taken is not None:
                return taken
            if time.monotonic() >= deadline:
                raise _held(place, device, wait_s)
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
    except OSError as error:
        raise StoreError(
            f"{place}: leases cannot be written: {error.strerror or error}",
            hint="set LAB_STATE to a folder that all users of this bench can write",
        ) from error


def holder(device: str, *, folder: Path | None = None) -> Holder | None:
    """Who holds a device now; None when it is free."""
    place = folder or state_dir() / "leases"
    if not place.is_dir():
        return None
    # Trying the lock holds it for an instant; the guard keeps that from looking like a holder to somebody else.
    with _guarded(place, device):
        record = _read(place, device)
        if record is None:
            return None
        descriptor = _open_lock(place, device, record.generation)
        try:
            return None if _flock(descriptor) else record
        finally:
            os.close(descriptor)


def _try_take(folder: Path, device: str, purpose: str, ttl_s: float) -> Lease | None:
    with _guarded(folder, device):
        last = _read(folder, device)
        generation = last.generation if last else 0
        descriptor = _open_lock(folder, device, generation)
        if not _flock(descriptor):
            os.close(descriptor)
            if last is None or time.time() < last.deadline:
                return None
            generation += 1
            descriptor = _open_lock(folder, device, generation)
            if not _flock(descriptor):
                os.close(descriptor)
                return None
        now = time.time()
        record = Holder(
            device=device,
            holder=f"{getpass.getuser()}@{socket.gethostname()}",
            pid=os.getpid(),
            purpose=purpose,
            since=now,
            deadline=now + ttl_s,
            token=(last.token if last else 0) + 1,
            generation=generation,
        )
        try:
            _write(folder, record)
        except OSError:
            os.close(descriptor)
            raise
    return Lease(folder, record, descriptor, ttl_s)


def _held(folder: Path, device: str, wait_s: float) -> LeaseLost:
    record = _read(folder, device)
    by = record.describe() if record else "a process that has not said its name yet"
    waited = f"; waited {wait_s:g} s" if wait_s else ""
    return LeaseLost(
        f"device '{device}' is held by {by}{waited}",
        hint="wait longer, choose another device, or ask the holder; a dead holder's device is freed at once",
    )


@contextmanager
def _guarded(folder: Path, device: str) -> Iterator[None]:
    """Exclude other processes and threads while a record is read and written; held for microseconds."""
    descriptor = os.open(folder / f"{_file_name(device)}.guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(folder: Path, device: str, generation: int) -> int:
    return os.open(_lock_path(folder, device, generation), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_path(folder: Path, device: str, generation: int) -> Path:
    return folder / f"{_file_name(device)}.{generation}.lock"


def _file_name(device: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f"%{ord(match.group()):x}", device)


def _read(folder: Path, device: str) -> Holder | None:
    try:
        text = (folder / f"{_file_name(device)}.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{folder / _file_name(device)}.json: not a lease record: {error}",
            hint="make sure that nobody uses the device, then remove the file",
        ) from error


def _write(folder: Path, record: Holder) -> None:
    """Replace a record in one step, so that a reader never meets half of one."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".lease-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(asdict(record), stream)
        os.chmod(name, 0o644)
        os.replace(name, folder / f"{_file_name(record.device)}.json")
    except OSError:
        os.unlink(name)
        raise
