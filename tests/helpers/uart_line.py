"""A UART line between two PTYs that damages what is sent while its ends are at different rates, as a real one does."""

from __future__ import annotations

import os
import random
import select
import termios
import threading
import tty
from types import TracebackType
from typing import Self


class UartLine:
    """Two PTYs, joined. Each end's rate is what its user set with termios.

    Bytes that pass while the rates differ become others, or none: a receiver that samples at the wrong time sees some.
    So does a share of all bytes at ``noisy_from`` bits per second and above, at equal rates too.

    Attributes:
        host_path, device_path: the two ends.
        damaged_bytes: how many did not arrive as they were sent.
        rates: every rate at which both ends were heard together.
    """

    def __init__(self, noisy_from: int | None = None) -> None:
        self._noisy_from = noisy_from
        self._random = random.Random(1)
        self._masters: list[int] = []
        # Held open: a PTY without an open end says that it was hung up.
        self._slaves: list[int] = []
        for _ in range(2):
            master, slave = os.openpty()
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._masters.append(master)
            self._slaves.append(slave)
        self.host_path, self.device_path = (os.ttyname(slave) for slave in self._slaves)
        # The rate a board starts with, so that its first words are not taken for those of another.
        attributes = termios.tcgetattr(self._slaves[1])
        attributes[4] = attributes[5] = termios.B115200
        termios.tcsetattr(self._slaves[1], termios.TCSANOW, attributes)
        self._device_rate = self.ends[1]
        self.damaged_bytes = 0
        self.rates: set[int] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        for descriptor in (*self._masters, *self._slaves):
            os.close(descriptor)

    @property
    def ends(self) -> tuple[int, int]:
        """Rates of the host's end and of the device's, bits per second."""
        host, device = (_BITS_PER_SECOND[termios.tcgetattr(slave)[5]] for slave in self._slaves)
        return host, device

    def _carry(self) -> None:
        waiting = [b"", b""]
        while not self._ending.is_set():
            writing = [self._masters[1 - k] for k in range(2) if waiting[k]]
            reading = [self._masters[k] for k in range(2) if not waiting[k]]
            readable, writable, _ = select.select(reading, writing, [], 0.05)
            for k in range(2):
                if self._masters[k] in readable:
                    waiting[k] = self._received(os.read(self._masters[k], 4096), *self._rates_of(k))
                if self._masters[1 - k] in writable:
                    waiting[k] = waiting[k][os.write(self._masters[1 - k], waiting[k]) :]
            self._device_rate = self.ends[1]

    def _rates_of(self, sender: int) -> tuple[int, int]:
        """Rates of host and device when what is read now was sent.

        A device changes its rate right after an answer, which may still lie here; the host when it has read that.
        """
        host, device = self.ends
        return (host, self._device_rate) if sender == 1 else (host, device)

    def _received(self, sent: bytes, host: int, device: int) -> bytes:
        if host != device:
            self.damaged_bytes += len(sent)
            return bytes(byte ^ self._random.randrange(1, 256) for byte in sent if self._random.random() < 0.6)
        self.rates.add(host)
        if self._noisy_from is None or host < self._noisy_from:
            return sent
        arrived = bytes(byte ^ 0x40 if self._random.random() < 0.002 else byte for byte in sent)
        self.damaged_bytes += sum(one != other for one, other in zip(sent, arrived, strict=True))
        return arrived


_BITS_PER_SECOND = {
    getattr(termios, f"B{rate}"): rate for rate in (9600, 38400, 57600, 115200, 230400, 460800, 921600)
}
