"""The sleeps of the boards' quiet, compiled for this computer over simulated timers: the core is woken in time,
also where a counter wraps, and nothing is left behind that would interrupt the program later."""

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
COMMON = FIRMWARE / "boards" / "common"
ACCESS_CYCLES = 8

# A store takes effect with the next access, or where the core waits or unmasks.
CORTEX_M_H = """
#include <stdint.h>
volatile uint32_t *simulated(uint32_t address);
void cortex_m_mask_interrupts(void);
void cortex_m_wait_for_interrupt(void);
void cortex_m_unmask_interrupts(void);
#define REGISTER(address) (*simulated(address))
#define NVIC_ENABLE(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_DISABLE(irq) REGISTER(0xE000E180u + 4u * ((irq) / 32u))
#define NVIC_CLEAR_PENDING(irq) REGISTER(0xE000E280u + 4u * ((irq) / 32u))
#define NVIC_BIT(irq) (1u << ((irq) % 32u))
"""
FRAME = """
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include <stdbool.h>
static uint64_t now;          /* cycles of the core */
static bool masked, pending;  /* pending: of what wakes the core */
static uint32_t accessed, enabled;
static volatile uint32_t slot;
static uint64_t slept_at;
static const char *fault;
static uint32_t value_of(uint32_t address);
static void stored(uint32_t address, uint32_t value);
static bool fires(uint64_t *at);
static void fail(const char *what) { if (!fault) fault = what; }
static void settle(void)
{
    uint32_t address = accessed;
    accessed = 0;
    switch (address) {
    case 0: break;
    case 0xE000E100u: enabled |= slot; break;
    case 0xE000E180u: enabled &= ~slot; break;
    case 0xE000E280u: pending = false; break;
    default: stored(address, slot);
    }
}
volatile uint32_t *simulated(uint32_t address)
{
    settle();
    now += %d;
    accessed = address;
    slot = value_of(address);
    return &slot;
}
void cortex_m_mask_interrupts(void) { masked = true; }
void cortex_m_unmask_interrupts(void)
{
    settle();
    if (pending) fail("an interrupt waits that nobody takes");
    if (enabled) fail("its interrupt stays enabled");
    masked = false;
}
void cortex_m_wait_for_interrupt(void)
{
    uint64_t at;
    settle();
    if (!masked) fail("it waits with interrupts unmasked");
    if (!fires(&at)) { fail("nothing wakes the core"); return; }
    if (at < now) fail("the time to wake has gone by");
    now = at;
    pending = true;
}
void clock_slept(void) { settle(); slept_at = now; if (!masked) fail("the clock is told after the interrupt"); }
void set_time(uint64_t cycles)
{
    now = cycles; masked = pending = false; accessed = enabled = 0; fault = 0; slept_at = 0;
}
uint64_t get_time(void) { settle(); return now; }
bool clock_was_told(void) { return slept_at != 0; }
const char *what_failed(void) { settle(); return fault ? fault : masked ? "interrupts stay masked" : ""; }
"""

SYSTICK = """
static uint32_t control, reload;
static uint64_t since;
static void stored(uint32_t address, uint32_t value)
{
    if (address == 0xE000E014u) { reload = value; if (value > 0xFFFFFFu) fail("SysTick has 24 bits"); }
    if (address == 0xE000E018u) since = now;
    if (address == 0xE000E010u) { control = value; since = now; }
    if (address == 0xE000ED04u && value == 1u << 25) { pending = false; if (control & 1) fail("it still counts"); }
}
static uint32_t value_of(uint32_t address) { (void)address; return 0; }
static bool fires(uint64_t *at) { *at = since + reload + 1; return control == 7 && reload > 0; }
"""

# A timer of 32 bits that has run since time 0. Its interrupt follows its event as long as both are there.
NRF5 = """
#define TICKS (now >> BOARD_COARSE_TICK_BITS)
static uint32_t cc1, inten, event;
static void stored(uint32_t address, uint32_t value)
{
    switch (address - BOARD_COARSE_TIMER) {
    case 0x044: if (value == 1) cc1 = (uint32_t)TICKS; break;
    case 0x544: cc1 = value; break;
    case 0x144: event = value; break;
    case 0x304: inten |= value; break;
    case 0x308: inten &= ~value; break;
    }
}
static uint32_t value_of(uint32_t address) { return address == BOARD_COARSE_TIMER + 0x544u ? cc1 : 0; }
static bool fires(uint64_t *at)
{
    uint64_t ticks = TICKS;
    *at = (ticks + (uint32_t)(cc1 - (uint32_t)ticks)) << BOARD_COARSE_TICK_BITS;
    return inten == 1u << 17 && event == 0 && enabled == 1u << BOARD_COARSE_TIMER_IRQ % 32;
}
"""

RP2040 = """
#define US (now / 125)
static uint32_t alarm, armed, inte, intr;
static void stored(uint32_t address, uint32_t value)
{
    switch (address - 0x40054000u) {
    case 0x10: alarm = value; armed = 1; break;
    case 0x20: armed &= ~value; break;
    case 0x34: intr &= ~value; break;
    case 0x38: inte = value; break;
    }
}
static uint32_t value_of(uint32_t address) { return address == 0x40054028u ? (uint32_t)US : 0; }
static bool fires(uint64_t *at)
{
    uint64_t us = US;
    *at = (us + (uint32_t)(alarm - (uint32_t)us)) * 125;
    intr = 1;
    return armed && inte == 1 && enabled == 1;
}
"""


@dataclass(frozen=True)
class Kind:
    """A way to sleep, a board that has it, and its limits in cycles."""

    sleep: str
    board: str
    simulation: str
    tick_cycles: int
    least_cycles: int
    most_cycles: int
    told: bool = True  # whether the board's clock must be told of a sleep


KINDS = (
    Kind("systick", "nucleo-f446re", SYSTICK, 1, 256, 0xFFFFFF),
    Kind("nrf5", "nrf52840-dk", NRF5, 64, 4 * 64, 64 << 30),
    Kind("nrf5", "microbit", NRF5, 256, 4 * 256, 256 << 30),
    Kind("rp2040", "rpi-pico", RP2040, 125, 20 * 125, 125 << 30, told=False),
)


@dataclass(frozen=True)
class Sleep:
    """A board's sleep over a simulated timer."""

    kind: Kind
    library: ctypes.CDLL

    def doze(self, at: int, cycles: int) -> int | None:
        """How long the core was away, in cycles; None where it did not sleep."""
        self.library.set_time(ctypes.c_uint64(at))
        slept = bool(self.library.port_doze(ctypes.c_uint64(cycles)))
        assert self.library.what_failed().decode() == ""
        assert bool(self.library.clock_was_told()) == (slept and self.kind.told)
        return int(self.library.get_time()) - at if slept else None


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.board)
def sleep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sleep:
    kind: Kind = request.param
    assert shutil.which("gcc"), "gcc is needed for this test: apt-get install gcc"
    folder = tmp_path_factory.mktemp(kind.board)
    for name in (f"sleep_{kind.sleep}.c", "clock.h", "nrf5.h", "rp2040.h", "stm32.h", "stm32f4.h"):
        shutil.copy(COMMON / name, folder)
    shutil.copy(FIRMWARE / "boards" / kind.board / "board.h", folder)
    (folder / "cortex_m.h").write_text(CORTEX_M_H)
    (folder / "simulation.c").write_text(FRAME % ACCESS_CYCLES + kind.simulation)
    return Sleep(kind, _library(folder, kind))


def _library(folder: Path, kind: Kind) -> ctypes.CDLL:
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{FIRMWARE / 'runner'}"]
    sources = [str(folder / f"sleep_{kind.sleep}.c"), str(folder / "simulation.c")]
    subprocess.run(["gcc", *flags, "-DLAB_MARKER_SHIFT=1", *sources, "-o", str(folder / "sleep.so")], check=True)
    library = ctypes.CDLL(str(folder / "sleep.so"))
    library.port_doze.restype = ctypes.c_bool
    library.clock_was_told.restype = ctypes.c_bool
    library.get_time.restype = ctypes.c_uint64
    library.what_failed.restype = ctypes.c_char_p
    return library


TIMES = st.one_of(st.integers(0, 1 << 44), st.integers(-4096, 4096).map(lambda near: (1 << 40) + near))


@given(at=TIMES, cycles=st.integers(0, 1 << 50))
@example(at=(1 << 32) * 64 - 1000, cycles=100_000)  # the nRF52840's timer wraps in the sleep,
@example(at=(1 << 32) * 256 - 1000, cycles=100_000)  # the micro:bit's,
@example(at=(1 << 32) * 125 - 1000, cycles=100_000)  # the RP2040's
def test_the_core_is_back_in_time(sleep: Sleep, at: int, cycles: int) -> None:
    kind = sleep.kind
    away = sleep.doze(at, cycles)
    if away is None:
        assert cycles < kind.least_cycles
        return
    overhead = 16 * ACCESS_CYCLES
    assert cycles >= kind.least_cycles
    assert away <= min(cycles, kind.most_cycles) + overhead
    # A tick that had begun, and what is left of the time in parts of one.
    assert away >= min(cycles, kind.most_cycles) - 2 * kind.tick_cycles


@given(at=TIMES, cycles=st.integers(0, 1 << 36))
def test_sleeps_end_as_soon_as_there_is_too_little_time_left(sleep: Sleep, at: int, cycles: int) -> None:
    """As the runner does it: again and again, until the rest is waited for awake."""
    left = cycles
    for _ in range(5000):
        away = sleep.doze(at + cycles - left, left)
        if away is None:
            break
        left = max(left - away, 0)
    else:
        pytest.fail(f"{left} cycles are left of {cycles}")
    assert left < sleep.kind.least_cycles
