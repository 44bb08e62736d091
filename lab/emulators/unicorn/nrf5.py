"""nRF51822 and nRF52840 as far as the firmware uses them: crystal, UART, timers, pins.

Written from Nordic's nRF51 reference manual 3.0 and nRF52840 product specification 1.7, not from the firmware.
"""

from __future__ import annotations

from collections.abc import Callable

from lab.emulators.unicorn.bus import SerialLine, Signals, require

_RATE_115200 = 0x01D7E000
_RX_EVENT = 1 << 2
_POLLS = 2


class Clock:
    """CLOCK and POWER: the crystal starts some reads after it was asked to."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The internal oscillator."""
        self._values: dict[int, int] = {}
        self._polls = -1

    @property
    def runs_from_crystal(self) -> bool:
        """Whether the crystal oscillator has started."""
        return self._polls > _POLLS

    def read(self, offset: int, size: int) -> int:
        """Value of a register; EVENTS_HFCLKSTARTED follows the crystal."""
        if offset != 0x100:
            return self._values.get(offset, 0)
        if self._polls >= 0:
            self._polls += 1
        return int(self.runs_from_crystal)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; TASKS_HFCLKSTART starts the crystal."""
        if offset == 0x000 and value & 1:
            self._polls = 0
        self._values[offset] = value


class Uart:
    """The UART without DMA: one byte at a time each way.

    Args:
        line: the wires.
        signals: the core.
        interrupt: its interrupt.
        clock: of the part; the internal oscillator is too far off for a UART.
        needs_crystal: whether that is looked at.
    """

    def __init__(
        self, line: SerialLine, signals: Signals, interrupt: int, clock: Clock, *, needs_crystal: bool
    ) -> None:
        self._line = line
        self._signals = signals
        self._interrupt = interrupt
        self._clock = clock
        self._needs_crystal = needs_crystal
        self.reset()

    def reset(self) -> None:
        """Off."""
        self._values: dict[int, int] = {}
        self._enabled_events = 0
        self._received = self._sent = self._starts_rx = self._starts_tx = False
        self._byte: int | None = None

    @property
    def listens(self) -> bool:
        """Whether a byte that arrives interrupts the core."""
        return bool(self._enabled_events & _RX_EVENT)

    def arrived(self) -> None:
        """A byte came in, or the one before was fetched."""
        if self._byte is None and self._starts_rx and self._line.waiting:
            self._byte = self._line.waiting.popleft()
            self._received = True
        self._signals.set_interrupt(self._interrupt, self._received and self.listens)

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        self.arrived()
        if offset == 0x108:
            return int(self._received)
        if offset == 0x11C:
            return int(self._sent)
        if offset == 0x518:
            value, self._byte = self._byte or 0, None
            self.arrived()
            return value
        return self._enabled_events if offset in (0x304, 0x308) else self._values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register, or start a task."""
        enabled = self._values.get(0x500) == 4
        require(not enabled or offset not in (0x50C, 0x514), "nRF5: the UART's pins may change only while it is off")
        if offset in (0x000, 0x008):
            require(enabled, "nRF5: a task of a UART that is off")
            self._starts_rx, self._starts_tx = self._starts_rx or offset == 0, self._starts_tx or offset == 8
        elif offset == 0x51C:
            self._transmit(value)
        elif offset == 0x108:
            self._received = bool(value)
        elif offset == 0x11C:
            self._sent = bool(value)
        elif offset == 0x304:
            self._enabled_events |= value
        elif offset == 0x308:
            self._enabled_events &= ~value
        else:
            self._values[offset] = value
        self.arrived()

    def _transmit(self, value: int) -> None:
        require(self._starts_tx, "nRF5: a byte for a transmitter that was not started")
        require(not self._needs_crystal or self._clock.runs_from_crystal, "nRF5: the UART without the crystal")
        rate = self._values.get(0x524, 0)
        require(rate == _RATE_115200, f"nRF5: BAUDRATE {rate:#010x} is not the host's 115200")
        self._line.sent(bytes((value & 0xFF,)))
        self._sent = True


class Timer:
    """A timer that can be read where it was captured to.

    Args:
        ticks: of 16 MHz, since power-on.
    """

    def __init__(self, ticks: Callable[[], int]) -> None:
        self._ticks = ticks
        self.reset()

    def reset(self) -> None:
        """Stopped, at zero."""
        self._values: dict[int, int] = {}
        self._since: int | None = None
        self._counted = 0

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        return self._values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register, or start a task."""
        running = self._since is not None
        require(not running or offset not in (0x508, 0x510), "nRF5: width or prescaler of a timer that runs")
        if offset == 0x000:
            self._since = self._ticks() if self._since is None else self._since
        elif offset == 0x004:
            self._counted, self._since = self._count(), None
        elif 0x040 <= offset < 0x058:
            bits = (16, 8, 24, 32)[self._values.get(0x508, 0) & 3]
            self._values[0x540 + offset - 0x040] = (self._count() >> self._values.get(0x510, 4)) & (1 << bits) - 1
        else:
            self._values[offset] = value

    def _count(self) -> int:
        return self._counted + (0 if self._since is None else self._ticks() - self._since)


class Gpio:
    """Ports of pins: OUT with its set and clear registers.

    Args:
        ports: offset of each port's registers.
    """

    def __init__(self, ports: tuple[int, ...]) -> None:
        self._ports = ports
        self.reset()

    def reset(self) -> None:
        """Inputs."""
        self._values: dict[int, int] = {}

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        return self._values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        for port in self._ports:
            for register in (port + 0x504, port + 0x514):
                if offset == register + 4:
                    self._values[register] = self._values.get(register, 0) | value
                    return
                if offset == register + 8:
                    self._values[register] = self._values.get(register, 0) & ~value
                    return
        self._values[offset] = value
