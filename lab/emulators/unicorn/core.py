"""A Cortex-M core on Unicorn: memory, exceptions as the architecture has them, and the run from one stop to the next.

Unicorn executes instructions and knows the stack pointers and masks of M-profile; it has no NVIC and takes no exception
by itself. What is missing is here, after the Arm v7-M Architecture Reference Manual (DDI 0403), chapter B1.5.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lab.emulators.unicorn.bus import PAGE_BYTES, Bus, Clock, Mapped, Memory
from lab.emulators.unicorn.counting import ClassCount, Counter
from lab.emulators.unicorn.engine import Engine, EngineError, constants, new_engine
from lab.emulators.unicorn.engine import registers as arm_const
from lab.emulators.unicorn.system import (
    BFAR_VALID,
    BUS_FAULT,
    HARD_FAULT,
    HFSR_DEBUG,
    HFSR_VECTOR,
    INSTRUCTION_BUS_ERROR,
    INVALID_STATE,
    LOWEST,
    NMI,
    NO_COPROCESSOR,
    PRECISE_BUS_ERROR,
    STACKING_ERROR,
    SVC,
    UNDEFINED_INSTRUCTION,
    USAGE_FAULT,
    Dwt,
    SystemControl,
)
from lab.errors import Crash, CrashReport, EmulatorError, LabError

Cpu: TypeAlias = Literal["cortex-m0", "cortex-m0+", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33"]

_THUMB, _FRAME_PADDED, _EXCEPTION_BITS = 1 << 24, 1 << 9, 0x1FF
_SPSEL, _FPCA = 2, 4
_EXC_RETURN_LEAST = 0xFFFFFF80
_EXC_STANDARD_FRAME, _EXC_THREAD, _EXC_PROCESS_STACK = 1 << 4, 1 << 3, 1 << 2
_SYSTEM = 0xE000E000
_UNTIL = 0xFFFFFF00  # no code lies there; an exception return goes higher
_WAITS = {0xBF30: "wfi", 0xBF20: "wfe"}
_EXCEPTION_SVC, _EXCEPTION_BREAKPOINT, _EXCEPTION_NO_COPROCESSOR = 2, 7, 17
_BEFORE_THE_INSTRUCTION = (_EXCEPTION_BREAKPOINT, _EXCEPTION_NO_COPROCESSOR)

_FRAME = ("r0", "r1", "r2", "r3", "r12", "lr")
_GENERAL = (*(f"r{number}" for number in range(13)), "sp", "lr", "pc", "xpsr")
_REGISTERS = {
    name: int(getattr(arm_const, f"UC_ARM_REG_{name.upper()}"))
    for name in (*_GENERAL, "msp", "psp", "control", "primask", "faultmask", "basepri", "fpscr")
}
_FLOATS = tuple(int(getattr(arm_const, f"UC_ARM_REG_S{number}")) for number in range(16))


@dataclass(frozen=True)
class _Model:
    engine: int
    cpuid: int


_MODELS: Mapping[Cpu, _Model] = {
    "cortex-m0": _Model(arm_const.UC_CPU_ARM_CORTEX_M0, 0x410CC200),
    "cortex-m0+": _Model(arm_const.UC_CPU_ARM_CORTEX_M0, 0x410CC601),
    "cortex-m3": _Model(arm_const.UC_CPU_ARM_CORTEX_M3, 0x412FC231),
    "cortex-m4": _Model(arm_const.UC_CPU_ARM_CORTEX_M4, 0x410FC240),
    "cortex-m7": _Model(arm_const.UC_CPU_ARM_CORTEX_M7, 0x411FC272),
    "cortex-m33": _Model(arm_const.UC_CPU_ARM_CORTEX_M33, 0x410FD213),
}


@dataclass
class _Stop:
    """Why the engine stopped, as its hooks noted it."""

    exception: int = -1
    undefined: bool = False
    bad_address: int = -1


class _Bytes:
    """A memory's content, shared with the engine."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.content = mmap.mmap(-1, memory.bytes)
        self.host = ctypes.addressof(ctypes.c_char.from_buffer(self.content))


class Core:
    """One core with its memories and peripherals, held in reset until :meth:`reset`.

    Every method belongs to the thread that calls :meth:`run`, except :meth:`interrupt`, :meth:`read` and :meth:`write`.

    Args:
        board: name for messages.
        cpu: the core.
        memories: what it can address; the first is where code comes from.
        ns_per_instruction: of boards whose time is the emulator's; 0 where it follows the clock tree.
        boot: gives stack pointer and first instruction after a reset; None for those of the vector table.

    Attributes:
        clock: the board's time.
        system: exceptions and faults.
        sleeping: whether the core waits for an event.
        reset_requested: whether the guest asked for a reset.
    """

    def __init__(
        self,
        board: str,
        cpu: Cpu,
        memories: Sequence[Memory],
        ns_per_instruction: int,
        boot: Callable[[Core], tuple[int, int]] | None = None,
    ) -> None:
        self._board = board
        self._boot = boot or Core._boot_from_vectors
        self._bytes = [_Bytes(memory) for memory in memories]
        self._engine = new_engine(_MODELS[cpu].engine)
        self._has_fpu = cpu in ("cortex-m4", "cortex-m7", "cortex-m33")
        for one in self._bytes:
            self._map(one)
        self._counter = Counter(self._engine, self._code())
        self.clock = Clock(lambda: self._counter.instructions, ns_per_instruction)
        self.system = SystemControl(_MODELS[cpu].cpuid, self.clock, self._ask_for_reset, memories[0].address)
        self._dwt = Dwt(self.clock, lambda: bool(self.system.read(0xDFC, 4) & 1 << 24))
        self._bus = Bus(board, ())
        self._stop = _Stop()
        self._stale: list[int] = []
        self._refusal: LabError | None = None
        self.sleeping = False
        self.reset_requested = False
        self._install_hooks()

    @property
    def classes(self) -> ClassCount:
        """How many instructions of each class were executed."""
        return self._counter.classes

    def attach(self, peripherals: Sequence[Mapped]) -> None:
        """Connect the board's peripherals, once."""
        own = (Mapped(_SYSTEM, PAGE_BYTES, self.system), Mapped(0xE0001000, PAGE_BYTES, self._dwt))
        self._bus = Bus(self._board, (*peripherals, *own))
        for page in self._bus.pages:
            self._engine.mmio_map(page, PAGE_BYTES, self._mmio_read, page, self._mmio_write, page)

    # ---- signals of peripherals (bus.Signals) ----

    def set_interrupt(self, number: int, level: bool) -> None:
        """Drive an interrupt line of the NVIC."""
        self.system.set_interrupt(number, level)
        if level:
            self._counter.stop()

    def request_reset(self) -> None:
        """Reset the chip."""
        self._ask_for_reset()

    def pend_nmi(self) -> None:
        """Raise the non-maskable interrupt."""
        self.system.pending.add(NMI)
        self._counter.stop()

    # ---- from outside ----

    def interrupt(self) -> None:
        """Make :meth:`run` return soon, this one or the next; from any thread."""
        self._counter.stop()

    @property
    def interrupted(self) -> bool:
        """Whether :meth:`interrupt` was called since the last :meth:`resume`."""
        return self._counter.stopped

    def resume(self) -> None:
        """Forget earlier calls of :meth:`interrupt`; what they were for is looked at after this."""
        self._counter.resume()

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory or of the system control space, from any thread.

        Raises:
            EmulatorError: the range is not all memory.
        """
        if address >= _SYSTEM and address + size <= _SYSTEM + PAGE_BYTES:
            return bytes(self.system.read(at - _SYSTEM, 1) for at in range(address, address + size))
        one, offset = self._find(address, size)
        return bytes(one.content[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        """Place bytes in memory, flash too; from any thread as long as the core does not execute them.

        Raises:
            EmulatorError: the range is not all memory.
        """
        one, offset = self._find(address, len(data))
        one.content[offset : offset + len(data)] = data

    def code_changed(self, address: int, size: int) -> None:
        """Instructions were changed from outside."""
        self._engine.ctl_remove_cache(address, address + size)
        self._counter.forget_code()

    def registers(self) -> dict[str, int]:
        """Core registers, while the core is stopped."""
        return {name: self._get(name) for name in (*_GENERAL, "msp", "psp", "control")}

    def reset(self) -> None:
        """What the reset pin does: memories keep their content."""
        self._bus.reset()
        self.clock.reset()
        self._stop, self.sleeping, self.reset_requested = _Stop(), False, False
        for name in ("primask", "faultmask", "basepri", "xpsr", "control"):
            self._set(name, 0)
        stack, start = self._boot(self)
        self._set("msp", stack & ~3)
        self._set("lr", 0xFFFFFFFF)
        self._set("xpsr", _THUMB)
        self._set("pc", start | 1)

    def _boot_from_vectors(self) -> tuple[int, int]:
        stack, start = (int.from_bytes(self.read(self.system.vtor + 4 * word, 4), "little") for word in (0, 1))
        if not start & 1:
            raise self._lockup(f"its reset vector {start:#010x} is no Thumb address")
        return stack, start

    # ---- running ----

    def run(self) -> None:
        """Run until something has to be looked at: a request, an exception, sleep.

        Raises:
            Crash: the core locked up.
            EmulatorError: the guest does what the model of the board cannot follow.
        """
        self._take_exception()
        if self.sleeping or self.reset_requested:
            return
        # Nothing tells when the guest unmasks an exception that waits: it is looked for after every block.
        self._counter.begin(1 if self.system.next_exception(LOWEST) is not None else 0)
        self._stop = _Stop()
        status = 0
        try:
            self._engine.emu_start(self._get("pc") | 1, _UNTIL)
        except EngineError as error:
            status = error.errno
        if self._refusal is not None:
            raise self._refusal
        self._after_run(status)

    def wakes(self) -> bool:
        """Whether something ended the core's sleep (WFI also ends for an interrupt that PRIMASK holds back)."""
        below = self.system.execution_priority(0, self._get("faultmask"), self._get("basepri"))
        if self.sleeping and self.system.next_exception(below) is not None:
            self.sleeping = False
        return not self.sleeping

    def _after_run(self, status: int) -> None:
        stop, pc = self._stop, self._get("pc")
        # Unicorn takes the magic address of an exception return for code; its low bit is gone, and always was 1.
        returns = pc >= _EXC_RETURN_LEAST and self.system.active
        waits = _WAITS.get(self._half_word(pc - 2), "")
        if stop.bad_address >= 0 or stop.undefined or stop.exception in _BEFORE_THE_INSTRUCTION:
            self._counter.break_off(pc)
            # Unicorn leaves after WFE as if it knew it not; an event may always have happened, so the core goes on.
            if not (stop.undefined and waits == "wfe"):
                self._take_fault()
        else:
            self._counter.end_block()
            if returns:
                self._return(pc | 1)
            elif stop.exception == _EXCEPTION_SVC:
                self.system.pending.add(SVC)
            elif stop.exception >= 0 or status == constants.UC_ERR_FETCH_UNMAPPED:
                self._fault(BUS_FAULT, INSTRUCTION_BUS_ERROR)
            elif status:
                raise EmulatorError(f"{self._board}: Unicorn stops at {pc:#010x} with status {status}")
            elif waits == "wfi" and not self._counter.ended:
                self._sleep()
        self._forget_stale()

    def _sleep(self) -> None:
        if self._has_fpu and self._get("control") & _FPCA and not self.system.floating_point_enabled:
            raise self._bad("the firmware computes in floating point, but CPACR does not enable the unit")
        self.sleeping = True
        self.wakes()

    def _take_fault(self) -> None:
        stop = self._stop
        if stop.bad_address >= 0:
            self.system.bfar = stop.bad_address
            self._fault(BUS_FAULT, PRECISE_BUS_ERROR | BFAR_VALID)
        elif stop.exception == _EXCEPTION_BREAKPOINT:
            self._fault(HARD_FAULT, 0, hfsr=HFSR_DEBUG)
        elif stop.exception == _EXCEPTION_NO_COPROCESSOR:
            self._fault(USAGE_FAULT, NO_COPROCESSOR)
        elif not self._get("xpsr") & _THUMB:
            self._fault(USAGE_FAULT, INVALID_STATE)
        else:
            self._fault(USAGE_FAULT, UNDEFINED_INSTRUCTION)

    # ---- exceptions ----

    def _priority(self) -> int:
        return self.system.execution_priority(self._get("primask"), self._get("faultmask"), self._get("basepri"))

    def _take_exception(self) -> None:
        number = self.system.next_exception(self._priority())
        if number is not None:
            self.sleeping = False
            self._enter(number)

    def _fault(self, number: int, cfsr: int, *, hfsr: int = 0) -> None:
        handler = self.system.fault(number, cfsr, self._priority(), hfsr=hfsr)
        if handler is None:
            raise self._lockup(f"a fault inside a fault handler (CFSR {self.system.cfsr:#010x})")
        self._enter(handler)

    def _enter(self, number: int) -> None:
        """Stack a frame and start the handler (B1.5.6); the floating-point part is stored at once, never lazily."""
        control, xpsr = self._get("control"), self._get("xpsr")
        thread = not xpsr & _EXCEPTION_BITS
        on_process_stack = thread and bool(control & _SPSEL)
        floats = self._has_fpu and bool(control & _FPCA)
        before = self._get("sp")
        frame = before - (104 if floats else 32) & ~7
        padded = _FRAME_PADDED if before & 4 else 0
        words = [*(self._get(name) for name in _FRAME), self._get("pc") & ~1, xpsr & ~_FRAME_PADDED | padded]
        if floats:
            words += [*(int(self._engine.reg_read(number)) for number in _FLOATS), self._get("fpscr"), 0]
        self._push(frame, words)
        self._set("psp" if on_process_stack else "msp", frame)
        returns = 0xFFFFFFE1 | (0 if floats else _EXC_STANDARD_FRAME)
        returns |= (_EXC_THREAD if thread else 0) | (_EXC_PROCESS_STACK if on_process_stack else 0)
        if thread:
            self._set("control", control & ~(_SPSEL | _FPCA))
        vector = int.from_bytes(self.read(self.system.vtor + 4 * number, 4), "little")
        self._set("xpsr", xpsr & ~(_EXCEPTION_BITS | _FRAME_PADDED | 0x0600FC00) | _THUMB | number)
        self._set("lr", returns)
        self._set("pc", vector | 1)
        self.system.enter(number)
        if not vector & 1:
            self.system.hfsr |= HFSR_VECTOR
            raise self._lockup(f"the vector of exception {number} is {vector:#010x}")

    def _push(self, frame: int, words: Sequence[int]) -> None:
        try:
            self.write(frame, b"".join(word.to_bytes(4, "little") for word in words))
        except EmulatorError:
            self.system.cfsr |= STACKING_ERROR

    def _return(self, value: int) -> None:
        """Unstack a frame (B1.5.8)."""
        number = self._get("xpsr") & _EXCEPTION_BITS
        name = "psp" if value & _EXC_PROCESS_STACK else "msp"
        frame = self._get(name)
        floats = not value & _EXC_STANDARD_FRAME
        try:
            content = self.read(frame, 104 if floats else 32)
        except EmulatorError:
            raise self._lockup(f"it returns from exception {number} with a stack at {frame:#010x}") from None
        words = [int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4)]
        self.system.leave(number)
        if number != NMI:
            self._set("faultmask", 0)
        xpsr = words[7]
        self._set("xpsr", xpsr & ~_FRAME_PADDED)
        if value & _EXC_THREAD:
            control = self._get("control") & ~(_SPSEL | _FPCA)
            self._set("control", control | (_SPSEL if name == "psp" else 0) | (_FPCA if floats else 0))
        self._set(name, frame + len(content) + (4 if xpsr & _FRAME_PADDED else 0))
        for register, word in zip((*_FRAME, "pc"), (*words[:6], words[6] | 1), strict=True):
            self._set(register, word)
        if floats:
            for number, word in zip(_FLOATS, words[8:24], strict=True):
                self._engine.reg_write(number, word)
            self._set("fpscr", words[24])

    def _lockup(self, why: str) -> Crash:
        return Crash(
            f"{self._board}: the core locked up: {why}",
            hint="look for a smashed stack or vector table",
            report=CrashReport(self.registers()),
        )

    def _bad(self, what: str) -> EmulatorError:
        return EmulatorError(f"{self._board}: {what}", hint="on silicon this would fault or run at a wrong speed")

    # ---- hooks ----

    def _install_hooks(self) -> None:
        unmapped = constants.UC_HOOK_MEM_READ_UNMAPPED | constants.UC_HOOK_MEM_WRITE_UNMAPPED
        for first, last in self._gaps():
            # One for all addresses would make every store to memory slow.
            self._engine.hook_add(unmapped, self._on_bad_address, None, first, last)
        for memory in (one.memory for one in self._bytes if one.memory.flash):
            for address in (memory.address, *memory.aliases):
                last = address + memory.bytes - 1
                self._engine.hook_add(constants.UC_HOOK_MEM_WRITE_PROT, self._on_bad_address, None, address, last)
        self._engine.hook_add(constants.UC_HOOK_INTR, self._on_exception)
        self._engine.hook_add(constants.UC_HOOK_INSN_INVALID, self._on_undefined)

    def _gaps(self) -> list[tuple[int, int]]:
        """First and last address of every range without memory."""
        starts = sorted(
            (address, one.memory.bytes) for one in self._bytes for address in (one.memory.address, *one.memory.aliases)
        )
        ends = [0, *(address + size for address, size in starts)]
        pairs = zip(ends, [*(address for address, _ in starts), 1 << 32], strict=True)
        return [(first, last - 1) for first, last in pairs if first < last]

    def _on_bad_address(self, engine: Engine, access: int, address: int, size: int, value: int, data: object) -> bool:
        self._stop.bad_address = address
        return False

    def _on_exception(self, engine: Engine, number: int, data: object) -> None:
        self._stop.exception = number
        engine.emu_stop()

    def _on_undefined(self, engine: Engine, data: object) -> bool:
        self._stop.undefined = True
        engine.emu_stop()
        return True

    def _mmio_read(self, engine: Engine, offset: int, size: int, page: int) -> int:
        self._watch()
        try:
            mapped = self._bus.at(page + offset)
            return mapped.peripheral.read(page + offset - mapped.address, size) & (1 << 8 * size) - 1
        except LabError as error:
            # The binding would print it and go on.
            return self._give_up(error)

    def _mmio_write(self, engine: Engine, offset: int, size: int, value: int, page: int) -> None:
        self._watch()
        try:
            mapped = self._bus.at(page + offset)
            mapped.peripheral.write(page + offset - mapped.address, size, value)
            if mapped.peripheral is self.system:
                self._counter.stop()
        except LabError as error:
            self._give_up(error)

    def _give_up(self, error: LabError) -> int:
        self._refusal = self._refusal or error
        self._counter.stop()
        return 0

    def _watch(self) -> None:
        """Blocks that reach peripherals are counted instruction by instruction from their next run on."""
        if self._counter.watch_block():
            self._stale.append(self._counter.block)
            self._counter.stop()

    def _forget_stale(self) -> None:
        for address in self._stale:
            self._engine.ctl_remove_cache(address, address + 2)
        self._stale.clear()

    # ---- little things ----

    def _ask_for_reset(self) -> None:
        self.reset_requested = True
        self._counter.stop()

    def _get(self, name: str) -> int:
        return int(self._engine.reg_read(_REGISTERS[name]))

    def _set(self, name: str, value: int) -> None:
        self._engine.reg_write(_REGISTERS[name], value)

    def _half_word(self, address: int) -> int:
        try:
            return int.from_bytes(self.read(address, 2), "little")
        except EmulatorError:
            return 0

    def _find(self, address: int, size: int) -> tuple[_Bytes, int]:
        for one in self._bytes:
            for start in (one.memory.address, *one.memory.aliases):
                if start <= address and address + size <= start + one.memory.bytes:
                    return one, address - start
        raise EmulatorError(f"{self._board}: {size} bytes at {address:#010x} are not all memory")

    def _map(self, one: _Bytes) -> None:
        memory = one.memory
        permissions = constants.UC_PROT_READ | (0 if memory.flash else constants.UC_PROT_WRITE)
        permissions |= constants.UC_PROT_EXEC if memory.executable else 0
        for address in (memory.address, *memory.aliases):
            self._engine.mem_map_ptr(address, memory.bytes, permissions, one.host)

    def _code(self) -> list[tuple[int, int, int, bool]]:
        return [
            (address, one.host, one.memory.bytes, one.memory.flash)
            for one in self._bytes
            if one.memory.executable
            for address in (one.memory.address, *one.memory.aliases)
        ]
