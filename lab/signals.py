"""Errors raised in handlers of signals, which run between any two steps of the main thread: where they would do harm.

``with condition:`` takes its lock in code of Python's own. An error that a handler raises there, after the lock was
taken and before the statement knows, leaves it taken for ever, and whoever wants it next waits for ever: a queue, an
event, a channel of paramiko. So handlers first look where they are, and come again a moment later.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

_MOMENT_S = 0.005
_LONGEST_S = 1.0
# These take a lock in one statement and begin to watch over it in the next.
_LOCKING = frozenset({"paramiko", "logging", "_frozen_importlib"})
_WAITING = frozenset({"wait", "wait_for", "join", "_wait_for_tstate_lock"})


def signal_main(number: int) -> None:
    """Send the main thread a signal, so that its handler runs there soon, also where that waits in a system call."""
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, number)


def later(delay_s: float, act: Callable[[], None]) -> None:
    """Do something in another thread after a moment; can be called in handlers and finalizers, wherever these run."""

    def wait() -> None:
        time.sleep(delay_s)
        act()

    # threading.Thread would take a lock, which the main thread may have just now.
    _thread.start_new_thread(wait, ())


def takes_lock(frame: FrameType | None) -> bool:
    """Whether what a signal interrupted may hold a lock that nobody would give back."""
    if frame is None:
        return False
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if package != "threading":
        return package in _LOCKING
    if frame.f_code.co_name == "wait" and "waiter" in frame.f_locals:
        # Condition.wait gives the lock back and only then begins to watch over it.
        return "gotit" not in frame.f_locals
    return frame.f_code.co_name not in _WAITING


class Postponed:
    """Handlers that ran at the wrong place and run again a moment later.

    Args:
        again: sends the signal again, where it is still wanted.
    """

    def __init__(self, again: Callable[[], None]) -> None:
        self._again = again
        self._since: float | None = None

    def at(self, frame: FrameType | None) -> bool:
        """Whether the handler is to return without an error: it will be called again.

        What blocks in such a place for longer than a second is left by force, as there may be no other way out.
        """
        now = time.monotonic()
        since = now if self._since is None else self._since
        if not takes_lock(frame) or now - since > _LONGEST_S:
            self._since = None
            return False
        self._since = since
        later(_MOMENT_S, self._again)
        return True
