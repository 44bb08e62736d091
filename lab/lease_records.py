"""The files of leases: a record of each device's holder, with the locks beside it. See :mod:`lab.lease`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab.durable import replace_file
from lab.errors import StoreError
from lab.filelock import try_lock, wait_for_lock
from lab.waiting_line import Priority


@dataclass(frozen=True)
class Holder:
    """Who holds, or last held, a device.

    Attributes:
        device: name in the bench file.
        holder: ``user@host``.
        pid: process id on that host.
        purpose: what for, in the holder's words.
        since: seconds since the epoch.
        deadline: when an unrenewed lease may be taken over: seconds of this computer's monotonic clock, which all its
            processes read alike. The wall clock may be set while a lease is held.
        token: fencing token; strictly rises from lease to lease of a device, also where records were lost: it is
            never less than the time, in milliseconds since the epoch.
        generation: number of the lock file, rises when a hung holder is passed over.
        priority: with which it was taken.
        kicked: who took the device away last, and why; empty while nobody did.
        kicked_token: from which lease.
    """

    device: str
    holder: str
    pid: int
    purpose: str
    since: float
    deadline: float
    token: int
    generation: int = 0
    priority: Priority = "normal"
    kicked: str = ""
    kicked_token: int = 0

    def describe(self) -> str:
        """``user@host (pid 12) for 'nightly' since 2026-01-31 12:00:00 UTC``."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.holder} (pid {self.pid}) for '{self.purpose}' since {since}"


def is_held(folder: Path, record: Holder) -> bool:
    """Whether the holder that a record names holds the device still; called while :func:`guarded` is entered."""
    descriptor = open_lock(folder, record.device, record.generation)
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def guarded(folder: Path, device: str) -> Iterator[None]:
    """Exclude other processes and threads while a record is read and written; held for microseconds."""
    descriptor = open_file(folder / f"{file_name(device)}.guard")
    try:
        wait_for_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def open_lock(folder: Path, device: str, generation: int) -> int:
    """A descriptor of the file whose lock is the lease."""
    return open_file(folder / f"{file_name(device)}.{generation}.lock")


def open_file(path: Path) -> int:
    """A descriptor of a file for locks, made where missing."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def file_name(device: str) -> str:
    """A device's name as one that cannot leave its folder."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f"%{ord(match.group()):x}", device)


def read_record(folder: Path, device: str) -> Holder | None:
    """Who holds, or last held, a device; None where nobody ever did.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        text = (folder / f"{file_name(device)}.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{folder / file_name(device)}.json: not a lease record: {error}",
            hint="make sure that nobody uses the device, then remove the file",
        ) from error


def write_record(folder: Path, record: Holder) -> None:
    """Replace a record in one step, so that a reader never meets half of one."""
    replace_file(folder / f"{file_name(record.device)}.json", json.dumps(asdict(record)).encode(), synced=False)
