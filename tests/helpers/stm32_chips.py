"""STM32F446, F407 and H743 as far as start-up code and runner need them: Unicorn's cores, the clock trees of
``stm32_models``, and blocks that refuse what they refuse without a clock. Written from the reference manuals.

Not the emulator that the lab ships (``lab.emulators.unicorn``), on purpose: it is the reference that the firmware is
tested against, and has faults and rules that a user's emulator does not need.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from helpers.stm32_models import F4_RCC_CR, H7_RCC_CR, Stm32F4, Stm32H743, stm32f407, stm32f446
from helpers.strict_chips import CYCLES_PER_ACCESS, Chip, Engine, require
from unicorn import arm_const

CYCCNT, NVIC_ENABLE1, CCSIDR = 0xE0001004, 0xE000E104, 0xE000ED80
UE = {"f4": 1 << 13, "h7": 1}
D_CACHE_16_KB = 127 << 13 | 3 << 3 | 1  # 128 sets of 4 ways of 32 bytes


class Stm32Chip(Chip):
    """A part with a USART that is board ``uart``, TIM5 and ports of pins.

    Args:
        image: ELF.
        part: its clock tree; may have faults.
    """

    family: ClassVar[str]
    uart: ClassVar[int]
    uart_enable: ClassVar[tuple[int, int]]  # register and bit of its clock
    timer_enable: ClassVar[tuple[int, int]]
    ports: ClassVar[tuple[int, int]]  # first port, register of their clocks
    more_ram: ClassVar[tuple[tuple[int, int], ...]] = ()
    clock_tree: ClassVar[tuple[tuple[int, int], ...]]
    receiver_bytes = 1

    def __init__(self, image: Path, part: Stm32F4 | Stm32H743) -> None:
        super().__init__(image)
        self.part = part
        for start, size in self.more_ram:
            self._uc.mem_map(start, size)
        self.values[CCSIDR] = D_CACHE_16_KB

    # ---- what is behind an address ----

    def _clocked(self, register: int, bit: int) -> bool:
        return bool(self.part.registers.get(register, 0) >> bit & 1)

    def _check_clock(self, address: int) -> None:
        first, enable = self.ports
        if first <= address < first + 11 * 0x400:
            require(self._clocked(enable, (address - first) // 0x400), f"pins without a clock: {address:#x}")
        elif 0 <= address - self.uart < 0x400:
            require(self._clocked(*self.uart_enable), "a USART without a clock")
        elif 0 <= address - 0x40000C00 < 0x400:
            require(self._clocked(*self.timer_enable), "a timer without a clock")
        else:
            known = any(start <= address < end for start, end in self.clock_tree)
            require(known, f"{address:#x} is nothing that start-up needs")

    def read_register(self, address: int) -> int:
        self._check_clock(address)
        if any(start <= address < end for start, end in self.clock_tree):
            return self.part.read(address)
        if address == self.uart + self._at("status"):
            return 1 << 7 | 1 << 6 | bool(self.received) << 5
        if address == self.uart + self._at("receive"):
            return self.received.popleft()
        if address == 0x40000C24:
            ticks = self.cycles * self.part.timer_hz // self.part.core_hz
            running = self.values.get(0x40000C00, 0) & 1
            return ticks // (self.values[0x40000C28] + 1) & 0xFFFFFFFF if running else 0
        return self.values.get(address, 0)

    def write_register(self, address: int, value: int) -> None:
        self._check_clock(address)
        enabled = self.values.get(self.uart + self._at("control"), 0) & UE[self.family]
        if any(start <= address < end for start, end in self.clock_tree):
            self.part.write(address, value)
            require(not self.part.violations, f"the clock tree: {self.part.violations}")
        elif address == self.uart + self._at("rate"):
            require(not enabled, "the rate of a USART that is on")
        elif address == self.uart + self._at("send"):
            require(enabled and self.values[self.uart + self._at("control")] & 1 << 3, "a byte for a USART that is off")
            self.put(value)
        self.values[address] = value

    def _at(self, name: str) -> int:
        f4, h7 = {
            "status": (0x00, 0x1C),
            "receive": (0x04, 0x24),
            "send": (0x04, 0x28),
            "rate": (0x08, 0x0C),
            "control": (0x0C, 0x00),
        }[name]
        return f4 if self.family == "f4" else h7

    def _on_read(self, uc: Engine, offset: int, size: int, start: int) -> int:
        if start + offset == CYCCNT:
            self.cycles += CYCLES_PER_ACCESS
            counts = self.values.get(0xE000EDFC, 0) >> 24 & 1 and self.values.get(0xE0001000, 0) & 1
            unlocked = self.family == "f4" or self.values.get(0xE0001FB0) == 0xC5ACCE55
            return self.cycles & 0xFFFFFFFF if counts and unlocked else 0
        return super()._on_read(uc, offset, size, start)

    def _on_write(self, uc: Engine, offset: int, size: int, value: int, start: int) -> None:
        if start + offset == NVIC_ENABLE1:
            self._nvic |= value << 32
        super()._on_write(uc, offset, size, value, start)

    def write(self, data: bytes) -> None:
        """Send to the chip at the rate of the line: what the receiver has no room for is lost."""
        for byte in data:
            if self.received:
                self.overruns += 1
            else:
                self.received.append(self._across(byte))
            # As many instructions as the core has cycles while a byte is on the line, one for each.
            self.run(10 * self.part.core_hz // self.baud)

    def interrupt_pending(self) -> bool:
        return bool(self.received) and bool(self.values.get(self.uart + self._at("control"), 0) & 1 << 5)

    @property
    def uart_hz(self) -> float:
        return self.part.uart_hz / self.values[self.uart + self._at("rate")]


class _F4(Stm32Chip):
    cpu = arm_const.UC_CPU_ARM_CORTEX_M4
    ram = (0x20000000, 128 << 10)
    registers = ((0x40000000, 0x30000),)
    irq = 38
    family = "f4"
    uart, uart_enable, timer_enable = 0x40004400, (F4_RCC_CR + 0x40, 17), (F4_RCC_CR + 0x40, 3)
    ports = (0x40020000, F4_RCC_CR + 0x30)
    clock_tree = ((0x40023800, 0x40023C04), (0x40007000, 0x40007008))


class F446(_F4):
    flash = (0x08000000, 512 << 10)


class F407(_F4):
    flash = (0x08000000, 1 << 20)
    more_ram = ((0x10000000, 64 << 10),)


class H743(Stm32Chip):
    cpu = arm_const.UC_CPU_ARM_CORTEX_M7
    flash = (0x08000000, 2 << 20)
    ram = (0x20000000, 128 << 10)
    more_ram = ((0x24000000, 512 << 10),)
    registers = (
        *((0x40000000, 0x10000), (0x58020000, 0x10000), (0x52002000, 0x1000), (0x5C001000, 0x1000)),
        (0x51008000, 0x1000),
    )
    irq = 39
    family = "h7"
    uart, uart_enable, timer_enable = 0x40004800, (H7_RCC_CR + 0xE8, 18), (H7_RCC_CR + 0xE8, 3)
    ports = (0x58020000, H7_RCC_CR + 0xE0)
    clock_tree = (
        *((0x58024400, 0x58024500), (0x58024800, 0x58024830), (0x52002000, 0x52002004), (0x5C001000, 0x5C001004)),
        (0x51008108, 0x5100810C),
    )


def powered_up(board: str, image: Path, broken: frozenset[str] = frozenset()) -> Stm32Chip:
    """The part of a board at reset, with parts of its clock tree that never get ready."""
    chip: Stm32Chip
    if board == "nucleo-f446re":
        chip = F446(image, stm32f446(broken))
    elif board == "stm32f4-discovery":
        chip = F407(image, stm32f407(broken))
    else:
        chip = H743(image, Stm32H743(broken))
    chip.boot()
    return chip
