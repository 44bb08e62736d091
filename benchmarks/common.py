"""What the benchmarks share: claims with a verdict, the emulated boards, and a raw firmware to compare with.

Speed is claimed as exact counts, or as ratios of figures taken in turns within one run, since the machine may be busy.
The ratio is one of medians; where two processes must run at once for a figure to mean anything (QEMU and the host at
the two ends of a line), it is one of the best turns: other load can only slow a turn down.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab.artifact import Artifact
from lab.bench import Bench
from lab.build import build
from lab.compiler.model import CompiledModel
from lab.devices.base import Identity
from lab.devices.connect import emulated_target
from lab.devices.emulated_mcu import EmulatedTarget
from lab.devices.mcu import Mcu
from lab.emulators.qemu import QemuMachine
from lab.emulators.tcg_plugin import build_plugin, qemu_version
from lab.errors import ConfigError
from lab.inventory import Device
from lab.paths import cache_dir, config_dir
from lab.workloads import get
from lab.workloads.base import Prepared

BOARDS = ("m4f", "m7")

# The least a firmware can be: it says one byte at reset, then serves three commands with polled loops.
# 'g' n: sends n bytes; 's' n: takes n bytes, answers with their hash (31 h + byte); n is little-endian.
_RAW_SOURCE = """
#include <stdint.h>
#define R(address) (*(volatile uint32_t *)(address))
#define DATA R(0x40004000u)
#define STATE R(0x40004004u)
extern uint32_t stack_top[];
static void put(uint8_t byte) { while (STATE & 1u) continue; DATA = byte; }
static uint8_t get(void) { while (!(STATE & 2u)) continue; return (uint8_t)DATA; }
static uint32_t get32(void) { uint32_t v = 0; for (int i = 0; i < 32; i += 8) v |= (uint32_t)get() << i; return v; }
void reset(void)
{
    R(0x40004010u) = 16;
    R(0x40004008u) = 3;
    (void)DATA; /* QEMU looks for input again after a read, not after the receiver was enabled. */
    put('R');
    for (;;) {
        uint8_t command = get();
        uint32_t count = get32(), x = 1;
        if (command == 'g')
            while (count--) { x = x * 1664525u + 1013904223u; put((uint8_t)(x >> 24)); }
        if (command == 's') {
            x = 0;
            while (count--) x = x * 31u + get();
            for (int i = 0; i < 32; i += 8) put((uint8_t)(x >> i));
        }
    }
}
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {stack_top, reset};
"""
_RAW_LINK = """
MEMORY { FLASH (rx) : ORIGIN = 0, LENGTH = 4M  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
ENTRY(reset)
SECTIONS { .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > FLASH  .bss : { *(.bss*) } > RAM }
stack_top = 0x20010000;
"""


@dataclass(frozen=True)
class Claim:
    """A figure that has to keep a bound.

    Attributes:
        what: what was measured.
        seen: the figures behind the ratio, for people.
        ratio: what is compared with the bound.
        bound: the ratio allowed.
        at_least: whether the bound is a lower one.
    """

    what: str
    seen: str
    ratio: float
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the ratio keeps the bound."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound


def verdict(claims: Sequence[Claim]) -> int:
    """Print claims with PASS or FAIL; the exit status of the benchmark."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{qemu_version()}, {os.cpu_count()} cores, load {load}")
    for claim in claims:
        relation = ">=" if claim.at_least else "<="
        print(
            f"{'PASS' if claim.holds else 'FAIL'}  {claim.what}: {claim.seen}; "
            f"ratio {claim.ratio:.3g}, bound {relation} {claim.bound:g}"
        )
    return 0 if all(claim.holds for claim in claims) else 1


def spread(values: Sequence[float], unit: str, scale: float = 1.0) -> str:
    """Median and range of values, for people."""
    low, middle, high = (value * scale for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:.3g} {unit} [{low:.3g} to {high:.3g}, n={len(values)}]"


def entry(name: str) -> Device:
    """A device of the emulated bench."""
    return Bench.load(config_dir() / "emulated.yaml").get(name)


def firmware_board(name: str) -> str:
    """Name of the board folder in ``firmware/`` of a device of the emulated bench."""
    board = entry(name).board.firmware_board
    if board is None:
        raise ConfigError(f"device {name!r} has no firmware")
    return board


def target(name: str) -> EmulatedTarget:
    """The emulator of a device, without a power meter, with the counting plug-in at hand."""
    build_plugin(cache_dir())
    return emulated_target(entry(name), cache_dir())


@contextmanager
def emulated(name: str) -> Iterator[Mcu]:
    """A device of the emulated bench, without a power meter."""
    board = entry(name).board
    device = Mcu(Identity(name, board.kind, "emulated", qemu_version(), frozenset()), target(name))
    try:
        yield device
    finally:
        device.close()


def machine(name: str) -> QemuMachine:
    """What QEMU is asked to be for a device; the raw firmware runs on the same."""
    emulator = entry(name).board.qemu
    if emulator is None:
        raise ConfigError(f"device {name!r} has no emulator")
    return QemuMachine(emulator.machine, emulator.icount_shift, 0, 0, emulator.marker_address or 0)


@cache
def spoken_digits() -> Prepared:
    """The main workload, from the cache where it was prepared before."""
    return get("spoken-digits").prepare(cache_dir())


def image(name: str, model: CompiledModel) -> Artifact:
    """The firmware of a device with a model, from the cache where it was built before."""
    return build(model, firmware_board(name), cache=cache_dir())


def build_raw_firmware(folder: Path) -> Path:
    """Build the raw firmware, which runs on both MPS2 boards; returns the ELF."""
    elf = folder / "raw.elf"
    (folder / "raw.c").write_text(_RAW_SOURCE)
    (folder / "raw.ld").write_text(_RAW_LINK)
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-O2", "-Wall", "-Wextra", "-Werror", "-nostdlib"]
    subprocess.run([*command, "-T", "raw.ld", "raw.c", "-o", elf], cwd=folder, check=True)
    return elf
