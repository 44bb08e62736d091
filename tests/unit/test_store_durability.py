"""What was acknowledged stays: kill -9 at random moments, a full disk, a read-only disk, a file size limit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from helpers.store_runs import earlier_store

from lab.errors import StoreError
from measurements.record import Provenance, Run, Trace
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.merge import merge

KILLS = int(os.environ.get("STORE_KILLS", "10"))  # more by hand: STORE_KILLS=200 STORE_SEED=$RANDOM
MOUNT_OPTIONS = "size=2m"


def make_run(run_id: str, repeats: int = 20) -> Run:
    provenance = Provenance(
        device="mcu-0", board="host", clock="dwt", clock_hz=1e6, emulator="", meter="", meter_uncertainty=0,
        energy_model="", workload="kws", variant="", parameters={}, seed=0, dataset="", dataset_digest="",
        artifact_digest="", build_id="", toolchain="", flags="", git_commit="c", git_dirty=False, lab_version="0",
    )  # fmt: skip
    started_ns = int(run_id.removeprefix("run-").replace("-", ""))
    values = np.random.default_rng(started_ns).random(repeats)
    record = make_record("inference", "latency", "s", "hardware", values.tolist())
    return Run(run_id, "s", started_ns, "passed", provenance, (record,))


def make_trace(samples: int, seed: int = 0) -> Trace:
    current = np.random.default_rng(seed).random(samples).astype(np.float32)
    return Trace(0.0, 1e-5, 3.3, current, np.zeros(samples, np.uint8))


def simple_run(run_id: str) -> Run:
    return make_run(run_id, repeats=1)


# kill -9


def save_until_killed(folder: Path, generation: int, acknowledge: Connection) -> None:
    with Store(folder) as store:
        number = 0
        while True:
            run_id = f"run-{generation:04}-{number:06}"
            store.save(simple_run(run_id), make_trace(500, seed=number))
            acknowledge.send(run_id)
            number += 1


def kill_one(folder: Path, generation: int, rng: random.Random) -> list[str]:
    """Start a saver, kill it at a random moment after its first few saves; the run ids it acknowledged."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["measurements.store", "pyarrow.parquet", "numpy", "pytest"])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=save_until_killed, args=(folder, generation, writer))
    process.start()
    writer.close()
    acknowledged = [reader.recv() for _ in range(rng.randrange(1, 12))]
    time.sleep(rng.uniform(0.0, 0.03))  # not to wait for anything: the kill is to fall anywhere inside a save
    process.kill()
    try:
        while True:
            acknowledged.append(reader.recv())
    except (EOFError, OSError):
        pass
    process.join()
    return acknowledged


def test_every_acknowledged_run_survives_kill_9_exactly_once(tmp_path: Path) -> None:
    rng = random.Random(int(os.environ.get("STORE_SEED", "2026")))
    acknowledged: list[str] = []
    for generation in range(KILLS):
        acknowledged += kill_one(tmp_path, generation, rng)
        with Store(tmp_path) as store:
            check = store.verify()
            stored = [run.run_id for run in store.runs()]
            blocks = [block.run_id for block in store.pending(limit=len(stored) + 1)]
        assert check.problems == ()
        assert len(stored) == len(set(stored))
        assert set(acknowledged) <= set(stored)
        assert len(stored) <= len(acknowledged) + generation + 1, "at most one run per kill was saved unacknowledged"
        assert sorted(blocks) == sorted(stored)
        assert check.traces == check.runs == len(stored)
        assert len(check.leftovers) <= 2 * (generation + 1)
    with Store(tmp_path) as store:
        for run_id in acknowledged:
            trace = store.trace(run_id)
            expected = make_trace(500, seed=int(run_id.rsplit("-", 1)[1]))
            assert trace is not None
            assert trace.current_a.tobytes() == expected.current_a.tobytes()


# A small disk of our own, in a user namespace: no root needed


@cache
def can_mount() -> bool:
    """Whether this system lets a plain user mount a small disk in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", MOUNT_OPTIONS, "none", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="user namespaces with mounts are not allowed here")


def on_small_disk(scenario: Callable[[Path], None], disk: Path) -> None:
    """Run a scenario of this file in a process that sees a 2 MiB disk at ``disk``."""
    code = (
        f"import sys; from pathlib import Path; sys.path[:0] = {[str(Path(__file__).parents[k]) for k in (0, 1)]}\n"
        f"import {Path(__file__).stem} as scenarios; scenarios.{scenario.__name__}(Path({str(disk)!r}))"
    )
    script = f'mount -t tmpfs -o {MOUNT_OPTIONS} none "$1" && exec "$2" -c "$3"'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(disk), sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fill(disk: Path) -> Path:
    """Use up every byte of a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


def records_meet_a_full_disk(disk: Path) -> None:
    saved: list[Run] = []
    with Store(disk / "store") as store:
        for number in range(3):
            saved.append(make_run(f"run-{number}"))
            store.save(saved[-1])
        filler = fill(disk)
        late = make_run("run-3", repeats=5000)
        with pytest.raises(StoreError, match=r"lab\.sqlite: run run-3 was not saved: .*full") as full:
            store.save(late)
        assert "What was committed before is kept and readable" in full.value.message
        assert "free space on that disk" in full.value.hint
        assert store.runs() == saved, "what was committed stays readable"
    with Store(disk / "store") as store:
        assert store.runs() == saved, "also for a process that opens the store on the full disk"
        with pytest.raises(StoreError, match="run-3 was not saved"):
            store.save(late)
    filler.unlink()
    with Store(disk / "store") as store:
        store.save(late)
        assert store.runs() == [*saved, late]
        assert store.verify().problems == ()


def a_trace_meets_a_full_disk(disk: Path) -> None:
    with Store(disk / "store") as store:
        run, trace = make_run("run-0"), make_trace(1_000_000)
        with pytest.raises(StoreError, match=r"its 1 records are saved, its trace is not: .*No space left") as full:
            store.save(run, trace)
        assert "free space" in full.value.hint
        assert store.runs() == [run]
        assert store.trace("run-0") is None
        check = store.verify()
        assert (check.problems, check.leftovers) == ((), ())
        store.save(run, make_trace(100))
        loaded = store.trace("run-0")
        assert loaded is not None
        assert loaded.current_a.size == 100
        assert store.runs() == [run]


def a_store_meets_a_read_only_disk(disk: Path) -> None:
    run = make_run("run-0")
    with Store(disk / "store") as store:
        store.save(run, make_trace(100))
    remount(disk, "ro")
    with Store(disk / "store") as store:
        assert store.runs() == [run]
        assert store.trace("run-0") is not None
        assert store.verify().problems == ()
        with pytest.raises(StoreError, match=r"run-1 was not saved: .*[Rr]ead-only") as refused:
            store.save(make_run("run-1"))
        assert "writable" in refused.value.hint
    with pytest.raises(StoreError, match=r"nowhere/lab\.sqlite: cannot be created: .*Read-only"):
        Store(disk / "nowhere")


def a_killed_writers_log_lies_on_a_read_only_disk(disk: Path) -> None:
    acknowledged = kill_one(disk / "store", 0, random.Random(1))
    assert (disk / "store" / "lab.sqlite-wal").stat().st_size > 0
    (disk / "store" / "lab.sqlite-shm").unlink()
    remount(disk, "ro")
    with Store(disk / "store") as store:
        stored = [run.run_id for run in store.runs()]
        assert set(acknowledged) <= set(stored)
        assert store.verify().problems == ()


def an_earlier_store_meets_a_full_disk(disk: Path) -> None:
    folder = earlier_store(disk / "store", 1)
    before = (folder / "lab.sqlite").read_bytes()
    filler = fill(disk)
    with Store(folder) as store:
        assert store.run_ids() == ["run-1", "run-2", "run-3"], "readable, though it cannot be brought up to date"
        assert store.verify().problems == ()
        with pytest.raises(StoreError, match=r"run run-1 was not saved: .*(full|No space|disk I/O error)"):
            store.save(make_run("run-1"))
    assert (folder / "lab.sqlite").read_bytes() == before
    filler.unlink()
    with Store(folder) as store:
        store.save(make_run("run-4"))
        assert store.run_ids() == ["run-4", "run-1", "run-2", "run-3"]
        assert store.verify().problems == ()


def an_earlier_store_meets_a_read_only_disk(disk: Path) -> None:
    folder = earlier_store(disk / "store", 1)
    remount(disk, "ro")
    with Store(folder) as store:
        assert store.run_ids() == ["run-1", "run-2", "run-3"]
        assert store.trace("run-1") is not None
        assert store.verify().problems == ()
        with pytest.raises(StoreError, match=r"run run-4 was not saved: .*[Rr]ead-only"):
            store.save(make_run("run-4"))


def merging_and_pruning_meet_a_full_disk(disk: Path) -> None:
    with Store(disk / "other") as other:
        for number in range(1, 5):
            other.save(make_run(f"run-{number}", repeats=3000), make_trace(10_000, seed=number))
    with Store(disk / "store") as store:
        store.save(make_run("run-1", repeats=3000), make_trace(10_000, seed=1))
        filler = fill(disk)
        with pytest.raises(StoreError, match=r"No space left|full"):
            merge(store, disk / "other")
        assert store.verify().problems == ()
        assert store.runs() == [make_run("run-1", repeats=3000)]
        with pytest.raises(StoreError, match=r"not all runs were removed: .*full"):
            store.remove(["run-1"], traces_only=False)
        assert store.verify().problems == ()
        with pytest.raises(StoreError, match=r"1 outbox blocks could not be removed: .*full"):
            store.confirm([store.pending()[0].block])
        assert store.outbox_sizes() == (1, 0)
        filler.unlink()
        assert merge(store, disk / "other").changed == 3
        check = store.verify()
        assert (check.runs, check.traces, check.problems) == (4, 4, ())
        store.remove(["run-1"], traces_only=False)
        assert store.run_ids() == ["run-2", "run-3", "run-4"]


def two_controllers_meet_a_full_disk(disk: Path) -> None:
    acknowledged: list[str] = []
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    workers = [
        context.Process(target=save_until_refused, args=(disk / "store", number, pipe[1]))
        for number, pipe in enumerate(pipes)
    ]
    for worker, (reader, writer) in zip(workers, pipes, strict=True):
        worker.start()
        writer.close()
        with contextlib.suppress(EOFError):
            while True:
                acknowledged.append(reader.recv())
        worker.join()
        assert worker.exitcode == 0
    with Store(disk / "store") as store:
        ids = store.run_ids()
        assert sorted(ids) == sorted(acknowledged)
        assert store.verify().problems == ()
    assert len(ids) > 4


def save_until_refused(folder: Path, controller: int, acknowledge: Connection) -> None:
    with Store(folder) as store:
        for number in range(10_000):
            try:
                store.save(make_run(f"run-{controller}-{number:05}", repeats=500))
            except StoreError:
                return
            acknowledge.send(f"run-{controller}-{number:05}")


@needs_mount
@pytest.mark.parametrize(
    "scenario",
    [
        an_earlier_store_meets_a_full_disk,
        an_earlier_store_meets_a_read_only_disk,
        merging_and_pruning_meet_a_full_disk,
        two_controllers_meet_a_full_disk,
        records_meet_a_full_disk,
        a_trace_meets_a_full_disk,
        a_store_meets_a_read_only_disk,
        a_killed_writers_log_lies_on_a_read_only_disk,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_a_disk_that_takes_no_more(scenario: Callable[[Path], None], tmp_path: Path) -> None:
    on_small_disk(scenario, tmp_path)


# A file size limit: works on any system


def files_may_not_grow(folder: Path) -> None:
    with Store(folder) as store:
        store.save(make_run("run-0"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        with pytest.raises(StoreError, match=r"its 1 records are saved, its trace is not: .*File too large"):
            store.save(make_run("run-1"), make_trace(200_000))
        with pytest.raises(StoreError, match=r"run-2 was not saved: .*is kept and readable"):
            store.save(make_run("run-2", repeats=100_000))
        assert [run.run_id for run in store.runs()] == ["run-0", "run-1"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.save(make_run("run-2", repeats=100_000))
        assert store.verify().problems == ()


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=files_may_not_grow, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    with Store(tmp_path) as store:
        assert [run.run_id for run in store.runs()] == ["run-0", "run-1", "run-2"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/store/lab\.sqlite: cannot be created: .*Not a directory"):
        Store(tmp_path / "file" / "store")
