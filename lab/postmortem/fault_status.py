"""Fault status registers in words: Arm Cortex-M (Armv6-M, Armv7-M, Armv8-M) and RISC-V's ``mcause``.

Bit positions and names: Armv7-M Architecture Reference Manual (Arm DDI 0403E), B3.2.15 (CFSR), B3.2.16 (HFSR), C1.6.1
(DFSR); Armv8-M Architecture Reference Manual (Arm DDI 0553), register descriptions (CFSR with STKOF, SFSR, DFSR with
PMU) and the payload of EXC_RETURN; RISC-V Privileged Architecture 1.12, table 3.6. The words are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lab.errors import FaultBit

BUS_FAULT_ADDRESS_VALID = 1 << 15
MEMORY_FAULT_ADDRESS_VALID = 1 << 7
SECURE_FAULT_ADDRESS_VALID = 1 << 6


@dataclass(frozen=True)
class _Bit:
    name: str
    meaning: str
    cause: str = ""


_CFSR: Mapping[int, _Bit] = {
    0: _Bit(
        "IACCVIOL",
        "the MPU, or memory marked execute-never, forbids to fetch this instruction",
        "a call through a function pointer that is null, stale or points to data; a return address overwritten on the "
        "stack",
    ),
    1: _Bit(
        "DACCVIOL",
        "the MPU forbids this load or store",
        "a pointer outside of what the code may touch; a stack that ran into a guard region",
    ),
    3: _Bit("MUNSTKERR", "the MPU forbade to unstack on return from an exception", "the stack was damaged or its "
            "pointer moved while the handler ran"),
    4: _Bit("MSTKERR", "the MPU forbade to stack the registers on entry to an exception", "the stack overflowed into "
            "a guard region"),
    5: _Bit("MLSPERR", "the MPU forbade the late stacking of the floating-point registers", "the stack overflowed, or "
            "its memory was protected after the exception"),
    7: _Bit("MMARVALID", "MMFAR holds the address"),
    8: _Bit(
        "IBUSERR",
        "the bus answered an instruction fetch with an error",
        "a jump to where no memory is: a damaged return address or function pointer, or flash that is not programmed",
    ),
    9: _Bit(
        "PRECISERR",
        "the bus answered a load or store with an error; the stacked pc is that instruction",
        "a pointer to where nothing is mapped, or a peripheral whose clock is off",
    ),
    10: _Bit(
        "IMPRECISERR",
        "the bus answered an earlier, buffered store with an error; the stacked pc is some instructions too late",
        "as for PRECISERR, by a store; set ACTLR.DISDEFWBUF, where the core has it, and run again: it becomes precise",
    ),
    11: _Bit("UNSTKERR", "the bus answered unstacking on return from an exception with an error", "the stack pointer "
             "left the RAM while the handler ran"),
    12: _Bit("STKERR", "the bus answered stacking on entry to an exception with an error", "the stack overflowed out "
             "of the RAM, or its pointer was never set"),
    13: _Bit("LSPERR", "the bus answered the late stacking of the floating-point registers with an error", "the stack "
             "overflowed out of the RAM"),
    15: _Bit("BFARVALID", "BFAR holds the address"),
    16: _Bit(
        "UNDEFINSTR",
        "the instruction is not defined on this core",
        "code built for another core, a jump into data, or a trap that the compiler put behind undefined behaviour",
    ),
    17: _Bit(
        "INVSTATE",
        "an instruction was to run in Arm state, which Cortex-M does not have",
        "a branch to an address with bit 0 clear: a function pointer made from a number, a damaged vector table, a "
        "null pointer called",
    ),
    18: _Bit("INVPC", "an exception returned with an impossible EXC_RETURN or xPSR", "the stack or the link register "
             "was damaged inside a handler"),
    19: _Bit("NOCP", "the instruction belongs to a coprocessor that is absent or switched off", "floating-point code "
             "before CPACR enables the FPU, or on a core without one"),
    20: _Bit("STKOF", "the stack pointer went below its limit register", "the stack overflowed (MSPLIM or PSPLIM)"),
    24: _Bit("UNALIGNED", "an unaligned access that is not supported", "a cast to a wider type; LDRD, LDM and "
             "exclusive accesses never take unaligned addresses, others do not with CCR.UNALIGN_TRP set"),
    25: _Bit("DIVBYZERO", "an integer division by zero", "CCR.DIV_0_TRP is set; without it the quotient is 0"),
}  # fmt: skip

_HFSR: Mapping[int, _Bit] = {
    1: _Bit("VECTTBL", "the bus answered the read of a vector with an error", "VTOR points to where no memory is"),
    30: _Bit("FORCED", "another fault became a hard fault: its handler is off, or its priority too low", "see the "
             "other fault registers"),
    31: _Bit("DEBUGEVT", "a breakpoint instruction without a debugger", "a bkpt that was left in, or semihosting "
             "without a host"),
}  # fmt: skip

_DFSR: Mapping[int, _Bit] = {
    0: _Bit("HALTED", "halted by the debugger, or after a step"),
    1: _Bit("BKPT", "a breakpoint was met"),
    2: _Bit("DWTTRAP", "a watchpoint was met"),
    3: _Bit("VCATCH", "a vector catch: the debugger had asked to stop at this exception"),
    4: _Bit("EXTERNAL", "an external debug request"),
    5: _Bit("PMU", "a counter of the performance monitor overflowed"),
}

_SFSR: Mapping[int, _Bit] = {
    0: _Bit("INVEP", "non-secure code entered secure code elsewhere than at a gateway", "a call to a secure function "
            "that is no entry function"),
    1: _Bit("INVIS", "the integrity signature of a stack frame is wrong", "the secure stack was damaged, or the wrong "
            "frame unstacked"),
    2: _Bit("INVER", "an exception returned to the wrong security state", "EXC_RETURN was damaged"),
    3: _Bit("AUVIOL", "non-secure code touched memory that the SAU or the IDAU calls secure", "a pointer into secure "
            "memory, or a region missing in the SAU"),
    4: _Bit("INVTRAN", "secure code branched to non-secure code without saying so", "a function pointer to non-secure "
            "code that is not called as one (BLXNS)"),
    5: _Bit("LSPERR", "the late stacking of the floating-point registers violated security", "FPCAR was changed, or "
            "the SAU after the exception"),
    6: _Bit("SFARVALID", "SFAR holds the address"),
    7: _Bit("LSERR", "the state of late floating-point stacking is inconsistent", "FPCCR was changed by hand"),
}  # fmt: skip

_REGISTERS: Mapping[str, Mapping[int, _Bit]] = {"cfsr": _CFSR, "hfsr": _HFSR, "dfsr": _DFSR, "sfsr": _SFSR}

# Address registers: which bit of which register makes them mean something.
_ADDRESSES = {
    "mmfar": ("cfsr", MEMORY_FAULT_ADDRESS_VALID, "the address of the forbidden access"),
    "bfar": ("cfsr", BUS_FAULT_ADDRESS_VALID, "the address of the access that failed"),
    "sfar": ("sfsr", SECURE_FAULT_ADDRESS_VALID, "the address of the access against security"),
}
_ADDRESS_BITS = {"MMARVALID", "BFARVALID", "SFARVALID"}

_EXCEPTIONS = {
    0: "thread mode",
    1: "Reset",
    2: "NMI",
    3: "HardFault",
    4: "MemManage",
    5: "BusFault",
    6: "UsageFault",
    7: "SecureFault",
    11: "SVCall",
    12: "DebugMonitor",
    14: "PendSV",
    15: "SysTick",
}
_FIRST_INTERRUPT = 16
_EXCEPTION_MASK = 0x1FF

_MCAUSE_EXCEPTIONS: Mapping[int, _Bit] = {
    0: _Bit("instruction address misaligned", "a jump to an odd address", "a damaged return address or pointer"),
    1: _Bit("instruction access fault", "an instruction cannot be fetched", "a jump to where no memory is"),
    2: _Bit("illegal instruction", "the instruction is not defined on this core", "code built for another core, or a "
            "jump into data"),
    3: _Bit("breakpoint", "an ebreak was met", "a trap that the compiler put behind undefined behaviour"),
    4: _Bit("load address misaligned", "an unaligned load", "a cast to a wider type"),
    5: _Bit("load access fault", "a load met no memory", "a pointer to where nothing is mapped"),
    6: _Bit("store/AMO address misaligned", "an unaligned store", "a cast to a wider type"),
    7: _Bit("store/AMO access fault", "a store met no memory", "a pointer to where nothing is mapped, or to flash"),
    8: _Bit("environment call from U-mode", "an ecall"),
    9: _Bit("environment call from S-mode", "an ecall"),
    11: _Bit("environment call from M-mode", "an ecall"),
    12: _Bit("instruction page fault", "the page of an instruction is not mapped"),
    13: _Bit("load page fault", "the page of a load is not mapped"),
    15: _Bit("store/AMO page fault", "the page of a store is not mapped"),
}  # fmt: skip
_MCAUSE_INTERRUPTS = {
    1: "supervisor software", 3: "machine software", 5: "supervisor timer", 7: "machine timer",
    9: "supervisor external", 11: "machine external",
}  # fmt: skip

# Linux, signal(7) and sigaction(2): what the hosted runner's handler tells of.
_SIGNALS: Mapping[int, _Bit] = {
    4: _Bit("SIGILL", "an illegal instruction", "a trap that the compiler put behind undefined behaviour"),
    7: _Bit("SIGBUS", "a bad access to memory", "an unaligned access, or a mapped file that has become shorter"),
    8: _Bit("SIGFPE", "an arithmetic error", "an integer division by zero"),
    11: _Bit("SIGSEGV", "an access to memory that is not mapped, or may not be touched so", "a null or wild pointer"),
}


def decode(registers: Mapping[str, int]) -> tuple[FaultBit, ...]:
    """All that the fault registers among ``registers`` say: one entry per bit that is set, addresses where valid.

    Args:
        registers: lower-case names (``cfsr hfsr mmfar bfar dfsr afsr sfsr sfar mcause mtval``, of the hosted runner
            ``signal address_low address_high``) to 32-bit values; others are ignored.
    """
    found: list[FaultBit] = []
    for register, bits in _REGISTERS.items():
        found += _bits(register, registers.get(register, 0), bits)
    for register, (status, valid, meaning) in _ADDRESSES.items():
        if registers.get(status, 0) & valid and register in registers:
            found.append(FaultBit(register.upper(), f"{registers[register]:#010x}", meaning))
    if registers.get("afsr"):
        meaning = "what this means is the chip's own: see its manual"
        found.append(FaultBit("AFSR", f"{registers['afsr']:#010x}", meaning))
    if "mcause" in registers:
        found += _mcause(registers["mcause"], registers.get("mtval"))
    if "signal" in registers:
        found += _signal(registers)
    return tuple(found)


def _bits(register: str, value: int, bits: Mapping[int, _Bit]) -> list[FaultBit]:
    found = []
    for position in (position for position in range(32) if value >> position & 1):
        bit = bits.get(position)
        if bit is None:
            found.append(FaultBit(register.upper(), f"bit {position}", "reserved: the manuals give it no meaning"))
        # An address bit is told with its address.
        elif bit.name not in _ADDRESS_BITS:
            found.append(FaultBit(register.upper(), bit.name, bit.meaning, bit.cause))
    return found


def _mcause(value: int, mtval: int | None) -> list[FaultBit]:
    code = value & 0x7FFFFFFF
    if value >> 31:
        name = _MCAUSE_INTERRUPTS.get(code, f"number {code}")
        return [FaultBit("MCAUSE", f"interrupt {code}", f"{name} interrupt")]
    bit = _MCAUSE_EXCEPTIONS.get(code)
    if bit is None:
        return [FaultBit("MCAUSE", f"code {code}", "reserved: the manuals give it no meaning")]
    found = [FaultBit("MCAUSE", bit.name, bit.meaning, bit.cause)]
    if mtval:
        found.append(FaultBit("MTVAL", f"{mtval:#010x}", "the address or the instruction at fault"))
    return found


def _signal(registers: Mapping[str, int]) -> list[FaultBit]:
    number = registers["signal"]
    bit = _SIGNALS.get(number, _Bit(f"number {number}", "a signal that is not expected here"))
    address = registers.get("address_high", 0) << 32 | registers.get("address_low", 0)
    return [
        FaultBit("SIGNAL", bit.name, bit.meaning, bit.cause),
        FaultBit("ADDRESS", f"{address:#x}", "what was touched, or the instruction at fault"),
    ]


def exception_name(xpsr: int) -> str:
    """The exception whose handler runs, from the lowest nine bits of xPSR; ``thread mode`` for none."""
    number = xpsr & _EXCEPTION_MASK
    if number >= _FIRST_INTERRUPT:
        return f"interrupt {number - _FIRST_INTERRUPT}"
    return _EXCEPTIONS.get(number, f"reserved exception {number}")


def describe_xpsr(xpsr: int) -> str:
    """The parts of xPSR: flags that are set, Thumb state, what an IT block or a load of many has left, the exception.

    Armv7-M ARM B1.4.2.
    """
    flags = "".join(name for name, bit in zip("NZCVQ", range(31, 26, -1), strict=True) if xpsr >> bit & 1)
    parts = [flags or "no flags"]
    if not xpsr >> 24 & 1:
        parts.append("not in Thumb state")
    # ICI/IT is split: [26:25] and [15:10].
    if xpsr >> 25 & 3 or xpsr >> 10 & 0x3F:
        parts.append("in an IT block or an interrupted load or store of several registers")
    parts.append(exception_name(xpsr))
    return ", ".join(parts)


@dataclass(frozen=True)
class ExceptionReturn:
    """What an EXC_RETURN value says (Armv7-M ARM B1.5.8; Armv8-M ARM, EXC_RETURN payload).

    Attributes:
        to_thread: returns to thread mode, else to a handler.
        process_stack: the frame lies on the process stack, else on the main stack.
        float_frame: the frame has room for floating-point registers.
        secure: the frame lies on a secure stack (Armv8-M; meaningless before).
        callee_saved: r4 to r11 and a signature lie below the frame (Armv8-M, secure code interrupted by non-secure).
    """

    to_thread: bool
    process_stack: bool
    float_frame: bool
    secure: bool
    callee_saved: bool

    def __str__(self) -> str:
        mode = "thread mode" if self.to_thread else "a handler"
        stack = "process" if self.process_stack else "main"
        size = "with" if self.float_frame else "without"
        return f"returns to {mode}, frame on the {stack} stack {size} floating-point registers"


def exception_return(value: int) -> ExceptionReturn | None:
    """``value`` as EXC_RETURN; None where it is an ordinary address.

    Bits 31 to 7 are ones and bit 1 is zero, unlike in what the link register holds at reset. On Armv7-M bits 5 and 6
    are ones, too.
    """
    if value & 0xFFFFFF82 != 0xFFFFFF80:
        return None
    secure, default_stacking, exception_secure = value >> 6 & 1, value >> 5 & 1, value & 1
    return ExceptionReturn(
        to_thread=bool(value >> 3 & 1),
        process_stack=bool(value >> 2 & 1),
        float_frame=not value >> 4 & 1,
        secure=bool(secure),
        # Armv8-M ARM, PopStack(): a return to secure state pops them unless the exception was secure, too.
        callee_saved=bool(secure and (not exception_secure or not default_stacking)),
    )
