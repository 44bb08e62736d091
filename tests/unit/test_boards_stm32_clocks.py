"""The clocks of the STM32 boards over simulated counters: cycles come out exactly however long a region is, and sleeps
count by the coarse timer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import pytest
from helpers.simulated_registers import Simulated, compiled
from hypothesis import example, given
from hypothesis import strategies as st

DWT_CYCCNT, DWT_LAR, DWT_CTRL, DEMCR = 0xE0001004, 0xE0001FB0, 0xE0001000, 0xE000EDFC
TIM2_CNT, TIM5_CNT = 0x40000024, 0x40000C24
ACCESS = 3  # instructions or cycles from one access of a register to the next; any number would do
WRAP = 2**32


@dataclass
class Counters:
    """DWT and TIM5 of a core whose cycles are ``now``; DWT stands while it sleeps, and is locked as on a Cortex-M7."""

    now: int = 0
    asleep: int = 0
    unlocked: bool = False
    traced: bool = False
    counting: bool = False

    def pass_time(self, cycles: int) -> None:
        self.now += cycles

    def sleep(self, cycles: int) -> None:
        self.now += cycles
        self.asleep += cycles

    def read(self, address: int) -> int:
        self.now += ACCESS
        if address == TIM5_CNT:
            return self.now >> 17 & 0xFFFFFFFF
        return (self.now - self.asleep) % WRAP if address == DWT_CYCCNT and self.counting else 0

    def write(self, address: int, value: int) -> None:
        self.unlocked |= address == DWT_LAR and value == 0xC5ACCE55
        self.traced |= address == DEMCR and bool(value & 1 << 24)
        self.counting |= address == DWT_CTRL and bool(value & 1) and self.unlocked and self.traced


@dataclass
class VirtualCounters(Counters):
    """Timers 2 and 5 of QEMU's STM32F405: nanoseconds of its virtual time, 128 for an instruction."""

    def pass_time(self, cycles: int) -> None:
        self.now += 128 * cycles

    def read(self, address: int) -> int:
        self.now += 128 * ACCESS
        return {TIM2_CNT: self.now % WRAP, TIM5_CNT: self.now >> 16 & 0xFFFFFFFF}.get(address, 0)


@pytest.fixture(scope="module")
def dwt(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled("nucleo-f446re", ("clock_dwt.c",), tmp_path_factory.mktemp("dwt"))


@pytest.fixture(scope="module")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled("netduinoplus2", ("clock_stm32_virtual.c",), tmp_path_factory.mktemp("virtual"))


def region(clock: Simulated, counters: Counters, cycles: int) -> int:
    begin = clock.cycles()
    counters.pass_time(cycles)
    return clock.cycles() - begin


LENGTHS = st.one_of(
    st.integers(0, 1000), st.integers(0, 40 * WRAP), st.integers(-300, 300).map(lambda off: WRAP + off)
)
STEPS = st.lists(st.tuples(st.integers(0, 10**12), LENGTHS), min_size=1, max_size=10)


@given(start=st.integers(0, 3 * WRAP), steps=STEPS)
@example(start=0, steps=[(0, WRAP)])
@example(start=WRAP - 5, steps=[(WRAP // 2, 0), (0, 7)])
def test_a_region_is_exact_wherever_the_counter_wraps(
    dwt: ctypes.CDLL, start: int, steps: list[tuple[int, int]]
) -> None:
    counters = Counters(start)
    clock = Simulated(dwt, counters)
    clock.call("clock_start")
    for slept, cycles in steps:
        counters.sleep(slept)
        clock.call("clock_slept")
        assert region(clock, counters, cycles) == cycles + 2 * ACCESS


@given(start=st.integers(0, WRAP), sleeps=st.lists(st.integers(0, 10**11), min_size=1, max_size=6))
def test_sleeps_count_to_a_tick_of_the_coarse_timer(dwt: ctypes.CDLL, start: int, sleeps: list[int]) -> None:
    counters = Counters(start)
    clock = Simulated(dwt, counters)
    clock.call("clock_start")
    begin, began = clock.cycles(), counters.now
    for slept in sleeps:
        counters.sleep(slept)
        clock.call("clock_slept")
    assert clock.cycles() - begin == pytest.approx(counters.now - began, abs=2 * 2**17 + 100)


def test_a_locked_counter_is_unlocked_first(dwt: ctypes.CDLL) -> None:
    counters = Counters()
    Simulated(dwt, counters).call("clock_start")
    assert counters.counting


@given(start=st.integers(0, 3 * WRAP), steps=STEPS)
@example(start=WRAP - 128, steps=[(0, 1)])
def test_instructions_of_the_emulated_part_are_exact(
    virtual: ctypes.CDLL, start: int, steps: list[tuple[int, int]]
) -> None:
    """Up to 2^41 instructions: the coarse timer wraps after 2^48 ns."""
    counters = VirtualCounters(start)
    clock = Simulated(virtual, counters)
    clock.call("clock_start")
    for slept, instructions in steps:
        counters.sleep(slept)
        clock.call("clock_slept")
        assert region(clock, counters, instructions) == instructions + 2 * ACCESS
