"""Serial ports: USB-UART bridges, PTYs, and ``socket://`` or ``rfc2217://`` URLs, through pyserial."""

from __future__ import annotations

import io
import os
import select
import socket
import time
from collections.abc import Iterable
from typing import Protocol

import serial
from serial.tools.list_ports import comports

from lab.errors import TransportError

_GATHER_S = 0.002


class SerialPort:
    """An open serial port as a byte stream.

    Args:
        url: device path, or any URL ``serial.serial_for_url`` knows.
        baud: bits per second; meaningless for sockets and PTYs.
        write_timeout_s: longest time the other end may take no bytes; a USB device that hangs takes none.

    Raises:
        TransportError: the port cannot be opened; says which and why.
    """

    def __init__(self, url: str, baud: int = 115200, *, write_timeout_s: float = 10.0) -> None:
        self.name = url
        exclusive = None if "://" in url else True
        try:
            self._port = serial.serial_for_url(
                url, baudrate=baud, timeout=0, write_timeout=write_timeout_s, exclusive=exclusive
            )
        except (serial.SerialException, OSError, ValueError) as error:
            raise TransportError(
                f"serial port {url} cannot be opened: {error}",
                hint="is it plugged in and free? `lab doctor` lists the ports; you may need to be in group dialout",
                transient=True,
            ) from error
        self._descriptor: int | None = self._find_descriptor()
        raw = getattr(self._port, "_socket", None)
        self._socket = raw if isinstance(raw, socket.socket) else None
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

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        try:
            self._port.write(data)
        except serial.SerialTimeoutException as error:
            raise TransportError(
                f"serial port {self.name} took no bytes for {self._port.write_timeout:g} s",
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
                self._port.timeout = timeout_s
                return bytes(self._port.read(max(1, self._port.in_waiting)))
            self._acknowledge()
            ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
            if ready:
                self._gather()
            data = os.read(self._descriptor, 65536) if ready else b""
        except (serial.SerialException, OSError, ValueError) as error:
            raise self._broken(error) from error
        if ready and not data:
            raise self._broken("the other end closed it")
        return data

    def _acknowledge(self) -> None:
        # An emulator sends byte by byte, and Nagle's algorithm at its end holds all but the first until that is
        # acknowledged: now, because more is wanted, and not in 40 ms.
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _gather(self) -> None:
        # Taking its bytes one by one would slow the emulator down, which shares the processors with us.
        if self._socket is not None:
            self._acknowledge()
            time.sleep(_GATHER_S)

    def close(self) -> None:
        """Close the port; safe to call twice."""
        # Its number may soon be that of somebody else's file.
        self._descriptor = None
        if self._socket is not None:
            # pyserial would sleep 0.3 s, and leave the socket open if the other end has gone.
            self._socket.close()
            self._port.is_open = False
        self._port.close()

    def _broken(self, error: object) -> TransportError:
        return TransportError(f"serial port {self.name} broke: {error}", hint="was the cable pulled?", transient=True)


class PortInfo(Protocol):
    """What is read of an attached port; ``serial.tools.list_ports`` yields these."""

    @property
    def device(self) -> str: ...

    @property
    def serial_number(self) -> str | None: ...


def port_of(port: str | None, by_id: str | None, ports: Iterable[PortInfo] | None = None) -> str:
    """The port that pyserial opens for one named in a bench file.

    Args:
        port: path or URL, taken as it is.
        by_id: USB serial number or ``/dev/serial/by-id`` path, where ``port`` is None.
        ports: what is attached; None asks the system.

    Raises:
        TransportError: no port has that number; lists what is attached.
    """
    if port is not None:
        return port
    if by_id is None or by_id.startswith("/"):
        return by_id or ""
    attached = list(comports() if ports is None else ports)
    found = sorted(one.device for one in attached if one.serial_number == by_id)
    if not found:
        listed = ", ".join(f"{one.device} ({one.serial_number or 'no serial number'})" for one in attached)
        raise TransportError(
            f"no serial port with USB serial number {by_id} is attached; attached: {listed or 'none'}",
            hint="plug it in, or correct the number in the bench file",
        )
    # Some instruments have two ports under one number and serve on the first (PPK2).
    return found[0]
