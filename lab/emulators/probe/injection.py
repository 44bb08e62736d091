"""What QEMU's gdbstub cannot reach in a core that stands, done by instructions of the core's own in a corner of RAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.emulators.probe.bus import Bus
from lab.emulators.probe.rsp import GdbRemote

_LR, _PC, _XPSR = 14, 15, 16
_GDB_XPSR = 25
_THUMB = 1 << 24
_EXCEPTION, _HARD_FAULT = 0x1FF, 3
_IT_STATE = 0x0600FC00
_WFI, _WFI_WIDE = b"\x30\xbf", b"\xaf\xf3\x03\x80"
# bx lr
_RETURN = b"\x70\x47"
# DSB, which does nothing here: Armv6-M has no wide NOP.
_IDLE = (0xF3BF, 0x8F4F)
_ICSR, _NMI_SET, _PEND_SV_SET, _PEND_SV_CLEAR = 0xE000ED04, 1 << 31, 1 << 28, 1 << 27
_HFSR, _DEBUG_EVENT = 0xE000ED2C, 1 << 31
_SHPR3, _PEND_SV_PRIORITY = 0xE000ED20, 0x00FF0000

# SYSm numbers of MRS and MSR (Armv7-M Architecture Reference Manual, B5.2).
_NUMBERS = {"msp": 8, "psp": 9, "primask": 16, "basepri": 17, "faultmask": 19, "control": 20}
SPECIAL_REGISTERS = frozenset(_NUMBERS)


class Injection:
    """Runs instructions aside: registers and memory are put back.

    Args:
        bus: the core's memory.
        has_base_priority: whether the core has BASEPRI and FAULTMASK (Armv6-M has not).

    Attributes:
        names: the special registers there are.
    """

    def __init__(self, bus: Bus, *, has_base_priority: bool) -> None:
        self._bus = bus
        self.names = tuple(name for name in _NUMBERS if has_base_priority or name not in ("basepri", "faultmask"))

    def read_special(self, gdb: GdbRemote) -> dict[str, int]:
        """MSP, PSP, the masks and CONTROL."""
        # MRS r<n>, <special>: all at once, each into a register of its own.
        code = [(0xF3EF, 0x8000 | number << 8 | _NUMBERS[name]) for number, name in enumerate(self.names)]
        return dict(zip(self.names, self._run(gdb, code, {}), strict=False))

    def write_special(self, gdb: GdbRemote, name: str, value: int) -> None:
        """Write one of :attr:`names`."""
        self._run(gdb, [(0xF380, 0x8800 | _NUMBERS[name])], {0: value})

    def wake(self, gdb: GdbRemote) -> None:
        """Wake a core that was stopped in its sleep: QEMU's would sleep on wherever its program counter is set to.

        An exception is made pending, which wakes the core and is not taken in a single step, and taken back. In the
        handler of a hard fault only an NMI wakes it, which cannot be taken back: it is what a core that is then let run
        does next.
        """
        registers = gdb.read_core()
        address = registers[_PC]
        if not self._bus.is_memory(address - 4) or not self._slept(self._bus.read(address - 4, 4)):
            return
        if registers[_XPSR] & _EXCEPTION == _HARD_FAULT:
            self._bus.write_register(_ICSR, _NMI_SET)
            self._run(gdb, [_IDLE], {})
            return
        pending = self._bus.read_register(_ICSR) & _PEND_SV_SET
        priorities = self._bus.read_register(_SHPR3)
        self._bus.write_register(_SHPR3, priorities & ~_PEND_SV_PRIORITY)
        self._bus.write_register(_ICSR, _PEND_SV_SET)
        self._run(gdb, [_IDLE], {})
        self._bus.write_register(_SHPR3, priorities)
        if not pending:
            self._bus.write_register(_ICSR, _PEND_SV_CLEAR)

    def sleep_bytes(self, address: int) -> int:
        """Length of the instruction at an address if it is a WFI, else 0. A step over one only goes on to the next."""
        data = self._bus.read(address, 4)
        if data[:2] == _WFI:
            return 2
        return 4 if data == _WFI_WIDE else 0

    def faulted_at(self, gdb: GdbRemote) -> int:
        """Where the core was when it took the exception whose handler it is about to run; 0 if it left no trace."""
        # Bit 2 of EXC_RETURN says which stack has the frame; the seventh word of that is the return address.
        link = gdb.read_core()[_LR]
        special = self.read_special(gdb)
        frame = special["psp"] if link & 4 else special["msp"]
        return int.from_bytes(self._bus.read(frame + 24, 4), "little") if self._bus.is_memory(frame + 24) else 0

    def leave_exception(self, gdb: GdbRemote) -> None:
        """Return from the exception whose handler the core is about to run, as if it had not been taken."""
        place = self._bus.scratch()
        kept = self._bus.read(place, 2)
        self._bus.write(place, _RETURN)
        gdb.write_core(_PC, place)
        gdb.step()
        gdb.wait_stop()
        self._bus.write(place, kept)
        self._bus.write_register(_HFSR, _DEBUG_EVENT)

    @staticmethod
    def _slept(before: bytes) -> bool:
        return before == _WFI_WIDE or before[2:] == _WFI

    def _run(self, gdb: GdbRemote, code: Sequence[tuple[int, int]], inputs: Mapping[int, int]) -> list[int]:
        """Step 32-bit instructions; returns r0 … as they were after the last."""
        before = gdb.read_core()
        place = self._bus.scratch()
        image = b"".join(half.to_bytes(2, "little") for pair in code for half in pair)
        kept = self._bus.read(place, len(image))
        self._bus.write(place, image)
        gdb.write_core(_GDB_XPSR, before[_XPSR] & ~_IT_STATE | _THUMB)
        gdb.write_core(_PC, place)
        for number, value in inputs.items():
            gdb.write_core(number, value)
        for _ in code:
            gdb.step()
            gdb.wait_stop()
        after = gdb.read_core()
        self._bus.write(place, kept)
        for number in (*range(max(len(code), len(inputs))), _PC):
            gdb.write_core(number, before[number])
        gdb.write_core(_GDB_XPSR, before[_XPSR])
        return after
