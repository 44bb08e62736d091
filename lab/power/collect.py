"""From the blocks of a meter to the arrays of one trace, and the thread that keeps a meter's stream flowing."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from lab.errors import MeterError
from lab.power.base import Meter, SampleBlock

_WAIT_S = 0.05


def join(blocks: Sequence[SampleBlock]) -> SampleBlock:
    """One block of consecutive ones; an empty block for none.

    Raises:
        MeterError: a block does not begin where the one before it ended.
    """
    for before, after in itertools.pairwise(blocks):
        end = before.first + before.current_a.size
        if after.first != end:
            raise MeterError(f"block begins at sample {after.first}, the one before it ended at {end}")
    return SampleBlock(
        first=blocks[0].first if blocks else 0,
        current_a=np.concatenate([np.empty(0, np.float32), *(block.current_a for block in blocks)]),
        logic=np.concatenate([np.empty(0, np.uint8), *(block.logic for block in blocks)]),
        lost=sum(block.lost for block in blocks),
        saturated=sum(block.saturated for block in blocks),
    )


class Collector:
    """Reads an open meter in a thread of its own, so that a stream of 400 kB/s never waits for its user.

    Example::

        with Ppk2(port, voltage_v=3.3) as meter, Collector(meter) as collector:
            device.run(job)
            samples = collector.stop()
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._blocks: list[SampleBlock] = []
        self._error: MeterError | None = None
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_thread()

    def start(self) -> None:
        """Start the meter's stream and read it from now on."""
        self._meter.start()
        self._thread = threading.Thread(target=self._work, name="lab-meter", daemon=True)
        self._thread.start()

    def stop(self) -> SampleBlock:
        """Stop the stream; all samples since :meth:`start` as one block.

        Raises:
            MeterError: reading or stopping failed; :meth:`samples` still has what came before.
        """
        self._end_thread()
        if self._error is not None:
            raise self._error
        try:
            self._blocks.append(self._meter.stop())
        except MeterError:
            with contextlib.suppress(MeterError):
                self._blocks.append(self._meter.read(0.0))
            raise
        return self.samples()

    def samples(self) -> SampleBlock:
        """What has come so far."""
        return join(self._blocks)

    def _end_thread(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            while not self._ending.is_set():
                block = self._meter.read(_WAIT_S)
                if block.current_a.size:
                    self._blocks.append(block)
        except MeterError as error:
            self._error = error
