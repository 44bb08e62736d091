"""What ``lab meter watch`` and ``record`` share: an open meter, something that runs beneath it, and its samples."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from lab.bench import Bench
from lab.calibrations import Usable, usable
from lab.devices.connect import connected, meter_at
from lab.errors import ConfigError, LabError, MeterError
from lab.events import Job
from lab.inventory import Device as Entry
from lab.lease import held
from lab.meter_config import MeterConfig
from lab.passes import first_samples
from lab.paths import cache_dir, store_dir
from lab.power.base import Meter, SampleBlock, split
from lab.runs import deploy
from measurements.uncertainty import corrected

_JOB_SAMPLES = 4
_READ_S = 0.2
_SILENT_S = 10.0


@dataclass(frozen=True)
class Stream:
    """An open meter.

    Attributes:
        entry: the device it stands at.
        meter: open.
        usable: its calibration.
        work: keeps an emulated board busy for a moment; None on hardware, which is left as it is.
    """

    entry: Entry
    meter: Meter
    usable: Usable
    work: Callable[[], None] | None

    def blocks(self, seconds: float | None) -> Iterator[SampleBlock]:
        """Blocks as they come, corrected by the lab's calibration; bit 0 of the logic inputs is the marker's.

        Args:
            seconds: how much of the meter's time; None for ever.

        Raises:
            MeterError: the meter failed, or shows nothing.
            LabError: what kept the board busy failed.
        """
        wanted = math.inf if seconds is None else math.ceil(seconds * self.meter.info.sample_rate_hz)
        config = meter_of(self.entry)
        correction = self.usable.correction
        self.meter.start()
        with _Worker(self.work) as worker:
            try:
                got, heard_s = 0, time.monotonic()
                while got < wanted:
                    worker.check()
                    block = self.meter.read(_READ_S)
                    if not block.current_a.size:
                        if time.monotonic() - heard_s > _SILENT_S:
                            raise MeterError(f"{self.entry.name}: the meter showed nothing for {_SILENT_S:g} s")
                        continue
                    heard_s = time.monotonic()
                    if block.current_a.size > wanted - got:
                        block, _ = split(block, int(wanted - got))
                    got += block.current_a.size
                    current = block.current_a if correction is None else corrected(block.current_a, correction)
                    yield replace(block, current_a=current, logic=block.logic >> np.uint8(config.marker_input))
            finally:
                with contextlib.suppress(MeterError):
                    self.meter.stop()


def meter_of(entry: Entry) -> MeterConfig:
    """The meter of a device.

    Raises:
        ConfigError: it has none.
    """
    if entry.meter is None:
        raise ConfigError(
            f"{entry.origin}: device {entry.name!r} has no meter", hint="add `meter:` to it; `lab meter list` shows all"
        )
    return entry.meter


@contextlib.contextmanager
def opened(config: Path, device: str, workload: str) -> Iterator[Stream]:
    """The meter of a device, open, and the device behind it where it is emulated.

    An emulated board is started with the image of ``workload`` and runs it again and again: without a board an emulated
    meter has nothing to show. On hardware only the meter is opened.

    Raises:
        ConfigError: no such device, or it has no meter.
        InfrastructureError: the meter or the emulator cannot be had.
    """
    entry = Bench.load(config).get(device)
    settings = meter_of(entry)
    with ExitStack() as stack:
        if entry.emulated:
            board = stack.enter_context(connected(entry, cache_dir()))
            deployment = deploy(entry, board, workload, cache_dir())
            prepared = deployment.prepared
            job = first_samples(prepared.job, prepared.model.input.size, min(prepared.job.count, _JOB_SAMPLES))
            meter = board.meter()
            if meter is None:
                raise ConfigError(f"{entry.origin}: device {entry.name!r} came up without its meter")
            work: Callable[[], None] | None = _Passes(board.run, replace(job, repeats=1, marker_line=True))
        else:
            stack.enter_context(held(entry, "lab meter"))
            meter, work = meter_at(entry, cache_dir(), stack), None
        opened_meter = stack.enter_context(meter)
        yield Stream(entry, opened_meter, usable(store_dir(), settings, opened_meter.info), work)


@dataclass(frozen=True)
class _Passes:
    """A few passes of a job."""

    run: Callable[[Job], Iterator[object]]
    job: Job

    def __call__(self) -> None:
        for _ in self.run(self.job):
            pass


class _Worker:
    """Does something again and again in a thread until the context ends; its failure is raised in the caller's."""

    def __init__(self, work: Callable[[], None] | None) -> None:
        self._work = work
        self._ending = threading.Event()
        self._failure: LabError | None = None
        self._thread = threading.Thread(target=self._run, name="lab-meter-work", daemon=True)

    def __enter__(self) -> Self:
        if self._work is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raise what made the work end."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while self._work is not None and not self._ending.is_set():
                self._work()
        except LabError as error:
            self._failure = error
