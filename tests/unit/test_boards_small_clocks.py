"""The clocks of the micro:bit, the nRF52840-DK and the Raspberry Pi Pico, compiled for this computer over simulated
counters: exact whatever the phase of the ticks, however long the core slept before, and wherever a counter wraps."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.paths import project_root

FIRMWARE = project_root() / "firmware"
COMMON = FIRMWARE / "boards" / "common"
ACCESS_NS = 512  # from one access of a register to the next; a whole number of everybody's cycles
HOUR_NS = 3600 * 10**9

CORTEX_M_H = """
#include <stdint.h>
volatile uint32_t *simulated(uint32_t address);
#define REGISTER(address) (*simulated(address))
"""

# A store takes effect with the access after it, at the time of its own.
FRAME = """
#include "cortex_m.h"
#include <stdint.h>
static uint64_t now_ns, slept_ns;
static uint32_t accessed;
static volatile uint32_t slot;
static uint32_t value_of(uint32_t address);
static void stored(uint32_t address, uint32_t value);
void set_time(uint64_t ns) { now_ns = ns; slept_ns = 0; accessed = 0; }
void pass_time(uint64_t ns) { now_ns += ns; }
void sleep_time(uint64_t ns) { now_ns += ns; slept_ns += ns; }
volatile uint32_t *simulated(uint32_t address)
{
    if (accessed) stored(accessed, slot);
    now_ns += %d;
    accessed = address;
    slot = value_of(address);
    return &slot;
}
"""

# A timer of the nRF51 as QEMU counts it: from capture to capture, the time of a tick rounded down to nanoseconds.
NRF51 = """
#include <stdbool.h>
static struct { uint64_t until_ns; uint32_t count, captured, prescaler; bool runs; } timers[2];
static void capture(int i)
{
    uint64_t hz = 16000000u >> timers[i].prescaler;
    uint32_t ticks = (uint32_t)((unsigned __int128)(now_ns - timers[i].until_ns) * hz / 1000000000u);
    timers[i].count += ticks;
    timers[i].until_ns += (unsigned __int128)ticks * 1000000000u / hz;
    timers[i].captured = timers[i].count;
}
static void stored(uint32_t address, uint32_t value)
{
    int i = address >> 12 & 1;
    switch (address & 0xFFFu) {
    case 0x000: timers[i].runs = value == 1; timers[i].until_ns = now_ns; timers[i].count = 0; break;
    case 0x040: if (timers[i].runs && value == 1) capture(i); break;
    case 0x510: timers[i].prescaler = value; break;
    }
}
static uint32_t value_of(uint32_t address)
{
    return (address & 0xFFFu) == 0x540 ? timers[address >> 12 & 1].captured : 0;
}
"""

# 64 cycles of the core to a tick of TIMER0; the cycle counter stands while the core sleeps.
NRF52840 = """
static uint32_t captured;
static void stored(uint32_t address, uint32_t value)
{
    if (address == 0x40008040u && value == 1) captured = (uint32_t)(now_ns / 1000);
}
static uint32_t value_of(uint32_t address)
{
    if (address == 0x40008540u) return captured;
    if (address == 0xE0001004u) return (uint32_t)((now_ns - slept_ns) * 64 / 1000);
    return 0;
}
"""

# Reading the low half of the timer holds the high one. SysTick counts down.
RP2040 = """
static uint64_t held_us;
static void stored(uint32_t address, uint32_t value) { (void)address; (void)value; }
static uint32_t value_of(uint32_t address)
{
    if (address == 0x4005400Cu) { held_us = (now_ns + 700) / 1000; return (uint32_t)held_us; }
    if (address == 0x40054008u) return (uint32_t)(held_us >> 32);
    if (address == 0xE000E018u) return (uint32_t)(0u - now_ns / 8) & 0xFFFFFFu;
    return 0;
}
"""


@dataclass(frozen=True)
class Kind:
    """A clock, its board and what it counts."""

    board: str
    clock: str
    simulation: str
    accesses: int  # of registers, by one reading
    cycle_ns: float
    wraps_ns: tuple[int, ...]  # when a counter of 32 or 24 bits wraps


KINDS = (
    Kind("microbit", "nrf51", NRF51, 4, 128.0, (2**32 * 125 // 2,)),
    Kind("nrf52840-dk", "dwt", NRF52840, 3, 15.625, (2**32 * 125 // 8, 2**32 * 1000)),
    Kind("rpi-pico", "rp2040", RP2040, 3, 8.0, (2**24 * 8, 2**32 * 1000)),
)


@dataclass(frozen=True)
class Clock:
    """A clock over simulated counters."""

    kind: Kind
    library: ctypes.CDLL

    def start(self, at_ns: int) -> None:
        self.library.set_time(ctypes.c_uint64(at_ns))
        self.library.clock_start()

    def sleep(self, duration_ns: int) -> None:
        self.library.sleep_time(ctypes.c_uint64(duration_ns))
        if self.kind.clock != "rp2040":
            self.library.clock_slept()

    def cycles(self) -> int:
        return int(self.library.port_cycles())

    def region(self, cycles: int) -> int:
        """Cycles between two readings with that many in between, without those of the readings."""
        begin = self.cycles()
        self.library.pass_time(ctypes.c_uint64(round(cycles * self.kind.cycle_ns)))
        return self.cycles() - begin - round(self.kind.accesses * ACCESS_NS / self.kind.cycle_ns)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.board)
def clock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clock:
    kind: Kind = request.param
    assert shutil.which("gcc"), "gcc is needed for this test: apt-get install gcc"
    folder = tmp_path_factory.mktemp(kind.clock)
    for file in (COMMON / f"clock_{kind.clock}.c", COMMON / "clock.h", COMMON / "nrf5.h", COMMON / "rp2040.h"):
        shutil.copy(file, folder)
    shutil.copy(FIRMWARE / "boards" / kind.board / "board.h", folder)
    (folder / "cortex_m.h").write_text(CORTEX_M_H)
    (folder / "simulation.c").write_text(FRAME % ACCESS_NS + kind.simulation)
    return Clock(kind, _library(folder, kind))


def _library(folder: Path, kind: Kind) -> ctypes.CDLL:
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{FIRMWARE / 'runner'}"]
    sources = [str(folder / f"clock_{kind.clock}.c"), str(folder / "simulation.c")]
    subprocess.run(["gcc", *flags, "-DLAB_MARKER_SHIFT=1", *sources, "-o", str(folder / "clock.so")], check=True)
    library = ctypes.CDLL(str(folder / "clock.so"))
    library.port_cycles.restype = ctypes.c_uint64
    return library


PHASES = st.integers(0, 20_000)
SLEEPS = st.one_of(st.integers(0, 10**6), st.integers(0, 3 * HOUR_NS))


@given(
    phase_ns=PHASES,
    steps=st.lists(st.tuples(SLEEPS, st.one_of(st.integers(0, 1000), st.integers(0, 10**10))), min_size=1, max_size=12),
)
def test_a_region_is_exact_after_any_sleep(clock: Clock, phase_ns: int, steps: list[tuple[int, int]]) -> None:
    """Cycles of the nRF52840 are no whole nanoseconds: there a region of whole ones may end one cycle later."""
    whole = clock.kind.cycle_ns == int(clock.kind.cycle_ns)
    clock.start(phase_ns)
    for sleep_ns, cycles in steps:
        clock.sleep(sleep_ns)
        assert abs(clock.region(cycles) - cycles) <= (0 if whole else 1)


def test_a_wrap_anywhere_between_the_registers(clock: Clock) -> None:
    """From a wrap behind the last register that is read to one before the first, in steps shorter than a tick."""
    slack = 0 if clock.kind.cycle_ns == int(clock.kind.cycle_ns) else 1
    for wrap_ns in clock.kind.wraps_ns:
        for start_ns in range(wrap_ns - 16 * ACCESS_NS, wrap_ns + ACCESS_NS, 48):
            clock.start(start_ns)
            assert abs(clock.region(64) - 64) <= slack


def test_an_hour_is_an_hour(clock: Clock) -> None:
    clock.start(0)
    begin = clock.cycles()
    clock.sleep(HOUR_NS)
    hour = clock.cycles() - begin
    # The accesses themselves take time; where the coarse timer counts for the sleep, that is right to one tick of 1 µs.
    slack_ns = 8 * ACCESS_NS + 1000
    assert hour == pytest.approx(HOUR_NS / clock.kind.cycle_ns, abs=slack_ns / clock.kind.cycle_ns)
