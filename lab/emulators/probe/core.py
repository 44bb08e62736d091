"""The debug registers of an emulated Cortex-M: what QEMU leaves out of the private peripheral bus, over its memory.

Registers as in the Armv7-M Architecture Reference Manual, C1 (DHCSR, DCRSR, DCRDR, DEMCR, FPB, DWT).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

from lab.emulators.probe.bus import Bus
from lab.emulators.probe.faults import LinkState
from lab.emulators.probe.flash_stm32f4 import Stm32F4Flash
from lab.emulators.probe.qmp import Monitor
from lab.emulators.probe.qtest import Qtest
from lab.emulators.probe.registry import BoardEntry
from lab.emulators.probe.rom_table import DWT, FPB, ROM_TABLE, identification, processor
from lab.emulators.probe.run_control import Cause, Point, RunControl, State

_CPUID, _AIRCR = 0xE000ED00, 0xE000ED0C
_DFSR, _DHCSR, _DCRSR, _DCRDR, _DEMCR = 0xE000ED30, 0xE000EDF0, 0xE000EDF4, 0xE000EDF8, 0xE000EDFC
_PPB, _PPB_END = 0xE0000000, 0xE0100000

_C_DEBUGEN, _C_HALT, _C_STEP = 1, 2, 4
_S_REGRDY, _S_HALT, _S_LOCKUP, _S_RETIRE, _S_RESET = 1 << 16, 1 << 17, 1 << 19, 1 << 24, 1 << 25
_VC_CORERESET, _VC_HARDERR = 1, 1 << 10
_CAUSES = {Cause.REQUEST: 1, Cause.BREAKPOINT: 2, Cause.WATCHPOINT: 4, Cause.VECTOR_CATCH: 8}

# Numbers of registers in DCRSR.
_REGISTERS = {
    **{number: f"r{number}" for number in range(16)},
    16: "xpsr",
    17: "msp",
    18: "psp",
    33: "fpscr",
    **{0x40 + number: f"s{number}" for number in range(32)},
}
_CONTROL_AND_MASKS = 20
_MASKS = ("primask", "basepri", "faultmask", "control")

_DWT_CTRL, _DWT_COMPARATOR = DWT, DWT + 0x20
_FP_CTRL, _FP_COMPARATOR = FPB, FPB + 8
# DWT_FUNCTIONn to gdb's kind of watchpoint: Armv7-M (read, write, access) and Armv8-M (access, write, read).
_WATCH = {5: 3, 6: 2, 7: 4}
_WATCH_V8 = {4: 4, 5: 2, 6: 3}

# Debuggers ask again and again whether the core has halted. A probe on USB takes two microframes to say that it has
# not, and meanwhile the core may.
_POLL_S = 250e-6


class CoreModel:
    """Memory and debug registers of one emulated board, as its access port reaches them.

    Args:
        entry: the board, powered.

    Raises:
        TargetLost: its emulator is gone.
        BusFault: its core is none that the model knows.
    """

    def __init__(self, entry: BoardEntry) -> None:
        with ExitStack() as stack:
            monitor = stack.enter_context(closing(Monitor(entry.control)))
            qtest = stack.enter_context(closing(Qtest(entry.qtest)))
            self._bus = Bus(qtest, monitor.memory_map())
            self.processor = processor(self._bus.read_register(_CPUID))
            self._run = RunControl(entry.gdb, monitor, self._bus, has_base_priority=self.processor.base_priority)
            stack.callback(self._run.close)
            # Each of them serves one client: none may stay open after a failure.
            self._connections = stack.pop_all()
        self._bus.through_core = self._run if self.processor.v8 else None
        self._flash = Stm32F4Flash(self._bus, self._run.write_as_core) if Stm32F4Flash.is_in(entry.target) else None
        self._identification = identification(self.processor)
        self._control = 0
        self._causes = 0
        self._cause_due = False
        self._reset_seen = False
        self._reset_held = False
        self._dcrdr = 0
        self._demcr = 0
        self._fpb_enabled = False
        self._comparators: dict[int, int] = {}
        self._bkpts: set[int] = set()

    def apply(self, faults: LinkState) -> None:
        """Take over those faults that are of the board, not of the link."""
        self._bus.flips = faults.flips
        self._run.flash = faults.flash
        if self._flash is not None:
            self._flash.locked = faults.flash

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address, whole words in the private peripheral bus.

        Raises:
            BusFault: nothing answers there.
            TargetLost: the emulator is gone.
        """
        if _PPB <= address < _PPB_END:
            return _from_words(self._read_register, address, size)
        if self._flash is not None and self._flash.is_register(address):
            return _from_words(self._flash.read, address, size)
        return self._bus.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at an address.

        Raises:
            BusFault: nothing answers there.
            TargetLost: the emulator is gone.
        """
        if _PPB <= address < _PPB_END:
            for at in range(0, len(data), 4):
                self._write_register(address + at, data[at : at + 4])
        elif self._flash is not None and self._flash.covers(address):
            self._flash.write(address, data)
        else:
            self._note_bkpt(address, data)
            self._bus.write(address, data)

    def settle(self) -> None:
        """Return when everything that was written is in its place.

        Raises:
            TargetLost: the emulator is gone.
        """
        self._bus.settle()

    def can_read_ahead(self, address: int, size: int) -> bool:
        """Whether bytes may be read before they are asked for: plain memory, which nothing changes by itself now."""
        return self._run.stands and self._bus.is_plain(address, size)

    def hold_reset(self, held: bool) -> None:
        """The reset pin: the core stands while it is held, and starts anew when it is let go."""
        if held and not self._reset_held:
            self._run.halt()
        elif self._reset_held and not held:
            self._reset()
        self._reset_held = held

    def close(self) -> None:
        """Leave the core as it is, without breakpoints."""
        self._connections.close()

    def _reset(self) -> None:
        self._note_cause()
        self._reset_seen = True
        catch = bool(self._demcr & _VC_CORERESET and self._control & _C_DEBUGEN)
        self._run.reset(catch=catch)
        self._control = self._control & ~_C_HALT | (_C_HALT if catch else 0)
        self._causes |= _CAUSES[Cause.VECTOR_CATCH] if catch else 0

    def _note_bkpt(self, address: int, data: bytes) -> None:
        """Software breakpoints: a BKPT written by itself, and whatever is written over one."""
        written = range(address, address + len(data))
        gone = {one for one in self._bkpts if one in written}
        if len(data) == 2 and data[1] == 0xBE:
            self._bkpts.add(address)
            gone.discard(address)
        elif not gone:
            return
        self._bkpts -= gone
        self._set_points()

    def _read_register(self, address: int) -> int:
        if address in self._identification:
            return self._identification[address]
        if address == _DHCSR:
            return self._read_status()
        if address == _DFSR:
            self._settle()
            self._note_cause()
            return self._causes
        if address == _DCRDR:
            return self._dcrdr
        if address == _DEMCR:
            return self._demcr
        if address == _FP_CTRL:
            kind = self.processor
            count = (kind.breakpoints & 0x70) << 8 | (kind.breakpoints & 0xF) << 4 | kind.literals << 8
            return (kind.fpb_revision - 1) << 28 | count | int(self._fpb_enabled)
        if address == _DWT_CTRL:
            # NOCYCCNT: QEMU's cycle counter stands still, so there is none.
            return self.processor.watchpoints << 28 | 1 << 25
        if address in self._comparators:
            return self._comparators[address]
        if FPB <= address < FPB + 0x1000 or DWT <= address < DWT + 0x1000 or address >= ROM_TABLE:
            return 0
        return int.from_bytes(self._bus.read(address, 4), "little")

    def _write_register(self, address: int, data: bytes) -> None:
        value = int.from_bytes(data, "little")
        if address == _DHCSR:
            self._write_control(value)
        elif address == _DFSR:
            self._settle()
            self._note_cause()
            self._causes &= ~value
        elif address == _DCRSR:
            self._transfer_register(value)
        elif address == _DCRDR:
            self._dcrdr = value
        elif address == _DEMCR:
            self._demcr = value
            self._run.catch_hard_fault = bool(value & _VC_HARDERR)
        elif address == _AIRCR and value >> 16 == 0x05FA and value & 5:
            self._reset()
        elif address == _FP_CTRL:
            # Without its key (bit 1) a write is ignored.
            self._fpb_enabled = bool(value & 1) if value & 2 else self._fpb_enabled
            self._set_points()
        elif FPB <= address < FPB + 0x1000 or DWT <= address < DWT + 0x1000:
            self._comparators[address] = value
            self._set_points()
        elif address < ROM_TABLE:
            self._bus.write(address, data)

    def _settle(self, patience_s: float = 0.0) -> State:
        """What the core does now; takes note of a halt that it came to by itself."""
        state = self._run.state(patience_s)
        if state is State.HALTED and not self._control & _C_HALT:
            self._control |= _C_HALT
            # A debugger that waits for the halt asks for its cause later, if at all.
            self._cause_due = True
        return state

    def _note_cause(self) -> None:
        """Before the core goes on, or the register with the causes is accessed."""
        if self._cause_due:
            self._cause_due = False
            self._causes |= _CAUSES[self._run.cause]

    def _read_status(self) -> int:
        state = self._settle(_POLL_S)
        status = self._control & 0xFFFF | _S_REGRDY
        status |= _S_HALT if state is State.HALTED else 0
        status |= _S_LOCKUP if state is State.LOCKED_UP else 0
        status |= _S_RETIRE if state is State.RUNNING else 0
        status |= _S_RESET if self._reset_seen or self._reset_held else 0
        self._reset_seen = False
        return status

    def _write_control(self, value: int) -> None:
        # Without its key a write is ignored.
        if value >> 16 != 0xA05F:
            return
        state = self._settle()
        self._note_cause()
        # C_HALT and C_STEP act only with debugging enabled; what they leave is what the core then does.
        self._control = value & 0x2F
        enabled = bool(value & _C_DEBUGEN)
        if enabled and value & _C_HALT:
            self._run.halt()
            if state is not State.HALTED:
                self._causes |= _CAUSES[self._run.cause]
        elif enabled and value & _C_STEP and state is State.HALTED:
            self._run.step()
        elif state is State.HALTED:
            self._run.resume()

    def _transfer_register(self, selector: int) -> None:
        number, writing = selector & 0x7F, bool(selector & 1 << 16)
        if self._run.state() is not State.HALTED:
            return
        if number == _CONTROL_AND_MASKS:
            self._transfer_masks(writing)
            return
        name = _REGISTERS.get(number)
        if name is None:
            self._dcrdr = 0
        elif writing:
            self._run.write_register(name, self._dcrdr)
        else:
            self._dcrdr = self._run.read_register(name)

    def _transfer_masks(self, writing: bool) -> None:
        """CONTROL, FAULTMASK, BASEPRI and PRIMASK share one register number, a byte each."""
        if not writing:
            values = [self._run.read_register(name) & 0xFF for name in _MASKS]
            self._dcrdr = int.from_bytes(bytes(values), "little")
            return
        wanted = self._dcrdr.to_bytes(4, "little")
        for name, value in zip(_MASKS, wanted, strict=True):
            if value != self._run.read_register(name) & 0xFF:
                self._run.write_register(name, value)

    def _set_points(self) -> None:
        points = {Point(1, address) for address in self._bkpts}
        if self._fpb_enabled:
            for index in range(self.processor.breakpoints):
                address = self._breakpoint(self._comparators.get(_FP_COMPARATOR + 4 * index, 0))
                points |= set() if address is None else {Point(1, address)}
        for index in range(self.processor.watchpoints):
            point = self._watchpoint(_DWT_COMPARATOR + 16 * index)
            points |= set() if point is None else {point}
        if self._run.points == points:
            return
        running = self._run.state() is State.RUNNING
        if running:
            self._run.halt()
        self._run.points = frozenset(points)
        if running:
            self._run.resume()

    def _breakpoint(self, comparator: int) -> int | None:
        if not comparator & 1:
            return None
        if self.processor.fpb_revision == 2:
            return comparator & ~1
        # Revision 1 matches a word; REPLACE says which half of it.
        return comparator & 0x1FFFFFFC | (2 if comparator >> 30 == 2 else 0)

    def _watchpoint(self, base: int) -> Point | None:
        address, function = self._comparators.get(base, 0), self._comparators.get(base + 8, 0)
        if self.processor.v8:
            kind, size = _WATCH_V8.get(function & 0xF, 0), 1 << (function >> 10 & 3)
        else:
            kind, size = _WATCH.get(function & 0xF, 0), 1 << (self._comparators.get(base + 4, 0) & 0x1F)
        return Point(kind, address, size) if kind else None


def _from_words(read: Callable[[int], int], address: int, size: int) -> bytes:
    """Bytes of registers that are read as whole words."""
    if size == 4 and not address & 3:
        return read(address).to_bytes(4, "little")
    first = address & ~3
    words = b"".join(read(at).to_bytes(4, "little") for at in range(first, address + size, 4))
    return words[address - first : address - first + size]
