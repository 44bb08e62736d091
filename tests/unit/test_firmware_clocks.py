"""The boards' clocks, compiled for this computer over simulated counters: instructions come out exactly, whatever the
phase of the ticks, however long the core slept before, and wherever a counter wraps."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lab.paths import project_root

FIRMWARE = project_root() / "firmware"
INSTRUCTION_NS = 128  # QEMU's -icount shift=7
ACCESS_INSTRUCTIONS = 3  # from one access of a register to the next; any number would do
LOW_WRAP_NS = 2**32 * 125 // 4  # of the SSE counter's low half, at 32 MHz
TIMER_WRAP_NS = 2**32 * 40  # of the CMSDK timer, at 25 MHz

BOARD_H = """
#define BOARD_TIMER 0x1000u
#define BOARD_DUAL_TIMER 0x2000u
#define BOARD_COUNTER_CONTROL 0x3000u
#define BOARD_COUNTER 0x4000u
"""

# The registers of both kinds of clock, as functions of a time in ns.
CORTEX_M_H = f"""
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
    if (address == 0x1004u) value = ~(uint32_t)(now_ns / 40);
    if (address == 0x2004u) value = ~(uint32_t)(now_ns / 40 >> 8);
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


@pytest.fixture(scope="module", params=[("sse", 3), ("cmsdk", 2)], ids=["sse", "cmsdk"])
def clock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clock:
    name, reads = request.param
    assert shutil.which("gcc"), "gcc is needed for this test: apt-get install gcc"
    folder = tmp_path_factory.mktemp(name)
    for file in (f"clock_{name}.c", "clock.h"):
        shutil.copy(FIRMWARE / "boards" / "common" / file, folder)
    for file, text in (("board.h", BOARD_H), ("cortex_m.h", CORTEX_M_H), ("simulation.c", SIMULATION)):
        (folder / file).write_text(text)
    sources = [folder / f"clock_{name}.c", folder / "simulation.c"]
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{FIRMWARE / 'runner'}"]
    subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(folder / "clock.so")], check=True)
    library = ctypes.CDLL(str(folder / "clock.so"))
    library.port_cycles.restype = ctypes.c_uint64
    return Clock(library, reads)


PHASES = st.integers(0, 20_000)
SLEEPS = st.one_of(
    st.integers(0, 10**6),
    st.integers(0, 3 * 10**11),
    st.integers(-8000, 8000).map(lambda ns: LOW_WRAP_NS + ns),
    st.integers(-8000, 8000).map(lambda ns: TIMER_WRAP_NS + ns),
)
REGIONS = st.one_of(st.integers(0, 1000), st.integers(0, 3 * 10**9))


@given(phase_ns=PHASES, steps=st.lists(st.tuples(SLEEPS, REGIONS), min_size=1, max_size=20))
@example(phase_ns=0, steps=[(0, 2**32)])
def test_a_region_without_a_sleep_is_exact(clock: Clock, phase_ns: int, steps: list[tuple[int, int]]) -> None:
    clock.start(phase_ns)
    for sleep_ns, instructions in steps:
        clock.sleep(sleep_ns)
        assert clock.region(instructions) == instructions + clock.reads * ACCESS_INSTRUCTIONS


@pytest.mark.parametrize("wrap_ns", [LOW_WRAP_NS, TIMER_WRAP_NS])
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
