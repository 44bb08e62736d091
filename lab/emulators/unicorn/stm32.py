"""STM32F4 and STM32H743 as far as the firmware uses them: clock tree, flash wait states, pins, USART, TIM5.

Written from ST's reference manuals RM0390 (F446), RM0090 (F407) and RM0433 (H743) and the parts' data sheets, not from
the firmware. What the manuals forbid, or what would run at a wrong speed, ends the emulation with a sentence about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lab.emulators.unicorn.bus import SerialLine, Signals, merged, require

HOST_BAUD = 115200  # an emulated board's host stays at the rate after a reset
BAUD_TOLERANCE = 0.02
_POLLS = 2  # an oscillator or regulator is ready only after it was asked for so often


@dataclass
class _Registers:
    """Words by their offset, and how often each was read since something changed."""

    values: dict[int, int] = field(default_factory=dict)
    polls: dict[int, int] = field(default_factory=dict)

    def get(self, offset: int) -> int:
        return self.values.get(offset, 0)

    def field(self, offset: int, shift: int, bits: int) -> int:
        return self.get(offset) >> shift & (1 << bits) - 1

    def store(self, offset: int, size: int, value: int) -> None:
        self.values[offset & ~3] = merged(self.get(offset & ~3), offset & 3, size, value)

    def ready(self, what: int) -> bool:
        """Whether something has been waited for long enough; every call counts as a look."""
        self.polls[what] = self.polls.get(what, 0) + 1
        return self.polls[what] > _POLLS


@dataclass(frozen=True)
class F4Part:
    """Limits of an STM32F4 at 2.7 to 3.6 V.

    Attributes:
        name: for messages.
        core_hz: the core's most.
        plain_hz: its most without over-drive.
        apb1_hz: the most of APB1; APB2 has twice that.
        full_scale: value of PWR_CR.VOS for the highest voltage.
        scale_2_hz: the core's most at a lower voltage.
    """

    name: str
    core_hz: float
    plain_hz: float
    apb1_hz: float
    full_scale: int
    scale_2_hz: float


F446 = F4Part("STM32F446", 180e6, 168e6, 45e6, 3, 144e6)
F407 = F4Part("STM32F407", 168e6, 168e6, 42e6, 1, 144e6)

_PRESCALERS = {0b100: 2, 0b101: 4, 0b110: 8, 0b111: 16}
_OSCILLATORS = ((16, 17), (24, 25))  # of CR: HSE and (first) PLL, on and ready
_AHB = {8: 2, 9: 4, 10: 8, 11: 16, 12: 64, 13: 128, 14: 256, 15: 512}


class Clocks(ABC):
    """RCC, PWR and the flash interface of a part; three blocks of registers that belong together.

    Args:
        name: of the part, for messages.
        hse_hz: the board's external oscillator.
    """

    _GATES: ClassVar[Mapping[str, tuple[int, int]]]  # block to register and bit of its clock
    _CFGR: ClassVar[int]
    _SWITCH_BITS: ClassVar[int]  # of CFGR: the clock that is wanted, above them the one that is in use
    _APB1: ClassVar[tuple[int, int]]  # register and bit of its prescaler

    def __init__(self, name: str, hse_hz: float) -> None:
        self._name = name
        self._hse_hz = hse_hz
        self.rcc = Block(self._read_rcc, self._write_rcc, self.reset)
        self.power = Block(self._read_power, self._write_power, lambda: None)
        self.flash = Block(lambda offset: self._flash.get(offset), self._write_flash, lambda: None)
        self.reset()

    def reset(self) -> None:
        """The internal oscillator, and the wait states that go with it."""
        self._rcc, self._power, self._flash = self._after_reset()

    @abstractmethod
    def _after_reset(self) -> tuple[_Registers, _Registers, _Registers]:
        """RCC, PWR and the flash interface after a reset."""

    @property
    @abstractmethod
    def core_hz(self) -> float:
        """Clock of the core."""

    @property
    @abstractmethod
    def _ahb_hz(self) -> float:
        """What the prescaler of APB1 divides."""

    @property
    def bus_hz(self) -> float:
        """Clock of APB1."""
        return self._ahb_hz / self._apb1

    @property
    def timer_hz(self) -> float:
        """Clock of the timers on APB1: twice the bus's where that is divided."""
        return self.bus_hz * (1 if self._apb1 == 1 else 2)

    @property
    def _apb1(self) -> int:
        return _PRESCALERS.get(self._rcc.field(*self._APB1, 3), 1)

    def is_on(self, block: str) -> bool:
        """Whether a peripheral's clock is enabled."""
        offset, bit = self._GATES[block]
        return bool(self._rcc.field(offset, bit, 1))

    def _read_rcc(self, offset: int) -> int:
        value = self._rcc.get(offset)
        if offset == 0x00:
            for on, ready in _OSCILLATORS:
                if value >> on & 1 and self._rcc.ready(on):
                    value |= 1 << ready
                    self._rcc.values[0x00] = value
        if offset == self._CFGR:
            switch = (1 << self._SWITCH_BITS) - 1
            value = value & ~(switch << self._SWITCH_BITS) | (value & switch) << self._SWITCH_BITS
        return value

    def _switched(self, value: int) -> int:
        """What a store makes of CR: ready is what was, and is still on."""
        before = self._rcc.get(0x00)
        for on, ready in _OSCILLATORS:
            value = value & ~(1 << ready) | before & 1 << ready
            if not value >> on & 1:
                value &= ~(1 << ready)
                self._rcc.polls.pop(on, None)
        if value >> 16 & 1 and not before >> 16 & 1:
            self._check_hse(bypass=bool(value >> 18 & 1))
        if value >> 24 & 1 and not before >> 24 & 1:
            self._check_pll()
        return value

    @abstractmethod
    def _write_rcc(self, offset: int, size: int, value: int) -> None: ...

    @abstractmethod
    def _check_hse(self, *, bypass: bool) -> None:
        """The external oscillator is switched on."""

    @abstractmethod
    def _check_pll(self) -> None:
        """The PLL is switched on."""

    @abstractmethod
    def _check_speed(self) -> None:
        """The rules that hold before a clock is chosen, looked at when it is."""

    @abstractmethod
    def _read_power(self, offset: int) -> int: ...

    def _write_power(self, offset: int, size: int, value: int) -> None:
        self._power.store(offset, size, value)

    def _write_flash(self, offset: int, size: int, value: int) -> None:
        require(offset == 0x00, f"{self._name}: the firmware writes the flash interface at {offset:#x}")
        self._flash.store(offset, size, value)
        self._check_speed()


class F4Clocks(Clocks):
    """Those of an STM32F4.

    Args:
        part: its limits.
        hse_hz: the board's external oscillator.
        bypass: whether it is a clock signal rather than a crystal.
    """

    _GATES: ClassVar = {
        **{f"GPIO{port}": (0x30, number) for number, port in enumerate("ABCDEFGH")},
        "TIM2": (0x40, 0),
        "TIM5": (0x40, 3),
        "USART2": (0x40, 17),
        "PWR": (0x40, 28),
        "USART1": (0x44, 4),
    }
    _CFGR = 0x08
    _SWITCH_BITS = 2
    _APB1 = (0x08, 10)

    def __init__(self, part: F4Part, hse_hz: float, *, bypass: bool) -> None:
        super().__init__(part.name, hse_hz)
        self._part = part
        self._bypass = bypass

    def _after_reset(self) -> tuple[_Registers, _Registers, _Registers]:
        return _Registers({0x00: 0x83, 0x04: 0x24003010}), _Registers({0x00: 0x0000C000}), _Registers()

    @property
    def pll_hz(self) -> float:
        """What the PLL gives at P."""
        source = self._hse_hz if self._rcc.field(0x04, 22, 1) else 16e6
        divided = source / max(self._rcc.field(0x04, 0, 6), 1)
        return divided * self._rcc.field(0x04, 6, 9) / (2 + 2 * self._rcc.field(0x04, 16, 2))

    @property
    def core_hz(self) -> float:
        """Clock of the core."""
        source = (16e6, self._hse_hz, self.pll_hz)[min(self._rcc.field(0x08, 0, 2), 2)]
        return source / _AHB.get(self._rcc.field(0x08, 4, 4), 1)

    @property
    def _ahb_hz(self) -> float:
        return self.core_hz

    def _write_rcc(self, offset: int, size: int, value: int) -> None:
        if offset == 0x04:
            require(not self._rcc.field(0x00, 24, 1), f"{self._name}: PLLCFGR is written while the PLL runs")
        self._rcc.store(offset, size, self._switched(value) if offset == 0x00 else value)
        if offset == 0x08:
            self._check_speed()

    def _check_hse(self, *, bypass: bool) -> None:
        require(bypass == self._bypass, f"{self._name}: HSEBYP does not fit the board's oscillator")

    def _check_pll(self) -> None:
        name = self._name
        external = self._rcc.field(0x04, 22, 1)
        require(not external or self._rcc.field(0x00, 17, 1), f"{name}: the PLL starts from an HSE that is not ready")
        divider, factor = self._rcc.field(0x04, 0, 6), self._rcc.field(0x04, 6, 9)
        source = self._hse_hz if external else 16e6
        require(divider >= 2 and 0.95e6 <= source / divider <= 2.1e6, f"{name}: the PLL's input is not 1 to 2 MHz")
        output = source / divider * factor
        require(50 <= factor <= 432 and 100e6 <= output <= 432e6, f"{name}: the PLL's oscillator is not 100 to 432 MHz")

    def _check_speed(self) -> None:
        part, hertz = self._part, self.core_hz
        if self._rcc.field(0x08, 0, 2) == 2:
            require(self._rcc.field(0x00, 25, 1), f"{part.name}: the core is switched to a PLL that has not locked")
        most = part.core_hz if self._power.field(0x00, 16, 2) == 3 else part.plain_hz
        require(hertz <= most, f"{part.name}: {hertz / 1e6:g} MHz without over-drive, or more than the part has")
        scale = self._power.field(0x00, 14, 2)
        full = scale & part.full_scale == part.full_scale
        require(full or hertz <= part.scale_2_hz, f"{part.name}: {hertz / 1e6:g} MHz at voltage scale {scale}")
        waits = self._flash.field(0x00, 0, 4)
        require(
            hertz <= 30e6 * (waits + 1),
            f"{part.name}: {hertz / 1e6:g} MHz with {waits} wait states of the flash, which needs one for each 30 MHz",
        )
        require(self.bus_hz <= part.apb1_hz, f"{part.name}: APB1 at {self.bus_hz / 1e6:g} MHz")
        apb2 = hertz / _PRESCALERS.get(self._rcc.field(0x08, 13, 3), 1)
        require(apb2 <= 2 * part.apb1_hz, f"{part.name}: APB2 at {apb2 / 1e6:g} MHz")

    def _read_power(self, offset: int) -> int:
        require(self.is_on("PWR"), f"{self._name}: PWR is used without its clock")
        if offset != 0x04:
            return self._power.get(offset)
        wanted = self._power.field(0x00, 16, 2)
        return (wanted if self._power.ready(wanted) else 0) << 16 | 1 << 14

    def _write_power(self, offset: int, size: int, value: int) -> None:
        require(self.is_on("PWR"), f"{self._name}: PWR is used without its clock")
        super()._write_power(offset, size, value)


class H7Clocks(Clocks):
    """Those of an STM32H743, as far as PLL1 goes.

    Args:
        hse_hz: the board's external clock signal.
    """

    _GATES: ClassVar = {
        **{f"GPIO{port}": (0xE0, number) for number, port in enumerate("ABCDEFGHIJK")},
        "TIM5": (0xE8, 3),
        "USART3": (0xE8, 18),
    }
    _WAITS = ((70e6, 0, 0), (140e6, 1, 1), (185e6, 2, 1), (210e6, 2, 2), (225e6, 3, 2))  # RM0433 table 17, scale 1

    _CFGR = 0x10
    _SWITCH_BITS = 3
    _APB1 = (0x1C, 4)

    def __init__(self, hse_hz: float) -> None:
        super().__init__("STM32H743", hse_hz)

    def _after_reset(self) -> tuple[_Registers, _Registers, _Registers]:
        rcc = _Registers({0x00: 0x25, 0x28: 0x02020200, 0x2C: 0x01FF0000, 0x30: 0x01010280})
        return rcc, _Registers({0x0C: 0x6, 0x18: 0x4000}), _Registers({0x00: 0x37})

    @property
    def pll_hz(self) -> float:
        """What PLL1 gives at P."""
        source = {0: 64e6, 1: 4e6, 2: self._hse_hz}.get(self._rcc.field(0x28, 0, 2), 0.0)
        divided = source / max(self._rcc.field(0x28, 4, 6), 1)
        return divided * (self._rcc.field(0x30, 0, 9) + 1) / (self._rcc.field(0x30, 9, 7) + 1)

    @property
    def core_hz(self) -> float:
        """Clock of the core."""
        source = {0: 64e6, 1: 4e6, 2: self._hse_hz, 3: self.pll_hz}[self._rcc.field(0x10, 0, 2)]
        return source / _AHB.get(self._rcc.field(0x18, 8, 4), 1)

    @property
    def _ahb_hz(self) -> float:
        """AXI and the buses behind it."""
        return self.core_hz / _AHB.get(self._rcc.field(0x18, 0, 4), 1)

    def _write_rcc(self, offset: int, size: int, value: int) -> None:
        if offset in (0x28, 0x30):
            require(not self._rcc.field(0x00, 24, 1), f"{self._name}: PLL1 is changed while it runs")
        self._rcc.store(offset, size, self._switched(value) if offset == 0x00 else value)
        if offset in (0x10, 0x18, 0x1C):
            self._check_speed()

    def _check_hse(self, *, bypass: bool) -> None:
        require(bypass, f"{self._name}: HSEBYP is off, and the board's oscillator is a clock signal")

    def _check_pll(self) -> None:
        name = self._name
        require(self._rcc.field(0x00, 17, 1), f"{name}: PLL1 starts from an HSE that is not ready")
        divided = self._hse_hz / max(self._rcc.field(0x28, 4, 6), 1)
        least = {0: 1e6, 1: 2e6, 2: 4e6, 3: 8e6}[self._rcc.field(0x2C, 2, 2)]
        require(least <= divided <= 2 * least, f"{name}: PLL1's input of {divided / 1e6:g} MHz is not in its range")
        oscillator = divided * (self._rcc.field(0x30, 0, 9) + 1)
        require(192e6 <= oscillator <= 836e6, f"{name}: PLL1's oscillator at {oscillator / 1e6:g} MHz")
        require(self._rcc.field(0x2C, 16, 1), f"{name}: PLL1's output P is off")

    def _check_speed(self) -> None:
        name, hertz = self._name, self.core_hz
        if self._rcc.field(0x10, 0, 3) == 3:
            require(self._rcc.field(0x00, 25, 1), f"{name}: the core is switched to a PLL that has not locked")
        if hertz > 64e6:
            require(self._power.field(0x18, 14, 2) == 3, f"{name}: {hertz / 1e6:g} MHz below voltage scale 1")
        require(hertz <= 400e6, f"{name}: {hertz / 1e6:g} MHz at voltage scale 1")
        require(self._ahb_hz <= 200e6, f"{name}: AXI at {self._ahb_hz / 1e6:g} MHz")
        require(self.bus_hz <= 100e6, f"{name}: APB1 at {self.bus_hz / 1e6:g} MHz")
        waits, delay = self._flash.field(0x00, 0, 4), self._flash.field(0x00, 4, 2)
        needed = next(((w, d) for most, w, d in self._WAITS if self._ahb_hz <= most), (4, 3))
        enough = waits >= needed[0] and delay >= needed[1]
        require(enough, f"{name}: AXI at {self._ahb_hz / 1e6:g} MHz with {waits} wait states and a delay of {delay}")

    def _read_power(self, offset: int) -> int:
        value = self._power.get(offset)
        if offset in (0x04, 0x18) and self._power.ready(offset):
            value |= 1 << 13
        return value


class Block:
    """Registers whose owner reads and writes them: one of several blocks that belong together."""

    def __init__(
        self, read: Callable[[int], int], write: Callable[[int, int, int], None], reset: Callable[[], None]
    ) -> None:
        self._read = read
        self._write = write
        self.reset = reset

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        return self._read(offset & ~3) >> 8 * (offset & 3)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        self._write(offset, size, value)


class Gpio:
    """One port: modes, alternate functions, output.

    Args:
        name: ``GPIOA`` and so on.
        clocks: the part's.
    """

    def __init__(self, name: str, clocks: Clocks) -> None:
        self.name = name
        self._clocks = clocks
        self.reset()

    def reset(self) -> None:
        """Inputs, or not connected."""
        self._registers = _Registers()

    def function(self, pin: int) -> int:
        """The alternate function a pin is connected to; -1 where it is not connected to any."""
        if self._registers.field(0x00, 2 * pin, 2) != 2:
            return -1
        return self._registers.field(0x20 + 4 * (pin // 8), 4 * (pin % 8), 4)

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        require(self._clocks.is_on(self.name), f"{self.name} is used without its clock")
        return self._registers.get(offset & ~3) >> 8 * (offset & 3)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; BSRR sets and clears bits of ODR."""
        require(self._clocks.is_on(self.name), f"{self.name} is used without its clock")
        if offset & ~3 == 0x18:
            output = self._registers.get(0x14) & ~(value >> 16) | value & 0xFFFF
            self._registers.values[0x14] = output
            return
        self._registers.store(offset, size, value)


@dataclass(frozen=True)
class UsartLayout:
    """Offsets of a USART's registers, the bit that enables it, and whether ICR clears its flags."""

    control: int
    divider: int
    status: int
    receive: int
    transmit: int
    enable: int


F4_USART = UsartLayout(control=0x0C, divider=0x08, status=0x00, receive=0x04, transmit=0x04, enable=1 << 13)
H7_USART = UsartLayout(control=0x00, divider=0x0C, status=0x1C, receive=0x24, transmit=0x28, enable=1 << 0)


@dataclass(frozen=True)
class UsartWiring:
    """Where a USART is on the board: its name, interrupt, port and pins."""

    name: str
    interrupt: int
    port: Gpio
    transmit_pin: int
    receive_pin: int
    function: int


class Usart:
    """A USART with one byte of buffer, whose rate has to be that of the host.

    Args:
        layout: of its registers.
        wiring: its place on the board.
        line: the wires.
        signals: the core.
        clocks: the part's.
    """

    def __init__(
        self, layout: UsartLayout, wiring: UsartWiring, line: SerialLine, signals: Signals, clocks: Clocks
    ) -> None:
        self._layout = layout
        self._wiring = wiring
        self._line = line
        self._signals = signals
        self._clocks = clocks
        self.reset()

    def reset(self) -> None:
        """Off."""
        self._registers = _Registers()

    @property
    def listens(self) -> bool:
        """Whether a byte that arrives interrupts the core."""
        return bool(self._registers.get(self._layout.control) & 1 << 5)

    def arrived(self) -> None:
        """A byte came in, or was fetched."""
        waits = self.listens and self._receives() and bool(self._line.waiting)
        self._signals.set_interrupt(self._wiring.interrupt, waits)

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        self._check_clock()
        if offset == self._layout.status:
            received = self._receives() and bool(self._line.waiting)
            return 0xC0 | (1 << 5 if received else 0)
        if offset == self._layout.receive:
            self._check_rate(self._wiring.receive_pin)
            value = self._line.waiting.popleft() if self._line.waiting else 0
            self.arrived()
            return value
        return self._registers.get(offset)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        self._check_clock()
        if offset == self._layout.transmit:
            control = self._registers.get(self._layout.control)
            sends = control & self._layout.enable and control & 1 << 3
            require(sends, f"{self._wiring.name}: a byte for a transmitter that is off")
            self._check_rate(self._wiring.transmit_pin)
            self._line.sent(bytes((value & 0xFF,)))
            return
        self._registers.store(offset, size, value)
        if offset == self._layout.control:
            self.arrived()

    def _receives(self) -> bool:
        control = self._registers.get(self._layout.control)
        return bool(control & self._layout.enable and control & 1 << 2)

    def _check_clock(self) -> None:
        require(self._clocks.is_on(self._wiring.name), f"{self._wiring.name} is used without its clock")

    def _check_rate(self, pin: int) -> None:
        wiring = self._wiring
        connected = wiring.port.function(pin) == wiring.function
        require(connected, f"{wiring.name}: pin {pin} of {wiring.port.name} is not connected to it")
        baud = self._clocks.bus_hz / max(self._registers.get(self._layout.divider), 1)
        close = abs(baud / HOST_BAUD - 1) < BAUD_TOLERANCE
        require(close, f"{wiring.name}: {baud:.0f} bits per second where the host has {HOST_BAUD}")


class Timer:
    """TIM2 or TIM5: 32 bits, counting up.

    Args:
        name: of the peripheral.
        signals: the core, for its clock.
        clocks: the part's.
    """

    def __init__(self, name: str, signals: Signals, clocks: Clocks) -> None:
        self._name = name
        self._signals = signals
        self._clocks = clocks
        self.reset()

    def reset(self) -> None:
        """Off, at zero."""
        self._registers = _Registers({0x2C: 0xFFFFFFFF})
        self._since = 0
        self._prescaler = 1

    def read(self, offset: int, size: int) -> int:
        """Value of a register; CNT follows the clock."""
        require(self._clocks.is_on(self._name), f"{self._name} is used without its clock")
        if offset != 0x24:
            return self._registers.get(offset)
        if not self._registers.get(0x00) & 1:
            return self._registers.get(0x24)
        cycles_per_tick = round(self._clocks.core_hz / self._clocks.timer_hz) * self._prescaler
        passed = self._signals.clock.instructions - self._since
        return self._registers.get(0x24) + passed // cycles_per_tick & 0xFFFFFFFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; EGR takes the prescaler over."""
        require(self._clocks.is_on(self._name), f"{self._name} is used without its clock")
        if offset == 0x14 and value & 1:
            self._prescaler = self._registers.get(0x28) + 1
            self._registers.values[0x24] = 0
        else:
            self._registers.store(offset, size, value)
        self._since = self._signals.clock.instructions
