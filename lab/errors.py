"""The error tree of the lab.

Every error a user can meet is a :class:`LabError` whose text says what was found, where, what is allowed and how to
get out. The branch says who has to act: the user (:class:`ConfigError`), the bench (:class:`InfrastructureError`), the
device under test (:class:`DeviceError`), the method (:class:`WorkloadError`) or the author of a limit
(:class:`BudgetExceeded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.printable import printable


class LabError(Exception):
    """Base of every error the lab raises on purpose.

    Args:
        message: what was found, where, and what is allowed. It often holds a device's own words, so it is made
            printable here, for all errors.
        hint: the way out, shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = printable(message)
        self.hint = printable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class ConfigError(LabError):
    """Something the user wrote or has not installed; nothing was run."""


class ToolMissing(ConfigError):
    """A program or package that is needed is not installed."""


class CompileError(ConfigError):
    """A model cannot be compiled as asked: unknown operator, dtype, shape, or it does not fit."""


class DoesNotFit(CompileError):
    """A compiled model needs more memory than the device has."""


class NoPyTorch(ConfigError):
    """A device has no Python that runs PyTorch; what is compared with it there is not measured."""


class NoAccelerator(NoPyTorch):
    """A device's PyTorch does not have the accelerator that was asked for."""


class InfrastructureError(LabError):
    """The bench failed; says nothing about the device under test or the workload.

    Attributes:
        transient: whether trying again on a recovered device makes sense.
    """

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class LeaseLost(InfrastructureError):
    """The device is held by, or was taken over by, somebody else."""


class TransportError(InfrastructureError):
    """A serial line, socket or shell could not be opened or broke."""


class HostKeyUnknown(ConfigError):
    """A host was met for the first time: nobody said which key it must have."""


class HostKeyChanged(TransportError):
    """A host shows another key than the one it must have; never tried again, since who answers may be somebody else."""


class DiskFull(InfrastructureError):
    """A file does not fit on a device's disk."""


class PhoneUnauthorized(TransportError):
    """A phone does not trust this computer's ADB key; somebody has to say so on its screen."""


class PhoneOffline(TransportError):
    """A phone is known to the ADB server but does not answer, or is not known to it at all."""


class ProbeError(InfrastructureError):
    """A debug probe failed."""


class MeterError(InfrastructureError):
    """A power meter failed, lost samples or was saturated."""


class EmulatorError(InfrastructureError):
    """An emulator could not be started or died for reasons of its own."""


class StoreError(InfrastructureError):
    """The local store or its mirror failed."""


@dataclass(frozen=True)
class FaultBit:
    """One thing a fault status register says.

    Attributes:
        register: which register, such as ``CFSR``.
        name: the bit or field, as the architecture manual names it.
        meaning: what it says, in words.
        cause: what usually leads to it; empty where there is nothing to say.
    """

    register: str
    name: str
    meaning: str
    cause: str = ""


@dataclass(frozen=True)
class StackFrame:
    """One call of a backtrace.

    Attributes:
        address: the instruction that runs, or that comes after the call.
        function: its function, else empty.
        place: ``file:line`` where the image tells, else empty.
        found: how this frame was found: ``registers`` (the first), ``unwound`` (from the call-frame information),
            ``inlined`` (into the next one), ``exception`` (interrupted by the frame before it), ``link-register`` (the
            return address of a function without call-frame information) or ``scan`` (a return address that lies on the
            stack, which may be left over from an earlier call).
    """

    address: int
    function: str
    place: str
    found: str


@dataclass(frozen=True)
class StackUse:
    """A stack and how much of it was used.

    Attributes:
        name: the symbol of its memory.
        low, high: addresses ``[low, high)``.
        pointer: its stack pointer, None where not known.
        high_water_bytes: the most bytes that were ever used, from the paint; None where its memory cannot be read.
        overflowed: whether it was used to its end or beyond.
    """

    name: str
    low: int
    high: int
    pointer: int | None = None
    high_water_bytes: int | None = None
    overflowed: bool = False


@dataclass(frozen=True)
class CrashReport:
    """What a device told, or a probe or an emulator saw, of a crash or a hang.

    Attributes:
        registers: register name (``pc``, ``lr``, ``cfsr`` …) to value.
        location: ``function at file:line`` of ``pc`` where symbols are known, else empty.
        region: the region that was running, else empty.
        memory: what was read of the device's memory: (address, bytes).
        stack_high_water_bytes: the device's own count of the most bytes ever used of its stack, None where not told.
        faults: the fault status registers, decoded.
        backtrace: innermost frame first.
        ended: why the backtrace goes no further; empty where it is complete.
        stacks: bounds and use of the stacks.
    """

    registers: Mapping[str, int] = field(default_factory=dict)
    location: str = ""
    region: str = ""
    memory: tuple[tuple[int, bytes], ...] = ()
    stack_high_water_bytes: int | None = None
    faults: tuple[FaultBit, ...] = ()
    backtrace: tuple[StackFrame, ...] = ()
    ended: str = ""
    stacks: tuple[StackUse, ...] = ()


class DeviceError(LabError):
    """The device under test failed.

    Attributes:
        report: what is known of the core when it failed; empty where it told nothing.
    """

    def __init__(self, message: str, *, hint: str = "", report: CrashReport | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report or CrashReport()


class Hang(DeviceError):
    """The device stopped answering."""


class Crash(DeviceError):
    """The device took a fault or locked up."""


class OutOfMemory(DeviceError):
    """The device ran out of stack, arena or heap."""


class ProtocolError(DeviceError):
    """The device broke the wire protocol: a gap, a wrong build id, an impossible message."""


class WorkloadError(LabError):
    """The method failed: accuracy below its floor, a wrong result, NaN."""


class BudgetExceeded(LabError):
    """A measured figure is above what the test allows."""
