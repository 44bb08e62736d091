"""Faults of this computer and of the store, made on purpose while a workload is measured."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from helpers import faulty_workload
from helpers.fault_bench import SESSION, FaultBench
from helpers.toolchain import entry

from lab.artifact import Artifact
from lab.build import build
from lab.cli import main
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.errors import LabError, LeaseLost
from lab.inventory import Device as Entry
from lab.lease import lease
from lab.paths import cache_dir
from lab.runs import deploy, measure
from measurements.record import Run
from measurements.store import Store, influx, opening

HOUR_NS = 3600 * 10**9
BUSY_S = 0.2
ROOM_BYTES = 16 << 10
SLOW_S = 0.2
_HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Left:
    """What a test left that met a fault.

    Attributes:
        error: what it ended with; None where it passed.
        kept: what the store holds, in the catalogue's words.
    """

    error: LabError | None
    kept: tuple[str, ...]


class StoreBench(FaultBench):
    """This computer as the device: what happens to the store says nothing of it.

    Attributes:
        stack: what ends with the bench.
        mend: what a person does about the fault.
    """

    def __init__(self, entry: Entry, device: Device, folder: Path, stack: ExitStack) -> None:
        super().__init__(entry, device, folder)
        self.stack = stack
        self.mend: Callable[[], None] = lambda: None

    def run(self) -> Run:
        """A run that nothing happens to."""
        with Store(self.folder) as store:
            return self._run(store)

    def meet(self, strike: Callable[[], None] | None = None) -> Left:
        """Measure, and let something happen in the middle of a job."""
        self.device.strike, error, before = strike, None, self.ids()
        with Store(self.folder) as store:
            try:
                self._run(store)
            except LabError as caught:
                error = caught
        return Left(error, self.kept(before))

    def ids(self) -> list[str]:
        """The runs of the store, which is sound."""
        with Store(self.folder, read_only=True) as store:
            return store.run_ids()

    def kept(self, before: list[str]) -> tuple[str, ...]:
        """What the store holds, and held before."""
        now = self.ids()
        with Store(self.folder, read_only=True) as store:
            waiting = {block.run_id for block in store.pending(1000)}
        words = {
            "all runs before": now[: len(before)] == before,
            "a run marked `passed`": len(now) == len(before) + 1,
            "its figures in the outbox": len(now) > len(before) and now[-1] in waiting,
        }
        return tuple(word for word, there in words.items() if there)

    def _run(self, store: Store) -> Run:
        deployment = deploy(self.entry, self.device, faulty_workload.NAME, cache_dir())
        return measure(deployment, store, SESSION, test="test").run


@contextmanager
def store_bench(folder: Path) -> Iterator[StoreBench]:
    """A bench with this computer on it."""
    faulty_workload.register()
    found = entry("host")
    with ExitStack() as stack:
        yield StoreBench(found, stack.enter_context(connected(found, cache_dir())), folder, stack)


@contextmanager
def full_disk() -> Iterator[None]:
    """Writing beyond the first pages of a file fails, as on a full disk: for root as well, and without a disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@contextmanager
def held_by_another(database: Path) -> Iterator[None]:
    """Another process is in the middle of a transaction, for longer than anybody waits."""
    holder = subprocess.Popen(
        (sys.executable, "-S", "-c", _HOLD, str(database)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.kill()


class WallClock:
    """The wall clock of this computer, which can be set; a context manager."""

    def __init__(self) -> None:
        self.ahead_ns = 0
        self._time_ns = time.time_ns
        self._patches = (
            mock.patch.object(time, "time_ns", self.now_ns),
            mock.patch.object(time, "time", self.now_s),
        )

    def now_ns(self) -> int:
        """What it shows, nanoseconds since the epoch."""
        return self._time_ns() + self.ahead_ns

    def now_s(self) -> float:
        """The same in seconds."""
        return self.now_ns() * 1e-9

    def set_ahead(self, by_ns: int = HOUR_NS) -> None:
        """Set it ahead of what it was."""
        self.ahead_ns += by_ns

    def __enter__(self) -> WallClock:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()


def disk_of_the_store_full(bench: StoreBench) -> Left:
    """The disk fills up while the device is measured."""
    bench.run()
    before = bench.ids()
    with Store(bench.folder) as store, full_disk():
        return _measured_into(bench, store, before)


def store_locked(bench: StoreBench) -> Left:
    """Another process holds the store when the run is saved."""
    bench.run()
    before = bench.ids()
    with (
        mock.patch.object(opening, "BUSY_TIMEOUT_S", BUSY_S),
        Store(bench.folder) as store,
        held_by_another(store.database),
    ):
        return _measured_into(bench, store, before)


def clock_set_ahead(bench: StoreBench) -> Left:
    """The wall clock is set ahead in mid-run, and somebody else waits for the device."""
    bench.run()
    clock = bench.stack.enter_context(WallClock())
    leases = bench.folder.parent / "leases"

    def set_ahead() -> None:
        clock.set_ahead()
        with pytest.raises(LeaseLost, match="is held by"):
            lease(bench.entry.name, "another test", folder=leases)

    with lease(bench.entry.name, "a test", folder=leases) as held:
        left = bench.meet(set_ahead)
        held.check()
    assert clock.ahead_ns == HOUR_NS
    return left


def clock_set_back(bench: StoreBench) -> Left:
    """The wall clock, an hour ahead until then, is set back in mid-run."""
    clock = bench.stack.enter_context(WallClock())
    clock.set_ahead()
    bench.run()
    bench.mend = clock.set_ahead
    return bench.meet(lambda: clock.set_ahead(-HOUR_NS))


def cache_full(bench: StoreBench) -> Left:
    """There is no room for the build of an image that is not in the cache."""
    bench.run()
    before, error = bench.ids(), None
    cache = bench.folder.parent / "cold"
    prepared = faulty_workload.WORKLOAD.prepare(cache)
    try:
        with full_disk():
            build(prepared.model, "host", cache=cache)
    except LabError as caught:
        error = caught
    bench.mend = lambda: check_built(build(prepared.model, "host", cache=cache))
    return Left(error, bench.kept(before))


def check_built(artifact: Artifact) -> None:
    """An image is what it should be."""
    assert hashlib.sha256(artifact.path.read_bytes()).hexdigest() == artifact.digest


def mirror_down(bench: StoreBench) -> Left:
    """Nothing listens where the InfluxDB should be."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return _mirrored_to(bench, port, "cannot be reached")


def mirror_slow(bench: StoreBench) -> Left:
    """The InfluxDB takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return _mirrored_to(bench, listener.getsockname()[1], "timed out")


def _mirrored_to(bench: StoreBench, port: int, problem: str) -> Left:
    """A session of `lab run` whose results are to go to a server that does not take them."""
    bench.run()
    before = bench.ids()
    settings = {
        "LAB_INFLUX_URL": f"http://127.0.0.1:{port}", "LAB_INFLUX_BUCKET": "lab", "LAB_INFLUX_TOKEN": "user:secret",
        "LAB_STORE": str(bench.folder), "LAB_REPORTS": str(bench.folder.parent / "reports"),
    }  # fmt: skip
    with (
        mock.patch.dict(os.environ, settings),
        mock.patch.object(influx, "flush", partial(influx.flush, timeout_s=SLOW_S)),
    ):
        done = CliRunner().invoke(main, ["run", faulty_workload.NAME, "--device", bench.entry.name])
    assert done.exit_code == 0, done.output
    assert "0 blocks sent, 0 refused, 2 kept" in done.output
    assert problem in done.output
    assert "secret" not in done.output
    bench.mend = lambda: check_mirrored(bench)
    return Left(None, bench.kept(before))


def check_mirrored(bench: StoreBench) -> None:
    """Another server takes all that waits, each run once."""
    taken: list[bytes] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append(gzip.decompress(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server, Store(bench.folder) as store:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = influx.InfluxConfig(f"http://127.0.0.1:{server.server_port}", "lab", "user:secret", "-")
        assert influx.flush(store, config) == influx.FlushResult(len(taken), 0, 0)
        server.shutdown()
        ids = store.run_ids()
    told = [set(re.findall(r'run="([^"]+)"', text.decode())) for text in taken]
    assert sorted(run_id for ids_of_block in told for run_id in ids_of_block) == ids


def _measured_into(bench: StoreBench, store: Store, before: list[str]) -> Left:
    error: LabError | None = None
    try:
        bench._run(store)
    except LabError as caught:
        error = caught
    return Left(error, bench.kept(before))


DRILLS: Mapping[str, Callable[[StoreBench], Left]] = {
    "disk of the build cache is full": cache_full,
    "InfluxDB is down": mirror_down,
    "InfluxDB does not answer": mirror_slow,
    "disk of the store is full": disk_of_the_store_full,
    "store is locked by another process": store_locked,
    "wall clock is set ahead in mid-run": clock_set_ahead,
    "wall clock is set back in mid-run": clock_set_back,
}
