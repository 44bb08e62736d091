"""Byte streams over real PTYs, sockets and pipes."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import TransportError
from lab.transports.serial import SerialPort
from lab.transports.stdio import ProcessStream

ECHO = "import os, sys\nwhile data := os.read(0, 65536): os.write(1, data)"


@dataclass
class Terminal:
    """The far end of a PTY, and the port's path."""

    master: int
    path: str

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            assert select.select([self.master], [], [], 5.0)[0], "nothing came"
            data += os.read(self.master, size - len(data))
        return data


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    master, slave = os.openpty()
    tty.setraw(slave)
    yield Terminal(master, os.ttyname(slave))
    for descriptor in (master, slave):
        try:
            os.close(descriptor)
        except OSError:
            continue


@contextmanager
def peer() -> Iterator[tuple[SerialPort, socket.socket]]:
    """A port that is a TCP connection, and the other end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = SerialPort(f"socket://127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            yield port, connection
        port.close()


def read_exactly(stream: SerialPort | ProcessStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        came = stream.read(5.0)
        assert came, f"only {len(data)} of {size} bytes came"
        data += came
    return data


def write_for_long(port: SerialPort) -> None:
    """The first bytes after a peer has gone still find a place in the system's buffers."""
    for _ in range(100):
        port.write(bytes(1000))


# ---- PTY ----------------------------------------------------------------------------------------------------------


def test_bytes_both_ways_over_a_pty(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    every_byte = bytes(range(256))
    port.write(every_byte)
    assert terminal.receive(256) == every_byte
    os.write(terminal.master, every_byte)
    assert read_exactly(port, 256) == every_byte
    port.close()


def test_nothing_comes(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    assert port.read(0.0) == b""
    begin = time.monotonic()
    assert port.read(0.05) == b""
    assert time.monotonic() - begin >= 0.05
    port.close()


def test_read_returns_with_the_first_bytes_not_at_the_time_out(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    os.write(terminal.master, b"now")
    assert port.read(3600.0) == b"now"
    port.close()


def test_a_byte_that_comes_while_waiting(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    timer = threading.Timer(0.05, os.write, (terminal.master, b"x"))
    timer.start()
    assert port.read(3600.0) == b"x"
    timer.join()
    port.close()


def test_the_other_end_of_a_pty_goes_away() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    port = SerialPort(path)
    os.close(slave)
    os.close(master)
    with pytest.raises(TransportError, match=f"{path} broke") as error:
        port.read(5.0)
    assert error.value.transient
    with pytest.raises(TransportError, match=f"{path} broke"):
        port.write(b"x")
    port.close()


def test_a_port_opens_once(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    with pytest.raises(TransportError, match=f"{terminal.path} cannot be opened: it is in use by process") as error:
        SerialPort(terminal.path)
    assert "is it free then?" in error.value.hint
    port.close()
    SerialPort(terminal.path).close()


def test_a_device_that_takes_no_bytes_does_not_stop_us(terminal: Terminal) -> None:
    """A PTY nobody reads from, as a USB device that hangs, takes a few kB and then none."""
    port = SerialPort(terminal.path, write_timeout_s=0.05)
    with pytest.raises(TransportError, match=r"took no bytes for 0\.05 s") as error:
        port.write(bytes(1 << 20))
    assert error.value.transient
    port.close()


def test_a_closed_port_reads_nobody_elses_file(terminal: Terminal) -> None:
    port = SerialPort(terminal.path)
    port.close()
    port.close()
    # These get the numbers the port had.
    pipes = [os.pipe() for _ in range(8)]
    for _, write_end in pipes:
        os.write(write_end, b"private")
    with pytest.raises(TransportError, match="it is closed"):
        port.read(0.01)
    with pytest.raises(TransportError):
        port.write(b"x")
    for ends in pipes:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize(
    "url", ["/dev/serial/by-id/usb-nothing", "socket://127.0.0.1:1", "socket://", "nonsense://x", "/dev/null"]
)
def test_a_port_that_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(TransportError, match=f"serial port {url} cannot be opened") as error:
        SerialPort(url)
    assert "lab doctor" in error.value.hint


# ---- socket -------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=6))
def test_bytes_both_ways_over_a_socket(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    with peer() as (port, connection):
        for piece in pieces:
            port.write(piece)
        assert connection.recv(len(whole), socket.MSG_WAITALL) == whole if whole else True
        connection.sendall(whole)
        assert read_exactly(port, len(whole)) == whole


def test_small_requests_are_not_held_back() -> None:
    """Nagle's algorithm would hold the second of two small writes until the first is acknowledged."""
    with peer() as (port, _):
        assert port._socket is not None
        assert port._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_nothing_comes_over_a_socket() -> None:
    with peer() as (port, _):
        assert port.read(0.02) == b""


def test_the_peer_closes() -> None:
    with peer() as (port, connection):
        connection.sendall(b"last words")
        connection.close()
        assert port.read(5.0) == b"last words"
        with pytest.raises(TransportError, match="broke: the other end closed it"):
            port.read(5.0)
        with pytest.raises(TransportError, match="broke"):
            write_for_long(port)


def test_close_leaves_no_descriptor_behind_even_if_the_peer_went_first() -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with peer():
        pass
    before = open_descriptors()
    for _ in range(5):
        with peer() as (port, connection):
            connection.close()
            port.close()
            port.close()
    assert open_descriptors() == before


def test_a_url_without_a_descriptor_to_wait_on() -> None:
    port = SerialPort("loop://")
    assert port.read(0.0) == b""
    port.write(b"round and round")
    assert read_exactly(port, 15) == b"round and round"
    port.close()
    with pytest.raises(TransportError, match="it is closed"):
        port.read(0.0)


# ---- pipes of a process -------------------------------------------------------------------------------------------


@contextmanager
def child(program: str) -> Iterator[tuple[ProcessStream, subprocess.Popen[bytes]]]:
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stream = ProcessStream(process, "the child")
    try:
        yield stream, process
    finally:
        stream.close()
        process.kill()
        process.wait()


def test_bytes_through_a_process() -> None:
    data = bytes(range(256)) * 300
    with child(ECHO) as (stream, _):
        stream.write(data)
        assert read_exactly(stream, len(data)) == data
        assert stream.read(0.02) == b""


def test_a_process_that_ends() -> None:
    with child("print('bye', flush=True); raise SystemExit(3)") as (stream, process):
        assert read_exactly(stream, 4) == b"bye\n"
        process.wait()
        with pytest.raises(TransportError, match=r"the child broke: it closed its output \(it ended with status 3\)"):
            stream.read(5.0)
        with pytest.raises(TransportError, match=r"the child broke: .*Broken pipe.* \(it ended with status 3\)"):
            stream.write(b"x")


def test_a_closed_stream() -> None:
    with child(ECHO) as (stream, _):
        stream.close()
        stream.close()
        with pytest.raises(TransportError, match="its pipe is closed"):
            stream.read(0.0)
        with pytest.raises(TransportError, match="closed file"):
            stream.write(b"x")


def test_a_process_without_pipes() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    with pytest.raises(ValueError, match="pipes"):
        ProcessStream(process, "the child")
    process.wait()
