"""Post-mortems: from a core that can be looked at, or from what a device told when it crashed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from lab.errors import CrashReport
from lab.postmortem.fault_status import (
    BUS_FAULT_ADDRESS_VALID,
    MEMORY_FAULT_ADDRESS_VALID,
    SECURE_FAULT_ADDRESS_VALID,
    decode,
)
from lab.postmortem.image import ARM, Image
from lab.postmortem.memory import KeptMemory, LiveMemory, Memory, read_word
from lab.postmortem.stack import RUNNER_STACK, bounds, examine
from lab.postmortem.unwind import unwind

# System control block: Armv7-M ARM table B3-4; the secure ones Armv8-M ARM D1.1.
_FAULT_REGISTERS = {
    "cfsr": 0xE000ED28,
    "hfsr": 0xE000ED2C,
    "dfsr": 0xE000ED30,
    "mmfar": 0xE000ED34,
    "bfar": 0xE000ED38,
    "afsr": 0xE000ED3C,
}
_SECURE_FAULT_REGISTERS = {"sfsr": 0xE000EDE4, "sfar": 0xE000EDE8}
_HALTED = 1
_MOST_NAME_BYTES = 64


class Core(Protocol):
    """A core that can be looked at: through a debug probe, or an emulated one."""

    def halted(self) -> AbstractContextManager[None]:
        """Halt the core for as long as the context lasts; it goes on afterwards if it was running."""

    def registers(self) -> Mapping[str, int]:
        """Core registers, lower-case names; ``msp`` and ``psp`` where they can be had."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory.

        Raises:
            InfrastructureError: nothing answers there.
        """


def examine_core(core: Core, elf: Path) -> CrashReport:
    """The post-mortem of a core as it is now; it goes on afterwards if it was running.

    Args:
        core: the core.
        elf: the image that runs on it.

    Raises:
        ConfigError: the image cannot be read.
        InfrastructureError: the core cannot be reached.
    """
    image = Image(elf)
    with core.halted():
        registers = dict(core.registers())
        memory = LiveMemory(image, core.read_memory)
        if image.machine is ARM:
            registers |= _fault_registers(memory, with_security=image.has_security)
        elif not registers.get("mcause") and not registers.get("mtval"):
            # As after a reset: no trap has been taken.
            registers = {name: value for name, value in registers.items() if name not in ("mcause", "mtval")}
        for stack in bounds(image):
            # At once, since a probe takes long for each word.
            memory.preload(stack.low, stack.high - stack.low)
        return _explained(image, memory, CrashReport(registers, region=_running_region(image, memory)))


def explain_report(report: CrashReport, elf: Path) -> CrashReport:
    """What a device told of its own crash, with all that its image adds.

    Args:
        report: registers, and pieces of the stack where the device sent them.
        elf: the image that ran.

    Raises:
        ConfigError: the image cannot be read.
    """
    image = Image(elf)
    return _explained(image, KeptMemory(image, report.memory), report)


def _explained(image: Image, memory: Memory, report: CrashReport) -> CrashReport:
    registers = report.registers
    stacks = examine(image, memory, registers, report.stack_high_water_bytes)
    backtrace = unwind(image, memory, _with_stack_pointer(registers, report, image))
    # What was found by searching the stack is not where the core was.
    known = bool(backtrace.frames) and backtrace.frames[0].found != "scan"
    return replace(
        report,
        location=image.where(backtrace.frames[0].address) if known else "",
        faults=decode(registers),
        backtrace=backtrace.frames,
        ended=backtrace.ended,
        stacks=stacks,
    )


def _with_stack_pointer(registers: Mapping[str, int], report: CrashReport, image: Image) -> Mapping[str, int]:
    """After an overflow the stack pointer lies where no memory is; the calls lie from the lowest piece on."""
    low = next((one.low for one in bounds(image) if one.name == RUNNER_STACK), 0)
    if "pc" in registers or not report.memory or registers.get("sp", low) >= low:
        return registers
    return {**registers, "sp": min(address for address, _ in report.memory)}


def _fault_registers(memory: Memory, *, with_security: bool) -> Mapping[str, int]:
    """Fault registers that say something; some emulators lack some of them."""
    places = {**_FAULT_REGISTERS, **(_SECURE_FAULT_REGISTERS if with_security else {})}
    read = {name: read_word(memory, address) for name, address in places.items()}
    found = {name: value for name, value in read.items() if value is not None}
    # Set by whoever halted the core to read this.
    found["dfsr"] = found.get("dfsr", 0) & ~_HALTED
    valid = {
        "mmfar": found.get("cfsr", 0) & MEMORY_FAULT_ADDRESS_VALID,
        "bfar": found.get("cfsr", 0) & BUS_FAULT_ADDRESS_VALID,
        "sfar": found.get("sfsr", 0) & SECURE_FAULT_ADDRESS_VALID,
    }
    return {name: value for name, value in found.items() if valid.get(name, value or name in ("cfsr", "hfsr"))}


def _running_region(image: Image, memory: Memory) -> str:
    """The region the runner says it is in: a string that a variable of firmware/runner/region.c points to."""
    variable = image.variable("running", "region.c")
    address = None if variable is None else read_word(memory, variable.address)
    text = bytearray()
    while address is not None and len(text) < _MOST_NAME_BYTES:
        byte = memory.read(address + len(text), 1)
        if not byte or byte == b"\0":
            return text.decode(errors="replace")
        text += byte
    return ""
