"""What the runner as a process has in common wherever it runs: how it ended, where it failed, what it counted."""

from __future__ import annotations

import signal
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from lab.errors import ConfigError, Crash, DeviceError, InfrastructureError, LabError, ProtocolError, StackFrame
from lab.events import Event, ResultEvent
from lab.postmortem.fault_status import decode
from lab.postmortem.text import explained

COUNT_BYTES = 8
_WRITABLE = 2  # PF_W of elf(5)
_PAGE = 1 << 16  # the largest page in use
_SIGNAL_BASE = 128  # how shells tell a signal in an exit status
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_CAUSES = {
    "SIGKILL": "somebody's kill, or the kernel's for its memory, which it would say in its log: dmesg",
    "SIGSYS": "a filter forbids a system call the runner makes: Android does that to apps; use adb, not Termux, there",
    "SIGILL": "the processor lacks an instruction the image uses: is the board kind the right one?",
}


def ended(who: str, status: int, words: str) -> LabError:
    """The error of a runner that is no more.

    Args:
        who: names it.
        status: exit status; 128 + n where signal n ended it.
        words: the last of what it complained.
    """
    said = words.strip() or "(it said nothing)"
    if status in (_NOT_EXECUTABLE, _NOT_FOUND):
        return InfrastructureError(
            f"{who} could not be executed on the device (status {status}): {said}",
            hint="is the folder on a file system mounted noexec? name another with folder: in the bench file",
        )
    name = signal_name(status)
    how = f"was ended by {name}" if name else f"ended with status {status}"
    return Crash(f"{who} {how}: {said}", hint=_CAUSES.get(name, ""))


def signal_name(status: int) -> str:
    """The signal in an exit status, such as ``SIGKILL``; empty where it was none."""
    number = -status if status < 0 else status - _SIGNAL_BASE
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def explain_fault(error: DeviceError, elf: Path) -> DeviceError:
    """The same error with its signal in words and, where the image lies at fixed addresses, the function it was in.

    Args:
        error: what the session raised.
        elf: the image that ran.
    """
    registers = error.report.registers
    if not registers:
        return error
    report = replace(error.report, faults=decode(registers))
    pc = registers.get("pc_high", 0) << 32 | registers.get("pc_low", 0)
    function = function_at(elf, pc) if pc else ""
    if function:
        frame = StackFrame(pc, function, "", "registers")
        report = replace(report, location=function, backtrace=(frame,), ended="a process sends no stack")
    return explained(error, report)


def function_at(elf: Path, address: int) -> str:
    """The function an address lies in; empty where none does, or where the system chose the addresses at run time."""
    try:
        with elf.open("rb") as stream:
            image = ELFFile(stream)
            table = image.get_section_by_name(".symtab")
            if image["e_type"] != "ET_EXEC" or not isinstance(table, SymbolTableSection):
                return ""
            functions = sorted(
                (int(one["st_value"]), int(one["st_size"]), str(one.name))
                for one in table.iter_symbols()
                if one["st_info"]["type"] == "STT_FUNC"
            )
    except (OSError, ELFError):
        return ""
    at = bisect_right(functions, (address, 1 << 64, "")) - 1
    if at < 0:
        return ""
    start, size, name = functions[at]
    return name if start <= address < start + max(size, 1) else ""


def own_bytes(elf: Path) -> int:
    """Memory that a static program has from its start and may write to, whether it touches it or not."""
    with elf.open("rb") as stream:
        segments = [one.header for one in ELFFile(stream).iter_segments("PT_LOAD")]
    return sum(-(-one["p_memsz"] // _PAGE) * _PAGE + _PAGE for one in segments if one["p_flags"] & _WRITABLE)


def counted(events: Iterable[Event]) -> dict[str, int]:
    """Instructions by region, as the job ``count`` sends them (docs/wire.md).

    Raises:
        ProtocolError: a count that is none.
    """
    found: dict[str, int] = {}
    for event in events:
        if isinstance(event, ResultEvent):
            if len(event.data) != COUNT_BYTES:
                raise ProtocolError(f"the count of {event.name!r} has {len(event.data)} bytes, expected {COUNT_BYTES}")
            found[event.name] = int.from_bytes(event.data, "little")
    return found


HOST = "host"
"""The board that is built for whatever computer the lab runs on."""
_MACHINES: Mapping[str, tuple[str, ...]] = {
    "linux-aarch64": ("aarch64", "arm64"),
    "linux-armv7": ("armv7l", "armv8l"),
    "linux-x86-64": ("x86_64", "amd64"),
}


def check_machine(device: str, board: str, machine: str) -> None:
    """Refuse an image of another architecture before it is sent.

    Args:
        device: its name.
        board: the folder of ``firmware/boards`` that the image was built from.
        machine: what ``uname -m`` says there.

    Raises:
        ConfigError: it could not run.
    """
    allowed = _MACHINES.get(board, ())
    if machine in allowed or board == HOST:
        return
    fitting = next((name for name, machines in _MACHINES.items() if machine in machines), "")
    way_out = f"name a board kind with firmware_board: {fitting}" if fitting else f"there are: {', '.join(_MACHINES)}"
    raise ConfigError(
        f"{device} is a {machine or 'machine that does not say what it is'} (uname -m); an image for {board} runs on "
        f"{', '.join(allowed) or 'no such device'}",
        hint=f"{way_out} (device_configs/boards)",
    )
