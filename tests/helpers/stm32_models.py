"""Clock trees of STM32 parts as their reference manuals describe them: registers in, frequencies and broken rules out.

Written from RM0390 (F446), RM0090 (F407) and RM0433 (H743) without a look at the firmware's constants, and apart from
the emulator's models of the same registers (``lab.emulators.unicorn.stm32``): the independent reference that firmware
and emulator are held to, so nothing may be shared with either. ``test_stm32_models_agree`` compares the two models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HSE_HZ = 8_000_000
POLLS_UNTIL_READY = 3


def bits(value: int, high: int, low: int) -> int:
    """A field of a register."""
    return value >> low & ((1 << (high - low + 1)) - 1)


@dataclass
class ClockTree:
    """Registers with their values after a reset, and what is wrong with what was done to them.

    Attributes:
        broken: what never gets ready: ``hse pll overdrive voltage flash switch``.
        violations: rules of the manual that were broken.
    """

    broken: frozenset[str] = frozenset()
    registers: dict[int, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    polls: dict[str, int] = field(default_factory=dict)

    def ready(self, what: str, wanted: bool) -> bool:
        """Whether something that was switched on is ready; it takes some polls."""
        if not wanted:
            self.polls[what] = 0
            return False
        self.polls[what] = self.polls.get(what, 0) + 1
        return what not in self.broken and self.polls[what] > POLLS_UNTIL_READY

    def rule(self, kept: bool, text: str) -> None:
        """Note a broken rule."""
        if not kept:
            self.violations.append(text)


F4_RCC_CR, F4_PLLCFGR, F4_CFGR = 0x40023800, 0x40023804, 0x40023808
F4_PWR_CR, F4_PWR_CSR, F4_ACR = 0x40007000, 0x40007004, 0x40023C00
F4_HSI_HZ = 16_000_000


@dataclass
class Stm32F4(ClockTree):
    """STM32F407 or F446 at 2.7 to 3.6 V."""

    most_hz: int = 168_000_000
    most_apb1_hz: int = 42_000_000
    most_apb2_hz: int = 84_000_000
    most_without_overdrive_hz: int = 168_000_000
    voltage_mask: int = 1 << 14

    def __post_init__(self) -> None:
        self.registers = {F4_RCC_CR: 0x83, F4_PLLCFGR: 0x24003010, F4_PWR_CR: self.voltage_mask} | self.registers

    def read(self, address: int) -> int:
        value = self.registers.get(address, 0)
        if address == F4_RCC_CR:
            hse = self.ready("hse", bool(value & 1 << 16)) and bool(value & 1 << 18) == self.wants_bypass
            pll = self.ready("pll", bool(value & 1 << 24))
            value = value & ~(1 << 17 | 1 << 25) | hse << 17 | pll << 25
            self.registers[address] = value
        elif address == F4_CFGR:
            switched = bits(value, 1, 0) if "switch" not in self.broken else 0
            value = value & ~0xC | switched << 2
            self.registers[address] = value
        elif address == F4_PWR_CSR:
            control = self.registers[F4_PWR_CR]
            value = self.ready("overdrive", bool(control & 1 << 16)) << 16
            value |= self.ready("overdrive-switch", bool(control & 1 << 17)) << 17
            self.registers[address] = value
        elif address == F4_ACR and "flash" in self.broken:
            value &= ~0xF
        return value

    wants_bypass: bool = True

    def write(self, address: int, value: int) -> None:
        before = self.registers.get(address, 0)
        self.registers[address] = value
        if address == F4_PLLCFGR:
            self.rule(not self.registers[F4_RCC_CR] & 1 << 24, "PLLCFGR was written while the PLL was on")
        elif address == F4_RCC_CR and value & ~before & 1 << 24:
            self.rule(bool(before & 1 << 17), "the PLL was switched on before its source was ready")
            self.check_pll()
        elif address == F4_RCC_CR and before & ~value & (1 << 24 | 1 << 16):
            self.rule(bits(self.registers.get(F4_CFGR, 0), 3, 2) == 0, "the clock of the core was switched off")
        elif address == F4_PWR_CR and value & ~before & 1 << 17:
            self.rule(bool(self.registers.get(F4_PWR_CSR, 0) & 1 << 16), "over-drive was not ready")
        elif address == F4_CFGR and bits(value, 1, 0) == 2 and bits(before, 1, 0) != 2:
            self.check_switch()

    def check_pll(self) -> None:
        value = self.registers[F4_PLLCFGR]
        m, n, q = bits(value, 5, 0), bits(value, 14, 6), bits(value, 27, 24)
        self.rule(bool(value & 1 << 22), "the source of the PLL is not HSE")
        self.rule(2 <= m <= 63 and 50 <= n <= 432 and 2 <= q <= 15, "M, N or Q is out of range")
        self.rule(1e6 <= HSE_HZ / m <= 2e6, "the input of the VCO is not between 1 and 2 MHz")
        self.rule(100e6 <= HSE_HZ / m * n <= 432e6, "the VCO is not between 100 and 432 MHz")
        self.rule(HSE_HZ / m * n / q <= 48e6, "the 48 MHz clock is faster")

    def check_switch(self) -> None:
        hz = self.pll_hz()
        acr = self.registers.get(F4_ACR, 0)
        self.rule(bool(self.registers[F4_RCC_CR] & 1 << 25), "switched to a PLL that was not locked")
        self.rule(bits(acr, 3, 0) >= -(-hz // 30_000_000) - 1, "too few wait states")
        self.rule(bits(acr, 10, 8) == 7, "prefetch or a cache of the flash is off")
        self.rule(hz <= self.most_hz, "the core is too fast")
        self.rule(self.registers[F4_PWR_CR] & self.voltage_mask == self.voltage_mask, "the voltage is not scale 1")
        overdrive = bool(self.registers.get(F4_PWR_CSR, 0) & 1 << 17)
        self.rule(hz <= self.most_without_overdrive_hz or overdrive, "too fast without over-drive")
        self.rule(hz / self.divider(12) <= self.most_apb1_hz, "APB1 is too fast")
        self.rule(hz / self.divider(15) <= self.most_apb2_hz, "APB2 is too fast")
        self.rule(bits(self.registers[F4_CFGR], 7, 4) == 0, "AHB is divided")

    def pll_hz(self) -> int:
        value = self.registers[F4_PLLCFGR]
        return HSE_HZ // bits(value, 5, 0) * bits(value, 14, 6) // (2 * bits(value, 17, 16) + 2)

    def divider(self, high: int) -> int:
        field_value = bits(self.registers[F4_CFGR], high, high - 2)
        return 1 << (field_value - 3) if field_value >= 4 else 1

    @property
    def core_hz(self) -> int:
        return self.pll_hz() if bits(self.registers.get(F4_CFGR, 0), 3, 2) == 2 else F4_HSI_HZ

    @property
    def uart_hz(self) -> int:
        """APB1, where USART2 is."""
        return self.core_hz // self.divider(12)

    @property
    def timer_hz(self) -> int:
        """Timers of APB1: twice its clock where that is divided."""
        return self.uart_hz * (2 if self.divider(12) > 1 else 1)


def stm32f446(broken: frozenset[str] = frozenset()) -> Stm32F4:
    return Stm32F4(
        broken,
        most_hz=180_000_000,
        most_apb1_hz=45_000_000,
        most_apb2_hz=90_000_000,
        voltage_mask=3 << 14,
    )


def stm32f407(broken: frozenset[str] = frozenset()) -> Stm32F4:
    return Stm32F4(broken, wants_bypass=False)


H7_RCC_CR, H7_CFGR, H7_D1CFGR, H7_D2CFGR, H7_D3CFGR = 0x58024400, 0x58024410, 0x58024418, 0x5802441C, 0x58024420
H7_PLLCKSELR, H7_PLLCFGR, H7_PLL1DIVR = 0x58024428, 0x5802442C, 0x58024430
H7_PWR_CSR1, H7_PWR_CR3, H7_PWR_D3CR, H7_ACR = 0x58024804, 0x5802480C, 0x58024818, 0x52002000
H7_IDCODE, H7_AXI_TARG7, CCR = 0x5C001000, 0x51008108, 0xE000ED14
H7_HSI_HZ = 64_000_000
REVISION_Y, REVISION_V = 0x10036450, 0x20036450


@dataclass
class Stm32H743(ClockTree):
    """STM32H743 without SMPS. Voltage scale 1 allows 400 MHz on every revision."""

    revision: int = REVISION_Y

    def __post_init__(self) -> None:
        reset = {H7_RCC_CR: 0x25, H7_PLLCKSELR: 0x02020200, H7_PLLCFGR: 0x01FF0000, H7_PLL1DIVR: 0x01010280}
        reset |= {H7_PWR_CR3: 0x46, H7_PWR_D3CR: 1 << 14, H7_ACR: 0x37, H7_IDCODE: self.revision}
        self.registers = reset | self.registers

    def read(self, address: int) -> int:
        value = self.registers.get(address, 0)
        if address == H7_RCC_CR:
            hse = self.ready("hse", bits(value, 18, 16) & 5 == 5)
            pll = self.ready("pll", bool(value & 1 << 24))
            value = value & ~(1 << 17 | 1 << 25) | hse << 17 | pll << 25
        elif address == H7_CFGR:
            switched = bits(value, 2, 0) if "switch" not in self.broken else 0
            value = value & ~0x38 | switched << 3
        elif address == H7_PWR_CSR1:
            supply_set = self.registers[H7_PWR_CR3] & 7 == 2
            value = self.ready("supply", supply_set) << 13
        elif address == H7_PWR_D3CR:
            value = value & ~(1 << 13) | self.ready("voltage", True) << 13
        elif address == H7_ACR and "flash" in self.broken:
            value = 0x37
        self.registers[address] = value
        return value

    def write(self, address: int, value: int) -> None:
        before = self.registers.get(address, 0)
        self.registers[address] = value
        if address in (H7_PLLCKSELR, H7_PLLCFGR, H7_PLL1DIVR):
            self.rule(not self.registers[H7_RCC_CR] & 1 << 24, "the PLL was set up while it was on")
        elif address == H7_PWR_D3CR:
            self.rule(bool(self.registers.get(H7_PWR_CSR1, 0) & 1 << 13), "the supply was not set")
        elif address == H7_RCC_CR and value & ~before & 1 << 24:
            self.rule(bool(before & 1 << 17), "the PLL was switched on before its source was ready")
            self.check_pll()
        elif address == H7_RCC_CR and before & ~value & (1 << 24 | 1 << 16):
            self.rule(bits(self.registers.get(H7_CFGR, 0), 5, 3) == 0, "the clock of the core was switched off")
        elif address == H7_CFGR and bits(value, 2, 0) == 3 and bits(before, 2, 0) != 3:
            self.check_switch()

    def check_pll(self) -> None:
        m = bits(self.registers[H7_PLLCKSELR], 9, 4)
        divr, cfgr = self.registers[H7_PLL1DIVR], self.registers[H7_PLLCFGR]
        n, p = bits(divr, 8, 0) + 1, bits(divr, 15, 9) + 1
        ranges = {0: (1e6, 2e6), 1: (2e6, 4e6), 2: (4e6, 8e6), 3: (8e6, 16e6)}
        low, high = ranges[bits(cfgr, 3, 2)]
        self.rule(bits(self.registers[H7_PLLCKSELR], 1, 0) == 2, "the source of the PLLs is not HSE")
        self.rule(1 <= m <= 63 and 4 <= n <= 512 and p % 2 == 0, "M, N or P is out of range")
        self.rule(low <= HSE_HZ / m <= high, "the input of the PLL is not in the range it was told")
        self.rule(not cfgr & 2 and 192e6 <= HSE_HZ / m * n <= 836e6, "the wide VCO is not between 192 and 836 MHz")
        self.rule(bool(cfgr & 1 << 16), "output P is off")

    def check_switch(self) -> None:
        core, acr = self.pll_hz() // self.divider(H7_D1CFGR, 11), self.registers[H7_ACR]
        axi = core // self.divider(H7_D1CFGR, 3)
        rows = ((70, 0, 0), (140, 1, 1), (185, 2, 1), (210, 2, 2), (225, 3, 2))
        needed = next((row for row in rows if axi <= row[0] * 1_000_000), rows[-1])
        self.rule(bool(self.registers[H7_RCC_CR] & 1 << 25), "switched to a PLL that was not locked")
        self.rule(bits(self.registers[H7_PWR_D3CR], 15, 14) == 3, "the voltage is not scale 1")
        self.rule(core <= 400e6 and axi <= 200e6, "core or AXI is too fast")
        self.rule(bits(acr, 3, 0) >= needed[1] and bits(acr, 5, 4) >= needed[2], "too few wait states")
        buses = {"APB3": (H7_D1CFGR, 6), "APB1": (H7_D2CFGR, 6), "APB2": (H7_D2CFGR, 10), "APB4": (H7_D3CFGR, 6)}
        for name, (register, high) in buses.items():
            self.rule(axi / self.divider(register, high, 3) <= 100e6, f"{name} is too fast")
        first_silicon = self.revision >> 16 == 0x1003
        self.rule(not first_silicon or self.registers.get(H7_AXI_TARG7, 0) == 1, "ES0392: AXI SRAM of revision Y")

    def pll_hz(self) -> int:
        divr = self.registers[H7_PLL1DIVR]
        return HSE_HZ // bits(self.registers[H7_PLLCKSELR], 9, 4) * (bits(divr, 8, 0) + 1) // (bits(divr, 15, 9) + 1)

    def divider(self, register: int, high: int, width: int = 4) -> int:
        value = bits(self.registers.get(register, 0), high, high - width + 1)
        if width == 3:
            return 1 << (value - 3) if value >= 4 else 1
        return {8: 2, 9: 4, 10: 8, 11: 16, 12: 64, 13: 128, 14: 256, 15: 512}.get(value, 1)

    @property
    def core_hz(self) -> int:
        source = self.pll_hz() if bits(self.registers.get(H7_CFGR, 0), 5, 3) == 3 else H7_HSI_HZ
        return source // self.divider(H7_D1CFGR, 11)

    @property
    def uart_hz(self) -> int:
        """APB1, where USART3 is."""
        return self.core_hz // self.divider(H7_D1CFGR, 3) // self.divider(H7_D2CFGR, 6, 3)

    @property
    def timer_hz(self) -> int:
        """Timers of APB1 (TIMPRE 0): twice its clock where that is divided."""
        return self.uart_hz * (2 if self.divider(H7_D2CFGR, 6, 3) > 1 else 1)
