"""The serial port of a meter: opened for one program only, with errors that say what to do."""

from __future__ import annotations

import serial

from lab.errors import MeterError
from lab.transports.serial import TERMINAL_ERROR

_BLOCK_BYTES = 1 << 18
# Setting a time-out sets the whole terminal anew: on one that has gone, pyserial says that as a refused baud rate or
# lets the terminal's own error through.
_BROKEN = (serial.SerialException, OSError, ValueError, TERMINAL_ERROR)


class SerialLine:
    """Bytes to and from a meter.

    Args:
        port: path or URL.
        baud: rate; meaningless for USB ports of their own.
        timeout_s: of reads that name none.
    """

    def __init__(self, port: str, baud: int, timeout_s: float) -> None:
        self._port = port
        self._baud = baud
        self._timeout_s = timeout_s
        self._serial: serial.Serial | None = None

    def open(self) -> None:
        """Open the port and forget what waits in it: a client that died may have left a stream running.

        Raises:
            MeterError: it cannot be opened.
        """
        try:
            self._serial = serial.Serial(self._port, baudrate=self._baud, timeout=self._timeout_s, exclusive=True)
            self._serial.reset_input_buffer()
        except _BROKEN as error:
            self.close()
            raise MeterError(f"{self._port}: cannot be opened: {error}", hint=_open_hint(error)) from error

    def write(self, data: bytes) -> None:
        """Raises: MeterError: not open, or the port broke."""
        try:
            self._opened().write(data)
        except _BROKEN as error:
            raise self._broken(error) from error

    def receive(self, timeout_s: float) -> bytes:
        """What has come, at most 256 KiB; empty after ``timeout_s`` without data.

        Raises:
            MeterError: not open, or the port broke.
        """
        port = self._opened()
        received = bytearray()
        try:
            # Setting the time-out talks to the driver; most calls repeat the last one.
            if port.timeout != timeout_s:
                port.timeout = timeout_s
            received += port.read(1)
            while received and len(received) < _BLOCK_BYTES and (waiting := port.in_waiting):
                received += port.read(waiting)
        except _BROKEN as error:
            raise self._broken(error) from error
        return bytes(received)

    def close(self, last_words: bytes = b"") -> None:
        """Say the last words, where anyone listens, and close the port; safe to call twice."""
        port, self._serial = self._serial, None
        if port is None:
            return
        try:
            if last_words:
                port.write(last_words)
        except _BROKEN:
            # The meter was pulled out: nothing is left to be stopped.
            pass
        finally:
            port.close()

    def _opened(self) -> serial.Serial:
        if self._serial is None:
            raise MeterError(f"{self._port}: the meter is not open", hint="call open(), or use it in a with statement")
        return self._serial

    def _broken(self, error: Exception) -> MeterError:
        return MeterError(
            f"{self._port}: the meter went away: {error}", hint="check its cable and the USB hub", transient=True
        )


def _open_hint(error: Exception) -> str:
    text = str(error)
    if "Permission" in text:
        return "add yourself to the group dialout, log in again"
    if "lock" in text or "busy" in text:
        return "another program has it open: the meter's own application, or another run"
    return "`lab devices` lists the ports that are there"
