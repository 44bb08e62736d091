"""The flash controller of the STM32F2 and F4 families, which QEMU leaves out, as a debug port sees it.

QEMU's flash of these boards is a ROM that drops stores, and their flash interface reads 0. This model adds the
interface for accesses of the debug port (not of the core): key, control and status register, erase by sector, and
programming that only clears bits (RM0090, section 3.9; sectors of a 1 MiB part, table 5).
"""

from __future__ import annotations

from collections.abc import Callable

from lab.emulators.probe.bus import Bus
from lab.emulators.probe.faults import FlashLock

REGISTERS = 0x40023C00
KEYR, SR, CR = REGISTERS + 0x04, REGISTERS + 0x0C, REGISTERS + 0x10
KEYS = (0x45670123, 0xCDEF89AB)
CR_PG, CR_SER, CR_MER, CR_STRT, CR_LOCK = 1 << 0, 1 << 1, 1 << 2, 1 << 16, 1 << 31
SR_WRPERR, SR_PGSERR = 1 << 4, 1 << 7
FLASH_BASE = 0x08000000
SECTOR_BYTES = (*(16 << 10,) * 4, 64 << 10, *(128 << 10,) * 7)

_TARGETS = ("lab_netduino2", "lab_netduinoplus2")
_END = FLASH_BASE + sum(SECTOR_BYTES)


class Stm32F4Flash:
    """The controller of one board.

    Args:
        bus: the board's memory.
        write_rom: writes what the bus cannot.

    Attributes:
        locked: ``refuse``: write protection, reported in the status register; ``drop``: stores are lost in silence.
    """

    def __init__(self, bus: Bus, write_rom: Callable[[int, bytes], None]) -> None:
        self._bus = bus
        self._write_rom = write_rom
        self._control = CR_LOCK
        self._status = 0
        self._keys = 0
        self.locked: FlashLock = "open"

    @staticmethod
    def is_in(target: str) -> bool:
        """Whether a target of pyOCD's has this controller and QEMU lacks it."""
        return target in _TARGETS

    def is_register(self, address: int) -> bool:
        """Whether an address is one of the controller's."""
        return REGISTERS <= address < REGISTERS + 0x400

    def covers(self, address: int) -> bool:
        """Whether writes to an address are the controller's business."""
        return self.is_register(address) or FLASH_BASE <= address < _END

    def read(self, address: int) -> int:
        """A register's value."""
        return {CR: self._control, SR: self._status}.get(address, 0)

    def write(self, address: int, data: bytes) -> None:
        """Write a register, or program flash."""
        if FLASH_BASE <= address < _END:
            self._program(address, data)
            return
        value = int.from_bytes(data[:4], "little")
        if address == KEYR:
            self._unlock(value)
        elif address == SR:
            self._status &= ~value
        elif address == CR and not self._control & CR_LOCK:
            self._control = value & ~CR_STRT
            if value & CR_STRT:
                self._erase(value)

    def _unlock(self, key: int) -> None:
        self._keys = self._keys + 1 if key == KEYS[self._keys] else 0
        if self._keys == len(KEYS):
            self._keys = 0
            self._control &= ~CR_LOCK

    def _program(self, address: int, data: bytes) -> None:
        if not self._control & CR_PG or self._control & CR_LOCK:
            self._status |= SR_PGSERR
        elif self.locked == "refuse":
            self._status |= SR_WRPERR
        elif self.locked == "open":
            before = self._bus.read(address, len(data))
            cleared = int.from_bytes(before, "little") & int.from_bytes(data, "little")
            self._write_rom(address, cleared.to_bytes(len(data), "little"))

    def _erase(self, control: int) -> None:
        if self.locked == "refuse":
            self._status |= SR_WRPERR
            return
        if self.locked == "drop":
            return
        sectors = range(len(SECTOR_BYTES)) if control & CR_MER else [control >> 3 & 0xF]
        for sector in sectors if control & (CR_SER | CR_MER) else ():
            start = FLASH_BASE + sum(SECTOR_BYTES[:sector])
            self._write_rom(start, b"\xff" * SECTOR_BYTES[sector])
