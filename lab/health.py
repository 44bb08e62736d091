"""Whether a device can be trusted: what became of every test on it, and what that says.

Each test that used a device of the bench leaves one line in ``health.jsonl`` beside the store: what became of it and,
where the device had to be brought back, by which rung of its ladder and in how many seconds. From the last of them a
device is judged: one that fails under every test is sick and goes into quarantine, with the failures as evidence; one
that fails under one test only, and runs others in between, is well: the suspect is that test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from lab.durable import append_line, read_lines
from lab.errors import DeviceError, InfrastructureError, LeaseLost, StoreError
from lab.filelock import wait_for_lock

FILE = "health.jsonl"
TROUBLES = 3
"""So many failures in a row, or of one test, are more than bad luck."""

Verdict = Literal["passed", "product", "device", "infrastructure", "elsewhere", "healed"]
State = Literal["well", "suspect", "one-test", "sick"]

_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Outcome:
    """What became of one test on a device.

    Attributes:
        device: name in the bench file.
        test: pytest node id, or workload where no test ran.
        at: UTC, ISO 8601.
        verdict: ``passed``; ``product`` where the workload or a limit failed and the device did its work; ``device``
            and ``infrastructure`` where the device or its part of the bench failed; ``elsewhere`` where what failed
            knows nothing of the device; ``healed`` where a person said that it is well.
        error: first line of the error, with its class; empty where it passed.
        rung: what brought the device back afterwards, empty where nothing had to.
        recovery_s: how long that took.
    """

    device: str
    test: str
    at: str
    verdict: Verdict
    error: str = ""
    rung: str = ""
    recovery_s: float = 0.0

    @property
    def trouble(self) -> bool:
        """Whether it counts against the device."""
        return self.verdict in ("device", "infrastructure")

    def __str__(self) -> str:
        back = f"; back by {self.rung} in {self.recovery_s:.1f} s" if self.rung else ""
        return f"{self.at} {self.test}: {self.verdict}{f': {self.error}' if self.error else ''}{back}"


@dataclass(frozen=True)
class Judgement:
    """What the outcomes of a device say.

    Attributes:
        state: ``well``; ``suspect`` where it failed often and only a health check can tell why; ``one-test`` where it
            fails under one test and works under others; ``sick`` where it fails under all of them.
        reason: in words for a person; empty for ``well``.
        evidence: the outcomes that led there, oldest first.
    """

    state: State
    reason: str = ""
    evidence: tuple[Outcome, ...] = ()


def outcome_of(
    device: str, test: str, error: BaseException | None, *, rung: str = "", recovery_s: float = 0.0
) -> Outcome:
    """The outcome of a test that ended with ``error``, or passed."""
    verdict: Verdict = "passed" if error is None else "product"
    if isinstance(error, DeviceError):
        verdict = "device"
    elif isinstance(error, LeaseLost | StoreError):
        verdict = "elsewhere"
    elif isinstance(error, InfrastructureError):
        verdict = "infrastructure"
    text = "" if error is None else f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return Outcome(device, test, _now(), verdict, text[:_LONGEST_MESSAGE], rung, round(recovery_s, 3))


def healed(device: str) -> Outcome:
    """A person says that a device is well: what was before no longer counts."""
    return Outcome(device, "", _now(), "healed")


def note(folder: Path, outcome: Outcome) -> None:
    """Write an outcome down, durably, whoever else does the same.

    Args:
        folder: the store's folder, made where missing.
        outcome: what happened.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{FILE}.lock").open("ab") as lock:
            wait_for_lock(lock.fileno())
            append_line(folder / FILE, asdict(outcome))
    except OSError as error:
        raise StoreError(
            f"{folder / FILE}: cannot be written: {error.strerror}",
            hint="free space, or point LAB_STORE at a folder you may write to",
        ) from error


def outcomes(folder: Path, device: str) -> list[Outcome]:
    """What became of a device's tests, oldest first; lines that a kill has torn are left out.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        entries = read_lines(folder / FILE)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder / FILE}: cannot be read: {error.strerror}") from error
    found = []
    for entry in entries:
        if entry.get("device") == device:
            try:
                found.append(Outcome(**json.loads(json.dumps(entry))))
            except TypeError:
                # Of a later version of the lab.
                continue
    return found


def judge(history: Sequence[Outcome], troubles: int = TROUBLES) -> Judgement:
    """What the outcomes of one device say of it.

    Args:
        history: oldest first; what lies before the last ``healed`` does not count.
        troubles: how many failures are more than bad luck.
    """
    counted = _since_healed(history)
    streak = _streak(counted)
    tests = {one.test for one in streak}
    if len(streak) >= troubles and len(tests) > 1:
        return Judgement("sick", f"failed {len(streak)} times in a row, under {len(tests)} tests", tuple(streak))
    for test in dict.fromkeys(one.test for one in reversed(counted) if one.trouble):
        own = [one for one in counted if one.test == test and one.verdict != "product"]
        failed = _streak(own)
        if len(failed) < troubles:
            continue
        first = counted.index(failed[0])
        others = [one for one in counted[first:] if one.test != test and not one.trouble]
        if others:
            worked = f"other tests worked {len(others)} times in between"
            return Judgement("one-test", f"failed {len(failed)} times in a row under {test}; {worked}", tuple(failed))
        return Judgement("suspect", f"failed {len(failed)} times in a row, under {test}", tuple(failed))
    return Judgement("well")


def _since_healed(history: Sequence[Outcome]) -> list[Outcome]:
    last = max((index for index, one in enumerate(history) if one.verdict == "healed"), default=-1)
    return [one for one in history[last + 1 :] if one.verdict != "elsewhere"]


def _streak(history: Iterable[Outcome]) -> list[Outcome]:
    """The troubles since the last outcome that was none."""
    streak: list[Outcome] = []
    for one in history:
        streak = [*streak, one] if one.trouble else []
    return streak


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
