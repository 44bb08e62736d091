"""Waiting for a device that went away, by a clock that only pauses move."""

from __future__ import annotations

import pytest

from lab.errors import HostKeyChanged, TransportError
from lab.transports import remote_waits
from lab.transports.remote_waits import ended_with, overdue, until_back


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made."""
    made: list[float] = []

    class Clock:
        monotonic = staticmethod(lambda: 100.0 + sum(made))
        sleep = staticmethod(made.append)

    monkeypatch.setattr(remote_waits, "time", Clock)
    return made


def test_pauses_double_up_to_the_longest(pauses: list[float]) -> None:
    left: list[float] = []

    def connect(left_s: float) -> str:
        left.append(left_s)
        if len(left) < 6:
            raise TransportError("not yet")
        return "connected"

    assert until_back(connect, 10.0, longest_pause_s=0.5, hopeless=HostKeyChanged) == "connected"
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert left == pytest.approx([10.0, 9.9, 9.7, 9.3, 8.8, 8.3])


def test_the_last_reason_is_told_when_the_time_is_over(pauses: list[float]) -> None:
    reasons = iter(range(100))

    def connect(_: float) -> None:
        raise TransportError(f"reason {next(reasons)}")

    with pytest.raises(TransportError, match="reason 3"):
        until_back(connect, 1.0, longest_pause_s=5.0, hopeless=HostKeyChanged)
    assert pauses == pytest.approx([0.1, 0.2, 0.4])


def test_what_waiting_does_not_help_is_told_at_once(pauses: list[float]) -> None:
    def connect(_: float) -> None:
        raise HostKeyChanged("another key")

    with pytest.raises(HostKeyChanged, match="another key"):
        until_back(connect, 60.0, longest_pause_s=1.0, hopeless=HostKeyChanged)
    assert pauses == []


def test_words() -> None:
    assert ended_with("cat on pi", 3, " no \n").message == "cat on pi ended with status 3: no"
    assert ended_with("cat on pi", 0, "\n").message == "cat on pi ended with status 0"
    late = overdue("sleep on pi", ("sleep", "1 2"), 2.5)
    assert late.message == "sleep on pi did not end within 2.5 s; it and what it started were killed: sleep '1 2'"
    assert late.transient
