"""kill -9 at every step of a save, a merge and a pruning, and of two controllers at once.

A worker dies at a chosen step: at each file that Python opens, renames or removes (audit events) and at each SQL
statement (trace callback). With the random kills of ``test_store_durability`` and ``test_store_migration``, whose
number ``STORE_KILLS`` sets, no moment is left out.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from helpers.store_runs import make_run, make_trace, same

from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.merge import merge
from measurements.store.opening import connect
from measurements.store.prune import plan, prune
from measurements.store.selection import EVERYTHING

FORK = multiprocessing.get_context("fork")
KILLS = int(os.environ.get("STORE_KILLS", "12"))
SEED = int(os.environ.get("STORE_SEED", "11"))
_EVENTS = {"open", "os.rename", "os.remove", "sqlite3.connect"}


class Fuse:
    """Kills this process at step ``at``, counted over file operations and SQL statements; 0 only counts."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.steps = str(folder), at, 0

    def burn(self, *_: object) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _EVENTS and any(self.folder in str(argument) for argument in arguments):
            self.burn()

    def arm(self) -> None:
        sys.addaudithook(self.audit)

        def connect_and_watch(uri: str) -> object:
            db = connect(uri)
            db.set_trace_callback(self.burn)
            return db

        import measurements.store.opening as opening

        opening.connect = connect_and_watch  # type: ignore[assignment]


def in_child(folder: Path, at: int, work: Callable[[Path], None]) -> int:
    """Steps of ``work``, or -1 where it was killed at step ``at``."""
    reader, writer = FORK.Pipe(duplex=False)

    def run() -> None:
        fuse = Fuse(folder, at)
        fuse.arm()
        work(folder)
        writer.send(fuse.steps)

    process = FORK.Process(target=run)
    process.start()
    writer.close()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return -1
    assert process.exitcode == 0
    return int(reader.recv())


def two_runs(folder: Path) -> None:
    with Store(folder) as store:
        for number in (1, 2):
            store.save(make_run(number), make_trace(number))


def save_a_third(folder: Path) -> None:
    with Store(folder) as store:
        store.save(make_run(3), make_trace(3))


def amend_the_first(folder: Path) -> None:
    with Store(folder) as store:
        run = store.run("run-mcu-0-0001")
        added = make_record("run", "accuracy", "1", "emulated", [0.9])
        store.amend(replace(run, status="failed", records=(*run.records, added)))


def merge_the_other(folder: Path) -> None:
    with Store(folder) as store:
        merge(store, folder.parent / "other")


def prune_the_first(folder: Path) -> None:
    with Store(folder) as store:
        prune(store, plan(store, EVERYTHING, keep=1, even_unsent=True))


def steps_to_die_at(steps: int) -> list[int]:
    """All of them where all are asked for by ``STORE_KILLS``, else a seeded choice with the last among them."""
    chosen = random.Random(SEED).sample(range(1, steps + 1), min(steps, KILLS))
    return sorted({*chosen, steps})


@pytest.mark.parametrize("work", [save_a_third, amend_the_first, merge_the_other, prune_the_first])
def test_whatever_step_dies_the_store_holds_all_it_held_and_the_work_can_be_done_again(
    tmp_path: Path, work: Callable[[Path], None]
) -> None:
    with Store(tmp_path / "other") as other:
        for number in (2, 5, 6):
            other.save(make_run(number), make_trace(number))
    two_runs(tmp_path / "done")
    steps = in_child(tmp_path / "done", 0, work)
    assert steps > 5
    with Store(tmp_path / "done") as store:
        expected = store.runs()
    for step in steps_to_die_at(steps):
        folder = tmp_path / f"killed-{step}"
        two_runs(folder)
        assert in_child(folder, step, work) == -1
        with Store(folder) as store:
            check = store.verify()
            assert check.problems == ()
            ids = store.run_ids()
            assert len(ids) == len(set(ids))
            assert "run-mcu-0-0002" in ids
            if work is not prune_the_first:
                assert "run-mcu-0-0001" in ids
            assert store.outbox_sizes()[0] >= len(ids)
        work(folder)
        with Store(folder) as store:
            assert store.runs() == expected
            assert store.verify().problems == ()
            for run in expected:
                assert same(store.trace(run.run_id), make_trace(int(run.run_id[-4:])))
            store.remove_leftovers()
            assert store.verify().leftovers == ()


# Two controllers of one store, killed at random moments


def save_for_ever(folder: Path, controller: int, generation: int, acknowledge: Connection) -> None:
    number = 1000 * generation
    with Store(folder) as store:
        while True:
            run = make_run(number, device=f"mcu-{controller}")
            store.save(run, make_trace(number, samples=50))
            acknowledge.send(run.run_id)
            number += 1


def test_two_controllers_killed_at_random_lose_nothing(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    acknowledged: list[str] = []
    for generation in range(max(1, KILLS // 2)):
        pipes = [FORK.Pipe(duplex=False) for _ in range(2)]
        workers = [
            FORK.Process(target=save_for_ever, args=(tmp_path, controller, generation, pipes[controller][1]))
            for controller in range(2)
        ]
        for worker, (reader, writer) in zip(workers, pipes, strict=True):
            worker.start()
            writer.close()
            acknowledged.append(reader.recv())
        for worker in workers:
            time.sleep(rng.uniform(0.0, 0.02))  # not to wait for anything: the kill is to fall anywhere
            worker.kill()
        for worker, (reader, _) in zip(workers, pipes, strict=True):
            worker.join()
            try:
                while True:
                    acknowledged.append(reader.recv())
            except (EOFError, OSError):
                pass
    with Store(tmp_path) as store:
        check, ids = store.verify(), store.run_ids()
        blocks = [block.run_id for block in store.pending(limit=len(ids) + 1)]
        for run_id in rng.sample(acknowledged, min(20, len(acknowledged))):
            assert same(store.trace(run_id), make_trace(int(run_id.rsplit("-", 1)[1]), samples=50))
    assert check.problems == ()
    assert len(ids) == len(set(ids))
    assert set(acknowledged) <= set(ids)
    assert len(acknowledged) == len(set(acknowledged))
    assert sorted(blocks) == sorted(ids)


def test_two_controllers_merge_into_one_store_at_once(tmp_path: Path) -> None:
    for name, numbers in (("a", range(8)), ("b", range(4, 12))):
        with Store(tmp_path / name) as store:
            for number in numbers:
                store.save(make_run(number), make_trace(number, samples=20))

    def merge_one(name: str) -> None:
        with Store(tmp_path / "all") as store:
            merge(store, tmp_path / name)

    workers = [FORK.Process(target=merge_one, args=(name,)) for name in ("a", "b", "a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Store(tmp_path / "all") as store:
        assert store.run_ids() == [f"run-mcu-0-{number:04}" for number in range(12)]
        check = store.verify()
        assert (check.traces, check.problems, check.leftovers) == (12, (), ())
        assert store.outbox_sizes() == (12, 0)


def test_the_fuse_sees_the_rename_of_a_trace(tmp_path: Path) -> None:
    """Else the kills around the rename would not be there."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and str(tmp_path) in str(arguments[0]):
            seen.append(Path(str(arguments[1])).name)

    sys.addaudithook(hook)
    two_runs(tmp_path)
    assert seen == ["run-mcu-0-0001.parquet", "run-mcu-0-0002.parquet"]
