"""A meter's serial port whose cable is pulled: whatever call meets it first, one error says so."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import serial

from lab.errors import MeterError
from lab.power.serial_line import SerialLine


@contextmanager
def unplugged(baud: int) -> Iterator[SerialLine]:
    """An open line whose other end has gone."""
    meter, port = pty.openpty()
    line = SerialLine(os.ttyname(port), baud, timeout_s=1.0)
    line.open()
    os.close(port)
    os.close(meter)
    yield line
    line.close(b"stop\n")


@pytest.mark.parametrize("baud", [115_200, 3_686_400], ids=["a rate of the standard", "a rate of its own"])
@pytest.mark.parametrize("timeout_s", [1.0, 0.5], ids=["same time-out", "another time-out"])
def test_reading(baud: int, timeout_s: float) -> None:
    with unplugged(baud) as line, pytest.raises(MeterError, match="went away") as caught:
        line.receive(timeout_s)
    assert caught.value.transient


def test_a_cable_pulled_while_the_port_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyserial takes the terminal's end for a rate that the port refuses."""
    meter, port = pty.openpty()
    line = SerialLine(os.ttyname(port), 3_686_400, timeout_s=1.0)
    line.open()
    os.close(port)
    set_rate = serial.Serial._set_special_baudrate

    def pull_and_set(self: serial.Serial, baud: int) -> None:
        os.close(meter)
        set_rate(self, baud)

    monkeypatch.setattr(serial.Serial, "_set_special_baudrate", pull_and_set)
    with pytest.raises(MeterError, match="went away") as caught:
        line.receive(0.5)
    assert caught.value.transient
    line.close()


def test_writing() -> None:
    with unplugged(3_686_400) as line, pytest.raises(MeterError, match="went away") as caught:
        line.write(b"start\n")
    assert caught.value.transient


def test_a_port_that_is_not_there() -> None:
    with pytest.raises(MeterError, match="/nowhere: cannot be opened"):
        SerialLine("/nowhere", 3_686_400, timeout_s=1.0).open()


def test_a_line_that_was_never_opened() -> None:
    with pytest.raises(MeterError, match="not open"):
        SerialLine("/nowhere", 3_686_400, timeout_s=1.0).receive(0.1)
