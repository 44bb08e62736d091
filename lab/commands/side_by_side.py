"""``--workers``: devices side by side, each in a process of its own, in one session.

All that runs on a device runs in one process, so its lease is taken as by any other command. A signal goes to this
process alone, which asks the others to end in order; where it dies itself, their input ends, and they do the same.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import IO

import click

from lab.commands.order import ORDER, RECORD, UNMEASURED, Order, Terms
from lab.commands.running import is_compared, last_runs
from lab.comparison import alternatives
from lab.errors import InfrastructureError
from lab.inventory import Device
from lab.paths import store_dir
from lab.workloads.base import Workload
from measurements.report.method_table import Unmeasured
from measurements.store import Store

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "lab")
_LOOK_S = 0.5
_END = b"end\n"


@dataclass(frozen=True)
class Workers:
    """How many processes, and the bench file whose devices they use."""

    count: int
    bench: Path


@dataclass(frozen=True)
class _Ended:
    """What came of one process.

    Attributes:
        device: whose it was.
        unmeasured: what it told of.
        died: why it did not get to its end; empty where it did.
    """

    device: str
    unmeasured: tuple[Unmeasured, ...]
    died: str


def run_side_by_side(
    cells: Sequence[tuple[Device, Workload]], terms: Terms, workers: Workers
) -> Iterator[Unmeasured]:
    """Run the cells of each device in a process, so many at a time; yields what did not run, or not to its end.

    A process that dies is told as a failure of the bench, and its device lacks what was not measured by then.
    """
    orders = _orders(cells, terms)
    crew = _Crew(orders, workers)
    try:
        for _ in orders:
            ended = crew.next_ended()
            yield from ended.unmeasured
            if ended.died:
                what = f"its process {ended.died}; what it had not measured by then is missing"
                crew.say(f"{ended.device}: {InfrastructureError(what)}", err=True)
                yield from _missing(cells, terms, ended)
    finally:
        try:
            crew.end()
        finally:
            crew.kill()


def _orders(cells: Sequence[tuple[Device, Workload]], terms: Terms) -> list[Order]:
    """One for each device. Each begins at another workload: who comes second finds it prepared, and none waits."""
    by_device: dict[str, list[str]] = {}
    for entry, method in cells:
        by_device.setdefault(entry.name, []).append(method.id)
    orders = []
    for place, (name, ids) in enumerate(by_device.items()):
        first = place * len(ids) // len(by_device)
        orders.append(Order(name, (*ids[first:], *ids[:first]), terms))
    return orders


def _missing(cells: Sequence[tuple[Device, Workload]], terms: Terms, ended: _Ended) -> Iterator[Unmeasured]:
    """What a process that died had not told of and not measured."""
    told = {(one.workload, one.variant) for one in ended.unmeasured}
    with Store(store_dir()) as store:
        there = last_runs(store, terms.session_id)
    for entry, method in cells:
        for chosen in alternatives(terms.variant) if entry.name == ended.device else ():
            if (method.id, chosen) not in told and not is_compared(there, entry, method, chosen):
                yield Unmeasured(entry.name, method.id, chosen, f"its process {ended.died}")


class _Crew:
    """Threads that each run one process after the other and pass on what these say."""

    def __init__(self, orders: Sequence[Order], workers: Workers) -> None:
        self._command = (*PROGRAM, "--config", str(workers.bench), "worker")
        self._width = max(len(order.device) for order in orders)
        self._waiting: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._terminal = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ending = False
        for order in orders:
            self._waiting.put(order)
        for number in range(min(workers.count, len(orders))):
            threading.Thread(target=self._serve, name=f"lab-workers-{number}", daemon=True).start()

    def next_ended(self) -> _Ended:
        """What came of the process that ends next."""
        while True:
            # Windows interrupts no wait that has no limit.
            with suppress(queue.Empty):
                return self._ended.get(timeout=_LOOK_S)

    def say(self, line: str, *, err: bool) -> None:
        """Show a line, and no other within it."""
        # Where nobody reads any more, the measurements are still wanted.
        with self._terminal, suppress(OSError):
            click.echo(line, err=err)

    def end(self) -> None:
        """Ask all that run to end in order, start no more, and wait for them."""
        with self._lock:
            self._ending = True
            for process in self._running.values():
                with suppress(OSError):
                    _input(process).write(_END)
        while self._running:
            with suppress(queue.Empty):
                self._ended.get(timeout=_LOOK_S)

    def kill(self) -> None:
        """End what still runs at once."""
        with self._lock:
            self._ending = True
            for process in self._running.values():
                process.kill()

    def _serve(self) -> None:
        with suppress(queue.Empty):
            while True:
                order = self._waiting.get_nowait()
                try:
                    self._ended.put(self._run(order))
                except OSError as error:
                    self._ended.put(_Ended(order.device, (), f"could not be started: {error}"))

    def _run(self, order: Order) -> _Ended:
        with self._lock:
            if self._ending:
                return _Ended(order.device, (), "was not started")
            # A session of its own: the terminal's signals come to this process only.
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                start_new_session=True,
            )  # fmt: skip
            self._running[order.device] = process
        try:
            with process:
                with suppress(OSError):
                    _input(process).write(ORDER.dump_json(order) + b"\n")
                told = self._heard(order.device, process)
        finally:
            with self._lock:
                del self._running[order.device]
        return _Ended(order.device, told, _death(process.returncode))

    def _heard(self, device: str, process: subprocess.Popen[bytes]) -> tuple[Unmeasured, ...]:
        """Pass on what a process says until it says no more; what it tells of its cells."""
        told: list[Unmeasured] = []

        def listen(stream: IO[bytes] | None, *, err: bool) -> None:
            for line in stream or ():
                text, record, of_a_cell = line.decode(errors="replace").partition(RECORD)
                if record:
                    told.append(UNMEASURED.validate_json(of_a_cell))
                if text.strip():
                    self.say(f"{device:{self._width}} | {text.rstrip()}", err=err)

        beside = threading.Thread(target=listen, args=(process.stderr,), kwargs={"err": True}, daemon=True)
        beside.start()
        listen(process.stdout, err=False)
        beside.join()
        return tuple(told)


def _input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None, "it was asked for"
    return process.stdin


def _death(status: int) -> str:
    if status == 0:
        return ""
    return f"was ended by {Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
