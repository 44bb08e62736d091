"""A post-mortem as text, for exceptions, reports and the command line. docs/crashes.md says how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from textwrap import wrap
from typing import Literal

from lab.errors import CrashReport, DeviceError, FaultBit, Hang, StackFrame, StackUse
from lab.postmortem.fault_status import describe_xpsr, exception_return

_PER_ROW = 4
_WIDTH = 110
_FOUND = {
    "registers": "",
    "unwound": "",
    "inlined": "  (inlined)",
    "exception": "  (interrupted by the exception above)",
    "link-register": "  (by the link register)",
    "scan": "  (found on the stack: may be left over)",
}


def explained(error: DeviceError, report: CrashReport) -> DeviceError:
    """The same error, with its post-mortem in its text and in its ``report``.

    The first line says where, since that line is all that overviews show.
    """
    first, _, rest = error.message.partition("\n")
    if report.location:
        first = f"{first}; {whereabouts(report, 'is' if isinstance(error, Hang) else 'was')}"
    else:
        first += _region(report)
    lines = [first, rest, render(report)]
    return type(error)("\n".join(filter(None, lines)), hint=error.hint, report=report)


def whereabouts(report: CrashReport, tense: Literal["is", "was"] = "is") -> str:
    """Where a core is, or was when it failed."""
    return f"the core {tense} at {report.location or 'an unknown place'}{_region(report)}"


def _region(report: CrashReport) -> str:
    return f" in region {report.region!r}" if report.region else ""


def render(report: CrashReport) -> str:
    """Everything a report holds, as indented lines; empty where it holds nothing."""
    parts = (
        _section("faults", [line for one in report.faults for line in _fault(one)]),
        _section("registers", _registers(report.registers)),
        _section("backtrace", _backtrace(report.backtrace, report.ended)),
        _section("stacks", [_stack(one) for one in report.stacks]),
    )
    return "\n".join(line for part in parts for line in part)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"  {title}:", *(f"    {line}" for line in lines)] if lines else []


def _fault(fault: FaultBit) -> Iterator[str]:
    yield from wrap(f"{fault.register} {fault.name}: {fault.meaning}", _WIDTH, subsequent_indent="  ")
    if fault.cause:
        yield from wrap(f"usually: {fault.cause}", _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _registers(registers: Mapping[str, int]) -> list[str]:
    core = [name for name in ("pc", "lr", "ra", "sp", "xpsr") if name in registers]
    others = [name for name in registers if name not in core]
    named = [f"{name}={registers[name]:#010x}" for name in core + sorted(others, key=_register_order)]
    rows = [" ".join(named[at : at + _PER_ROW]) for at in range(0, len(named), _PER_ROW)]
    if "xpsr" in registers:
        rows.append(f"xpsr: {describe_xpsr(registers['xpsr'])}")
    returned = exception_return(registers.get("exc_return", 0))
    if returned is not None:
        rows.append(f"exc_return: {returned}")
    return rows


def _register_order(name: str) -> tuple[str, int]:
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    return (name.removesuffix(digits), int(digits) if digits.isdecimal() else 0)


def _backtrace(frames: tuple[StackFrame, ...], ended: str) -> list[str]:
    lines = []
    number = 0
    for _, group in groupby(frames, key=lambda frame: (frame.function, frame.place, frame.address)):
        equal = list(group)
        lines.append(f"#{number:<2} {_frame(equal[0])}")
        number += len(equal)
        if len(equal) > 1:
            lines.append(f"    … and {len(equal) - 1} more of the same")
    if ended:
        lines.append(f"the backtrace ends: {ended}")
    return lines


def _frame(frame: StackFrame) -> str:
    place = f" at {frame.place}" if frame.place else ""
    function = frame.function or "no function of the image"
    return f"{frame.address:#010x} {function}{place}{_FOUND[frame.found]}"


def _stack(stack: StackUse) -> str:
    size = stack.high - stack.low
    parts = [f"{stack.name} [{stack.low:#010x}, {stack.high:#010x}), {size} bytes"]
    if stack.overflowed:
        parts.append("OVERFLOWED")
    if stack.pointer is not None and stack.pointer >= stack.low:
        parts.append(f"pointer {stack.pointer:#010x}, {stack.high - stack.pointer} in use")
    elif stack.pointer is not None:
        parts.append(f"pointer {stack.pointer:#010x}, outside of it")
    if stack.high_water_bytes is not None:
        parts.append(f"{stack.high_water_bytes} at the most")
    return "; ".join(parts)
