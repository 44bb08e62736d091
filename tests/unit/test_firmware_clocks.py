"""The boards' clocks, compiled for this computer over simulated counters: instructions come out exactly, whatever the
phase of the ticks, however long the core slept before, and wherever a counter wraps."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lab.paths import project_root

FIRMWARE = project_root() / "firmware"
INSTRUCTION_NS = 128  # QEMU's -icount shift=7
ACCESS_INSTRUCTIONS = 3  # from one access of a register to the next; any number would do
LOW_WRAP_NS = 2**32 * 125 // 4  # of the SSE counter's low half, at 32 MHz
TIMER_WRAPS_NS = (2**32 * 125 // 4, 2**32 * 40, 2**32 * 50)  # of the CMSDK timer, at 32, 25 and 20 MHz

BOARD_H = """
#define BOARD_CLOCK_HZ {hz}u
#define BOARD_TIMER 0x1000u
#define BOARD_DUAL_TIMER 0x2000u
#define BOARD_COUNTER_CONTROL 0x3000u
#define BOARD_COUNTER 0x4000u
#define BOARD_COUNTER_HZ BOARD_CLOCK_HZ
#define BOARD_COUNTER_LOAD 0x5000u
#define BOARD_COUNTER_VALUE 0x5004u
#define BOARD_COUNTER_ENABLE 1u
"""

# The registers of both kinds of clock, as functions of a time in ns.
CORTEX_M_H = f"""
#include "board.h"
#include <stdint.h>
volatile uint32_t *simulated(uint32_t address);
#define REGISTER(address) (*simulated(address))
#define ACCESS_NS ({ACCESS_INSTRUCTIONS}u * {INSTRUCTION_NS}u)
"""
SIMULATION = """
#include "cortex_m.h"
static uint64_t now_ns;
void set_time(uint64_t ns) { now_ns = ns; }
void pass_time(uint64_t ns) { now_ns += ns; }
volatile uint32_t *simulated(uint32_t address)
{
    static volatile uint32_t value;
    pass_time(ACCESS_NS);
    uint64_t ticks = now_ns * (BOARD_CLOCK_HZ / 1000000u) / 1000u;
    if (address == 0x1004u || address == 0x5004u) value = ~(uint32_t)ticks;
    if (address == 0x2004u) value = ~(uint32_t)(ticks >> 8);
    if (address == 0x4000u) value = (uint32_t)(now_ns * 32 / 1000);
    if (address == 0x4004u) value = (uint32_t)(now_ns * 32 / 1000 >> 32);
    return &value;
}
"""


@dataclass(frozen=True)
class Clock:
    """A clock over simulated counters."""

    library: ctypes.CDLL
    reads: int  # registers that one reading of the clock takes

    def start(self, at_ns: int) -> None:
        self.library.set_time(ctypes.c_uint64(at_ns))
        self.library.clock_start()

    def sleep(self, duration_ns: int) -> None:
        self.library.pass_time(ctypes.c_uint64(duration_ns))

    def region(self, instructions: int) -> int:
        """Cycles between two readings with that many instructions in between."""
        begin = int(self.library.port_cycles())
        self.library.pass_time(ctypes.c_uint64(instructions * INSTRUCTION_NS))
        return int(self.library.port_cycles()) - begin


def built(name: str, hz: int, reads: int, folder: Path) -> Clock:
    assert shutil.which("gcc"), "gcc is needed for this test: apt-get install gcc"
    for file in (f"clock_{name}.c", "clock.h"):
        shutil.copy(FIRMWARE / "boards" / "common" / file, folder)
    for file, text in (("board.h", BOARD_H.format(hz=hz)), ("cortex_m.h", CORTEX_M_H), ("simulation.c", SIMULATION)):
        (folder / file).write_text(text)
    sources = [folder / f"clock_{name}.c", folder / "simulation.c"]
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{FIRMWARE / 'runner'}"]
    subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(folder / "clock.so")], check=True)
    library = ctypes.CDLL(str(folder / "clock.so"))
    library.port_cycles.restype = ctypes.c_uint64
    return Clock(library, reads)


@pytest.fixture(
    scope="module",
    params=[("sse", 32_000_000, 3), ("cmsdk", 25_000_000, 2), ("cmsdk", 20_000_000, 2), ("cmsdk", 32_000_000, 2)],
    ids=["sse", "cmsdk", "cmsdk-20", "cmsdk-32"],
)
def clock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clock:
    name, hz, reads = request.param
    return built(name, hz, reads, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module", params=[50_000_000, 100_000_000])
def down(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """The clock that knows of no wraps."""
    return built("down", request.param, 1, tmp_path_factory.mktemp("down"))


PHASES = st.integers(0, 20_000)
SLEEPS = st.one_of(
    st.integers(0, 10**6),
    st.integers(0, 3 * 10**11),
    st.integers(-8000, 8000).map(lambda ns: LOW_WRAP_NS + ns),
    st.tuples(st.sampled_from(TIMER_WRAPS_NS), st.integers(-8000, 8000)).map(sum),
)
REGIONS = st.one_of(st.integers(0, 1000), st.integers(0, 3 * 10**9))


@given(phase_ns=PHASES, steps=st.lists(st.tuples(SLEEPS, REGIONS), min_size=1, max_size=20))
@example(phase_ns=0, steps=[(0, 2**32)])
def test_a_region_without_a_sleep_is_exact(clock: Clock, phase_ns: int, steps: list[tuple[int, int]]) -> None:
    clock.start(phase_ns)
    for sleep_ns, instructions in steps:
        clock.sleep(sleep_ns)
        assert clock.region(instructions) == instructions + clock.reads * ACCESS_INSTRUCTIONS


@given(
    phase_ns=PHASES,
    steps=st.lists(st.tuples(SLEEPS, st.integers(0, 2**32 // 13)), min_size=1, max_size=20),
)
@example(phase_ns=0, steps=[(0, 2**32 // 13), (LOW_WRAP_NS, 2**32 // 13)])
def test_a_region_of_fewer_ticks_than_the_timer_has(down: Clock, phase_ns: int, steps: list[tuple[int, int]]) -> None:
    """At 100 MHz an instruction takes 12.8 ticks."""
    down.start(phase_ns)
    for sleep_ns, instructions in steps:
        down.sleep(sleep_ns)
        assert down.region(instructions) == instructions + down.reads * ACCESS_INSTRUCTIONS


@pytest.mark.parametrize("wrap_ns", sorted({LOW_WRAP_NS, *TIMER_WRAPS_NS}))
def test_a_wrap_anywhere_between_the_registers(clock: Clock, wrap_ns: int) -> None:
    """From a wrap behind the last register that is read to one before the first, in steps shorter than a tick."""
    for start_ns in range(wrap_ns - 6000, wrap_ns + 1000, 16):
        clock.start(start_ns)
        assert clock.region(7) == 7 + clock.reads * ACCESS_INSTRUCTIONS


def test_a_sleep_counts_as_its_time(clock: Clock) -> None:
    clock.start(0)
    begin = int(clock.library.port_cycles())
    clock.sleep(10**9)
    slept = int(clock.library.port_cycles()) - begin
    assert slept == pytest.approx(10**9 / INSTRUCTION_NS, abs=clock.reads * ACCESS_INSTRUCTIONS + 1)
