"""Errors of signal handlers leave no lock taken: where one is being taken, the handler comes again a moment later."""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import pytest

from lab.ending import OrderlyEnd
from lab.errors import Hang
from lab.interrupt import limited
from lab.signals import Postponed, later, takes_lock

LONG_S = 60.0
TRIES = 100


def in_module(name: str, act: Callable[[], object]) -> Callable[[], None]:
    """A function of another module that does something, and is through with it after that."""
    space: dict[str, object] = {"__name__": name, "act": act, "done": []}
    exec("def work():\n    act()\n    done.append('whole')\n    return done", space)
    work = space["work"]
    assert callable(work)
    return work


def test_a_queue_is_whole_after_any_number_of_limits() -> None:
    """A byte at a time through a queue, as pyserial's RFC 2217 has it: most of the time goes into taking its lock."""
    data: queue.Queue[int] = queue.Queue()

    def move() -> None:
        while True:
            data.put(0)
            data.get()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for _ in range(TRIES):
            with pytest.raises(Hang, match="late"), limited(0.001, lambda: Hang("late")):
                move()
            assert data.mutex.acquire(timeout=1.0), "what was interrupted kept the lock"
            data.mutex.release()
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("module", ["paramiko.channel", "logging", "_frozen_importlib"])
def test_who_takes_locks_step_by_step_is_let_through(module: str) -> None:
    work = in_module(module, partial(signal.raise_signal, signal.SIGTERM))
    end = OrderlyEnd()
    seen = []

    def interrupted() -> None:
        seen.append(work())
        threading.Event().wait(LONG_S)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        end.restore()
    assert seen == [["whole"]]
    assert end.number == signal.SIGTERM


def test_what_blocks_there_is_left_in_the_end() -> None:
    work = in_module("paramiko.client", partial(time.sleep, LONG_S))
    begin = time.monotonic()
    with pytest.raises(Hang), limited(0.01, lambda: Hang("late")):
        work()
    assert time.monotonic() - begin < LONG_S / 2


def test_waits_are_left_at_once_and_the_steps_around_them_are_not() -> None:
    places: dict[str, bool] = {}

    def look(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_globals["__name__"] == "threading":
            places[f"{frame.f_code.co_name} {event} {getattr(argument, '__name__', '')}"] = takes_lock(frame)

    condition = threading.Condition(threading.Lock())
    sys.setprofile(look)
    try:
        with condition:
            condition.wait(0.001)
    finally:
        sys.setprofile(None)
    assert places["__enter__ return "]
    assert places["__exit__ call "]
    # Between giving the lock back and the statement that takes it again; then while it waits, and after it has it.
    assert places["_release_save return "]
    assert not places["wait c_call acquire"]
    assert places["_acquire_restore call "]
    assert not places["wait return "]


def test_an_error_is_not_put_off_where_no_lock_is_taken() -> None:
    again: list[str] = []
    postponed = Postponed(lambda: again.append("again"))
    assert not postponed.at(sys._getframe())
    assert not postponed.at(None)
    time.sleep(0.02)
    assert again == []


def test_later_takes_no_lock_of_threading() -> None:
    done = threading.Event()
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        later(0.0, done.set)
        assert done.wait(10.0)
