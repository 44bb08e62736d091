"""The line of those who wait for devices: who came first goes first, the higher priority before.

A waiter is a file in the line, named by priority and ticket, with a lock beside it that the waiter holds for as long as
it waits (:mod:`lab.filelock`): one that dies in the line leaves it at that moment, and its files are swept by whoever
looks next. One who would take any of several devices stands in the line once, for all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lab.durable import replace_file
from lab.errors import StoreError
from lab.filelock import try_lock, wait_for_lock

Priority = Literal["interactive", "normal", "nightly"]
PRIORITIES: Sequence[Priority] = ("interactive", "normal", "nightly")
"""From the first to be served to the last."""

_COUNTER = "tickets"


@dataclass(frozen=True)
class Waiter:
    """Who waits.

    Attributes:
        devices: any of these would do.
        holder: ``user@host``.
        pid: process id on that host.
        purpose: what for, in the waiter's words.
        since: seconds since the epoch.
        priority: who goes first.
    """

    devices: tuple[str, ...]
    holder: str
    pid: int
    purpose: str
    since: float
    priority: Priority = "normal"


class Place:
    """A place in the line; :meth:`leave` gives it up."""

    def __init__(self, folder: Path, name: str, descriptor: int) -> None:
        self.name = name
        self._folder = folder
        self._descriptor = descriptor

    def leave(self) -> None:
        """Go, with or without a device; safe to call twice."""
        if self._descriptor < 0:
            return
        _remove(self._folder, self.name)
        os.close(self._descriptor)
        self._descriptor = -1


class WaitingLine:
    """The line of one bench.

    Args:
        folder: its files, made where missing.

    Every method but :meth:`guarded` and :meth:`waiting` is called while :meth:`guarded` is entered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Waiter] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Exclude all others of this line; for moments only."""
        descriptor = os.open(self._folder / "guard", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            wait_for_lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def join(self, waiter: Waiter, *, first: bool = False) -> Place:
        """Stand at the end of those of this priority, or before the first of them."""
        rank = f"{PRIORITIES.index(waiter.priority)}-"
        before = next((int(name.removeprefix(rank)) for name in self._names() if name.startswith(rank)), None)
        # Below zero is well: a minus sign sorts before all digits.
        ticket = before - 1 if first and before is not None else self._next_ticket()
        name = f"{rank}{ticket:012d}"
        descriptor = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not try_lock(descriptor):
                raise StoreError(f"{self._folder / name}.lock: a new ticket is taken", hint="remove the folder")
            replace_file(self._folder / f"{name}.json", json.dumps(asdict(waiter)).encode(), synced=False)
        except BaseException:
            os.close(descriptor)
            raise
        return Place(self._folder, name, descriptor)

    def first(self, device: str, place: Place | None, priority: Priority) -> Waiter | None:
        """Who must be served ``device`` before ``place``, or before a newcomer of this priority; None: nobody."""
        end = f"{PRIORITIES.index(priority) + 1}" if place is None else place.name
        for name in self._names():
            if name >= end:
                return None
            waiter = self._read(name)
            if waiter is not None and device in waiter.devices and self._lives(name):
                return waiter
        return None

    def ahead(self, devices: Sequence[str], place: Place) -> int:
        """How many stand before ``place``, at least, for whichever of ``devices`` has the shortest line."""
        before = [self._read(name) for name in self._names() if name < place.name]
        wanted = [waiter.devices for waiter in before if waiter is not None]
        return min(sum(device in others for others in wanted) for device in devices)

    def waiting(self) -> list[Waiter]:
        """All who wait, first of all first."""
        with self.guarded():
            there = [(name, self._read(name)) for name in self._names()]
            return [waiter for name, waiter in there if waiter is not None and self._lives(name)]

    def _names(self) -> list[str]:
        return sorted(name.removesuffix(".json") for name in os.listdir(self._folder) if name.endswith(".json"))

    def _read(self, name: str) -> Waiter | None:
        """A waiter's entry, which never changes; None where it is gone or damaged: then nobody can wait for it."""
        known = self._known.get(name)
        if known is None:
            try:
                fields = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
                known = Waiter(**{**fields, "devices": tuple(fields["devices"])})
            except (OSError, ValueError, TypeError, KeyError):
                return None
            self._known[name] = known
        return known

    def _lives(self, name: str) -> bool:
        try:
            descriptor = os.open(self._folder / f"{name}.lock", os.O_RDWR)
        except FileNotFoundError:
            alone = True
        else:
            alone = try_lock(descriptor)
            os.close(descriptor)
        if alone:
            _remove(self._folder, name)
        return not alone

    def _next_ticket(self) -> int:
        path = self._folder / _COUNTER
        try:
            last = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            last = 0
        except ValueError:
            # Damaged: whoever stands in the line still goes first.
            last = max((int(name.partition("-")[2]) for name in self._names()), default=0)
        replace_file(path, str(last + 1).encode(), synced=False)
        return last + 1


def _remove(folder: Path, name: str) -> None:
    for suffix in (".json", ".lock"):
        with suppress(OSError):
            (folder / f"{name}{suffix}").unlink()
