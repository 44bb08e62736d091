"""An error that another thread raises in the main thread, also while that waits in a system call.

A lease that is lost and a phase that takes too long must end what the main thread does, and that may be a read from a
port or a call into a driver that knows no time-out. A signal is what gets it out of there: its handler raises the
error. Windows has no signal that interrupts such calls; there the error comes once the call returns.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lab.signals import Postponed, signal_main
from lab.swallowed import Swallowed

_SIGNAL = signal.SIGINT if sys.platform == "win32" else signal.SIGUSR2
_NUDGE_S = 0.2


class _TimeIsUp(BaseException):
    """Passes by all who catch errors."""


class _Pending:
    """The error that is on its way, and whether anybody would take it."""

    def __init__(self) -> None:
        # Entered anew by a signal that comes while the main thread has it.
        self.lock = threading.RLock()
        self.error: BaseException | None = None
        self.takers = 0
        self.shields = 0
        self.swallowed: Swallowed | None = None


_pending = _Pending()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let :func:`interrupt_main` work meanwhile; does nothing outside the main thread, which alone has signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(_SIGNAL, _raise_pending)
    swallowed, outer = Swallowed(_raise_again), _pending.swallowed
    _pending.swallowed = swallowed
    _pending.takers += 1
    try:
        yield
    finally:
        with _pending.lock:
            _pending.takers -= 1
            if _pending.takers == 0:
                _pending.error = None
        _pending.swallowed = outer
        swallowed.restore()
        signal.signal(_SIGNAL, before)


@contextmanager
def shielded() -> Iterator[None]:
    """What must not be left half done, such as clean-up: an error that comes meanwhile is raised at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _pending.shields += 1
    try:
        yield
    finally:
        _pending.shields -= 1
    if _pending.shields == 0:
        _take()


@contextmanager
def limited(limit_s: float | None, late: Callable[[], BaseException], *, ladder: bool = False) -> Iterator[None]:
    """Raise an error in here once a time is over, also while a native call blocks.

    A call that goes on after a signal (it starts its system call anew, or only computes) is interrupted once it comes
    back to Python. A time-out that comes in the last moment is raised as the context ends, never after it.

    Args:
        limit_s: seconds; None for ever.
        late: makes the error.
        ladder: whether what is limited goes on after errors with something else, as a recovery does: then the error
            is made at the end of the context, and what is raised before passes by all who catch errors.
    """
    if limit_s is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()

    def watch() -> None:
        if over.wait(limit_s):
            return
        error = _TimeIsUp() if ladder else late()
        # Another error may be on its way, to something inside.
        while not interrupt_main(error):
            if over.wait(_NUDGE_S):
                return
        # A signal that comes just before the main thread enters a system call does not get it out of there.
        while not over.wait(_NUDGE_S) and _pending.error is error:
            signal_main(_SIGNAL)

    with interruptible():
        watcher = threading.Thread(target=watch, name="lab-time-limit", daemon=True)
        watcher.start()
        try:
            try:
                yield
            finally:
                with shielded():
                    over.set()
                    watcher.join()
        except _TimeIsUp:
            raise late() from None


def interrupt_main(error: BaseException) -> bool:
    """Raise ``error`` in the main thread; False where nobody would take it, or another error is on its way."""
    with _pending.lock:
        if _pending.takers == 0 or _pending.error is not None:
            return False
        _pending.error = error
    signal_main(_SIGNAL)
    return True


def _raise_again(error: BaseException) -> None:
    """What was raised went nowhere: as long as somebody would take it, it is still on its way."""
    with _pending.lock:
        if _pending.takers and _pending.error is None:
            _pending.error = error
    # As with a time limit: the signal may come just before the main thread enters a system call.
    while True:
        with _pending.lock:
            # Nobody takes one whose context has ended; without a handler it would end the process.
            if _pending.error is not error or not _pending.takers:
                return
            signal_main(_SIGNAL)
        time.sleep(_NUDGE_S)


def _raise_pending(number: int, frame: FrameType | None) -> None:
    if _pending.error is None and sys.platform == "win32":
        raise KeyboardInterrupt
    if _pending.shields == 0 and not (_pending.error is not None and _postponed.at(frame)):
        _take()


def _come_again() -> None:
    with _pending.lock:
        if _pending.error is not None and _pending.takers:
            signal_main(_SIGNAL)


_postponed = Postponed(_come_again)


def _take() -> None:
    with _pending.lock:
        error, _pending.error = _pending.error, None
    if error is not None:
        raise error if _pending.swallowed is None else _pending.swallowed.watched(error)
