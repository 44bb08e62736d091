"""What connections to devices have in common in waiting: for a device to come back, and for what does not end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from lab.errors import LabError, TransportError

T = TypeVar("T")
_FIRST_PAUSE_S = 0.1


def until_back(
    connect: Callable[[float], T], timeout_s: float, *, longest_pause_s: float, hopeless: type[LabError]
) -> T:
    """Connect, again and again with pauses that double, until it works.

    Args:
        connect: tries once; it is given the seconds that are left.
        timeout_s: how long to try.
        longest_pause_s: between two tries.
        hopeless: an error that waiting does not help.

    Raises:
        TransportError: what was in the way last, or something hopeless.
    """
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    while True:
        try:
            return connect(max(0.0, deadline - time.monotonic()))
        except TransportError as error:
            if isinstance(error, hopeless) or time.monotonic() + pause_s >= deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_pause_s)


def overdue(name: str, argv: Sequence[str], timeout_s: float) -> TransportError:
    """The error of a command that did not end in time and was killed."""
    return TransportError(
        f"{name} did not end within {timeout_s:g} s; it and what it started were killed: {shlex.join(argv)[:200]}",
        transient=True,
    )


def unanswered(name: str, limit_s: float) -> TransportError:
    """The error of a shell that does not answer."""
    return TransportError(f"{name} did not answer within {limit_s:g} s", transient=True)


def ended_with(name: str, status: int, said: str) -> TransportError:
    """The error of who speaks with a command that ended; ``said``: the last of what it complained."""
    words = said.strip()
    return TransportError(f"{name} ended with status {status}{': ' + words if words else ''}", transient=True)


def not_in_time(name: str, timeout_s: float) -> TransportError:
    """The error of a command that runs on."""
    return TransportError(f"{name} did not end within {timeout_s:g} s", transient=True)


def no_input(name: str, limit_s: float) -> TransportError:
    """The error of a command that does not read what it is given."""
    return TransportError(f"{name} took no input for {limit_s:g} s", transient=True)
