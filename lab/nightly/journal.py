"""The log of a night: one JSON line per step, durable before the next step begins, so that a crash can be resumed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from lab.durable import Json, append_line, read_lines
from lab.errors import StoreError
from measurements.report.night import Verdict

FOLDER = "nights"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: its key.
        verdict: ``passed``; ``failed``: the product (device, workload, compiler); ``infrastructure``: the bench, after
            all retries; ``unavailable``: its device is unplugged, sick or in quarantine; ``unreached``: no time left.
        message: what went wrong, empty when it passed.
        attempts: how often it was begun.
        retries: first lines of the failures of the bench that were tried again.
        runs: run ids in the store.
        seconds: time spent on it.
    """

    cell: str
    verdict: Verdict
    message: str = ""
    attempts: int = 0
    retries: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class Progress:
    """How far a night has come.

    Attributes:
        night: its id, which is the session id of its runs.
        digest: of the plan it runs.
        commit: of the checkout it runs, with ``+`` where that was dirty.
        started_s: when it began, seconds since the epoch.
        outcomes: finished cells by key.
        begun: how often each cell was begun.
        retried: failures of the bench so far, by cell that is not finished.
        spent_s: time spent so far.
        health: why devices are not used, by name.
        closed: whether nothing is left to do.
    """

    night: str
    digest: str
    commit: str
    started_s: float
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    retried: dict[str, list[str]] = field(default_factory=dict)
    spent_s: float = 0.0
    health: dict[str, str] = field(default_factory=dict)
    closed: bool = False


class Journal:
    """The log of one night.

    Args:
        folder: the store's folder.
        progress: of the night; kept up to date with what is written.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.progress = progress
        self.path = folder / FOLDER / f"{progress.night}.jsonl"

    @classmethod
    def create(cls, folder: Path, night: str, digest: str, commit: str, started_s: float) -> Journal:
        """Begin the log of a new night.

        Raises:
            StoreError: it cannot be written.
        """
        journal = cls(folder, Progress(night, digest, commit, started_s))
        try:
            journal.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(journal.path, error) from error
        journal._write(
            {"step": "night", "night": night, "digest": digest, "commit": commit, "started_s": started_s}
        )
        return journal

    def begin(self, cell: str) -> None:
        """A cell is begun."""
        self.progress.begun[cell] = self.progress.begun.get(cell, 0) + 1
        self._write({"step": "begin", "cell": cell})

    def retry(self, cell: str, why: str, spent_s: float) -> None:
        """The bench failed in a cell, and it will be tried again."""
        self.progress.spent_s = spent_s
        self.progress.retried.setdefault(cell, []).append(why)
        self._write({"step": "retry", "cell": cell, "why": why, "spent_s": spent_s})

    def end(self, outcome: Outcome, spent_s: float) -> None:
        """A cell is finished."""
        self.progress.spent_s = spent_s
        self.progress.outcomes[outcome.cell] = outcome
        self._write({"step": "end", "outcome": _as_json(outcome), "spent_s": spent_s})

    def unwell(self, device: str, reason: str) -> None:
        """A device is not used this night."""
        self.progress.health[device] = reason
        self._write({"step": "unwell", "device": device, "reason": reason})

    def close(self) -> None:
        """Nothing is left to do."""
        self.progress.closed = True
        self._write({"step": "close"})

    def _write(self, entry: dict[str, Json]) -> None:
        try:
            append_line(self.path, entry)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def newest(folder: Path) -> Journal | None:
    """The journal of the night that began last, None where there is none.

    Raises:
        StoreError: it cannot be read.
    """
    for path in sorted((folder / FOLDER).glob("*.jsonl"), reverse=True):
        try:
            entries = read_lines(path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
        if entries and entries[0].get("step") == "night":
            return Journal(folder, _replayed(path, entries))
    return None


def _replayed(path: Path, entries: Sequence[dict[str, Json]]) -> Progress:
    try:
        head = entries[0]
        progress = Progress(
            str(head["night"]), str(head["digest"]), str(head["commit"]), _seconds(head["started_s"])
        )
        for entry in entries[1:]:
            _replay(progress, entry)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: is no journal of a night: {error!r}", hint="move it away; the runs themselves are in the store"
        ) from error
    return progress


def _replay(progress: Progress, entry: dict[str, Json]) -> None:
    cell = str(entry.get("cell", ""))
    if "spent_s" in entry:
        progress.spent_s = _seconds(entry["spent_s"])
    match entry["step"]:
        case "begin":
            progress.begun[cell] = progress.begun.get(cell, 0) + 1
        case "retry":
            progress.retried.setdefault(cell, []).append(str(entry["why"]))
        case "end":
            outcome = _outcome(entry["outcome"])
            progress.outcomes[outcome.cell] = outcome
        case "unwell":
            progress.health[str(entry["device"])] = str(entry["reason"])
        case "close":
            progress.closed = True


def _as_json(outcome: Outcome) -> dict[str, Json]:
    return asdict(outcome) | {"retries": list(outcome.retries), "runs": list(outcome.runs)}


def _outcome(entry: Json) -> Outcome:
    if not isinstance(entry, dict):
        raise TypeError(f"an outcome is a mapping, found {entry!r}")
    verdict, retries, runs = entry["verdict"], entry["retries"], entry["runs"]
    if verdict not in get_args(Verdict) or not isinstance(retries, list) or not isinstance(runs, list):
        raise ValueError(f"unknown verdict or no lists: {entry!r}")
    return Outcome(
        cell=str(entry["cell"]),
        verdict=_verdict(verdict),
        message=str(entry["message"]),
        attempts=int(_seconds(entry["attempts"])),
        retries=tuple(map(str, retries)),
        runs=tuple(map(str, runs)),
        seconds=_seconds(entry["seconds"]),
    )


def _verdict(name: Json) -> Verdict:
    return next(verdict for verdict in get_args(Verdict) if verdict == name)


def _seconds(value: Json) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r}")
    return float(value)


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path}: cannot be written: {os.strerror(error.errno or 0)}",
        hint="free space on that disk, or point LAB_STORE at another one; the night can then be resumed",
    )
