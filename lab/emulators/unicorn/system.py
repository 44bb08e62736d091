"""System control space of Cortex-M (Arm v7-M manual, B3): exceptions and their priorities, faults, SysTick, DWT."""

from __future__ import annotations

from collections.abc import Callable

from lab.emulators.unicorn.bus import Clock, merged
from lab.errors import EmulatorError

NMI, HARD_FAULT, MEMORY_FAULT, BUS_FAULT, USAGE_FAULT, SVC, PEND_SV, SYS_TICK, FIRST_IRQ = 2, 3, 4, 5, 6, 11, 14, 15, 16
LOWEST = 256

INSTRUCTION_BUS_ERROR, PRECISE_BUS_ERROR, STACKING_ERROR, BFAR_VALID = 1 << 8, 1 << 9, 1 << 12, 1 << 15
UNDEFINED_INSTRUCTION, INVALID_STATE, NO_COPROCESSOR = 1 << 16, 1 << 17, 1 << 19
HFSR_VECTOR, HFSR_FORCED, HFSR_DEBUG = 1 << 1, 1 << 30, 1 << 31

_CONTROL_BASE = 0xD00
_CPUID, _ICSR, _VTOR, _AIRCR, _SCR, _CCR, _SHPR, _SHCSR = 0xD00, 0xD04, 0xD08, 0xD0C, 0xD10, 0xD14, 0xD18, 0xD24
_CFSR, _HFSR, _MMFAR, _BFAR, _CPACR = 0xD28, 0xD2C, 0xD34, 0xD38, 0xD88
_RESET_REQUEST = 1 << 2
_ENABLES = {MEMORY_FAULT: 1 << 16, BUS_FAULT: 1 << 17, USAGE_FAULT: 1 << 18}


class SystemControl:
    """The page 0xE000E000: SysTick, NVIC and system control block.

    Args:
        cpuid: value of CPUID.
        clock: what SysTick counts.
        request_reset: called for SYSRESETREQ.
        vtor: address of the vector table after reset.
    """

    def __init__(self, cpuid: int, clock: Clock, request_reset: Callable[[], None], vtor: int) -> None:
        self._cpuid = cpuid
        self._clock = clock
        self._request_reset = request_reset
        self._first_vtor = vtor
        self.reset()

    def reset(self) -> None:
        """Back to what it is after power-on."""
        self.vtor = self._first_vtor
        self.cfsr = self.hfsr = self.mmfar = self.bfar = 0
        self.active: list[int] = []
        self.pending: set[int] = set()
        self.enabled: set[int] = set()
        self._levels: set[int] = set()
        self._words: dict[int, int] = {}
        self._systick_start = 0

    # ---- exceptions ----

    def priority(self, number: int) -> int:
        """Priority of an exception; lower goes first."""
        fixed = {NMI: -2, HARD_FAULT: -1}
        if number in fixed:
            return fixed[number]
        if number < FIRST_IRQ:
            return self._byte(_SHPR + number - 4)
        return self._byte(0x400 + number - FIRST_IRQ)

    def execution_priority(self, primask: int, faultmask: int, basepri: int) -> int:
        """Priority of what runs now, raised by the masks."""
        masks = [basepri] * bool(basepri) + [0] * bool(primask) + [-1] * bool(faultmask)
        return min([LOWEST, *masks, *(self.priority(number) for number in self.active)])

    def next_exception(self, below: int) -> int | None:
        """The pending exception that goes first among those more urgent than ``below``."""
        ready = [number for number in self.pending if number < FIRST_IRQ or number in self.enabled]
        first = min(ready, key=lambda number: (self.priority(number), number), default=None)
        return first if first is not None and self.priority(first) < below else None

    def enter(self, number: int) -> None:
        """An exception's handler begins."""
        self.pending.discard(number)
        self.active.append(number)

    def leave(self, number: int) -> None:
        """An exception's handler is done; a line that is still high makes it pending again."""
        if number in self.active:
            self.active.remove(number)
        if number in self._levels:
            self.pending.add(number)

    def set_interrupt(self, irq: int, level: bool) -> None:
        """Drive an interrupt line."""
        number = irq + FIRST_IRQ
        if level and number not in self._levels:
            self._levels.add(number)
            self.pending.add(number)
        elif not level:
            self._levels.discard(number)

    def fault(self, number: int, cfsr: int, below: int, *, hfsr: int = 0) -> int | None:
        """Note a fault and say which handler takes it: its own where it is enabled, else HardFault; None for lockup."""
        self.cfsr |= cfsr
        enabled = self._words.get(_SHCSR, 0) & _ENABLES.get(number, 0)
        if enabled and self.priority(number) < below:
            return number
        self.hfsr |= hfsr or HFSR_FORCED
        return HARD_FAULT if below > -1 else None

    @property
    def floating_point_enabled(self) -> bool:
        """Whether CPACR gives access to the floating-point unit."""
        return self._words.get(_CPACR, 0) >> 20 & 0xF == 0xF

    # ---- registers ----

    def read(self, offset: int, size: int) -> int:
        """Value of a register."""
        return self._word(offset & ~3) >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        register = offset & ~3
        if register == _CFSR:
            self.cfsr &= ~(value << 8 * (offset & 3))
            return
        if 0x100 <= register < 0x300:
            self._write_bits(register, value << 8 * (offset & 3))
            return
        word = merged(self._words.get(register, 0), offset & 3, size, value)
        if register == _ICSR:
            self._write_icsr(value)
        elif register == _VTOR:
            self.vtor = word
        elif register == _AIRCR:
            if value >> 16 == 0x05FA and value & _RESET_REQUEST:
                self._request_reset()
        elif register == _HFSR:
            self.hfsr &= ~value
        elif register == 0x18:
            self._systick_start = self._clock.instructions
        elif register == 0x10 and value & 2:
            raise EmulatorError("the firmware uses SysTick's interrupt, which Unicorn's model has not")
        else:
            self._words[register] = word
            if register == 0x10:
                self._systick_start = self._clock.instructions

    def _write_icsr(self, value: int) -> None:
        for bit, number, pend in ((31, NMI, True), (28, PEND_SV, True), (27, PEND_SV, False), (26, SYS_TICK, True)):
            if value >> bit & 1:
                (self.pending.add if pend else self.pending.discard)(number)

    def _write_bits(self, register: int, value: int) -> None:
        """ISER, ICER, ISPR and ICPR: one bit per interrupt."""
        first = FIRST_IRQ + (register & 0x7F) * 8
        chosen = {first + bit for bit in range(32) if value >> bit & 1}
        actions = {
            2: self.enabled.update,
            3: self.enabled.difference_update,
            4: self.pending.update,
            5: self.pending.difference_update,
        }
        actions[register >> 7](chosen)

    def _word(self, register: int) -> int:
        fixed = {
            _CPUID: self._cpuid,
            _VTOR: self.vtor,
            _AIRCR: 0xFA050000,
            _CFSR: self.cfsr,
            _HFSR: self.hfsr,
            _MMFAR: self.mmfar,
            _BFAR: self.bfar,
        }
        if register in fixed:
            return fixed[register]
        if register == _ICSR:
            return self.active[-1] if self.active else 0
        if 0x100 <= register < 0x300:
            first = FIRST_IRQ + (register & 0x7F) * 8
            shown = self.enabled if register < 0x200 else self.pending
            return sum(1 << bit for bit in range(32) if first + bit in shown)
        if register == 0x18:
            return self._systick_value()
        return self._words.get(register, 0)

    def _systick_value(self) -> int:
        reload = self._words.get(0x14, 0)
        if not self._words.get(0x10, 0) & 1 or not reload:
            return 0
        return reload - (self._clock.instructions - self._systick_start) % (reload + 1)

    def _byte(self, offset: int) -> int:
        return self._words.get(offset & ~3, 0) >> 8 * (offset & 3) & 0xFF


class Dwt:
    """The page 0xE0001000: the cycle counter, which counts instructions here.

    Args:
        clock: what it counts.
        trace_enabled: whether DEMCR.TRCENA is set, without which the unit has no clock.
    """

    def __init__(self, clock: Clock, trace_enabled: Callable[[], bool]) -> None:
        self._clock = clock
        self._trace_enabled = trace_enabled
        self.reset()

    def reset(self) -> None:
        """Off, at zero."""
        self._control = 0
        self._value = 0
        self._since = 0

    def read(self, offset: int, size: int) -> int:
        """CTRL and CYCCNT; every other register reads 0."""
        if offset == 0:
            return self._control
        return self._count() if offset == 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """CTRL and CYCCNT."""
        if offset > 4:
            return
        counted = value if offset == 4 else self._count()
        self._control = self._control if offset == 4 else value
        self._value, self._since = counted, self._clock.instructions

    def _count(self) -> int:
        if not self._control & 1 or not self._trace_enabled():
            return self._value
        return self._value + self._clock.instructions - self._since & 0xFFFFFFFF
