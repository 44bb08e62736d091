"""Ctrl-C, the SIGTERM of a cancelled CI job and the SIGHUP of a lost terminal end what the lab does in order.

The first signal raises ``KeyboardInterrupt`` where the work is: what was captured is stored as incomplete, devices are
brought back to rest, ports closed, emulators ended, leases given back. The second is noted only. The third ends the
clean-up as well; emulators and leases end with the process in any case (``PR_SET_PDEATHSIG``, locks of the kernel).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

from lab import progress
from lab.errors import InfrastructureError, LabError, LeaseLost
from lab.fence import Fence
from lab.interrupt import limited
from lab.signals import Postponed, signal_main
from lab.swallowed import Swallowed

RESET_LIMIT_S = 60.0
"""How long a device may take to come to rest where what used it is interrupted."""
_PATIENCE = 2
_WAIT = b"\nlab: letting go of devices; once more ends that too\n"


class Recoverable(Protocol):
    """What brings a device back; :class:`lab.devices.base.Resettable` is more."""

    def recover(self) -> str:
        """Bring the device back; says how."""


class OrderlyEnd:
    """Takes the signals that end a process; does nothing outside the main thread, which alone has signals.

    Attributes:
        number: the first signal that came, 0 while none has.
    """

    def __init__(self) -> None:
        self.number = 0
        self._seen = 0
        self._before = {}
        self._postponed = Postponed(self._come_again)
        if threading.current_thread() is threading.main_thread():
            self._swallowed = Swallowed(self._again)
            self._before = {number: signal.signal(number, self._end) for number in _signals()}

    def restore(self) -> None:
        """Give the signals back; safe to call twice."""
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._before:
            self._swallowed.restore()
        self._before = {}

    @property
    def status(self) -> int:
        """The exit status of whom a signal ended, as shells tell it: 128 + its number."""
        return 128 + self.number

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        if self._postponed.at(frame):
            return
        self._seen += 1
        if self._seen == _PATIENCE:
            # Not through anybody's terminal writer: the main thread may be in the middle of a write to it.
            with suppress(OSError):
                os.write(2, _WAIT)
            return
        raise self._swallowed.watched(KeyboardInterrupt())

    def _again(self, error: BaseException) -> None:
        """The signal did not end anything: as if it came only now."""
        self._seen -= 1
        self._come_again()

    def _come_again(self) -> None:
        if self._before:
            signal_main(self.number)


def _signals() -> list[signal.Signals]:
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN:
        # nohup: whoever asked for it wants what runs to outlive the terminal.
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, hang_up]


def _not_at_rest() -> InfrastructureError:
    return InfrastructureError(f"it took longer than {RESET_LIMIT_S:g} s")


def bring_to_rest(name: str, device: Recoverable, fence: Fence) -> None:
    """End what an interruption left running on a device; one that somebody else holds by now is left alone.

    Args:
        name: the device's.
        device: connected.
        fence: the lease under which it was used.
    """
    with suppress(LeaseLost):
        fence.check()
        try:
            with limited(RESET_LIMIT_S, _not_at_rest, ladder=True):
                rung = device.recover()
            progress.say(f"  {name} was brought to rest by {rung}")
        except LabError as error:
            progress.say(f"  {name} was interrupted and could not be brought to rest: {error}")


@contextmanager
def rested(name: str, device: Recoverable, fence: Fence | None) -> Iterator[None]:
    """Where the context is interrupted, bring the device to rest; emulators, which have no lease, end anyway."""
    try:
        yield
    except KeyboardInterrupt:
        if fence is not None:
            bring_to_rest(name, device, fence)
        raise
