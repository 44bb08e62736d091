"""The soak: faults at random, one after the other, beside runs to which nothing happens; ``make soak`` runs it.

    PYTHONPATH=tests python tests/faults/soak.py --seconds 120

Each process but the first takes tests of ``tests/faults`` at random, as often as they come up, until the time is over;
each of them holds the lab to its entry in the catalogue, and its device to a healthy test afterwards. The first process
measures on devices that nothing happens to. Whatever the store has acknowledged is looked for in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from lab.errors import LabError
from measurements.record import Run, Trace
from measurements.store import Store

FOLDER = Path(__file__).parent
HEALTHY = ("host", "loopback")
"""Devices of the emulated bench that nothing happens to."""
LONGEST_IN_A_ROW = 5
GRACE_S = 600.0
"""How long the last fault may take on a machine that is busy."""


@dataclass(frozen=True)
class Asked:
    """What a soak is to do.

    Attributes:
        seconds: when to begin no other fault.
        seed: what comes when.
        folder: holds the tests.
        only: of them those that match this expression (pytest's ``-k``); empty for all.
        faults: at most so many in each process.
    """

    seconds: float
    seed: int
    folder: str = str(FOLDER)
    only: str = ""
    faults: int = 1_000_000


@dataclass
class Outcome:
    """What a process saw.

    Attributes:
        met: how often each test was run, by name.
        skipped: those that lacked something here.
        wrong: what did not end as it should, with the reason.
        healthy: runs to which nothing happened.
        acknowledged: records that the store has confirmed.
        lost: those of them that it does not have.
    """

    met: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    healthy: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take over what another process saw."""
        self.met += other.met
        self.skipped += other.skipped
        self.wrong += other.wrong
        self.lost += other.lost
        self.healthy += other.healthy
        self.acknowledged += other.acknowledged

    @property
    def status(self) -> int:
        """Exit status: 1 where anything was lost or wrong, or nothing was done at all; else 0."""
        return 1 if self.lost or self.wrong or not (self.met and self.healthy) else 0

    def table(self) -> str:
        """For people."""
        width = max(map(len, (*self.met, *self.skipped, "fault")))
        rows = [f"{'fault':{width}}  met"]
        rows += [f"{name:{width}}  {count:3}" for name, count in sorted(self.met.items())]
        rows += [f"{name:{width}}  skipped" for name in sorted(self.skipped)]
        rows += [
            "",
            f"faults met          {self.met.total()}",
            f"healthy runs        {self.healthy}",
            f"records stored      {self.acknowledged}",
            f"records lost        {len(self.lost)}",
            f"wrong verdicts      {len(self.wrong)}",
        ]
        return "\n".join((*rows, *(f"LOST {one}" for one in self.lost), *(f"WRONG {one}" for one in self.wrong)))


# ---- what the store has acknowledged ---------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What stores of this process have confirmed: (folder, run) to its records' names."""

    entries: dict[tuple[Path, str], set[tuple[str, str]]] = field(default_factory=dict)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write down whatever is saved meanwhile."""
        save, amend = Store.save, Store.amend

        def saving(store: Store, run: Run, trace: Trace | None = None) -> None:
            save(store, run, trace)
            self._note(store, run)

        def amending(store: Store, run: Run) -> None:
            amend(store, run)
            self._note(store, run)

        with mock.patch.object(Store, "save", saving), mock.patch.object(Store, "amend", amending):
            yield

    def _note(self, store: Store, run: Run) -> None:
        self.entries[store.path.absolute(), run.run_id] = {(one.region, one.metric) for one in run.records}

    def settle(self, outcome: Outcome) -> None:
        """Look for all of it."""
        for (folder, run_id), names in self.entries.items():
            outcome.acknowledged += len(names)
            try:
                with Store(folder, read_only=True) as store:
                    there = {(one.region, one.metric) for one in store.run(run_id).records}
            except LabError as error:
                outcome.lost.append(f"{len(names)} records of {run_id}: {error.message}")
                continue
            outcome.lost += [f"{region}/{metric} of {run_id}" for region, metric in sorted(names - there)]


# ---- a process that meets faults -------------------------------------------------------------------------------------


class Shuffle:
    """A plugin of pytest: runs what was collected at random, over and over, and notes how it ended."""

    def __init__(self, asked: Asked, number: int, outcome: Outcome) -> None:
        self._asked = asked
        self._random = random.Random(f"{asked.seed} {number}")
        self._until = time.monotonic() + asked.seconds
        self._outcome = outcome

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        plan = self._plan(session.items)
        item, left = next(plan, None), self._asked.faults
        while item is not None:
            left -= 1
            # What comes next decides which fixtures end now.
            following = next(plan) if left and time.monotonic() < self._until else None
            # The same test again: its own fixtures end, and those of its file stay.
            kept = following if following is not item else item.parent
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=kept)
            item = following
        return True

    def _plan(self, items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
        files: dict[Path, list[pytest.Item]] = {}
        for item in items:
            files.setdefault(item.path, []).append(item)
        while files:
            # Some of one file in a row: they share devices.
            chosen = self._random.choice(list(files.values()))
            yield from self._random.choices(chosen, k=self._random.randint(1, LONGEST_IN_A_ROW))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a part of a test ended."""
        test = report.nodeid.rpartition("::")[2]
        name = test.partition("[")[2].removesuffix("]") or test
        if report.skipped:
            self._outcome.skipped[name] += 1
        elif report.failed:
            self._outcome.wrong.append(f"{report.nodeid} ({report.when}): {report.longreprtext.strip()[-1000:]}")
        elif report.when == "call":
            self._outcome.met[name] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be read meets no faults."""
        if report.failed:
            self._outcome.wrong.append(f"{report.nodeid}: {report.longreprtext.strip().splitlines()[-1]}")


def meet_faults(asked: Asked, number: int, scratch: Path) -> Outcome:
    """Take faults at random until the time is over."""
    outcome, ledger = Outcome(), Ledger()
    wanted = f"({asked.only}) and not every_fault" if asked.only else "not every_fault"
    arguments = [
        asked.folder, "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist",
        f"--basetemp={scratch / 'faults'}", "-o", "tmp_path_retention_policy=all", "-k", wanted,
        f"--ignore={FOLDER / 'test_soak.py'}",
    ]  # fmt: skip
    with ledger.kept():
        pytest.main(arguments, plugins=[Shuffle(asked, number, outcome)])
    ledger.settle(outcome)
    return outcome


# ---- a process to which nothing happens ------------------------------------------------------------------------------


def stay_healthy(asked: Asked, scratch: Path) -> Outcome:
    """Measure on devices that nothing happens to, all into one store, until the time is over."""
    from helpers import tiny_workload
    from helpers.toolchain import entry

    from lab.devices.connect import connected
    from lab.paths import cache_dir
    from lab.runs import deploy, measure

    tiny_workload.register()
    outcome, ledger, until = Outcome(), Ledger(), time.monotonic() + asked.seconds
    entries = [entry(name) for name in HEALTHY]
    with ledger.kept(), Store(scratch / "store") as store:
        while not outcome.wrong and (outcome.healthy < len(entries) or time.monotonic() < until):
            found = entries[outcome.healthy % len(entries)]
            try:
                with connected(found, cache_dir()) as device:
                    deployment = deploy(found, device, tiny_workload.NAME, cache_dir())
                    run = measure(deployment, store, "soak").run
            except LabError as error:
                outcome.wrong.append(f"healthy run on {found.name}: {type(error).__name__}: {error.message}")
                continue
            outcome.healthy += 1
            if run.retries:
                outcome.wrong.append(f"healthy run on {found.name} was measured twice: {run.retries[0]}")
            if outcome.healthy >= asked.faults:
                break
        outcome.wrong += store.verify().problems
    ledger.settle(outcome)
    return outcome


# ---- all of them -----------------------------------------------------------------------------------------------------


def soak(asked: Asked, processes: int) -> Outcome:
    """Run a soak in so many processes, and one for healthy runs."""
    total = Outcome()
    with tempfile.TemporaryDirectory(prefix="lab-soak-") as folder:
        running = [started(asked, number, Path(folder) / str(number)) for number in range(processes + 1)]
        for number, process in enumerate(running):
            scratch = Path(folder) / str(number)
            try:
                process.wait(asked.seconds + GRACE_S)
                total.add(read(scratch))
            except (subprocess.TimeoutExpired, OSError) as error:
                process.kill()
                process.wait()
                said = (scratch / "log").read_text(errors="replace")[-2000:]
                total.wrong.append(f"process {number} did not come to its end: {error}\n{said}")
    return total


def started(asked: Asked, number: int, scratch: Path) -> subprocess.Popen[bytes]:
    """One process of a soak: the first stays healthy, all others meet faults.

    Args:
        asked: what it is to do.
        number: which it is.
        scratch: is made, and takes all that it writes.
    """
    scratch.mkdir()
    places = {"LAB_STORE": scratch / "lab", "LAB_STATE": scratch / "state", "LAB_REPORTS": scratch / "reports"}
    with (scratch / "log").open("wb") as log:
        return subprocess.Popen(
            (sys.executable, __file__, "--process", str(number), str(scratch), json.dumps(asdict(asked))),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=FOLDER.parents[1],
            env={**os.environ, **{name: str(path) for name, path in places.items()}, "PYTHONPATH": str(FOLDER.parent)},
        )  # fmt: skip


def read(scratch: Path) -> Outcome:
    """What a process saw that had its folder there.

    Raises:
        OSError: it did not come to its end.
    """
    told = json.loads((scratch / "outcome.json").read_text())
    return Outcome(**{**told, "met": Counter(told["met"]), "skipped": Counter(told["skipped"])})


def _process(number: int, scratch: Path, asked: Asked) -> None:
    outcome = meet_faults(asked, number, scratch) if number else stay_healthy(asked, scratch)
    (scratch / "outcome.json").write_text(json.dumps(vars(outcome)))


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="when to begin no other fault")
    parser.add_argument("--seed", type=int, default=None, help="what comes when; a new one where nothing is said")
    parser.add_argument("--processes", type=int, default=2, help="how many meet faults at once")
    parser.add_argument("--only", default="", help="faults that match this expression of pytest's -k")
    parser.add_argument("--faults", type=int, default=Asked.faults, help="at most so many in each process")
    parser.add_argument("--folder", default=str(FOLDER), help="where the faults are; this folder where nothing is said")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    print(f"soak of {given.seconds:g} s in {given.processes} processes, --seed {seed}", flush=True)
    outcome = soak(Asked(given.seconds, seed, given.folder, given.only, given.faults), given.processes)
    print(outcome.table())
    return outcome.status


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        _process(int(sys.argv[2]), Path(sys.argv[3]), Asked(**json.loads(sys.argv[4])))
    else:
        sys.exit(main(sys.argv[1:]))
