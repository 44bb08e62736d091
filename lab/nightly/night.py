"""The night itself: health first, then cell after cell, every step in the journal before the next one begins."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from lab import health, progress
from lab.errors import (
    BudgetExceeded,
    DeviceError,
    InfrastructureError,
    LabError,
    LeaseLost,
    StoreError,
    ToolMissing,
)
from lab.filelock import try_lock
from lab.interrupt import limited
from lab.inventory import Device
from lab.nightly.bench_worker import Worker
from lab.nightly.config import Cell, Plan
from lab.nightly.journal import FOLDER, Journal, Outcome, newest
from lab.quarantine import Quarantine, quarantined, set_quarantine
from measurements.report.night import Verdict

RESUME_WITHIN_S = 20 * 3600.0
"""A night that broke off longer ago is left as it is: the next one has begun."""

MOST_CRASHES = 2
"""A cell in which the controller died so often is not tried again."""

_HEALTH: Mapping[Verdict, health.Verdict] = {
    "passed": "passed", "failed": "product", "infrastructure": "infrastructure",
}  # fmt: skip
"""What becomes of a cell says this of its device; other verdicts say nothing of it."""

Clock: TypeAlias = Callable[[], float]
Sleep: TypeAlias = Callable[[float], None]


class Overrun(BudgetExceeded):
    """A cell took longer than it may."""


def _limited(limit_s: float, what: str) -> AbstractContextManager[None]:
    """Also past the recoveries inside, which go on after errors."""

    def late() -> Overrun:
        return Overrun(f"{what} took longer than the {limit_s:.0f} s it may", hint="raise cell_limit, or run less")

    return limited(limit_s, late, ladder=True)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the store's nightly lock: two nights at once would fight for the same devices.

    Raises:
        LeaseLost: another nightly runs with this store.
        StoreError: the folder cannot be written.
    """
    path = folder / FOLDER / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {os.strerror(error.errno or 0)}",
            hint="point LAB_STORE at a folder you may write to",
        ) from error
    with stream:
        if not try_lock(stream.fileno()):
            raise LeaseLost(
                f"{folder}: another `lab nightly` is running with this store",
                hint="wait for it to end, or give this one a store of its own (LAB_STORE)",
            )
        yield


def open_night(folder: Path, plan: Plan, commit: str, night: str, *, fresh: bool, now_s: float) -> tuple[Journal, str]:
    """The journal to go on with: that of a night that broke off, where it is still the same night, else a new one.

    Args:
        folder: the store's folder.
        plan: what is to run.
        commit: of the checkout, with ``+`` where it is dirty.
        night: id for a new night.
        fresh: begin a new night whatever was left.
        now_s: seconds since the epoch.

    Returns:
        The journal, and a sentence on what was found; empty where there is nothing to tell.

    Raises:
        StoreError: a journal cannot be read or written.
    """
    last = newest(folder)
    reason = ""
    if last is not None and not last.progress.closed:
        left = f"night {last.progress.night} broke off after {len(last.progress.outcomes)} cells"
        if fresh:
            reason = f"{left}; begun anew as asked"
        elif last.progress.digest != plan.digest:
            reason = f"{left}; begun anew, since the bench or the matrix has changed"
        elif last.progress.commit != commit:
            reason = f"{left}; begun anew, since the commit has changed"
        elif now_s - last.progress.started_s > RESUME_WITHIN_S:
            reason = f"{left}; begun anew, since that is more than {RESUME_WITHIN_S / 3600:.0f} h ago"
        else:
            return last, f"{left}; resumed"
    return Journal.create(folder, night, plan.digest, commit, now_s), reason


def unreached_before(folder: Path) -> frozenset[str]:
    """Cells that the last night had no time for.

    Raises:
        StoreError: its journal cannot be read.
    """
    last = newest(folder)
    outcomes = last.progress.outcomes.values() if last is not None else ()
    return frozenset(outcome.cell for outcome in outcomes if outcome.verdict == "unreached")


class Night:
    """Runs what a plan still lacks.

    Args:
        plan: what is to run.
        worker: the bench.
        journal: how far it has come.
        folder: the store's folder, where the quarantine is.
        first: keys of cells that were not reached the night before: they come first.
        clock, sleep: time; replaced in tests.
    """

    def __init__(
        self,
        plan: Plan,
        worker: Worker,
        journal: Journal,
        folder: Path,
        first: frozenset[str] = frozenset(),
        clock: Clock = time.monotonic,
        sleep: Sleep = time.sleep,
    ) -> None:
        self._plan = plan
        self._worker = worker
        self._journal = journal
        self._folder = folder
        self._first = first
        self._clock = clock
        self._sleep = sleep
        self._spent_before_s = journal.progress.spent_s
        self._began = clock()
        self._tonight: dict[str, list[health.Outcome]] = {}
        self._elsewhere: set[str] = set()

    def run(self) -> None:
        """Do what is left. Afterwards every cell has an outcome.

        Raises:
            StoreError: nothing can be kept; the night can be resumed when that is mended.
        """
        left = [cell for cell in self._plan.cells if cell.key not in self._journal.progress.outcomes]
        left.sort(key=lambda cell: cell.key not in self._first)
        self._journal.progress.health.clear()
        self._check_health(left)
        for number, cell in enumerate(left, 1):
            started = self._clock()
            outcome = self._cell(cell)
            seconds = self._clock() - started
            finished = Outcome(
                cell.key,
                outcome.verdict,
                outcome.message,
                self._journal.progress.begun.get(cell.key, 0),
                tuple(self._journal.progress.retried.get(cell.key, ())),
                tuple(run.run_id for run in self._worker.runs(cell)),
                seconds,
            )
            self._journal.end(finished, self._spent_s())
            first_line = f": {outcome.message.splitlines()[0]}" if outcome.message else ""
            progress.say(f"  [{number}/{len(left)}] {cell.key}: {outcome.verdict}{first_line}")
            self._watch(cell, outcome)
        self._journal.close()

    # Health

    def _check_health(self, left: list[Cell]) -> None:
        kept_out = quarantined(self._folder)
        suspects: dict[str, tuple[Device, str]] = {}
        well: set[str] = set()
        for device in self._plan.devices:
            first = next((cell for cell in left if cell.device is device), None)
            if first is None or self._left_s() <= 0.0:
                continue
            if device.name in kept_out:
                self._unwell(device, str(kept_out[device.name]))
            elif reason := self._worker.availability(device):
                self._unwell(device, reason)
            elif suspicion := self._checked(first):
                suspects[device.name] = (device, suspicion)
            elif device.name not in self._journal.progress.health:
                well.add(device.board.kind)
        for device, reason in suspects.values():
            # Where no board of a kind starts the image, the image is the suspect: its cells run, and fail as product.
            if device.board.kind in well and device.needs_lease:
                self._sick(device, reason)

    def _checked(self, cell: Cell) -> str:
        """Try to start a cell's image; what the device did wrong, empty where it is well or already written down."""
        device = cell.device
        limit_s = max(min(self._plan.config.cell_limit, self._left_s()), 1.0)
        for attempt in range(self._plan.config.retries + 1):
            try:
                with _limited(limit_s, f"the check of {device.name}"):
                    self._worker.check(cell)
            except StoreError:
                raise
            except LeaseLost as error:
                self._unwell(device, error.message)
            except DeviceError as error:
                return error.message
            except InfrastructureError as error:
                if attempt < self._plan.config.retries:
                    self._sleep(self._plan.config.retry_pause)
                    continue
                self._sick(device, error.message)
            except Exception as error:
                # Not the device's fault: whatever it is, the cell itself meets it again and says so.
                progress.say(f"  {cell.key}: {_first_line(error)}")
            return ""
        return ""

    def _sick(self, device: Device, reason: str, evidence: Sequence[health.Outcome] = ()) -> None:
        """Keep a device out: until it is healed, or, for an emulator, which is a new one each time, for tonight."""
        if device.needs_lease:
            since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            # One line: it stands in the table of `lab devices`. The rest is in the journal.
            set_quarantine(self._folder, device.name, Quarantine(_line(reason), since, tuple(map(str, evidence))))
            reason = f"quarantined tonight: {reason}"
        self._unwell(device, reason)

    def _unwell(self, device: Device, reason: str) -> None:
        self._journal.unwell(device.name, reason)
        progress.say(f"  {device.name} is not used: {_line(reason)}")

    def _watch(self, cell: Cell, outcome: Outcome) -> None:
        """Judge the device by what became of its cells, as after tests: a sick one costs the others their time."""
        device, verdict = cell.device, _HEALTH.get(outcome.verdict)
        if verdict is None or device.name in self._journal.progress.health:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        verdict = "elsewhere" if cell.key in self._elsewhere else verdict
        became = health.Outcome(device.name, f"nightly {cell.key}", now, verdict, _line(outcome.message))
        tonight = self._tonight.setdefault(device.name, [])
        tonight.append(became)
        if device.needs_lease:
            health.note(self._folder, became)
            tonight = health.outcomes(self._folder, device.name)
        judged = health.judge(tonight, self._plan.config.quarantine_after)
        if judged.state == "sick":
            self._sick(device, f"{judged.reason}; the last one: {_line(outcome.message)}", judged.evidence)

    # Cells

    def _cell(self, cell: Cell) -> Outcome:
        state = self._journal.progress
        if cell.device.name in state.health:
            return Outcome(cell.key, "unavailable", state.health[cell.device.name])
        if any(run.status == "passed" for run in self._worker.runs(cell)):
            return Outcome(cell.key, "passed")
        crashes = state.begun.get(cell.key, 0) - len(state.retried.get(cell.key, ()))
        if crashes >= MOST_CRASHES:
            return Outcome(cell.key, "infrastructure", f"the controller died {crashes} times in the midst of this cell")
        while True:
            outcome = self._attempt(cell)
            if outcome is not None:
                return outcome
            self._sleep(self._plan.config.retry_pause)

    def _attempt(self, cell: Cell) -> Outcome | None:
        """Try a cell once; None where the bench failed and it is to be tried again."""
        config, left_s = self._plan.config, self._left_s()
        if left_s <= 0.0:
            return Outcome(cell.key, "unreached", f"the night's {config.budget:.0f} s were spent")
        self._journal.begin(cell.key)
        try:
            with _limited(min(config.cell_limit, left_s), cell.key):
                self._worker.measure(cell)
        except Overrun as error:
            if left_s < config.cell_limit:
                return Outcome(cell.key, "unreached", f"the night's {config.budget:.0f} s ran out in the midst of it")
            return Outcome(cell.key, "failed", str(error))
        except ToolMissing as error:
            self._elsewhere.add(cell.key)
            return Outcome(cell.key, "infrastructure", str(error))
        except InfrastructureError as error:
            return self._bench_failed(cell, error)
        except Exception as error:
            # Also what nobody foresaw: one broken workload must not cost the others their night.
            return Outcome(cell.key, "failed", _told(error))
        return Outcome(cell.key, "passed")

    def _bench_failed(self, cell: Cell, error: InfrastructureError) -> Outcome | None:
        if isinstance(error, StoreError) and not error.transient:
            with suppress(StoreError):
                # Not the controller's death: only noted where there is still room for a line.
                self._journal.retry(cell.key, _line(error.message), self._spent_s())
            raise error
        if isinstance(error, LeaseLost):
            self._elsewhere.add(cell.key)
        tried = len(self._journal.progress.retried.get(cell.key, ()))
        if tried >= self._plan.config.retries:
            return Outcome(cell.key, "infrastructure", str(error))
        self._journal.retry(cell.key, _line(error.message), self._spent_s())
        return None

    def _spent_s(self) -> float:
        return self._spent_before_s + self._clock() - self._began

    def _left_s(self) -> float:
        return self._plan.config.budget - self._spent_s()


def exit_status(verdicts: set[Verdict], regressions: int) -> int:
    """0 all passed; 1 the product failed or regressed; 3 the bench failed; 4 the time ran out, nothing else.

    2 is left for wrong usage, as everywhere on the command line.
    """
    if "failed" in verdicts or regressions:
        return 1
    if verdicts & {"infrastructure", "unavailable"}:
        return 3
    return 4 if "unreached" in verdicts else 0


def _told(error: Exception) -> str:
    if isinstance(error, LabError):
        return str(error)
    return "".join(traceback.format_exception(error)[-6:]).strip()


def _first_line(error: Exception) -> str:
    return _line(error.message if isinstance(error, LabError) else f"{type(error).__name__}: {error}")


def _line(text: str) -> str:
    return text.splitlines()[0] if text else ""
