"""An open serial port: one holder, reset lines, reopening, rates; over real PTYs, sockets and an RFC 2217 server."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.rfc2217_server import Rfc2217Server

from lab.connection_config import SerialPort as SerialConfig
from lab.devices.wired_mcu import SerialTarget
from lab.errors import TransportError
from lab.transports.serial import ResetLine, SerialPort, open_port
from lab.transports.serial_ports import PortChoice

TIOCGEXCL = 0x80045440
HOLD = """\
import sys, serial
port = serial.Serial(sys.argv[1], exclusive=True)
print("open", flush=True)
sys.stdin.read()
"""

# pyserial's RFC 2217 client names its thread by a method that Python has given up.
pytestmark = pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")


class Terminal:
    """A PTY: its far end, and the path that a port opens."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)
        self._open = True

    def hang_up(self) -> None:
        """The device goes away."""
        if self._open:
            os.close(self.slave)
            os.close(self.master)
            self._open = False

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            assert select.select([self.master], [], [], 5.0)[0], "nothing came"
            data += os.read(self.master, size - len(data))
        return data

    @property
    def rate(self) -> int:
        return int(termios.tcgetattr(self.slave)[5])


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.hang_up()


@dataclass(frozen=True)
class Attached:
    device: str
    serial_number: str | None = "BOARD"
    vid: int | None = 0x2E8A
    pid: int | None = 0x000A
    location: str | None = "1-3"
    interface: str | None = None
    description: str = "a board"


def read_exactly(stream: SerialPort, size: int) -> bytes:
    data = b""
    while len(data) < size:
        came = stream.read(5.0)
        assert came, f"only {len(data)} of {size} bytes came"
        data += came
    return data


# ---- one holder -----------------------------------------------------------------------------------------------------


def test_who_has_the_port_is_named(terminal: Terminal) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, terminal.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        # We have the terminal open as well; only who has it locked is in the way.
        name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        with pytest.raises(TransportError) as error:
            SerialPort(terminal.path)
        assert error.value.message == (
            f"serial port {terminal.path} cannot be opened: it is in use by process {holder.pid} ({name})"
        )
        assert error.value.transient
    finally:
        holder.communicate()
    SerialPort(terminal.path).close()


def test_our_own_hold_is_named_as_ours(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    with pytest.raises(TransportError, match=rf"in use by process {os.getpid()} \(.*, this one\)"):
        SerialPort(terminal.path)
    port.close()


def test_a_busy_terminal_names_its_holder_too(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that forbade others to open the terminal holds no lock; root may open it all the same."""

    def refused(*_: object, **__: object) -> object:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("serial.serial_for_url", refused)
    with pytest.raises(TransportError, match=rf"in use by process {os.getpid()} "):
        SerialPort(terminal.path)


def test_others_may_not_open_it_either_until_it_is_closed(terminal: Terminal) -> None:
    def forbidden() -> bool:
        return fcntl.ioctl(terminal.slave, TIOCGEXCL, b"\0\0\0\0") != b"\0\0\0\0"

    assert not forbidden()
    port = SerialPort(terminal.path)
    assert forbidden()
    port.close()
    assert not forbidden()


# ---- reset lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["dtr", "rts"])
@pytest.mark.parametrize("active", ["low", "high"])
def test_a_reset_line_rests_at_first_and_is_pulsed_by_rfc_2217(terminal: Terminal, line: str, active: str) -> None:
    """The adapter's pin is low while the line is asserted."""
    config = SerialConfig.model_validate(
        {"port": "rfc2217://x:1", "reset": {"line": line, "active": active, "pulse_s": 0.01}}
    )
    with Rfc2217Server(terminal.path) as server:
        port = open_port(config.model_copy(update={"port": server.url}))
        pressed = active == "low"
        opened = [asserted for name, asserted in server.lines if name == line]
        assert opened == [not pressed]
        server.lines.clear()
        assert port.pulse_reset()
        # The server has taken the second edge before it passes on what is written behind it.
        port.write(b"x")
        terminal.receive(1)
        assert server.lines == [(line, pressed), (line, not pressed)]
        port.close()


def test_a_reset_puts_the_first_rate_back(terminal: Terminal) -> None:
    with Rfc2217Server(terminal.path) as server:
        port = SerialPort(server.url, 115200, max_baud=460800, reset=ResetLine("dtr", pulse_s=0.0))
        assert server.port.baudrate == 115200
        port.set_baud(460800)
        assert server.port.baudrate == 460800
        assert port.pulse_reset()
        assert server.port.baudrate == port.baud == 115200
        port.close()


def test_a_terminal_without_lines_says_so(terminal: Terminal) -> None:
    port = SerialPort(terminal.path, reset=ResetLine("dtr", pulse_s=0.0))
    assert not port.pulse_reset()
    port.write(b"goes on")
    assert terminal.receive(7) == b"goes on"
    port.close()


def test_a_socket_has_no_lines_and_no_rate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        port = SerialPort(url, 115200, max_baud=921600, reset=ResetLine("rts"))
        assert not port.pulse_reset()
        assert port.max_baud == 115200
        port.close()


def test_a_port_without_a_wired_line_is_not_pulsed() -> None:
    port = SerialPort("loop://")
    assert not port.pulse_reset()
    port.close()


def test_a_line_that_breaks_is_an_error(terminal: Terminal) -> None:
    port = SerialPort(terminal.path, reset=ResetLine("rts", pulse_s=0.0))
    terminal.hang_up()
    with pytest.raises(TransportError, match="broke"):
        port.pulse_reset()
    port.close()


# ---- rates ----------------------------------------------------------------------------------------------------------


def test_another_rate_is_set_in_the_terminal(terminal: Terminal) -> None:
    port = SerialPort(terminal.path, 9600, max_baud=230400)
    assert (terminal.rate, port.baud, port.max_baud) == (termios.B9600, 9600, 230400)
    port.set_baud(230400)
    assert (terminal.rate, port.baud, port.first_baud) == (termios.B230400, 230400, 9600)
    port.limit_baud(57600)
    assert port.max_baud == 57600
    port.limit_baud(1)
    assert port.max_baud == 9600
    port.close()


def test_a_rate_that_the_port_has_not_is_refused(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    with pytest.raises(TransportError, match="cannot go at -1 bits per second"):
        port.set_baud(-1)
    assert port.baud == 115200
    terminal.hang_up()
    with pytest.raises(TransportError, match="broke"):
        port.set_baud(9600)
    port.close()


# ---- coming back ----------------------------------------------------------------------------------------------------


def test_a_device_that_comes_back_under_another_name_is_found_by_the_same_choice() -> None:
    before, after = Terminal(), Terminal()
    attached = [Attached(before.path)]
    port = SerialPort(PortChoice(by_id="BOARD"), 115200, max_baud=230400, ports=lambda: attached)
    port.set_baud(230400)
    before.hang_up()
    attached.clear()
    with pytest.raises(TransportError, match="broke"):
        port.read(1.0)
    comes_back = threading.Timer(0.1, attached.append, (Attached(after.path),))
    comes_back.start()
    port.reopen(10.0)
    comes_back.join()
    assert (port.name, port.baud, after.rate) == (after.path, 115200, termios.B115200)
    port.write(b"again")
    assert after.receive(5) == b"again"
    os.write(after.master, b"here")
    assert read_exactly(port, 4) == b"here"
    port.close()
    after.hang_up()


def test_a_device_that_stays_away_is_an_error_that_says_what_is_there(terminal: Terminal) -> None:
    attached = [Attached(terminal.path)]
    port = SerialPort(PortChoice(by_id="BOARD"), ports=lambda: attached)
    attached[0] = Attached("/dev/ttyACM9", "OTHER")
    with pytest.raises(TransportError) as error:
        port.reopen(0.0)
    assert error.value.message.startswith('serial port {by_id: "BOARD"} did not come back within 0.0 s: no serial port')
    assert "/dev/ttyACM9" in error.value.message
    assert error.value.transient
    with pytest.raises(TransportError, match="it is closed"):
        port.read(0.0)
    port.close()


def test_a_port_that_another_program_looks_at_first_is_waited_for(terminal: Terminal) -> None:
    """Some systems open every new modem to see what it is."""
    port = SerialPort(terminal.path)
    port.close()
    curious = SerialPort(terminal.path)
    ends = threading.Timer(0.1, curious.close)
    ends.start()
    port.reopen(10.0)
    ends.join()
    port.write(b"mine")
    assert terminal.receive(4) == b"mine"
    port.close()


def test_two_boards_under_one_number_are_an_error_also_when_coming_back(terminal: Terminal) -> None:
    attached = [Attached(terminal.path)]
    port = SerialPort(PortChoice(by_id="BOARD"), ports=lambda: attached)
    attached.append(Attached("/dev/ttyACM9", location="1-4"))
    with pytest.raises(TransportError) as error:
        port.reopen(0.0)
    assert "2 serial ports are" in error.value.message
    assert 'location: ("1-3", "1-4")' in error.value.hint
    port.close()


# ---- RFC 2217 -------------------------------------------------------------------------------------------------------


def test_every_byte_both_ways_by_rfc_2217(terminal: Terminal) -> None:
    every_byte = bytes(range(256)) * 4
    with Rfc2217Server(terminal.path) as server:
        port = SerialPort(server.url)
        assert port.remote
        port.write(every_byte)
        assert terminal.receive(len(every_byte)) == every_byte
        os.write(terminal.master, every_byte)
        assert read_exactly(port, len(every_byte)) == every_byte
        assert port.read(0.0) == b""
        port.close()


def test_a_server_that_goes_is_an_error_and_comes_back(terminal: Terminal) -> None:
    with Rfc2217Server(terminal.path) as server:
        port = SerialPort(server.url)
        port.reopen(5.0)
        port.write(b"again")
        assert terminal.receive(5) == b"again"
    with pytest.raises(TransportError, match=f"{server.url} broke"):
        read_exactly(port, 1)
    port.close()


def test_nobody_serves() -> None:
    with pytest.raises(TransportError, match=r"rfc2217://127\.0\.0\.1:1 cannot be opened"):
        SerialPort("rfc2217://127.0.0.1:1")


# ---- as a target ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "remote"),
    [({"port": "socket://h:1"}, True), ({"port": "rfc2217://h:1"}, True), ({"by_id": "A"}, False)],
)
def test_a_target_says_whether_it_is_remote(entry: dict[str, str], remote: bool) -> None:
    assert SerialTarget(SerialConfig.model_validate(entry)).remote == remote
    assert not SerialTarget(SerialConfig.model_validate(entry)).reset()
