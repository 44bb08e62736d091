"""RP2040 as far as the firmware uses it: resets, crystal, PLL, clocks, UART, timer, pins, the flash's interface.

Written from the RP2040 data sheet, not from the firmware. Reads from flash work whatever its interface is set to.
"""

from __future__ import annotations

from collections import deque

from lab.emulators.unicorn.bus import SerialLine, Signals, require

CRYSTAL_HZ = 12e6
HOST_BAUD = 115200
_POLLS = 2
_BLOCKS = {"io": 5, "pads": 8, "pll": 12, "timer": 21, "uart": 22}


class Resets:
    """RESETS: blocks that stay in reset until they are taken out."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """All in reset."""
        self._held = 0x01FFFFFF

    def check(self, block: str) -> None:
        """Refuse the use of a block in reset."""
        require(not self._held >> _BLOCKS[block] & 1, f"RP2040: {block} is used while it is in reset")

    def read(self, offset: int, size: int) -> int:
        """RESET and RESET_DONE."""
        return {0x0: self._held, 0x8: ~self._held & 0x01FFFFFF}.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """RESET."""
        if offset == 0x0:
            self._held = value & 0x01FFFFFF


class Crystal:
    """XOSC: stable some reads after it was enabled."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Off."""
        self._values: dict[int, int] = {}
        self._polls = 0

    @property
    def is_stable(self) -> bool:
        """Whether it can be used."""
        return self._values.get(0x0) == 0xFABAA0 and self._polls > _POLLS

    def read(self, offset: int, size: int) -> int:
        """CTRL, STATUS, STARTUP."""
        if offset != 0x4:
            return self._values.get(offset, 0)
        self._polls += 1
        return int(self.is_stable) << 31

    def write(self, offset: int, size: int, value: int) -> None:
        """CTRL, STARTUP."""
        if offset == 0xC:
            require(value * 256 >= CRYSTAL_HZ * 1e-3, "RP2040: the crystal has less than 1 ms to start")
        self._values[offset] = value


class Pll:
    """PLL_SYS.

    Args:
        resets: of the chip.
        crystal: what it multiplies.
    """

    def __init__(self, resets: Resets, crystal: Crystal) -> None:
        self._resets = resets
        self._crystal = crystal
        self.reset()

    def reset(self) -> None:
        """Off."""
        self._values = {0x0: 1, 0x4: 0x2D, 0xC: 0x77000}
        self._polls = 0

    @property
    def hertz(self) -> float:
        """What it gives; 0 while it has not locked or its dividers are off."""
        if self._values[0x4] & 0x29 or self._polls <= _POLLS:
            return 0.0
        dividers = self._values[0xC]
        return CRYSTAL_HZ * self._values.get(0x8, 0) / (dividers >> 16 & 7) / (dividers >> 12 & 7)

    def read(self, offset: int, size: int) -> int:
        """CS, PWR, FBDIV_INT, PRIM."""
        self._resets.check("pll")
        if offset != 0x0:
            return self._values.get(offset, 0)
        self._polls += not self._values[0x4] & 0x21
        return int(self._polls > _POLLS) << 31 | self._values[0x0]

    def write(self, offset: int, size: int, value: int) -> None:
        """CS, PWR, FBDIV_INT, PRIM."""
        self._resets.check("pll")
        if offset == 0x8:
            in_range = 16 <= value <= 320 and 750e6 <= CRYSTAL_HZ * value <= 1600e6
            require(in_range, f"RP2040: the PLL cannot multiply {CRYSTAL_HZ / 1e6:g} MHz by {value}")
        if offset == 0x4 and not value & 1:
            require(self._crystal.is_stable, "RP2040: the PLL starts from a crystal that is not stable")
        self._values[offset] = value


class Clocks:
    """CLOCKS: reference, system and peripheral clock.

    Args:
        crystal: of the board.
        pll: PLL_SYS.
    """

    def __init__(self, crystal: Crystal, pll: Pll) -> None:
        self._crystal = crystal
        self._pll = pll
        self.reset()

    def reset(self) -> None:
        """Everything from the ring oscillator."""
        self._values = {0x34: 0x100, 0x40: 0x100}

    @property
    def core_hz(self) -> float:
        """Clock of the core."""
        if self._values.get(0x3C, 0) & 1:
            return self._pll.hertz
        return CRYSTAL_HZ if self._values.get(0x30, 0) & 3 == 2 else 6.5e6

    @property
    def peripheral_hz(self) -> float:
        """Clock of the UART; 0 while it is off."""
        return self.core_hz if self._values.get(0x48, 0) == 1 << 11 else 0.0

    def read(self, offset: int, size: int) -> int:
        """Value of a register; the SELECTED ones follow at once."""
        if offset == 0x38:
            return 1 << (self._values.get(0x30, 0) & 3)
        if offset == 0x44:
            return 1 << (self._values.get(0x3C, 0) & 1)
        return self._values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        if offset == 0x30 and value & 3 == 2:
            require(self._crystal.is_stable, "RP2040: the reference goes to a crystal that is not stable")
        if offset == 0x3C and value & 1:
            require(0 < self._pll.hertz <= 133e6, f"RP2040: the core goes to a PLL at {self._pll.hertz / 1e6:g} MHz")
        self._values[offset] = value


class Uart:
    """UART0, a PL011, whose rate has to be that of the host.

    Args:
        line: the wires.
        signals: the core.
        clocks: of the chip.
        resets: of the chip.
    """

    _INTERRUPT = 20

    def __init__(self, line: SerialLine, signals: Signals, clocks: Clocks, resets: Resets) -> None:
        self._line = line
        self._signals = signals
        self._clocks = clocks
        self._resets = resets
        self.reset()

    def reset(self) -> None:
        """Off."""
        self._values: dict[int, int] = {}

    @property
    def listens(self) -> bool:
        """Whether a byte that arrives interrupts the core."""
        return bool(self._values.get(0x38, 0) & 0x50)

    def arrived(self) -> None:
        """A byte came in, or one was fetched."""
        self._signals.set_interrupt(self._INTERRUPT, self.listens and bool(self._line.waiting))

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        self._resets.check("uart")
        if offset == 0x18:
            return 0x80 | (0 if self._line.waiting else 0x10)
        if offset == 0x00:
            self._check_rate()
            value = self._line.waiting.popleft() if self._line.waiting else 0
            self.arrived()
            return value
        return self._values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        self._resets.check("uart")
        if offset == 0x00:
            self._check_rate()
            self._line.sent(bytes((value & 0xFF,)))
            return
        enabled = self._values.get(0x30, 0) & 1
        require(not enabled or offset not in (0x24, 0x28, 0x2C), "RP2040: the rate of a UART that is on")
        self._values[offset] = value
        self.arrived()

    def _check_rate(self) -> None:
        require(self._values.get(0x30, 0) & 0x301 == 0x301, "RP2040: a byte for a UART that is off")
        divider = self._values.get(0x24, 0) + self._values.get(0x28, 0) / 64
        baud = self._clocks.peripheral_hz / (16 * max(divider, 1))
        require(abs(baud / HOST_BAUD - 1) < 0.02, f"RP2040: {baud:.0f} bits per second where the host has {HOST_BAUD}")


class Timer:
    """TIMER: microseconds, from the watchdog's tick.

    Args:
        signals: the core, for its clock.
        clocks: of the chip.
        resets: of the chip.
        watchdog: gives the tick.
    """

    def __init__(self, signals: Signals, clocks: Clocks, resets: Resets, watchdog: Watchdog) -> None:
        self._signals = signals
        self._clocks = clocks
        self._resets = resets
        self._watchdog = watchdog
        self.reset()

    def reset(self) -> None:
        """At whatever the clock shows."""
        self._held = 0

    def read(self, offset: int, size: int) -> int:
        """TIMELR holds TIMEHR."""
        self._resets.check("timer")
        if offset == 0x08:
            return self._held >> 32
        require(self._watchdog.ticks_each_us, "RP2040: the timer without the watchdog's tick of 1 us")
        self._held = round(self._signals.clock.instructions // (self._clocks.core_hz / 1e6))
        return self._held & 0xFFFFFFFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Nothing is written by the firmware."""


class Watchdog:
    """WATCHDOG, whose tick drives the timer."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Off."""
        self._tick = 0

    @property
    def ticks_each_us(self) -> bool:
        """Whether the tick is on and divides the crystal's clock to 1 MHz."""
        return self._tick == 1 << 9 | int(CRYSTAL_HZ / 1e6)

    def read(self, offset: int, size: int) -> int:
        """TICK."""
        return self._tick if offset == 0x2C else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """TICK."""
        if offset == 0x2C:
            self._tick = value


class Sio:
    """SIO: output of the pins."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """All low, none driven."""
        self._values: dict[int, int] = {}

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        return self._values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """OUT and OE, with their set, clear and toggle registers."""
        for register in (0x10, 0x20):
            before = self._values.get(register, 0)
            changed = {register + 4: before | value, register + 8: before & ~value, register + 12: before ^ value}
            if offset in changed:
                self._values[register] = changed[offset]
                return
        self._values[offset] = value


class FlashInterface:
    """SSI in front of a W25Q16JV, as far as the boot block talks to it before it reads in place."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Off."""
        self._values: dict[int, int] = {}
        self._frames: list[int] = []
        self._answers: deque[int] = deque()

    def read(self, offset: int, size: int) -> int:
        """SR sends what was queued; DR0 gives what came back."""
        if offset == 0x28:
            if self._frames:
                self._answers.extend(_flash_answer(self._frames))
                self._frames = []
            return 0x4
        if offset == 0x60:
            return self._answers.popleft() if self._answers else 0
        return self._values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Settings, and frames for the flash."""
        enabled = self._values.get(0x08, 0)
        setting = offset in (0x00, 0x04, 0x10, 0x14, 0xF0, 0xF4)
        require(not (enabled and setting), f"RP2040: register {offset:#x} of an SSI that is on")
        if offset == 0x60:
            require(enabled and self._values.get(0x10) == 1, "RP2040: a frame for an SSI that is off")
            self._frames.append(value)
        else:
            self._values[offset] = value


def _flash_answer(frames: list[int]) -> list[int]:
    """What a W25Q16JV with quad reads allowed gives back."""
    return [0, 2] if frames[0] == 0x35 else [0] * len(frames)


def boot_crc(block: bytes) -> int:
    """CRC-32 of the boot ROM (polynomial 0x04C11DB7, begun with ones, not reflected)."""
    value = 0xFFFFFFFF
    for byte in block:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value
