"""Classes of instructions: hand-assembled words, and hand-assembled programs of known counts on Unicorn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.emulators.unicorn.bus import Memory
from lab.emulators.unicorn.core import Core
from lab.emulators.unicorn.counting import ClassCount, class_of_riscv, class_of_thumb

OTHER, MULTIPLY, DIVIDE, BRANCH, FLOAT = range(5)

NARROW = [
    (0x4348, MULTIPLY),  # muls r0, r1, r0
    (0x4340 | 7 << 3 | 7, MULTIPLY),
    (0x4308, OTHER),  # orrs: the operation before
    (0x43C8, OTHER),  # mvns: and after
    (0xD0FE, BRANCH),  # beq .
    (0xDDFE, BRANCH),  # ble .
    (0xDE00, OTHER),  # udf
    (0xDF00, OTHER),  # svc
    (0xE7FE, BRANCH),  # b .
    (0x4770, BRANCH),  # bx lr
    (0x4780, BRANCH),  # blx r0
    (0xB100, BRANCH),  # cbz
    (0xBB00, BRANCH),  # cbnz
    (0xB500, OTHER),  # push {lr}
    (0xBD00, BRANCH),  # pop {pc}
    (0xBC10, OTHER),  # pop {r4}
    (0x4687, BRANCH),  # mov pc, r0
    (0x46F7, BRANCH),  # mov pc, lr
    (0x467F, OTHER),  # mov r7, pc
    (0x4487, BRANCH),  # add pc, r0
    (0x4407, OTHER),  # add r7, r0
    (0x4507, OTHER),  # cmp r7, r0
    (0xBF00, OTHER),  # nop
    (0xBE00, OTHER),  # bkpt
]
WIDE = [
    (0xFB00, 0xF001, MULTIPLY),  # mul r0, r0, r1
    (0xFB02, 0x4301, MULTIPLY),  # mla r3, r2, r1, r4
    (0xFB00, 0x0011, MULTIPLY),  # mls r0, r0, r1, r0
    (0xFB11, 0xF002, MULTIPLY),  # smulbb
    (0xFB21, 0x3002, MULTIPLY),  # smlad
    (0xFB51, 0xF002, MULTIPLY),  # smmul
    (0xFB71, 0xF002, OTHER),  # usad8
    (0xFB82, 0x0103, MULTIPLY),  # smull
    (0xFBA2, 0x0103, MULTIPLY),  # umull
    (0xFBC2, 0x0103, MULTIPLY),  # smlal
    (0xFBE2, 0x0163, MULTIPLY),  # umaal
    (0xFB91, 0xF0F2, DIVIDE),  # sdiv r0, r1, r2
    (0xFBB1, 0xF0F2, DIVIDE),  # udiv r0, r1, r2
    (0xF000, 0xF800, BRANCH),  # bl
    (0xF000, 0xB800, BRANCH),  # b.w
    (0xF040, 0x8000, BRANCH),  # bne.w
    (0xF3AF, 0x8000, OTHER),  # nop.w
    (0xF3BF, 0x8F4F, OTHER),  # dsb
    (0xF3EF, 0x8010, OTHER),  # mrs r0, primask
    (0xF100, 0x0001, OTHER),  # add.w r0, r0, #1
    (0xE8DF, 0xF000, BRANCH),  # tbb [pc, r0]
    (0xE8DF, 0xF010, BRANCH),  # tbh [pc, r0, lsl #1]
    (0xE8D0, 0x1F4F, OTHER),  # ldrexb r1, [r0]
    (0xE8BD, 0x8010, BRANCH),  # pop.w {r4, pc}
    (0xE8BD, 0x4010, OTHER),  # pop.w {r4, lr}
    (0xE910, 0x8002, BRANCH),  # ldmdb r0, {r1, pc}
    (0xE92D, 0x4010, OTHER),  # push.w {r4, lr}
    (0xF8D0, 0xF004, BRANCH),  # ldr.w pc, [r0, #4]
    (0xF85D, 0xFB04, BRANCH),  # ldr.w pc, [sp], #4
    (0xF8D0, 0x1004, OTHER),  # ldr.w r1, [r0, #4]
    (0xF04F, 0xC003, BRANCH),  # wls lr, pc, ...
    (0xF00F, 0xC003, BRANCH),  # le lr, ...
    (0xF040, 0xE001, OTHER),  # dls lr, r0
    (0xEE30, 0x0A00, FLOAT),  # vadd.f32 s0, s0, s0
    (0xEE80, 0x0A00, FLOAT),  # vdiv.f32
    (0xEEF1, 0xFA10, FLOAT),  # vmrs APSR_nzcv, fpscr
    (0xEE00, 0x0A10, FLOAT),  # vmov s0, r0
    (0xEC41, 0x0B10, FLOAT),  # vmov d0, r0, r1
    (0xFE00, 0x0A00, FLOAT),  # vseleq.f32
    (0xEF20, 0x0840, FLOAT),  # vadd.i32 q0, q0, q0
    (0xED90, 0x0A00, OTHER),  # vldr s0, [r0]
    (0xED2D, 0x8B02, OTHER),  # vpush {d8}
    (0xEC90, 0x0A02, OTHER),  # vldmia r0, {s0, s1}
    (0xEE00, 0x0010, OTHER),  # cdp of coprocessor 0
]
RISCV = [
    (0x02B50533, MULTIPLY),  # mul a0, a0, a1
    (0x02B53533, MULTIPLY),  # mulhu
    (0x02B54533, DIVIDE),  # div
    (0x02B57533, DIVIDE),  # remu
    (0x00B50533, OTHER),  # add
    (0x40B50533, OTHER),  # sub
    (0x00B50463, BRANCH),  # beq
    (0x0000006F, BRANCH),  # j .
    (0x00008067, BRANCH),  # ret
    (0x00C58553, FLOAT),  # fadd.s fa0, fa1, fa2
    (0x68C5F543, FLOAT),  # fmadd.s
    (0x0005A507, OTHER),  # flw fa0, 0(a1)
    (0x0005A503, OTHER),  # lw
    (0x00000073, OTHER),  # ecall
    (0x8082, BRANCH),  # c.jr ra
    (0x9582, BRANCH),  # c.jalr a1
    (0x9002, OTHER),  # c.ebreak
    (0x852E, OTHER),  # c.mv a0, a1
    (0xA001, BRANCH),  # c.j .
    (0x2001, BRANCH),  # c.jal .
    (0xC101, BRANCH),  # c.beqz a0
    (0xE101, BRANCH),  # c.bnez a0
    (0x9D4D, MULTIPLY),  # c.mul a0, a1
    (0x8D0D, OTHER),  # c.sub a0, a1
    (0x0505, OTHER),  # c.addi a0, 1
    (0x4188, OTHER),  # c.lw a0, 0(a1)
]


@pytest.mark.parametrize(("word", "expected"), NARROW, ids=lambda one: f"{one:x}")
def test_a_narrow_thumb_instruction(word: int, expected: int) -> None:
    assert class_of_thumb(word, 0) == class_of_thumb(word, 0xFFFF) == expected


@pytest.mark.parametrize(("first", "second", "expected"), WIDE, ids=lambda one: f"{one:x}")
def test_a_wide_thumb_instruction(first: int, second: int, expected: int) -> None:
    assert class_of_thumb(first, second) == expected


@pytest.mark.parametrize(("word", "expected"), RISCV, ids=lambda one: f"{one:x}")
def test_a_riscv_instruction(word: int, expected: int) -> None:
    assert class_of_riscv(word) == expected


# Programs

PROGRAM, STACK = 0x200, 0x20008000
WFI = "30bf"
STRAIGHT = {
    "0130": OTHER,  # adds r0, #1
    "4843": MULTIPLY,  # muls r0, r1, r0
    "02fb0143": MULTIPLY,  # mla r3, r2, r1, r4
    "91fbf2f0": DIVIDE,  # sdiv r0, r1, r2
    "00f10105": OTHER,  # add.w r5, r0, #1
    "00e0" "00bf": BRANCH,  # b over the nop behind it
    "30ee000a": FLOAT,  # vadd.f32 s0, s0, s0
}
ENABLE_FPU = "4ff0e023" "c3f8881d"  # mov.w r3, #0xe000e000; str.w r1, [r3, #0xd88], with CPACR's value in r1


def ran(program: str, **registers: int) -> Core:
    """A Cortex-M4 that ran a program of Thumb code in hex to its WFI."""
    memories = (Memory("flash", 0, 0x10000, flash=True), Memory("ram", 0x20000000, 0x10000))
    core = Core("bench", "cortex-m4", memories, 0)
    core.attach([])
    core.write(0, STACK.to_bytes(4, "little") + (PROGRAM | 1).to_bytes(4, "little"))
    core.write(PROGRAM, bytes.fromhex(program + WFI))
    core.reset()
    for name, value in ({"r1": 0xF << 20, "r2": 3} | registers).items():
        core._set(name, value)
    while not core.sleeping:
        core.resume()
        core.run()
    return core


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(STRAIGHT)), max_size=60))
def test_straight_code_counts_its_classes(code: list[str]) -> None:
    core = ran(ENABLE_FPU + "".join(code))
    kinds = [STRAIGHT[one] for one in code]
    assert core.classes == ClassCount(*(kinds.count(kind) for kind in (MULTIPLY, DIVIDE, BRANCH, FLOAT)))
    # The nop behind a branch does not run; two of the FPU's and the WFI do.
    assert core.clock.instructions == len(code) + 3


def test_a_loop_counts_every_pass() -> None:
    """1: muls r0, r2, r0; udiv r4, r0, r2; subs r6, #1; bne 1b"""
    core = ran("5043" "b0fbf2f4" "013e" "fad1", r0=1, r6=100)
    assert core.classes == ClassCount(100, 100, 100, 0)


def test_those_whose_condition_fails_count_as_qemu_counts_them() -> None:
    """movs r0, #0 (Z set); ite ne; mulne r1, r2, r2; sdiveq r1, r2, r2"""
    core = ran("0020" "14bf" "02fb02f1" "92fbf2f1")
    assert core.classes == ClassCount(1, 1, 0, 0)


def test_a_call_and_its_return_are_branches() -> None:
    """bl f; b end; f: push {lr}; pop {pc}; end:"""
    core = ran("00f001f8" "01e0" "00b5" "00bd")
    assert core.classes.branches == 3


def test_what_a_block_did_not_reach_is_not_counted() -> None:
    """A divide, then a load from nowhere (a bus fault, into a handler that waits), then a multiply."""
    memories = (Memory("flash", 0, 0x10000, flash=True), Memory("ram", 0x20000000, 0x10000))
    core = Core("bench", "cortex-m4", memories, 0)
    core.attach([])
    vectors = [STACK, PROGRAM | 1, *([0x1001] * 14)]
    core.write(0, b"".join(word.to_bytes(4, "little") for word in vectors))
    core.write(PROGRAM, bytes.fromhex("91fbf2f0" "2b68" "4843" + WFI))  # sdiv; ldr r3, [r5]; muls
    core.write(0x1000, bytes.fromhex(WFI))
    core.reset()
    core._set("r2", 1)
    core._set("r5", 0x60000000)
    while not core.sleeping:
        core.resume()
        core.run()
    assert core.classes == ClassCount(0, 1, 0, 0)
