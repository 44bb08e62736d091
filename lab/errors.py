"""The error tree of the lab.

Every error a user can meet is a :class:`LabError` whose text says what was found, where, what is allowed and how to
get out. The branch says who has to act: the user (:class:`ConfigError`), the bench (:class:`InfrastructureError`), the
device under test (:class:`DeviceError`), the method (:class:`WorkloadError`) or the author of a limit
(:class:`BudgetExceeded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class LabError(Exception):
    """Base of every error the lab raises on purpose.

    Args:
        message: what was found, where, and what is allowed.
        hint: the way out, shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class ConfigError(LabError):
    """Something the user wrote or has not installed; nothing was run."""


class ToolMissing(ConfigError):
    """A program or package that is needed is not installed."""


class CompileError(ConfigError):
    """A model cannot be compiled as asked: unknown operator, dtype, shape, or it does not fit."""


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


class ProbeError(InfrastructureError):
    """A debug probe failed."""


class MeterError(InfrastructureError):
    """A power meter failed, lost samples or was saturated."""


class EmulatorError(InfrastructureError):
    """An emulator could not be started or died for reasons of its own."""


class StoreError(InfrastructureError):
    """The local store or its mirror failed."""


class DeviceError(LabError):
    """The device under test failed."""


class Hang(DeviceError):
    """The device stopped answering."""


@dataclass(frozen=True)
class CrashReport:
    """What a device told, or an emulator saw, of a crash.

    Attributes:
        registers: register name (``pc``, ``lr``, ``cfsr`` …) to value.
        location: ``function at file:line`` of ``pc`` where symbols are known, else empty.
        region: the region that was running, else empty.
    """

    registers: Mapping[str, int] = field(default_factory=dict)
    location: str = ""
    region: str = ""


class Crash(DeviceError):
    """The device took a fault or locked up."""

    def __init__(self, message: str, *, hint: str = "", report: CrashReport | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report or CrashReport()


class OutOfMemory(DeviceError):
    """The device ran out of stack, arena or heap."""


class ProtocolError(DeviceError):
    """The device broke the wire protocol: a gap, a wrong build id, an impossible message."""


class WorkloadError(LabError):
    """The method failed: accuracy below its floor, a wrong result, NaN."""


class BudgetExceeded(LabError):
    """A measured figure is above what the test allows."""
