"""A host's clock that does not wait: it runs to a time, and stands there until the meter is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from lab.power.base import SampleBlock, join
from lab.power.polled import PolledMeter


class VirtualClock:
    """As :class:`lab.power.polled.Clock`.

    Args:
        until_s: where it stands, seconds after its begin.
        shows: are told each time it comes to, seconds after its begin.
        late_s: number of a wait to how late it wakes, seconds.
    """

    def __init__(
        self,
        until_s: float,
        shows: Sequence[Callable[[float], None]] = (),
        late_s: Mapping[int, float] | None = None,
    ) -> None:
        self.begin_s = 5000.0
        self._now_s = self.begin_s
        self._until_s = self.begin_s + until_s + 1e-9
        self._shows = list(shows)
        self._late_s = dict(late_s or {})
        self._waits = 0
        self.reached = threading.Event()

    def now(self) -> float:
        return self._now_s

    def elapsed(self) -> float:
        return self._now_s - self.begin_s

    def run_on(self, seconds: float) -> None:
        """Let it come so much further."""
        self._until_s += seconds
        self.reached.clear()

    def wait_until(self, time_s: float, stop: threading.Event) -> None:
        if time_s > self._until_s:
            self.reached.set()
            stop.wait()
            return
        wake_s = time_s + self._late_s.get(self._waits, 0.0)
        self._waits += 1
        self.pass_time(max(0.0, wake_s - self._now_s))

    def pass_time(self, seconds: float) -> None:
        """Time that a reading takes, or that passes before the stream begins."""
        self._now_s += seconds
        for show in self._shows:
            show(self.elapsed())


def stream(meter: PolledMeter, clock: VirtualClock) -> SampleBlock:
    """All samples of an open meter until its clock stands; raises what the meter raises."""
    meter.start()
    blocks = []
    while not clock.reached.is_set():
        blocks.append(meter.read(0.005))
    return join([*blocks, meter.stop()])
