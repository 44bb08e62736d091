"""Backtraces against gdb's own on the same stopped cores, and every kind of fault that QEMU can be made to take.

QEMU 7.2 never reports an imprecise bus fault, and calls a breakpoint without a debugger FORCED where cores say
DEBUGEVT. Bits that it never sets are covered by tests/unit/test_postmortem_fault_status.py, from the manuals' tables.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from helpers.fault_program import CORES, M4F, FaultCore, build_faults
from helpers.gdb_stops import GdbFrame, Stop, Stopped, gdb_stops, needs_gdb
from helpers.toolchain import built, machine_of, needs_qemu

from lab.errors import StackFrame
from lab.postmortem.fault_status import decode
from lab.postmortem.image import RISCV, Image
from lab.postmortem.memory import KeptMemory
from lab.postmortem.unwind import Backtrace, unwind

pytestmark = [needs_qemu, needs_gdb]

RAM_BYTES = 16384
STATUS = ("cfsr", "hfsr", "mmfar", "bfar")
VALUES = (*(f"*(unsigned *){address:#x}" for address in (0xE000ED28, 0xE000ED2C, 0xE000ED34, 0xE000ED38)),
          "process_stack_pointer")  # fmt: skip
HANDLERS = ["stopped", "handle", "handle", "handle", "fault_handler"]


def ours(image: Image, stopped: Stopped, **more: int) -> Backtrace:
    registers = {{"fp": "s0"}.get(name, name): value for name, value in stopped.registers.items()}
    return unwind(image, KeptMemory(image, stopped.memory), {**registers, **more})


def comparable(frame: StackFrame | GdbFrame) -> tuple[int, str, str, bool]:
    """What both know of a frame. gdb leaves off what GCC adds to the name of a function that it specialised."""
    if isinstance(frame, GdbFrame):
        pc, function, place, inlined = frame.pc, frame.function, frame.place, frame.inlined
    else:
        pc, function, place = frame.address, frame.function.partition(".")[0], frame.place
        inlined = frame.found == "inlined"
    # The linker and Zig's own library have different names for its functions.
    return pc, "" if ".zig:" in place else function, place, inlined


# ---- optimised firmware, instruction by instruction ----------------------------------------------------------------


@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547", "microbit", "riscv32-virt"])
def test_every_instruction_of_a_stretch_of_firmware(board: str, tmp_path: Path) -> None:
    """The runner at -O2 while it says hello: prologues, epilogues, leaves, inlined calls and newlib's assembly."""
    image = Image(built(board).path)
    stack = image.variable("lab_stack")
    assert stack is not None
    stops = [
        Stop("deep", ("break cbor_put_text", "continue"), steps=70),
        Stop("leaf", ("delete", "break crc32_update", "continue"), steps=30),
    ]
    outermost = "run_on_stack" if image.machine is RISCV else "run_on_process_stack"
    kinds: Counter[str] = Counter()
    for stopped in gdb_stops(image.path, machine_of(board), stops, [(stack.address, stack.size)], tmp_path):
        backtrace = ours(image, stopped)
        mine = [comparable(frame) for frame in backtrace.frames]
        theirs = [comparable(frame) for frame in stopped.frames]
        assert [function for _, function, _, _ in mine[-2:]] == ["lab_main", outermost]
        if len(theirs) == 1:
            # gdb does not get out of assembly without call-frame information; we do, and say how.
            assert mine[0] == theirs[0]
            assert {"link-register", "scan"} & {frame.found for frame in backtrace.frames}
            kinds["assembly"] += 1
        else:
            assert mine == theirs
            kinds["inlined" if any(inlined for *_, inlined in mine) else "plain"] += 1
        assert not backtrace.ended
    assert sum(kinds.values()) == 102
    assert kinds["inlined"] > 60


# ---- faults -------------------------------------------------------------------------------------------------------

# What the fault registers say; then, innermost first, the functions from the fault to provoke().
FAULTS = {
    "undefined instruction": (1, {("CFSR", "UNDEFINSTR")}, ["provoke"]),
    "load from nowhere": (2, {("CFSR", "PRECISERR"), ("BFAR", "0x5fff0000")}, ["provoke"]),
    "division by zero": (3, {("CFSR", "DIVBYZERO")}, ["divide", "provoke"]),
    "unaligned": (4, {("CFSR", "UNALIGNED")}, ["provoke"]),
    "not in Thumb state": (5, {("CFSR", "INVSTATE")}, ["begin", "provoke"]),
    "no coprocessor": (6, {("CFSR", "NOCP")}, ["provoke"]),
    "execute never": (7, {("CFSR", "IACCVIOL")}, ["", "provoke"]),
    "protected": (8, {("CFSR", "DACCVIOL"), ("MMFAR", "0x20100010")}, ["provoke"]),
    "breakpoint": (10, set(), ["provoke"]),
    "fault in a handler": (11, {("CFSR", "UNDEFINSTR")}, ["provoke", "svc_handler", "provoke"]),
}
FORCED = ("HFSR", "FORCED")


@cache
def provoked(core: str, kinds: tuple[int, ...], process_stack: int, own_handlers: int) -> dict[str, Stopped]:
    """gdb right before and right after each fault."""
    folder = Path(mkdtemp(prefix="lab-faults-"))
    elf = faults_image(core).path
    plan = []
    for kind in kinds:
        variables = {"kind": kind, "on_process_stack": process_stack, "own_handlers": own_handlers}
        chosen = [f"set var {name}={value}" for name, value in variables.items()]
        reset = ("monitor system_reset", "delete", "tbreak settled", "continue", *chosen)
        plan.append(Stop(f"before {kind}", (*reset, "tbreak provoke", "continue")))
        plan.append(Stop(f"after {kind}", ("tbreak stopped", "continue"), values=VALUES))
    found = gdb_stops(elf, CORES[core].qemu, plan, [(CORES[core].ram, RAM_BYTES)], folder)
    return {stopped.name: stopped for stopped in found}


@cache
def faults_image(core: str) -> Image:
    return Image(build_faults(CORES[core], Path(mkdtemp(prefix="lab-faults-"))))


M4F_KINDS = tuple(kind for kind, *_ in FAULTS.values())


def status_of(stopped: Stopped) -> set[tuple[str, str]]:
    return {(fault.register, fault.name) for fault in decode(dict(zip(STATUS, stopped.values, strict=False)))}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_the_main_stack(name: str) -> None:
    """Through the exception frame, which holds floating-point registers: the very frames that gdb finds."""
    kind, expected, functions = FAULTS[name]
    found = provoked("m4f", M4F_KINDS, 0, 0)
    before, after = found[f"before {kind}"], found[f"after {kind}"]
    assert status_of(after) == expected | {FORCED}
    backtrace = ours(faults_image("m4f"), after)
    mine = [comparable(frame) for frame in backtrace.frames]
    assert mine == [comparable(frame) for frame in after.frames]
    chain = [frame.function for frame in before.frames]
    assert [frame[1] for frame in mine] == [*HANDLERS, *functions, *chain[1:]]
    assert not backtrace.ended


@pytest.mark.parametrize("name", ["load from nowhere", "division by zero", "protected", "fault in a handler"])
def test_a_fault_of_its_own_kind_on_the_process_stack(name: str) -> None:
    """gdb cannot get to the process stack of QEMU's core; but it knows the calls from before the fault."""
    kind, expected, functions = FAULTS[name]
    found = provoked("m4f", M4F_KINDS, 1, 1)
    after = found[f"after {kind}"]
    # A fault of a handler of the same priority still becomes a hard fault.
    assert status_of(after) == expected | ({FORCED} if name == "fault in a handler" else set())
    check_process_stack("m4f", found, kind, functions)


@pytest.mark.parametrize(
    ("core", "kinds", "functions"),
    [
        ("m0", (1, 4, 11), {1: ["provoke"], 4: ["provoke"], 11: ["provoke", "svc_handler", "provoke"]}),
        ("m33", (1, 2, 3, 9), {1: ["provoke"], 2: ["provoke"], 3: ["divide", "provoke"], 9: ["", "provoke"]}),
    ],
)
def test_other_cores(core: str, kinds: tuple[int, ...], functions: dict[int, list[str]]) -> None:
    found = provoked(core, kinds, 1, 1)
    for kind in kinds:
        check_process_stack(core, found, kind, functions[kind])


def check_process_stack(core: str, found: dict[str, Stopped], kind: int, functions: list[str]) -> None:
    before, after = found[f"before {kind}"], found[f"after {kind}"]
    image = faults_image(core)
    backtrace = ours(image, after, psp=after.values[4])
    mine = [comparable(frame) for frame in backtrace.frames]
    assert [frame[1] for frame in mine[: 5 + len(functions)]] == [*HANDLERS, *functions]
    assert mine[5 + len(functions) :] == [comparable(frame) for frame in before.frames[1:]]
    assert not backtrace.ended
    blind = ours(image, after)
    assert "the process stack pointer is not known" in blind.ended
    assert [frame.function for frame in blind.frames][:5] == HANDLERS


def test_a_bus_fault_of_an_instruction_fetch() -> None:
    found = provoked("m33", (1, 2, 3, 9), 1, 1)
    assert status_of(found["after 9"]) == {("CFSR", "IBUSERR")}
    assert status_of(found["after 2"]) == {("CFSR", "PRECISERR"), ("BFAR", "0x5fff0000")}


def test_armv6m_has_no_fault_status() -> None:
    found = provoked("m0", (1, 4, 11), 1, 1)
    assert [status_of(found[f"after {kind}"]) for kind in (1, 4, 11)] == [set(), set(), set()]


def test_the_scan_finds_the_calls_without_call_frame_information(tmp_path: Path) -> None:
    """The same program without any debug information: every function gdb found is found on the stack, and said so."""
    core: FaultCore = M4F
    bare = Image(build_faults(core, tmp_path, "-g0", "-fno-asynchronous-unwind-tables"))
    assert bare.frame_rules(bare.entry) is None
    described = faults_image("m4f")
    before = provoked("m4f", M4F_KINDS, 0, 0)["before 1"]
    # The code is the same to the byte, so what gdb saw of one image is true of the other.
    assert bare.read(0, 512) == described.read(0, 512)
    backtrace = ours(bare, before)
    expected = [frame.function for frame in before.frames if not frame.inlined]
    scanned = [frame.function.partition(".")[0] for frame in backtrace.frames]
    position = 0
    for function in expected[1:]:
        assert function in scanned[position:]
        position += scanned[position:].index(function)
    # What called is in the link register; for all others only the stack is left.
    assert [frame.found for frame in backtrace.frames][:2] == ["registers", "link-register"]
    assert {frame.found for frame in backtrace.frames[2:]} == {"scan"}
