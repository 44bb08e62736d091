"""Start-up code of a board, compiled for this computer over registers that a test plays."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lab.paths import project_root

BOARDS = project_root() / "firmware" / "boards"

_CORTEX_M_H = """
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
volatile uint32_t *simulated(uint32_t address);
#define REGISTER(address) (*simulated(address))
#define NVIC_ENABLE(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_BIT(irq) (1u << ((irq) % 32u))
void board_interrupt(void);
/* Instructions of the target mean nothing here. */
#define __asm__
#define volatile(...) (void)0
"""
_SIMULATION_C = """
#include <stdint.h>
static void (*access_hook)(uint32_t address);
static struct { uint32_t address; volatile uint32_t value; } cells[256];
volatile uint32_t *cell(uint32_t address)
{
    uint32_t i = 0;
    while (cells[i].address != address && cells[i].address != 0) i++;
    cells[i].address = address;
    return &cells[i].value;
}
void set_hook(void (*hook)(uint32_t address)) { access_hook = hook; }
uint32_t peek(uint32_t address) { return *cell(address); }
void poke(uint32_t address, uint32_t value) { *cell(address) = value; }
volatile uint32_t *simulated(uint32_t address)
{
    access_hook(address);
    return cell(address);
}
"""


class Peripherals(Protocol):
    """What the test plays."""

    def read(self, address: int) -> int:
        """The value of a register that is about to be accessed."""

    def write(self, address: int, value: int) -> None:
        """The code has changed a register."""


class Simulated:
    """The functions of some files of ``boards/common`` with the settings of one board.

    Args:
        library: from :func:`compiled`; shared by tests, its static variables stay.
        peripherals: what lies behind the registers. A store of what a register holds already is not told.
    """

    def __init__(self, library: ctypes.CDLL, peripherals: Peripherals) -> None:
        self._library = library
        self._peripherals = peripherals
        self._last: tuple[int, int] | None = None
        self._raised: Exception | None = None
        self._hook = ctypes.CFUNCTYPE(None, ctypes.c_uint32)(self._access)
        library.peek.restype = ctypes.c_uint32

    def call(self, name: str, *arguments: int) -> None:
        """Call a function that takes numbers and returns nothing."""
        self._library.set_hook(self._hook)
        getattr(self._library, name)(*(ctypes.c_uint32(value) for value in arguments))
        self._settle()
        self._check()

    def read_line(self, capacity: int) -> bytes:
        """What ``port_read`` gives."""
        self._library.set_hook(self._hook)
        taken = (ctypes.c_uint8 * max(capacity, 1))()
        self._library.port_read.restype = ctypes.c_size_t
        count = int(self._library.port_read(taken, ctypes.c_size_t(capacity)))
        self._check()
        return bytes(taken[:count])

    def cycles(self) -> int:
        """What ``port_cycles`` gives."""
        self._library.set_hook(self._hook)
        self._library.port_cycles.restype = ctypes.c_uint64
        cycles = int(self._library.port_cycles())
        self._check()
        return cycles

    def variable(self, name: str) -> int:
        """A uint32 of the firmware."""
        return ctypes.c_uint32.in_dll(self._library, name).value

    def array(self, name: str, count: int) -> list[int]:
        """An array of uint32 of the firmware."""
        return list((ctypes.c_uint32 * count).in_dll(self._library, name))

    def _access(self, address: int) -> None:
        try:
            self._settle()
            value = self._peripherals.read(address)
        except Exception as error:  # ctypes would swallow it
            self._raised = self._raised or error
            value = 0
        self._library.poke(address, value)
        self._last = (address, value)

    def _check(self) -> None:
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def _settle(self) -> None:
        if self._last is not None:
            address, before = self._last
            self._last = None
            after = int(self._library.peek(address))
            if after != before:
                self._peripherals.write(address, after)


def compiled(board: str, sources: Sequence[str], folder: Path, edit: tuple[str, str] | None = None) -> ctypes.CDLL:
    """Compile files of ``boards/common`` with the ``board.h`` and the definitions of a board.

    Args:
        board: folder of ``firmware/boards``.
        sources: names of the files.
        folder: an empty one.
        edit: text of these files and what to put in its place, to see a mistake found.
    """
    assert shutil.which("gcc"), "gcc is needed for this test: apt-get install gcc"
    for file in (*(BOARDS / "common").glob("*.h"), BOARDS / board / "board.h"):
        shutil.copy(file, folder)
    for name in sources:
        shutil.copy(BOARDS / "common" / name, folder)
    if edit is not None:
        edited = [path for path in folder.iterdir() if edit[0] in path.read_text()]
        assert len(edited) == 1, f"{edit[0]!r} is in {len(edited)} files"
        edited[0].write_text(edited[0].read_text().replace(*edit))
    (folder / "cortex_m.h").write_text(_CORTEX_M_H)
    (folder / "simulation.c").write_text(_SIMULATION_C)
    found = re.search(r"LAB_BOARD_DEFINITIONS ([^)]*)\)", (BOARDS / board / "board.cmake").read_text())
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    flags += [f"-D{definition}" for definition in (found.group(1).split() if found else [])]
    flags += [f"-I{folder}", f"-I{project_root() / 'firmware' / 'runner'}"]
    files = [str(folder / name) for name in (*sources, "simulation.c")]
    subprocess.run(["gcc", *flags, *files, "-o", str(folder / f"{board}.so")], check=True)
    return ctypes.CDLL(str(folder / f"{board}.so"))
