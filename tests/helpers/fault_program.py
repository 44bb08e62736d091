"""The program of tests/data/postmortem that provokes every kind of fault, built for a few cores."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.emulators.qemu import QemuMachine

SOURCE = Path(__file__).resolve().parents[1] / "data" / "postmortem" / "faults.c"
_LINKER_SCRIPT = """
ENTRY(reset_handler)
MEMORY {{ FLASH (rx) : ORIGIN = {flash:#x}, LENGTH = 64K
         RAM (rwx) : ORIGIN = {ram:#x}, LENGTH = 16K }}
SECTIONS {{
    .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) }} > FLASH
    .stack {ram:#x} (NOLOAD) : {{ *(.stack) }} > RAM
    .bss (NOLOAD) : {{ *(.data* .bss* COMMON) }} > RAM
    /DISCARD/ : {{ *(.ARM.exidx*) }}
}}
"""


@dataclass(frozen=True)
class FaultCore:
    """A core and where the program lies on it."""

    machine: str
    flags: tuple[str, ...]
    flash: int
    ram: int

    @property
    def qemu(self) -> QemuMachine:
        """The machine that emulates it."""
        return QemuMachine(self.machine, 7, 0, 0, 0)


M0 = FaultCore("microbit", ("-mcpu=cortex-m0",), 0, 0x20000000)
M4F = FaultCore("mps2-an386", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), 0, 0x20000000)
M33 = FaultCore(
    "mps2-an505", ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), 0x10000000, 0x38000000
)
CORES = {"m0": M0, "m4f": M4F, "m33": M33}


def build_faults(core: FaultCore, folder: Path, *options: str) -> Path:
    """The program for a core."""
    script, elf = folder / "faults.ld", folder / f"faults-{core.machine}.elf"
    script.write_text(_LINKER_SCRIPT.format(flash=core.flash, ram=core.ram))
    command = ["arm-none-eabi-gcc", *core.flags, "-mthumb", "-O2", "-g", "-Wall", "-Wextra", "-Werror", *options]
    command += ["-ffreestanding", "-nostdlib", "-Wl,--fatal-warnings", "-T", str(script), str(SOURCE), "-lgcc"]
    done = subprocess.run([*command, "-o", str(elf)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return elf
