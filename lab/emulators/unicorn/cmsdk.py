"""Peripherals of Arm's Cortex-M System Design Kit (DDI 0479), as on the MPS2 boards."""

from __future__ import annotations

from lab.emulators.unicorn.bus import SerialLine, Signals

_RX_FULL, _RX_INTERRUPT = 1 << 1, 1 << 1
_CTRL_RX_ENABLE, _CTRL_RX_INTERRUPT = 1 << 1, 1 << 3
_WRAP = 0xFFFFFFFF


class Uart:
    """A UART: sends at once, receives one byte after the other.

    Args:
        line: the wires.
        signals: the core.
        rx_interrupt: its receive interrupt.
    """

    def __init__(self, line: SerialLine, signals: Signals, rx_interrupt: int) -> None:
        self._line = line
        self._signals = signals
        self._rx_interrupt = rx_interrupt
        self.reset()

    @property
    def listens(self) -> bool:
        """Whether a byte that arrives interrupts the core."""
        return bool(self._control & _CTRL_RX_INTERRUPT)

    def reset(self) -> None:
        """Off, at no baud rate; what is on the wire stays there."""
        self._control = self._status = 0
        self._divider = 0
        self._drive()

    def arrived(self) -> None:
        """A byte came in."""
        if self._line.waiting and self.listens:
            self._status |= _RX_INTERRUPT
            self._drive()

    def read(self, offset: int, size: int) -> int:
        """DATA, STATE, CTRL, INTSTATUS, BAUDDIV."""
        if offset == 0x0:
            value = self._line.waiting.popleft() if self._receives and self._line.waiting else 0
            self.arrived()
            return value
        states = {
            0x4: _RX_FULL if self._receives and self._line.waiting else 0,
            0x8: self._control,
            0xC: self._status,
            0x10: self._divider,
        }
        return states.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """DATA, CTRL, INTCLEAR, BAUDDIV; a transmitter that is off, or has no divider of 16 or more, sends nothing."""
        if offset == 0x0 and self._control & 1 and self._divider >= 16:
            self._line.sent(bytes((value & 0xFF,)))
        elif offset == 0x8:
            self._control = value
        elif offset == 0xC:
            self._status &= ~value
            self._drive()
        elif offset == 0x10:
            self._divider = value

    @property
    def _receives(self) -> bool:
        return bool(self._control & _CTRL_RX_ENABLE)

    def _drive(self) -> None:
        self._signals.set_interrupt(self._rx_interrupt, bool(self._status & _RX_INTERRUPT))


class Timer:
    """A timer that counts down, then starts again from RELOAD.

    Args:
        signals: the core, for its clock.
        frequency_hz: of its clock.
    """

    def __init__(self, signals: Signals, frequency_hz: int) -> None:
        self._signals = signals
        self._frequency_hz = frequency_hz
        self.reset()

    def reset(self) -> None:
        """Off, at zero."""
        self._control = self._reload = self._value = self._since = 0

    def read(self, offset: int, size: int) -> int:
        """CTRL, VALUE, RELOAD; there are no interrupts."""
        return {0x0: self._control, 0x4: self._now(), 0x8: self._reload}.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """CTRL, VALUE, RELOAD."""
        if offset == 0x8:
            self._reload = value
            return
        self._value = value if offset == 0x4 else self._now()
        self._since = self._signals.clock.ticks(self._frequency_hz)
        if offset == 0x0:
            self._control = value

    def _now(self) -> int:
        if not self._control & 1:
            return self._value
        passed = self._signals.clock.ticks(self._frequency_hz) - self._since
        if passed <= self._value:
            return self._value - passed
        return self._reload - (passed - self._value - 1) % (self._reload + 1)


class DualTimer:
    """Two timers with prescalers; free-running ones only.

    Args:
        signals: the core, for its clock.
        frequency_hz: of its clock.
    """

    def __init__(self, signals: Signals, frequency_hz: int) -> None:
        self._halves = tuple(_HalfTimer(signals, frequency_hz) for _ in range(2))

    def reset(self) -> None:
        """Both off."""
        for half in self._halves:
            half.reset()

    def read(self, offset: int, size: int) -> int:
        """LOAD, VALUE and CONTROL of both."""
        return self._halves[offset >> 5 & 1].read(offset & 0x1F)

    def write(self, offset: int, size: int, value: int) -> None:
        """LOAD and CONTROL of both."""
        self._halves[offset >> 5 & 1].write(offset & 0x1F, value)


class _HalfTimer:
    def __init__(self, signals: Signals, frequency_hz: int) -> None:
        self._signals = signals
        self._frequency_hz = frequency_hz
        self.reset()

    def reset(self) -> None:
        self._control, self._value, self._since = 0x20, _WRAP, 0

    def read(self, offset: int) -> int:
        return {0x4: self._now(), 0x8: self._control}.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        if offset not in (0x0, 0x8):
            return
        self._value = value if offset == 0x0 else self._now()
        self._control = self._control if offset == 0x0 else value
        self._since = self._ticks()

    def _ticks(self) -> int:
        return self._signals.clock.ticks(self._frequency_hz) >> 4 * (self._control >> 2 & 3)

    def _now(self) -> int:
        mask = _WRAP if self._control & 2 else 0xFFFF
        return self._value - (self._ticks() - self._since if self._control & 0x80 else 0) & mask
