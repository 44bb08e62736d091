"""Records a meter's stream beside a running job, in a thread of its own so that the meter never has to wait."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from lab.errors import MeterError
from lab.power.base import Meter, SampleBlock, join

_WAIT_S = 0.05


class Recorder:
    """Reads an open meter, so that a stream of 400 kB/s never waits for its user.

    Example::

        with Ppk2(port, voltage_v=3.3) as meter, Recorder(meter) as recorder:
            device.run(job)
            samples = recorder.finish(windows=job.count, quiet_s=0.002)

    Args:
        meter: an open meter; its stream starts when the context is entered.
        marker_input: logic input the marker is wired to; it becomes bit 0 of what is recorded.
    """

    def __init__(self, meter: Meter, marker_input: int = 0) -> None:
        self._meter = meter
        self._marker_input = np.uint8(marker_input)
        self._blocks: list[SampleBlock] = []
        self._samples = 0
        self._falling = 0
        self._after_last = 0
        self._level = 0
        self._ending = threading.Event()
        self._progress = threading.Condition()
        self._failure: MeterError | None = None
        self._thread = threading.Thread(target=self._work, name="lab-meter", daemon=True)
        self.started_s = math.nan
        """When the stream was started, seconds of :func:`time.monotonic`; NaN before."""

    def __enter__(self) -> Self:
        self.started_s = time.monotonic()
        self._meter.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_thread()

    def finish(
        self, windows: int, quiet_s: float, stall_s: float = 10.0, limit_s: float = math.inf
    ) -> SampleBlock:
        """Wait until the stream holds all marker windows and the quiet time after the last one, then stop.

        The time of an emulated device stands still when its job is done. A driver that holds samples back until later
        ones have come (:attr:`MeterInfo.held_back_s`) would never hand out the last of them, so it is stopped at once:
        its peer then sends all up to where time stands.

        Args:
            windows: how many marker windows the job made.
            quiet_s: quiet time after the last window, seconds of the meter's clock.
            stall_s: give up waiting when nothing new came for so long; what is missing is for the caller to judge.
            limit_s: give up after so long in any case; a real meter's stream never ends by itself.

        Raises:
            MeterError: the meter failed; :meth:`samples` still has what came before.
        """
        info = self._meter.info
        if info.emulated and info.held_back_s:
            return self.stop()
        wanted = max(0, int(quiet_s * info.sample_rate_hz) - 2)
        self._wait(lambda: self._falling >= windows and self._after_last >= wanted, stall_s, limit_s)
        return self.stop()

    @property
    def received(self) -> int:
        """Samples that have come so far, lost ones counted."""
        return self._samples

    def wait(self, samples: int, stall_s: float = 10.0, limit_s: float = math.inf) -> None:
        """Wait until the stream holds so many samples; gives up as :meth:`finish` does."""
        self._wait(lambda: self._samples >= samples, stall_s, limit_s)

    def _wait(self, ready: Callable[[], bool], stall_s: float, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        with self._progress:
            while self._failure is None and not ready():
                before = len(self._blocks)
                left_s = deadline - time.monotonic()
                if left_s <= 0 or (not self._progress.wait(min(stall_s, left_s)) and len(self._blocks) == before):
                    break

    def stop(self) -> SampleBlock:
        """Stop the stream; all samples since the start as one block.

        Raises:
            MeterError: reading or stopping failed; :meth:`samples` still has what came before.
        """
        self._end_thread()
        if self._failure is not None:
            raise self._failure
        try:
            self._take(self._meter.stop())
        except MeterError:
            with contextlib.suppress(MeterError):
                self._take(self._meter.read(0.0))
            raise
        return self.samples()

    def samples(self) -> SampleBlock:
        """What has come so far."""
        return join(self._blocks)

    def _work(self) -> None:
        try:
            while not self._ending.is_set():
                block = self._meter.read(_WAIT_S)
                if not block.current_a.size:
                    # Waking finish() for nothing would hide from it that the meter went silent.
                    continue
                with self._progress:
                    self._take(block)
                    self._progress.notify_all()
        except MeterError as error:
            with self._progress:
                self._failure = error
                self._progress.notify_all()

    def _take(self, block: SampleBlock) -> None:
        if not block.current_a.size:
            return
        logic = block.logic >> self._marker_input
        self._blocks.append(replace(block, logic=logic))
        self._samples += int(logic.size)
        steps = np.diff((logic & 1).astype(np.int8), prepend=np.int8(self._level))
        falls = np.flatnonzero(steps < 0)
        self._falling += int(falls.size)
        self._after_last = int(logic.size - falls[-1]) if falls.size else self._after_last + int(logic.size)
        self._level = int(logic[-1] & 1)

    def _end_thread(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
