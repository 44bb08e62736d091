"""Halting, running, stepping and the registers of an emulated core, through QEMU's gdbstub.

What the gdbstub of QEMU 7.2 lacks of a Cortex-M's debug unit is made up for here, as measured:

* MSP, PSP, CONTROL and the masks are not among its registers, and a sleeping core stays asleep when it is stopped: see
  :mod:`lab.emulators.probe.injection`.
* A BKPT instruction does not stop it: a breakpoint of gdb's stands wherever one is known of, and at the return address
  of a routine that a debugger calls (the link register points at a BKPT); one in a program is a hard fault, which is
  taken back where hard faults are caught. A step does not mind breakpoints.
* A core that locks up aborts QEMU: a core without code to run, or without vectors, is not let run but shown as locked
  up, as real ones are.

A flash algorithm is called twice for every page, so a call costs no more round trips than it must: with a stop, the
registers are asked for, and the code at both ends of the routine that a debugger called last, which it mostly calls
again; when it has come as far as to need the answers, they are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from lab.emulators.probe.bus import Bus
from lab.emulators.probe.faults import FlashLock
from lab.emulators.probe.injection import SPECIAL_REGISTERS, Injection
from lab.emulators.probe.qmp import Monitor
from lab.emulators.probe.rsp import Answer, GdbRemote
from lab.emulators.probe.signals import BusFault

_SP, _LR, _PC, _XPSR = 13, 14, 15, 16
_GDB_XPSR = 25
_GDB_D0, _GDB_FPSCR = 26, 42
_THUMB = 1 << 24
_EXCEPTION = 0x1FF
_HARD_FAULT = 3
_VTOR = 0xE000ED08
_BKPT = b"\xbe"
_BLANK = (b"\x00\x00", b"\xff\xff")


class State(Enum):
    """What the core does."""

    HALTED = "halted"
    RUNNING = "running"
    LOCKED_UP = "locked up"


class Cause(Enum):
    """Why the core halted."""

    REQUEST = "asked to, or stepped"
    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    VECTOR_CATCH = "vector catch"


@dataclass(frozen=True)
class Point:
    """A breakpoint (kind 1) or watchpoint (2 write, 3 read, 4 access)."""

    kind: int
    address: int
    size: int = 2


class RunControl:
    """Run control of one core.

    Args:
        gdb_path: the gdbstub's socket; connected to when it is first needed, as that stops the core.
        monitor: QEMU's monitor.
        bus: its memory.
        has_base_priority: whether the core has BASEPRI and FAULTMASK (Armv6-M has not).

    Attributes:
        points: what the core stops at; takes effect when it next runs.
        catch_hard_fault: stop at the first instruction of the hard fault handler.
        flash: what becomes of routines that a debugger calls to change flash.
    """

    def __init__(self, gdb_path: str, monitor: Monitor, bus: Bus, *, has_base_priority: bool) -> None:
        self._gdb_path = gdb_path
        self._monitor = monitor
        self._bus = bus
        self._injection = Injection(bus, has_base_priority=has_base_priority)
        self._gdb: GdbRemote | None = None
        self._state = State.RUNNING if monitor.running() else State.HALTED
        self._inserted: set[Point] = set()
        self._handler = -1
        self._cause = Cause.REQUEST
        self._cause_unknown = False
        self._core: list[int] = []
        self._asked_core: Answer | None = None
        self._asked_code: dict[int, Answer] = {}
        self._called: tuple[int, ...] = ()
        self._writes_before = 0
        self._special: dict[str, int] = {}
        self.points: frozenset[Point] = frozenset()
        self.catch_hard_fault = False
        self.flash: FlashLock = "open"

    @property
    def cause(self) -> Cause:
        """Why the core halted last."""
        if self._cause_unknown:
            self._core_registers()
        return self._cause

    @property
    def stands(self) -> bool:
        """Whether nothing but the debugger can change memory: the core stands, and with it all else of the machine."""
        return self._gdb is not None and self._state is State.HALTED

    def state(self, patience_s: float = 0.0) -> State:
        """What the core does now; a halt that is about to come is waited for, up to ``patience_s``."""
        if self._state is State.RUNNING and self._gdb is not None and self._gdb.stopped(patience_s):
            self._take_stop(self._gdb)
        return self._state

    def halt(self) -> None:
        """Stop the core."""
        state = self.state()
        if state is State.RUNNING:
            self._interrupt()
        elif state is State.LOCKED_UP:
            self._state = State.HALTED
            self._halted_by(Cause.REQUEST)

    def resume(self) -> None:
        """Let the core run; a core that would lock up does not, see :class:`State`."""
        if self.state() is not State.HALTED:
            return
        gdb = self._halted()
        if self._at_breakpoint():
            self._halted_by(Cause.BREAKPOINT)
            return
        end = self._return_address()
        if end is not None and self.flash != "open":
            self._refuse(end)
            return
        if end is None and self._would_lock_up():
            self._state = State.LOCKED_UP
            return
        wanted = set(self.points)
        if end is not None:
            wanted.add(Point(1, end))
        self._called = () if end is None else (self._core_registers()[_PC], end)
        self._handler = self._hard_fault_handler() if self.catch_hard_fault else -1
        if self._handler >= 0:
            wanted.add(Point(1, self._handler))
        self._insert(gdb, wanted)
        self._forget()
        self._state = State.RUNNING
        gdb.resume()

    def step(self) -> None:
        """Run one instruction, without interrupts."""
        if self.state() is not State.HALTED:
            return
        gdb = self._halted()
        if self._at_breakpoint():
            self._halted_by(Cause.BREAKPOINT)
            return
        if self._would_lock_up():
            self._state = State.LOCKED_UP
            return
        self._insert(gdb, set(self.points))
        asleep = self._injection.sleep_bytes(self._core_registers()[_PC])
        if asleep:
            gdb.write_core(_PC, self._core_registers()[_PC] + asleep)
            self._forget()
        else:
            self._step(gdb)
        at_point = Point(1, self._core_registers()[_PC]) in self.points
        self._halted_by(Cause.BREAKPOINT if at_point else Cause.REQUEST)

    def reset(self, *, catch: bool) -> None:
        """Reset the machine; the core then runs, or halts before its first instruction."""
        if self.state() is State.RUNNING:
            self._interrupt()
        self._bus.settle()
        if self._gdb is not None:
            # Registers that were written are those of before the reset.
            self._gdb.settle()
        self._monitor.reset()
        self._forget()
        self._state = State.HALTED
        self._halted_by(Cause.VECTOR_CATCH)
        if not catch:
            self.resume()

    def read_register(self, name: str) -> int:
        """``r0`` … ``r15``, ``xpsr``, ``msp``, ``psp``, ``primask`` …, ``fpscr``, ``s0`` …; the core must be halted."""
        gdb = self._halted()
        if name in SPECIAL_REGISTERS:
            self._special = self._special or self._injection.read_special(gdb)
            return self._special.get(name, 0)
        if name == "xpsr":
            return self._core_registers()[_XPSR]
        if name == "fpscr":
            return int.from_bytes(gdb.read_raw(_GDB_FPSCR), "little")
        number = int(name[1:])
        if name[0] == "s":
            return int.from_bytes(gdb.read_raw(_GDB_D0 + number // 2)[4 * (number % 2) :][:4], "little")
        return self._core_registers()[number]

    def write_register(self, name: str, value: int) -> None:
        """Write one of the registers of :meth:`read_register`; the core must be halted."""
        gdb, core = self._halted(), self._core_registers()
        if name in self._injection.names:
            self._injection.write_special(gdb, name, value)
        elif name == "xpsr":
            gdb.write_core(_GDB_XPSR, value)
        elif name == "fpscr":
            gdb.write_raw(_GDB_FPSCR, value.to_bytes(4, "little"))
        elif name[0] == "s":
            number = int(name[1:])
            both = bytearray(gdb.read_raw(_GDB_D0 + number // 2))
            both[4 * (number % 2) : 4 * (number % 2) + 4] = value.to_bytes(4, "little")
            gdb.write_raw(_GDB_D0 + number // 2, bytes(both))
        elif name[0] == "r":
            number = int(name[1:])
            # Bit 0 of the program counter is not one of an address; debuggers write function pointers.
            value = value & ~1 if number == _PC else value
            gdb.write_core(number, value)
            if number != _SP:
                core[number] = value
                return
        self._forget()

    def read_as_core(self, address: int, size: int) -> bytes:
        """Memory as the core sees it. A running core stands meanwhile."""
        with self._standing() as gdb:
            return gdb.read_memory(address, size)

    def write_as_core(self, address: int, data: bytes) -> None:
        """Write what the bus cannot: QEMU's read-only memory, guarded memory. A running core stands meanwhile."""
        with self._standing() as gdb:
            gdb.write_memory(address, data)
            self._asked_code = {}

    def close(self) -> None:
        """Take the points out and leave the core as it is."""
        if self._gdb is None:
            return
        running = self.state() is State.RUNNING
        if running and self._inserted:
            self._interrupt()
        if self._inserted:
            self._insert(self._gdb, set())
            if running:
                self._gdb.resume()
        self._gdb.close()
        self._gdb = None

    @contextmanager
    def _standing(self) -> Iterator[GdbRemote]:
        running = self.state() is State.RUNNING
        if running:
            self._interrupt()
        yield self._halted()
        # Unless it came to a breakpoint by itself just then.
        if running and self.cause is Cause.REQUEST:
            self._state = State.RUNNING
            self._halted().resume()

    def _halted(self) -> GdbRemote:
        """The gdbstub. The core stands once it is connected."""
        if self._gdb is None:
            running = self._state is State.RUNNING
            self._gdb = GdbRemote(self._gdb_path, running=running, settle=self._bus.settle)
            if running:
                self._state = State.HALTED
                self._injection.wake(self._gdb)
        return self._gdb

    def _interrupt(self) -> None:
        if self._gdb is None:
            self._halted()
            return
        while self._state is State.RUNNING:
            # It goes on when it was just then at a handler that serves other exceptions too.
            self._gdb.interrupt()
            self._take_stop(self._gdb)
        self._injection.wake(self._gdb)
        self._forget()

    def _take_stop(self, gdb: GdbRemote) -> None:
        report = gdb.wait_stop()
        self._state = State.HALTED
        self._forget()
        self._asked_core, *code = gdb.post_core(self._called)
        self._asked_code = dict(zip(self._called, code, strict=True))
        self._writes_before = self._bus.writes
        # The program counter, which is on its way, will say; unless something else does.
        self._cause_unknown = True
        if b"watch:" in report:
            self._complete_access(gdb)
            self._halted_by(Cause.WATCHPOINT)
        elif self._handler >= 0 and self._is_at_handler():
            self._at_handler(gdb)

    def _is_at_handler(self) -> bool:
        address = self._core_registers()[_PC]
        return address == self._handler and Point(1, address) not in self.points

    def _halted_by(self, cause: Cause) -> None:
        self._cause, self._cause_unknown = cause, False

    def _complete_access(self, gdb: GdbRemote) -> None:
        """QEMU stops before a watched access, for ever before the same one; a DWT stops after it."""
        inserted = self._inserted
        self._insert(gdb, {point for point in inserted if point.kind == 1})
        self._step(gdb)
        self._insert(gdb, inserted)

    def _at_handler(self, gdb: GdbRemote) -> None:
        """Only a hard fault is caught; a handler that serves others too is left alone for the rest of the run."""
        if self._core_registers()[_XPSR] & _EXCEPTION == _HARD_FAULT:
            self._at_hard_fault(gdb)
            return
        self._insert(gdb, self._inserted - {Point(1, self._handler)})
        self._handler = -1
        self._forget()
        self._state = State.RUNNING
        gdb.resume()

    def _at_hard_fault(self, gdb: GdbRemote) -> None:
        """A BKPT that nobody knew of is a hard fault to QEMU; with a debugger attached it halts the core."""
        if not self._is_bkpt(self._injection.faulted_at(gdb)):
            self._halted_by(Cause.VECTOR_CATCH)
            return
        self._injection.leave_exception(gdb)
        self._forget()
        self._halted_by(Cause.BREAKPOINT)

    def _is_bkpt(self, address: int) -> bool:
        return self._bus.is_memory(address) and self._halfword(address)[1:] == _BKPT

    def _halfword(self, address: int) -> bytes:
        answer = self._asked_code.get(address)
        if answer is None or self._gdb is None or self._bus.writes != self._writes_before:
            return self._bus.read(address, 2)
        return self._gdb.halfword_of(answer)

    def _step(self, gdb: GdbRemote) -> None:
        gdb.step()
        gdb.wait_stop()
        self._forget()

    def _forget(self) -> None:
        """The core has run, or become another by what was written."""
        self._core = []
        self._asked_core = None
        self._asked_code = {}
        self._special = {}

    def _insert(self, gdb: GdbRemote, wanted: set[Point]) -> None:
        for point in self._inserted - wanted:
            gdb.clear_point(point.kind, point.address, point.size)
        for point in wanted - self._inserted:
            gdb.set_point(point.kind, point.address, point.size)
        self._inserted = wanted

    def _core_registers(self) -> list[int]:
        if not self._core:
            gdb = self._halted()
            answer, self._asked_core = self._asked_core or gdb.post_core()[0], None
            self._core = gdb.core_of(answer)
            if self._cause_unknown:
                at_point = Point(1, self._core[_PC]) in self._inserted
                self._halted_by(Cause.BREAKPOINT if at_point else Cause.REQUEST)
        return self._core

    def _at_breakpoint(self) -> bool:
        """Whether the next instruction halts the core, where QEMU would step over a breakpoint and fault at a BKPT."""
        address = self._core_registers()[_PC]
        if Point(1, address) in self.points:
            return True
        return self._is_bkpt(address)

    def _return_address(self) -> int | None:
        """Where a routine that the debugger called ends: at the BKPT its link register points at."""
        address = self._core_registers()[_LR] & ~1
        return address if self._is_bkpt(address) else None

    def _refuse(self, end: int) -> None:
        """A flash controller that is locked: the routine returns without having changed anything."""
        gdb = self._halted()
        gdb.write_core(0, 1 if self.flash == "refuse" else 0)
        gdb.write_core(_PC, end)
        self._forget()
        self._halted_by(Cause.BREAKPOINT)

    def _would_lock_up(self) -> bool:
        registers = self._core_registers()
        address = registers[_PC]
        runs = registers[_XPSR] & _THUMB and self._bus.is_memory(address)
        if runs and self._bus.read(address, 2) not in _BLANK:
            return False
        return self._hard_fault_handler() < 0

    def _hard_fault_handler(self) -> int:
        """Address of the hard fault handler, -1 where the vector table has none."""
        try:
            table = int.from_bytes(self._bus.read(_VTOR, 4), "little")
            vector = int.from_bytes(self._bus.read(table + 4 * _HARD_FAULT, 4), "little")
        except BusFault:
            return -1
        address = vector & ~1
        if not vector & 1 or not self._bus.is_memory(address) or self._bus.read(address, 2) in _BLANK:
            return -1
        return address
