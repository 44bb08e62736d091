"""The two readings of ST's reference manuals agree: the clock trees that firmware is held to, and the emulator's.

``helpers.stm32_models`` is the reference that start-up code is tested against; ``lab.emulators.unicorn.stm32`` is what
users run firmware on. They were written apart, and stay so: each finds the other's mistakes here. Both are led through
one start-up with settings drawn at random, most of them wrong. What the reference finds nothing wrong with, the
emulator must let run, at the same frequencies; what the emulator refuses, the reference must have a rule against. The
reference has more rules, as the emulator only refuses what would run wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from helpers import stm32_models as reference
from hypothesis import example, given
from hypothesis import strategies as st

from lab.emulators.unicorn import stm32 as shipped
from lab.errors import EmulatorError

READS = 12  # until something is ready, at the most
BASES = {"f4": (0x40023800, 0x40007000, 0x40023C00), "h7": (0x58024400, 0x58024800, 0x52002000)}


@dataclass
class Both:
    """Two models of one part behind one set of addresses.

    Attributes:
        refusals: what the emulator refused; nothing is stored in it after that.
    """

    family: str
    part: reference.Stm32F4 | reference.Stm32H743
    clocks: shipped.F4Clocks | shipped.H7Clocks
    refusals: list[str] = field(default_factory=list)

    def place(self, address: int) -> tuple[shipped.Block, int]:
        """Block of the emulator's that has an address, and the offset in it."""
        blocks = (self.clocks.rcc, self.clocks.power, self.clocks.flash)
        base, block = max(
            (base, block) for base, block in zip(BASES[self.family], blocks, strict=True) if base <= address
        )
        return block, address - base

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except EmulatorError as error:
            self.refusals.append(error.message)

    def write(self, address: int, value: int) -> None:
        self.part.write(address, value)
        if not self.refusals:
            block, offset = self.place(address)
            with self._noted():
                block.write(offset, 4, value)

    def set_bits(self, address: int, bits: int) -> None:
        self.write(address, self.part.registers.get(address, 0) | bits)

    def wait_for(self, address: int, bit: int) -> None:
        """Both get ready, if they do at all: firmware waits no longer."""
        block, offset = self.place(address)
        for _ in range(READS):
            self.part.read(address)
            if not self.refusals:
                with self._noted():
                    block.read(offset, 4)
        there = self.part.read(address) >> bit & 1
        assert self.refusals or block.read(offset, 4) >> bit & 1 == there

    def compare(self) -> None:
        """One verdict; and where that is good, the same frequencies."""
        if self.refusals:
            assert self.part.violations, self.refusals
            return
        if self.part.violations:
            return
        seen = (self.clocks.core_hz, self.clocks.bus_hz, self.clocks.timer_hz)
        # The reference rounds down what does not divide.
        assert seen == pytest.approx((self.part.core_hz, self.part.uart_hz, self.part.timer_hz), rel=1e-5)


F4_FIELDS = st.fixed_dictionaries(
    {
        "m": st.sampled_from([3, 4, 5, 8, 9]),
        "n": st.sampled_from([49, 50, 100, 168, 180, 192, 336, 360, 400, 433]),
        "p": st.integers(0, 3),
        "q": st.sampled_from([2, 7, 8, 15]),
        "apb1": st.integers(0, 7),
        "apb2": st.integers(0, 7),
        "waits": st.integers(0, 7),
        "vos": st.integers(0, 3),
        "overdrive": st.booleans(),
    }
)
F4_FULL = {"m": 4, "n": 180, "p": 0, "q": 8, "apb1": 5, "apb2": 4, "waits": 5, "vos": 3, "overdrive": True}


@pytest.mark.parametrize("name", ["F446", "F407"])
@example(F4_FULL)
@example(F4_FULL | {"n": 168, "q": 7, "overdrive": False})
@example(F4_FULL | {"overdrive": False})
@example(F4_FULL | {"waits": 4})
@example(F4_FULL | {"apb1": 4})
@given(F4_FIELDS)
def test_an_f4(name: str, set_to: dict[str, int]) -> None:
    part = reference.stm32f446() if name == "F446" else reference.stm32f407()
    limits = shipped.F446 if name == "F446" else shipped.F407
    both = Both("f4", part, shipped.F4Clocks(limits, 8e6, bypass=part.wants_bypass))
    both.write(reference.F4_RCC_CR + 0x40, 1 << 28)
    both.write(reference.F4_PWR_CR, set_to["vos"] << 14)
    both.set_bits(reference.F4_RCC_CR, 1 << 16 | part.wants_bypass << 18)
    both.wait_for(reference.F4_RCC_CR, 17)
    both.write(reference.F4_ACR, 0x700 | set_to["waits"])
    pll = set_to["q"] << 24 | 1 << 22 | set_to["p"] << 16 | set_to["n"] << 6 | set_to["m"]
    both.write(reference.F4_PLLCFGR, pll)
    both.set_bits(reference.F4_RCC_CR, 1 << 24)
    both.wait_for(reference.F4_RCC_CR, 25)
    for bit in (16, 17) if set_to["overdrive"] else ():
        both.set_bits(reference.F4_PWR_CR, 1 << bit)
        both.wait_for(reference.F4_PWR_CSR, bit)
    buses = set_to["apb1"] << 10 | set_to["apb2"] << 13
    both.write(reference.F4_CFGR, buses)
    both.write(reference.F4_CFGR, buses | 2)
    both.wait_for(reference.F4_CFGR, 3)
    both.compare()


H7_FIELDS = st.fixed_dictionaries(
    {
        "m": st.sampled_from([1, 2, 4, 5, 8]),
        "range": st.integers(0, 3),
        "n": st.sampled_from([23, 50, 100, 200, 400, 512]),
        "p": st.sampled_from([1, 2, 4, 8]),
        "core": st.sampled_from([0, 8]),
        "axi": st.sampled_from([0, 8, 9]),
        "apb": st.sampled_from([0, 4, 5]),
        "waits": st.integers(0, 4),
        "delay": st.integers(0, 3),
        "vos": st.integers(1, 3),
    }
)
H7_FULL = {"m": 4, "range": 1, "n": 400, "p": 2, "core": 0, "axi": 8, "apb": 4, "waits": 2, "delay": 2, "vos": 3}


@example(H7_FULL)
@example(H7_FULL | {"waits": 1})
@example(H7_FULL | {"delay": 1})
@example(H7_FULL | {"axi": 0})
@example(H7_FULL | {"range": 0})
@example(H7_FULL | {"vos": 2})
@given(H7_FIELDS)
def test_an_h7(set_to: dict[str, int]) -> None:
    # The fix for revision Y is a register outside the clock tree.
    part = reference.Stm32H743(revision=reference.REVISION_V)
    both = Both("h7", part, shipped.H7Clocks(8e6))
    both.write(reference.H7_PWR_CR3, 2)
    both.wait_for(reference.H7_PWR_CSR1, 13)
    both.write(reference.H7_PWR_D3CR, set_to["vos"] << 14)
    both.wait_for(reference.H7_PWR_D3CR, 13)
    both.set_bits(reference.H7_RCC_CR, 1 << 16 | 1 << 18)
    both.wait_for(reference.H7_RCC_CR, 17)
    both.write(reference.H7_ACR, set_to["delay"] << 4 | set_to["waits"])
    both.write(reference.H7_PLLCKSELR, set_to["m"] << 4 | 2)
    both.write(reference.H7_PLLCFGR, 1 << 16 | set_to["range"] << 2)
    both.write(reference.H7_PLL1DIVR, set_to["p"] - 1 << 9 | set_to["n"] - 1)
    both.set_bits(reference.H7_RCC_CR, 1 << 24)
    both.wait_for(reference.H7_RCC_CR, 25)
    both.write(reference.H7_D1CFGR, set_to["core"] << 8 | set_to["apb"] << 4 | set_to["axi"])
    both.write(reference.H7_D2CFGR, set_to["apb"] << 8 | set_to["apb"] << 4)
    both.write(reference.H7_D3CFGR, set_to["apb"] << 4)
    both.write(reference.H7_CFGR, 3)
    both.wait_for(reference.H7_CFGR, 3)
    both.compare()


@pytest.mark.parametrize("name", ["F446", "F407", "H743"])
def test_they_agree_on_a_part_after_its_reset(name: str) -> None:
    part: reference.Stm32F4 | reference.Stm32H743
    if name == "H743":
        part, clocks = reference.Stm32H743(), shipped.H7Clocks(8e6)
        both = Both("h7", part, clocks)
        addresses = [reference.H7_RCC_CR, reference.H7_CFGR, reference.H7_PLLCKSELR, reference.H7_PLLCFGR]
        addresses += [reference.H7_PLL1DIVR, reference.H7_ACR]
    else:
        part = reference.stm32f446() if name == "F446" else reference.stm32f407()
        limits = shipped.F446 if name == "F446" else shipped.F407
        both = Both("f4", part, shipped.F4Clocks(limits, 8e6, bypass=part.wants_bypass))
        addresses = [reference.F4_RCC_CR, reference.F4_PLLCFGR, reference.F4_CFGR, reference.F4_ACR]
    for address in addresses:
        block, offset = both.place(address)
        assert block.read(offset, 4) == part.read(address), hex(address)
    both.compare()
