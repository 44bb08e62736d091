"""A time limit on whatever the main thread is doing."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lab.errors import BudgetExceeded


class Overrun(BudgetExceeded):
    """A cell took longer than it may."""


@contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """Break off what the main thread does inside after ``seconds``; a timer that ran before goes on afterwards.

    Raises:
        Overrun: the time is up.
    """

    def expire(number: int, frame: FrameType | None) -> None:
        raise Overrun(f"{what} took longer than the {seconds:.0f} s it may", hint="raise cell_limit, or run less in it")

    before = signal.signal(signal.SIGALRM, expire)
    started = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 1e-3), interval)
