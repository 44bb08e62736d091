"""An open serial port: USB-UART bridges, PTYs, and ``socket://`` or ``rfc2217://`` URLs, through pyserial."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import serial

from lab.connection_config import SerialPort as SerialConfig
from lab.errors import TransportError
from lab.transports.serial_ports import PortChoice, PortLister, choice_of, find_port, is_remote, list_ports

_GATHER_S = 0.002
_SLICE_S = 0.02
_RETRY_S = 0.05
_NO_SUCH_LINE = (errno.ENOTTY, errno.EINVAL)
_IN_USE = (errno.EAGAIN, errno.EBUSY)
# More than any UART: the board's offer decides.
_ANY_BAUD = 1 << 31
# Linux only; elsewhere the other end waits for its acknowledgement.
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def _terminal_error() -> type[Exception]:
    """What pyserial lets through of the terminal's own errors, where there are terminals."""
    if sys.platform == "win32" or importlib.util.find_spec("termios") is None:
        return OSError
    import termios

    return termios.error


TERMINAL_ERROR = _terminal_error()


@dataclass(frozen=True)
class ResetLine:
    """A control line of the port that is wired to the board's reset.

    Attributes:
        line: which.
        active: level of the adapter's pin that holds the board in reset.
        pulse_s: how long it is held, seconds.
    """

    line: Literal["dtr", "rts"]
    active: Literal["low", "high"] = "low"
    pulse_s: float = 0.1


class SerialPort:
    """An open serial port as a byte stream. Nobody else can open it meanwhile, where the system can see to that.

    Args:
        where: path, any URL ``serial.serial_for_url`` knows, or a choice among what is attached.
        baud: bits per second to begin with; meaningless for sockets and PTYs.
        max_baud: most bits per second that may be agreed on with the device; None keeps ``baud``.
        reset: the line that is wired to the board's reset.
        write_timeout_s: longest time the other end may take no bytes; a USB device that hangs takes none.
        ports: lists what is attached.

    Attributes:
        name: path or URL that is open.
        baud: bits per second now.

    Raises:
        TransportError: the port cannot be found or opened; says which and why, and who has it.
    """

    def __init__(
        self,
        where: str | PortChoice,
        baud: int = 115200,
        *,
        max_baud: int | None = None,
        reset: ResetLine | None = None,
        write_timeout_s: float = 10.0,
        ports: PortLister = list_ports,
    ) -> None:
        self._choice = PortChoice(path=where) if isinstance(where, str) else where
        self._ports = ports
        self._reset = reset
        self._write_timeout_s = write_timeout_s
        self._max_baud = max_baud or baud
        self._first_baud = self.baud = baud
        self._open()

    def _open(self) -> None:
        self.name = find_port(self._choice, self._ports)
        self.baud = self._first_baud
        is_url = "://" in self.name
        try:
            self._port = serial.serial_for_url(
                self.name,
                do_not_open=True,
                baudrate=self.baud,
                timeout=_SLICE_S,
                # pyserial cannot limit writing by RFC 2217.
                write_timeout=None if self.name.startswith("rfc2217:") else self._write_timeout_s,
                exclusive=None if is_url else True,
            )
            self._drive_reset(active=False)
            self._port.open()
        except (serial.SerialException, OSError, ValueError) as error:
            raise _not_opened(self.name, error) from error
        self._descriptor: int | None = self._find_descriptor()
        raw = getattr(self._port, "_socket", None)
        self._socket = raw if isinstance(raw, socket.socket) and self._descriptor is not None else None
        if self._descriptor is not None and self._socket is None:
            _claim(self._descriptor, alone=True)
        self._disable_nagle()

    def _find_descriptor(self) -> int | None:
        # Waiting on the descriptor spares pyserial's reconfiguration of the port at every change of time-out.
        try:
            return int(self._port.fileno())
        except (io.UnsupportedOperation, AttributeError):
            return None

    def _disable_nagle(self) -> None:
        # pyserial leaves Nagle on for socket://, which costs 40 ms per request (two small writes, then a read).
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def first_baud(self) -> int:
        """Bits per second to begin with, and after every reset."""
        return self._first_baud

    @property
    def max_baud(self) -> int:
        """Most bits per second that may be agreed on; a socket has no rate."""
        return self._first_baud if self.name.startswith("socket:") else self._max_baud

    def limit_baud(self, baud: int) -> None:
        """Agree on no more than this from now on."""
        self._max_baud = max(self._first_baud, baud)

    @property
    def remote(self) -> bool:
        """Whether a network lies between: this host's clock then says nothing of when bytes were sent."""
        return is_remote(self.name)

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        try:
            self._port.write(data)
        except serial.SerialTimeoutException as error:
            raise TransportError(
                f"serial port {self.name} took no bytes for {self._write_timeout_s:g} s",
                hint="the device hangs, or flow control holds the line: reset it, or plug it out and in",
                transient=True,
            ) from error
        except (serial.SerialException, OSError) as error:
            raise self._broken(error) from error

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte."""
        if not self._port.is_open:
            raise self._broken("it is closed")
        try:
            if self._descriptor is None:
                return self._read_in_slices(timeout_s)
            self._acknowledge()
            ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
            if ready:
                self._gather()
            data = self._take(self._descriptor) if ready else b""
        except (serial.SerialException, OSError, ValueError) as error:
            raise self._broken(error) from error
        if ready and not data:
            raise self._broken("the other end closed it")
        return data

    def _take(self, descriptor: int) -> bytes:
        # A socket is no file on Windows.
        return os.read(descriptor, 65536) if self._socket is None else self._socket.recv(65536)

    def _read_in_slices(self, timeout_s: float) -> bytes:
        # A change of time-out would make pyserial negotiate the whole port anew by RFC 2217.
        deadline = time.monotonic() + timeout_s
        while True:
            data = bytes(self._port.read(max(1, self._port.in_waiting)))
            if data or time.monotonic() >= deadline:
                return data

    def _acknowledge(self) -> None:
        # An emulator sends byte by byte, and Nagle's algorithm at its end holds all but the first until that is
        # acknowledged: now, because more is wanted, and not in 40 ms.
        if self._socket is not None and _QUICK_ACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _gather(self) -> None:
        # Taking its bytes one by one would slow the emulator down, which shares the processors with us.
        if self._socket is not None:
            self._acknowledge()
            time.sleep(_GATHER_S)

    def set_baud(self, baud: int) -> None:
        """Go on at another rate, after all that was written has left.

        Raises:
            TransportError: the port cannot, or broke.
        """
        try:
            self._port.flush()
            self._port.baudrate = baud
        except (ValueError, OverflowError) as error:
            raise TransportError(f"serial port {self.name} cannot go at {baud} bits per second: {error}") from error
        except (serial.SerialException, OSError, TERMINAL_ERROR) as error:
            raise self._broken(error) from error
        self.baud = baud

    def pulse_reset(self) -> bool:
        """Reset the board by the wired line, which also sets its first rate; False where there is no such line.

        Raises:
            TransportError: the port broke.
        """
        if self._reset is None or self.name.startswith("socket:"):
            return False
        if self.baud != self._first_baud:
            self.set_baud(self._first_baud)
        try:
            self._drive_reset(active=True)
            time.sleep(self._reset.pulse_s)
            self._drive_reset(active=False)
        except OSError as error:
            if error.errno in _NO_SUCH_LINE:
                return False
            raise self._broken(error) from error
        return True

    def _drive_reset(self, *, active: bool) -> None:
        if self._reset is None:
            return
        # The adapter's pins are low when asserted.
        level = active == (self._reset.active == "low")
        if self._reset.line == "dtr":
            self._port.dtr = level
        else:
            self._port.rts = level

    def reopen(self, timeout_s: float) -> None:
        """Open the port anew, by the same choice, once it is back: a USB device that resets comes back as another.

        Args:
            timeout_s: how long it may take.

        Raises:
            TransportError: it did not come back; says what is attached.
        """
        self.close()
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._open()
            except TransportError as error:
                if time.monotonic() >= deadline:
                    raise TransportError(
                        f"serial port {self._choice} did not come back within {timeout_s:.1f} s: {error.message}",
                        hint=error.hint,
                        transient=True,
                    ) from error
            else:
                return
            time.sleep(_RETRY_S)

    def close(self) -> None:
        """Close the port; safe to call twice."""
        if self._descriptor is not None and self._socket is None:
            _claim(self._descriptor, alone=False)
        # Its number may soon be that of somebody else's file.
        self._descriptor = None
        if self._socket is not None:
            # pyserial would sleep 0.3 s, and leave the socket open if the other end has gone.
            self._socket.close()
            self._port.is_open = False
        self._port.close()

    def _broken(self, error: object) -> TransportError:
        return TransportError(f"serial port {self.name} broke: {error}", hint="was the cable pulled?", transient=True)


def open_port(config: SerialConfig, ports: PortLister = list_ports) -> SerialPort:
    """The port of an entry ``serial:`` of a bench file, open.

    Raises:
        TransportError: as :class:`SerialPort`.
    """
    wire = config.reset
    reset = None if wire is None else ResetLine(wire.line, wire.active, wire.pulse_s)
    fastest = config.max_baud or _ANY_BAUD
    return SerialPort(choice_of(config), config.baud, max_baud=fastest, reset=reset, ports=ports)


def _claim(descriptor: int, *, alone: bool) -> None:
    """Forbid, or allow again, that others open a terminal: programs that look for no lock would take our bytes.

    On Windows a port has no descriptor, and nobody else can open it anyway.
    """
    if sys.platform != "win32":
        import fcntl
        import termios

        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, termios.TIOCEXCL if alone else termios.TIOCNXCL)


def _not_opened(name: str, error: Exception) -> TransportError:
    if isinstance(error, OSError) and error.errno in _IN_USE:
        holders = ", ".join(_holders(name)) or "a program that /proc does not show"
        return TransportError(
            f"serial port {name} cannot be opened: it is in use by {holders}",
            hint="end that program, or wait: is it free then? `lab doctor` lists the ports",
            transient=True,
        )
    return TransportError(
        f"serial port {name} cannot be opened: {error}",
        hint="is it plugged in and free? `lab doctor` lists the ports; you may need to be in group dialout",
        transient=True,
    )


def _holders(path: str) -> list[str]:
    """Who has a terminal open, as far as /proc tells; only who has it locked, where anybody has."""
    real = os.path.realpath(path)
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.path.realpath(one) == real for one in (folder / "fd").iterdir()):
                found[int(folder.name)] = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            # It has ended, or is another user's.
            continue
    locking = _lockers(real)
    shown = {pid: name for pid, name in found.items() if pid in locking} or found
    return [f"process {pid} ({name}{', this one' if pid == os.getpid() else ''})" for pid, name in shown.items()]


def _lockers(path: str) -> set[int]:
    if sys.platform != "linux":
        return set()
    try:
        status = os.stat(path)
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    # "1: FLOCK  ADVISORY  WRITE 4711 00:18:5 0 EOF"
    fields = [line.split() for line in lines if "FLOCK" in line and "->" not in line]
    return {int(one[4]) for one in fields if one[5] == file}
