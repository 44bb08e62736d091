"""Errors of signal handlers that were raised where Python lets none out come again where it does."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab.ending import OrderlyEnd
from lab.errors import Hang
from lab.interrupt import interruptible, limited
from lab.swallowed import Swallowed

LONG_S = 60.0


@contextmanager
def callback_of_the_collector(work: Callable[[], None]) -> Iterator[None]:
    """The first collection inside calls it."""
    todo = [work]

    def callback(phase: str, info: dict[str, int]) -> None:
        if todo:
            todo.pop()()

    gc.callbacks.append(callback)
    try:
        yield
    finally:
        gc.callbacks.remove(callback)


class Finalized:
    """Waits for ever when it is no longer used."""

    def __del__(self) -> None:
        time.sleep(LONG_S)


def blocked() -> None:
    """A test whose error is lost ends here, later."""
    assert threading.Event().wait(LONG_S), "nothing came"


def finalize() -> None:
    Finalized()


def collect() -> None:
    with callback_of_the_collector(lambda: time.sleep(LONG_S)):
        gc.collect(0)


@pytest.mark.parametrize("waste", [collect, finalize])
def test_a_limit_that_ran_out_in_a_callback_still_ends_what_it_limits(waste: Callable[[], None]) -> None:
    passed = []

    def work() -> None:
        waste()
        passed.append("the callback")
        blocked()

    with pytest.raises(Hang, match="late"), limited(0.05, lambda: Hang("late")):
        work()
    assert passed == ["the callback"]


def test_so_does_one_around_another() -> None:
    def work() -> None:
        collect()
        blocked()

    with pytest.raises(Hang, match="late"), interruptible(), limited(0.05, lambda: Hang("late")), interruptible():
        work()


def test_an_interruption_in_a_callback_still_ends_the_work() -> None:
    def work() -> None:
        with callback_of_the_collector(lambda: signal.raise_signal(signal.SIGTERM)):
            gc.collect(0)
        blocked()

    end = OrderlyEnd()
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert end.number == signal.SIGTERM
        # The next is the second still, not the third, which would end the clean-up.
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        end.restore()


def test_what_others_lose_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_value))
    error, again = ValueError("of somebody else"), threading.Event()
    swallowed = Swallowed(lambda _: again.set())
    swallowed.watched(ValueError("ours, which got through"))

    def lose() -> None:
        raise error

    with callback_of_the_collector(lose):
        gc.collect(0)
    swallowed.restore()
    assert told == [error]
    assert not again.is_set()


def test_hooks_are_given_back_in_any_order() -> None:
    before = sys.unraisablehook
    outer = Swallowed(lambda _: None)
    inner = Swallowed(lambda _: None)
    outer.restore()
    assert sys.unraisablehook != before
    inner.restore()
    inner.restore()
    outer.restore()
    assert sys.unraisablehook == before
