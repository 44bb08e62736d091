"""Devices that are kept out of automatic runs until a person has looked at them: one small file beside the store.

:func:`quarantined` and :func:`set_quarantine` are all that others know of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.durable import replace_file
from lab.errors import StoreError
from lab.filelock import wait_for_lock

FILE = "quarantine.json"


@dataclass(frozen=True)
class Quarantine:
    """Why a device is kept out.

    Attributes:
        reason: what was found, in words for a person.
        since: when, UTC, ISO 8601.
        evidence: what led there, one line each.
    """

    reason: str
    since: str
    evidence: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"in quarantine since {self.since}: {self.reason}"


def quarantined(folder: Path) -> Mapping[str, Quarantine]:
    """Devices in quarantine by name; empty where there are none.

    Args:
        folder: the store's folder.

    Raises:
        StoreError: the file cannot be read or is no quarantine file.
    """
    path = folder / FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8")).items()
        return {name: Quarantine(**{**entry, "evidence": tuple(entry.get("evidence", ()))}) for name, entry in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: not a quarantine file: {error}",
            hint="see to it that the devices are well, then remove the file",
        ) from error


def set_quarantine(folder: Path, device: str, entry: Quarantine | None) -> None:
    """Put a device into quarantine, or with None take it out; durable, and safe against others who do the same.

    Args:
        folder: the store's folder, made where missing.
        device: name in the bench file.
        entry: why; None heals.

    Raises:
        StoreError: the file cannot be read or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{FILE}.lock").open("ab") as lock:
            wait_for_lock(lock.fileno())
            entries = {name: asdict(one) for name, one in quarantined(folder).items() if name != device}
            if entry is not None:
                entries[device] = asdict(entry)
            replace_file(folder / FILE, json.dumps(entries, indent=2, sort_keys=True).encode())
    except OSError as error:
        raise StoreError(
            f"{folder / FILE}: cannot be written: {os.strerror(error.errno or 0)}",
            hint="free space, or point LAB_STORE at a folder you may write to",
        ) from error
