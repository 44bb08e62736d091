"""Targets of pyOCD for emulated boards that it has none for: memory maps and how their flash is written.

``-t lab_mps2_an386`` names one on pyOCD's command line; the probes name theirs by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyocd.core.exceptions import FlashEraseFailure, FlashProgramFailure
from pyocd.core.memory_map import FlashRegion, MemoryMap, RamRegion
from pyocd.core.session import Session
from pyocd.coresight.coresight_target import CoreSightTarget
from pyocd.flash.flash import Flash
from pyocd.target import TARGET

from lab.emulators.probe.flash_algorithm import MEMORY_FLASH, SECTOR_BYTES
from lab.emulators.probe.flash_stm32f4 import (
    CR,
    CR_LOCK,
    CR_PG,
    CR_SER,
    CR_STRT,
    FLASH_BASE,
    KEYR,
    KEYS,
    SR,
    SR_PGSERR,
    SR_WRPERR,
)
from lab.emulators.probe.flash_stm32f4 import (
    SECTOR_BYTES as STM32_SECTOR_BYTES,
)

_STACK_BYTES = 0x800
_PAGE_BYTES = SECTOR_BYTES


@dataclass(frozen=True)
class Layout:
    """Memories of a board, each a first address and a size in bytes.

    Attributes:
        name: pyOCD's name of the target.
        flash: what stands in for flash; written by an algorithm on the core.
        rams: the first is where that algorithm runs.
    """

    name: str
    flash: tuple[int, int]
    rams: tuple[tuple[int, int], ...]


_KIB, _MIB = 1 << 10, 1 << 20
LAYOUTS = (
    *(
        Layout(f"lab_mps2_{image}", (0, 4 * _MIB), ((0x20000000, 4 * _MIB), (0x21000000, 16 * _MIB)))
        for image in ("an385", "an386")
    ),
    Layout("lab_mps2_an500", (0, 4 * _MIB), ((0x20000000, 4 * _MIB), (0x60000000, 16 * _MIB))),
    Layout("lab_mps2_an511", (0, 256 * _KIB), ((0x20000000, 128 * _KIB),)),
    # These reset into the secure state; the addresses are those that memory has there.
    *(
        Layout(f"lab_mps2_{image}", (0x10000000, 4 * _MIB), ((0x38000000, 2 * _MIB), (0x80000000, 16 * _MIB)))
        for image in ("an505", "an521")
    ),
    Layout("lab_mps3_an524", (0x10000000, 512 * _KIB), ((0x30000000, 128 * _KIB),)),
    Layout("lab_mps3_an547", (0, 512 * _KIB), ((0x30000000, 512 * _KIB),)),
)
# Name, flash and RAM of the STM32s whose flash interface the virtual probe adds to QEMU's model.
STM32_TARGETS = (("lab_netduino2", 128 * _KIB), ("lab_netduinoplus2", 192 * _KIB))


def add_targets() -> None:
    """Make the targets known to pyOCD; safe to call twice."""
    for layout in LAYOUTS:
        TARGET.setdefault(layout.name, _target(layout.name, _memory_map(layout)))
    for name, ram_bytes in STM32_TARGETS:
        ram = RamRegion(start=0x20000000, length=ram_bytes)
        TARGET.setdefault(name, _target(name, MemoryMap(*_stm32_flash(), ram)))


class Stm32DebugFlash(Flash):  # type: ignore[misc]
    """Flash of an STM32F2 or F4, written by the debugger through its registers; nothing runs on the core."""

    def __init__(self, target: CoreSightTarget) -> None:
        super().__init__(target, None)
        self.is_valid = True
        self._active_operation: Flash.Operation | None = None

    @property
    def is_erase_all_supported(self) -> bool:
        """Sector by sector only: what lies outside an image stays."""
        return False

    def init(self, operation: Flash.Operation, address: int | None = None, clock: int = 0, reset: bool = False) -> None:
        """Unlock the controller."""
        if self._active_operation is None:
            self.target.halt()
            for key in KEYS:
                self.target.write32(KEYR, key)
        self._active_operation = operation

    def uninit(self) -> None:
        """Lock the controller."""
        if self._active_operation is not None:
            self.target.write32(CR, CR_LOCK)
        self._active_operation = None

    def erase_sector(self, address: int) -> None:
        """Erase the sector that begins at an address."""
        starts = [FLASH_BASE + sum(STM32_SECTOR_BYTES[:number]) for number in range(len(STM32_SECTOR_BYTES))]
        self.target.write32(CR, CR_SER | starts.index(address) << 3 | CR_STRT)
        if status := self._errors():
            raise FlashEraseFailure("the controller refused to erase a sector", address=address, result_code=status)

    def program_page(self, address: int, bytes: Sequence[int]) -> None:
        """Program part of a sector that is erased."""
        self.target.write32(CR, CR_PG)
        self.target.write_memory_block8(address, bytes)
        if status := self._errors():
            raise FlashProgramFailure("the controller refused to program a page", address=address, result_code=status)

    program_phrase = program_page

    def _errors(self) -> int:
        """Error bits of the status register, cleared."""
        status = int(self.target.read32(SR)) & (SR_WRPERR | SR_PGSERR)
        if status:
            self.target.write32(SR, status)
        return status


def _target(name: str, memory_map: MemoryMap) -> type[CoreSightTarget]:
    class EmulatedTarget(CoreSightTarget):  # type: ignore[misc]
        VENDOR = "hil-lab"
        PART_NUMBER = name
        MEMORY_MAP = memory_map

        def __init__(self, session: Session) -> None:
            super().__init__(session, memory_map)

    return EmulatedTarget


def _memory_map(layout: Layout) -> MemoryMap:
    start, size = layout.flash
    flash = FlashRegion(
        name="flash",
        start=start,
        length=size,
        sector_size=SECTOR_BYTES,
        page_size=_PAGE_BYTES,
        phrase_size=4,
        is_boot_memory=True,
        algo=_algorithm(layout.rams[0][0]),
    )
    rams = [RamRegion(name=f"ram{number}", start=a, length=b) for number, (a, b) in enumerate(layout.rams)]
    return MemoryMap(flash, *rams)


def _algorithm(ram: int) -> dict[str, object]:
    """pyOCD's description of the algorithm, loaded to the start of RAM: code, stack, CRC analyser, two page buffers."""
    entries = {name: ram + offset + 1 for name, offset in MEMORY_FLASH.entries.items()}
    buffers = ram + 0x2000
    return {
        "load_address": ram,
        "instructions": list(MEMORY_FLASH.words),
        "pc_init": entries["Init"],
        "pc_unInit": entries["UnInit"],
        "pc_erase_sector": entries["EraseSector"],
        "pc_program_page": entries["ProgramPage"],
        "begin_stack": ram + 0x400 + _STACK_BYTES,
        "end_stack": ram + 0x400,
        "static_base": ram + 0x400,
        "page_buffers": [buffers, buffers + _PAGE_BYTES],
        "analyzer_supported": True,
        "analyzer_address": ram + 0x1000,
        "min_program_length": 4,
    }


def _stm32_flash() -> Iterator[FlashRegion]:
    """One region for each run of sectors of one size."""
    start = FLASH_BASE
    for size in sorted(set(STM32_SECTOR_BYTES)):
        length = size * STM32_SECTOR_BYTES.count(size)
        yield FlashRegion(
            name=f"flash{size >> 10}k",
            start=start,
            length=length,
            sector_size=size,
            page_size=_PAGE_BYTES,
            phrase_size=4,
            is_boot_memory=start == FLASH_BASE,
            flash_class=Stm32DebugFlash,
        )
        start += length
