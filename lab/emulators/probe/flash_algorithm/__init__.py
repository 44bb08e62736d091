"""The flash algorithm of boards whose flash is plain memory: its source, its bytes, and what makes them of it.

``python -m lab.emulators.probe.flash_algorithm`` assembles the source again; a test compares.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from lab.emulators.probe.flash_algorithm.code import ENTRIES, WORDS
from lab.errors import ToolMissing

SOURCE = Path(__file__).with_name("memory_flash.S")
SECTOR_BYTES = 0x4000
ASSEMBLER = "arm-none-eabi-as"


@dataclass(frozen=True)
class Code:
    """Machine code of a flash algorithm.

    Attributes:
        words: 32-bit words, loaded to any address of RAM.
        entries: function name to offset, bytes.
    """

    words: tuple[int, ...]
    entries: dict[str, int]


MEMORY_FLASH = Code(WORDS, ENTRIES)


def assemble() -> Code:
    """Make the code from its source.

    Raises:
        ToolMissing: the assembler is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "memory_flash.o"
        try:
            subprocess.run([ASSEMBLER, "-o", made, SOURCE], check=True)
        except FileNotFoundError as error:
            raise ToolMissing(f"{ASSEMBLER} is not installed", hint="`lab doctor` says how to get it") from error
        with made.open("rb") as file:
            elf = ELFFile(file)
            text, symbols = elf.get_section_by_name(".text"), elf.get_section_by_name(".symtab")
            if text is None or not isinstance(symbols, SymbolTableSection):
                raise ToolMissing(f"{ASSEMBLER} made no code of {SOURCE}")
            # Bit 0 says Thumb; an offset has none.
            data = text.data()
            entries = {
                one.name: one["st_value"] & ~1
                for one in symbols.iter_symbols()
                if one["st_info"]["bind"] == "STB_GLOBAL"
            }
    words = tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
    return Code(words, dict(sorted(entries.items())))
