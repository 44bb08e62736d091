"""Classes of instructions against objdump's disassembly, and QEMU's plug-in against Unicorn, to the instruction."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.toolchain import EMULATED_BOARDS, built, counting_plugin, machine_of, needs_qemu

from lab.emulators.qemu import Qemu
from lab.emulators.tcg_plugin import MarkerCount
from lab.emulators.unicorn.bus import Mapped, Memory
from lab.emulators.unicorn.core import Core
from lab.emulators.unicorn.counting import ClassCount, class_of_thumb

pytestmark = needs_qemu

MARKER, RAM = 0x40028000, 0x20000000
OTHER, MULTIPLY, DIVIDE, BRANCH, FLOAT = range(5)
PLAIN = re.compile(r"v(ldr|str|ldm|stm|push|pop|lldm|lstm|ld[24]|st[24])")
CONDITION = "(eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"
BRANCHES = re.compile(rf"(b|bl|bx|blx|bxns|blxns|tbb|tbh|cbz|cbnz|le|letp|wls|wlstp){CONDITION}")
LINE = re.compile(r"^ +([0-9a-f]+):\t([0-9a-f]{4}) ?([0-9a-f]{4})? *\t(\S+)\t?([^;@<\n]*)", re.MULTILINE)
MULTIPLIES = re.compile(r"(u|s)?mul|ml[as]|smla|umlal|smlal|umaal|smls|smm[lu]|smu[as]d|smulw")


@dataclass(frozen=True)
class Line:
    """An instruction as objdump shows it."""

    address: int
    words: tuple[int, int]
    mnemonic: str
    operands: str

    @property
    def expected(self) -> int:
        """Its class, by its name."""
        name = re.sub(r"\.[wn]$", "", self.mnemonic)
        if name.startswith(("udiv", "sdiv")):
            return DIVIDE
        if BRANCHES.fullmatch(name):
            return BRANCH
        loads_pc = name.startswith(("pop", "ldm")) and re.search(r"\bpc\}", self.operands)
        if loads_pc or (self.operands.startswith("pc,") and not name.startswith(("cmp", "tst"))):
            return BRANCH
        if name.startswith("v"):
            return OTHER if PLAIN.match(name) else FLOAT
        return MULTIPLY if MULTIPLIES.match(name) else OTHER


def disassembled(elf: Path) -> Iterator[Line]:
    """All instructions of an image; what objdump does not know or calls data is left out."""
    text = subprocess.run(["arm-none-eabi-objdump", "-d", elf], capture_output=True, text=True, check=True).stdout
    for found in LINE.finditer(text):
        if found[4].startswith((".", "<", "UNDEFINED")):
            continue
        yield Line(int(found[1], 16), (int(found[2], 16), int(found[3] or "0", 16)), found[4], found[5])


@pytest.mark.parametrize("board", EMULATED_BOARDS)
def test_every_instruction_of_an_image_is_what_its_name_says(board: str) -> None:
    lines = list(disassembled(built(board).path))
    wrong = [line for line in lines if class_of_thumb(*line.words) != line.expected]
    assert wrong == []
    counted = Counter(line.expected for line in lines)
    assert len(lines) > 3000
    assert all(counted[kind] > 2 for kind in (OTHER, MULTIPLY, DIVIDE, BRANCH)), counted


SOURCE = f"""
    .syntax unified
    .cpu cortex-m7
    .fpu fpv5-d16
    .thumb
    .section .vectors, "a"
    .word 0x20008000
    .word start
    .text
    .thumb_func
start:
    ldr r0, =0xe000ed88
    ldr r1, =0xf00000
    str r1, [r0]
    dsb
    isb
    ldr r7, ={MARKER:#x}
    movs r6, #1
    ldr r2, =1234567
    movs r3, #7
    str r6, [r7]
begin:
    {{body}}
    str r6, [r7]
end:
    wfi
    b end
    .pool
"""
STRAIGHT = "\n    ".join(
    """mul r4, r2, r3; muls r4, r3, r4; mla r4, r2, r3, r4; mls r4, r2, r3, r4; smull r4, r5, r2, r3
    umlal r4, r5, r2, r3; smlabb r4, r2, r3, r4; smlad r4, r2, r3, r4; smuad r4, r2, r3; smmul r4, r2, r3
    usad8 r4, r2, r3; usada8 r4, r2, r3, r4; sdiv r4, r2, r3; udiv r5, r2, r3
    vmov s0, r2; vmov s1, r3; vcvt.f32.s32 s0, s0; vmul.f32 s2, s0, s1; vfma.f32 s2, s0, s1; vdiv.f32 s3, s2, s0
    vcmp.f32 s0, s1; vmrs APSR_nzcv, fpscr; vmov r4, r5, d0; vpush {d0}; vpop {d1}; push {r2, r3}; pop {r2, r3}
    ldr r4, [sp, #-4]; strd r2, r3, [sp, #-8]; ldrd r4, r5, [sp, #-8]; adds r4, r2, r3; eor.w r4, r2, r3; nop; nop.w
    cmp r2, #0; itte eq; muleq r4, r2, r3; udiveq r4, r2, r3; addne r4, r4, #1
    b 1f; 1: cbz r3, 2f; cbnz r3, 2f; 2: beq 3f; 3: bne.w 4f; 4: bl 5f; 5: adr r4, 6f+1; bx r4; .align 2; 6: nop"""
    .replace("\n", ";").split(";")
)  # fmt: skip
LOOP = """movs r4, #100
1:  mul r5, r4, r3
    udiv r5, r5, r3
    vadd.f32 s0, s0, s1
    subs r4, #1
    bne 1b"""


def image(folder: Path, body: str) -> Path:
    """A program without anything but the marks around a body."""
    source, elf = folder / "program.s", folder / "program.elf"
    source.write_text(SOURCE.format(body=body))
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-nostdlib"]
    layout = ["-Wl,--section-start=.vectors=0", "-Wl,-Ttext=0x400", "-Wl,-e,start"]
    subprocess.run([*command, *layout, "-o", elf, source], check=True)
    return elf


def by_qemu(elf: Path) -> MarkerCount:
    """What the plug-in counts between the marks, the second one with it."""
    with Qemu(machine_of("mps2-an500"), elf, plugin=counting_plugin()) as qemu:
        qemu.release()
        deadline = time.monotonic() + 20.0
        while len(qemu.counts()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        first, second = qemu.counts()
    return second.since(first)


class Marks:
    """The marker register: keeps what was counted at each store."""

    def __init__(self) -> None:
        self.core: Core | None = None
        self.seen: list[tuple[int, ClassCount]] = []

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        assert self.core is not None
        self.seen.append((self.core.clock.instructions, self.core.classes))

    def reset(self) -> None:
        pass


def by_unicorn(elf: Path, folder: Path) -> tuple[int, ClassCount]:
    """Instructions, and those of each class, between the marks, the second one with it."""
    raw = folder / "program.bin"
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", elf, raw], check=True)
    core = Core("bench", "cortex-m7", (Memory("flash", 0, 0x10000, flash=True), Memory("ram", RAM, 0x10000)), 0)
    marks = Marks()
    marks.core = core
    core.attach([Mapped(MARKER, 0x1000, marks)])
    core.write(0, raw.read_bytes())
    for _ in range(2):
        # The first time nothing is known of the block of a mark; from the second run on it is watched.
        core.reset()
        while not core.sleeping:
            core.resume()
            core.run()
    (first, before), (second, after) = marks.seen[-2:]
    return second - first, ClassCount(*(now - then for now, then in zip(after, before, strict=True)))


def classes_of(count: MarkerCount) -> ClassCount:
    return ClassCount(count.multiplies, count.divides, count.branches, count.floats)


def test_a_straight_line_counts_as_its_disassembly(tmp_path: Path) -> None:
    elf = image(tmp_path, STRAIGHT)
    symbols = subprocess.run(["arm-none-eabi-nm", elf], capture_output=True, text=True, check=True).stdout
    begin, end = (int(re.search(rf"^(\w+) \w {name}$", symbols, re.MULTILINE)[1], 16) for name in ("begin", "end"))  # type: ignore[index]
    lines = [line for line in disassembled(elf) if begin <= line.address < end]
    # All branches lead to the next instruction; what pads the code in front of the last one does not run.
    padding = sum(line.mnemonic == "nop" for line in lines) - 2
    counted = Counter(line.expected for line in lines)
    expected = ClassCount(*(counted[kind] for kind in (MULTIPLY, DIVIDE, BRANCH, FLOAT)))
    assert expected.multiplies == 11
    assert expected.divides == 3
    found = by_qemu(elf)
    assert classes_of(found) == expected
    assert len(lines) - padding <= found.instructions <= len(lines)
    assert by_unicorn(elf, tmp_path) == (found.instructions, expected)


def test_a_loop_counts_alike_on_both(tmp_path: Path) -> None:
    elf = image(tmp_path, LOOP)
    found = by_qemu(elf)
    assert classes_of(found) == ClassCount(100, 100, 100, 100)
    assert found.instructions == 1 + 5 * 100 + 1
    assert by_unicorn(elf, tmp_path) == (found.instructions, classes_of(found))
