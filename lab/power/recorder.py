"""Records a meter's stream beside a running job, in a thread of its own so that the meter never has to wait."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from lab.errors import LabError, MeterError
from lab.power.base import Float32Array, Meter, MeterInfo, SampleBlock, UInt8Array


@dataclass(frozen=True)
class Recording:
    """What a meter delivered between start and stop.

    Attributes:
        info: what the meter said of itself.
        current_a: float32, shape (n,), ampere; lost samples are NaN.
        logic: uint8, shape (n,), the marker in bit 0.
        lost, saturated: how many samples were lost, or at the end of the highest range.
    """

    info: MeterInfo
    current_a: Float32Array
    logic: UInt8Array
    lost: int
    saturated: int


class Recorder:
    """Opens a meter, and records from entering the context until :meth:`finish`.

    Args:
        meter: not yet opened.
        marker_input: logic input the marker is wired to.
    """

    def __init__(self, meter: Meter, marker_input: int = 0) -> None:
        self._meter = meter
        self._marker_input = marker_input
        self._blocks: list[SampleBlock] = []
        self._falling = 0
        self._after_last = 0
        self._level = 0
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._failure: LabError | None = None
        self._info: MeterInfo | None = None
        self._thread = threading.Thread(target=self._pump, name="lab-meter", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._info = self._meter.open()
            self._meter.start()
        except BaseException:
            self._meter.close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._halt()
        self._meter.close()

    def finish(self, windows: int, quiet_s: float, stall_s: float = 10.0) -> Recording:
        """Wait until the stream holds all marker windows and the quiet time after the last one, then stop.

        Args:
            windows: how many marker windows the job made.
            quiet_s: quiet time after the last window, seconds of the meter's clock.
            stall_s: give up waiting when nothing new came for this long; what is missing is for the caller to judge.

        Raises:
            MeterError: the meter failed while recording.
        """
        info = self._info
        if info is None:
            raise MeterError("the recorder was not started")
        wanted = max(0, int(quiet_s * info.sample_rate_hz) - 2)
        with self._progress:
            while self._failure is None and (self._falling < windows or self._after_last < wanted):
                before = len(self._blocks)
                if not self._progress.wait(stall_s) and len(self._blocks) == before:
                    break
        self._halt()
        if self._failure is not None:
            raise self._failure
        self._take(self._meter.stop())
        blocks = self._blocks
        logic = np.concatenate([block.logic for block in blocks]) if blocks else np.zeros(0, np.uint8)
        current = np.concatenate([block.current_a for block in blocks]) if blocks else np.zeros(0, np.float32)
        return Recording(
            info=info,
            current_a=current,
            logic=logic >> np.uint8(self._marker_input),
            lost=sum(block.lost for block in blocks),
            saturated=sum(block.saturated for block in blocks),
        )

    def _pump(self) -> None:
        try:
            while not self._stopping.is_set():
                block = self._meter.read(0.05)
                if block.current_a.size:
                    with self._progress:
                        self._take(block)
                        self._progress.notify_all()
        except LabError as error:
            with self._progress:
                self._failure = error
                self._progress.notify_all()

    def _take(self, block: SampleBlock) -> None:
        if not block.current_a.size:
            return
        self._blocks.append(block)
        bits = (block.logic >> np.uint8(self._marker_input)) & 1
        steps = np.diff(bits.astype(np.int8), prepend=np.int8(self._level))
        falls = np.flatnonzero(steps < 0)
        self._falling += int(falls.size)
        if falls.size:
            self._after_last = int(bits.size - falls[-1])
        else:
            self._after_last += int(bits.size)
        self._level = int(bits[-1])

    def _halt(self) -> None:
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
