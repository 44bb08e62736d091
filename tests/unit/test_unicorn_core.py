"""The Cortex-M core on Unicorn: exceptions as the architecture has them, exact counts, Unicorn put right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.emulators.unicorn.bus import Mapped, Memory, Storage
from lab.emulators.unicorn.core import Core, Cpu
from lab.errors import Crash, EmulatorError

PROGRAM, HANDLERS, RAM, STACK, DEVICE = 0x200, 0x1000, 0x20000000, 0x20008000, 0x40000000
WFI = "30bf"
RETURN = "7047"  # bx lr
VECTORS = 80


@dataclass
class Device:
    """A peripheral that tells the instruction count and drives interrupt 3."""

    core: Core | None = None
    reads: list[int] = field(default_factory=list)
    on_write: Callable[[int], None] = lambda value: None

    def read(self, offset: int, size: int) -> int:
        assert self.core is not None
        self.reads.append(self.core.clock.instructions)
        return self.reads[-1]

    def write(self, offset: int, size: int, value: int) -> None:
        self.on_write(value)

    def reset(self) -> None:
        pass


@dataclass
class Bench:
    core: Core
    device: Device

    def set(self, **registers: int) -> None:
        for name, value in registers.items():
            self.core._set(name, value)

    def run(self) -> dict[str, int]:
        """Run to the end of the program, a WFI nothing wakes; a program without one is stopped."""
        late = threading.Event()
        guard = threading.Timer(5.0, lambda: (late.set(), self.core.interrupt()))
        guard.start()
        try:
            while not late.is_set():
                self.core.resume()
                if self.core.sleeping and not self.core.wakes():
                    return self.core.registers()
                self.core.run()
        finally:
            guard.cancel()
        raise AssertionError(f"did not end: {self.core.registers()}")


def bench(program: str, handlers: dict[int, str] | None = None, cpu: Cpu = "cortex-m4") -> Bench:
    """A core with a program of Thumb code in hex, and handlers by the number of their exception."""
    memories = (Memory("flash", 0, 0x10000, flash=True), Memory("ram", RAM, 0x10000))
    core = Core("bench", cpu, memories, 0)
    device = Device(core)
    core.attach([Mapped(DEVICE, 0x1000, device), Mapped(DEVICE + 0x1000, 0x100, Storage({0: 0x11223344}))])
    vectors = [STACK, PROGRAM | 1, *(HANDLERS + 64 * number | 1 for number in range(2, VECTORS))]
    core.write(0, b"".join(word.to_bytes(4, "little") for word in vectors))
    core.write(PROGRAM, bytes.fromhex(program))
    for number in range(2, VECTORS):
        core.write(HANDLERS + 64 * number, bytes.fromhex((handlers or {}).get(number, "fee7")))
    core.reset()
    return Bench(core, device)


# ---- counting ------------------------------------------------------------------------------------------------------


def test_reads_of_the_clock_count_to_the_instruction() -> None:
    """ldr, nop, nop.w, movs, ittt eq, three movs, ldr, ldr: 8 instructions, then 1 between the reads."""
    one = bench("0868" "00bf" "aff30080" "0122" "02bf" "0123" "0223" "0323" "0c68" "0d68" + WFI)
    for zero_flag in (0, 1 << 30):
        for _ in range(2):  # a block is watched from its second run on
            one.set(pc=PROGRAM | 1, r1=DEVICE, xpsr=1 << 24 | zero_flag)
            one.core.sleeping = False
            one.run()
        first, second, third = one.device.reads[-3:]
        # Those whose condition fails count too, as QEMU counts them.
        assert (second - first, third - second) == (8, 1)


def test_a_loop_that_reads_the_clock_counts_every_pass() -> None:
    one = bench("0868" "0c68" "013e" "fbd1" + WFI)  # 1: ldr; ldr; subs; bne 1b
    one.set(r1=DEVICE, r6=10)
    one.run()
    gaps = [b - a for a, b in zip(one.device.reads[2:], one.device.reads[3:], strict=False)]
    assert gaps == [1, 3] * 8 + [1]
    assert one.core.clock.instructions == 10 * 4 + 1


SHORT = ("00bf", "0130", "4a40", "0c46")  # nop, adds r0,#1, eors r2,r1, mov r4,r1
LONG = ("aff30080", "00f10105", "02fb0143")  # nop.w, add.w r5,r0,#1, mla r3,r2,r1,r4


@settings(max_examples=20)
@given(st.lists(st.sampled_from(SHORT + LONG), min_size=1, max_size=60))
def test_straight_code_counts_its_instructions(code: list[str]) -> None:
    one = bench("".join(code) + WFI)
    one.run()
    assert one.core.clock.instructions == len(code) + 1


def test_a_stop_from_outside_runs_no_instruction_twice() -> None:
    one = bench("0130" "0139" "fcd1" + WFI)  # 1: adds r0,#1; subs r1,#1; bne 1b
    one.set(r0=0, r1=1000)
    for _ in range(50):
        one.core.interrupt()
        one.core.run()
        one.core.resume()
    registers = one.run()
    assert (registers["r0"], one.core.clock.instructions) == (1000, 3001)


def test_a_frozen_clock_stands_while_the_core_runs() -> None:
    one = bench("0868" "00bf" "0c68" + WFI)
    one.set(r1=DEVICE)
    one.core.clock.freeze()
    one.run()
    assert one.device.reads == [0, 0]


# ---- what Unicorn gets wrong without help ---------------------------------------------------------------------------


def test_the_it_state_ends_with_the_it_block_though_a_page_is_touched_first_inside_it() -> None:
    """1: cmp r3,r4; itt cc; strcc r1,[r3],#4; cmpcc r3,r4; bcs 2f; str …; bcc 1b; 2: mov.w r6,#16384."""
    one = bench("1346" "a342" "3cbf" "43f8041b" "a342" "03d2" "43f8041b" "a342" "f5d3" "4ff48046" + WFI)
    for page in range(3):
        # The last store, inside the IT block, is the first to the next page; behind it the condition no longer holds.
        start = RAM + 0x1000 * page + 0xFF8
        one.set(pc=PROGRAM | 1, r1=0x55, r2=start, r4=start + 12, r6=0)
        one.core.sleeping = False
        assert one.run()["r6"] == 16384
        assert one.core.read(start, 16) == (0x55).to_bytes(4, "little") * 3 + bytes(4)


def test_code_in_ram_may_be_written_over() -> None:
    """strh r0,[r1]; blx r2; strh r3,[r1]; blx r2: the routine at r2 begins with what was stored."""
    one = bench("0880" "9047" "0b80" "9047" + WFI)
    one.core.write(RAM + 0x102, bytes.fromhex(RETURN))
    one.set(r0=0x3501, r1=RAM + 0x100, r2=RAM + 0x101, r3=0x3510, r5=0)  # adds r5,#1 and adds r5,#16
    assert one.run()["r5"] == 17


def test_wfe_goes_on() -> None:
    registers = bench("0120" "20bf" "0221" + WFI).run()
    assert (registers["r0"], registers["r1"]) == (1, 2)


@pytest.mark.parametrize(
    ("cpu", "code", "executes"),
    [
        ("cortex-m0", "90fbf1f0", False),  # sdiv
        ("cortex-m3", "90fbf1f0", True),
        ("cortex-m3", "30ee200a", False),  # vadd.f32
        ("cortex-m4", "30ee200a", True),
        ("cortex-m4", "30ee010b", False),  # vadd.f64
        ("cortex-m7", "30ee010b", True),
        ("cortex-m33", "20fb0110", True),  # smlad
    ],
)
def test_each_core_is_the_one_it_is_called(cpu: Cpu, code: str, executes: bool) -> None:
    """UC_MODE_MCLASS would make a Cortex-M33 of all of them."""
    one = bench(code + "0125" + WFI, {3: "0325" + WFI}, cpu)
    one.set(r0=6, r1=3)
    one.core.system.write(0xD88, 4, 0xF << 20)
    assert one.run()["r5"] == (1 if executes else 3)


# ---- exceptions ----------------------------------------------------------------------------------------------------


def test_a_handler_returns_to_where_it_was_called_and_changes_what_is_stacked() -> None:
    """SVC: the handler adds 100 to the stacked r0; r1 comes back though it wrote it."""
    one = bench("0120" "0221" "00df" "4018" + WFI, {11: "2821" "009a" "6432" "0092" + RETURN})
    registers = one.run()
    assert (registers["r0"], registers["r1"], registers["sp"]) == (103, 2, STACK)
    assert registers["xpsr"] & 0x1FF == 0


def test_the_process_stack_takes_the_frame_and_the_handler_has_the_other_one() -> None:
    """msr psp,r0; control := 2; isb; movs r2,#1; svc; movs r3,#1; the handler keeps lr and sp."""
    program = "80f30988" "0221" "81f31488" "bff36f8f" "0122" "00df" "0123" + WFI
    one = bench(program, {11: "7446" "6d46" + RETURN})  # mov r4,lr; mov r5,sp
    one.set(r0=RAM + 0x1004)
    registers = one.run()
    assert (registers["r4"], registers["r5"]) == (0xFFFFFFFD, STACK)
    assert (registers["sp"], registers["r3"], registers["control"] & 2) == (RAM + 0x1004, 1, 2)
    # Aligned to 8 (B1.5.7), and the stacked xPSR says that it was padded.
    frame = one.core.read(RAM + 0x1000 - 32, 32)
    assert int.from_bytes(frame[28:], "little") & 1 << 9


def test_floating_point_registers_survive_a_handler_that_uses_them() -> None:
    """vmov s0,#1; vmov s15,#2; svc; vadd s1,s0,s15; vmov r1,s1. The handler sets s0 and s15 to 5."""
    program = "b7ee000a" + "f0ee007a" + "00df" + "70ee270a" + "10ee901a" + WFI
    handler = "b1ee040a" + "f1ee047a" + RETURN
    one = bench(program, {11: handler})
    one.core.system.write(0xD88, 4, 0xF << 20)
    assert one.run()["r1"] == 0x40400000, "1 + 2 in single precision"


def test_an_interrupt_waits_while_it_is_masked_and_comes_at_once_after() -> None:
    """cpsid; str raises interrupt 3; movs r4,#1; movs r5,#2; cpsie; movs r6,#3: the handler sees r5 but not r6."""
    one = bench("72b6" "1a60" "0124" "0225" "62b6" "0326" + WFI, {19: "2f46" + "b046" + "1960" + RETURN})
    one.set(r1=0, r2=1, r3=DEVICE, r6=0)
    one.device.on_write = lambda value: one.core.set_interrupt(3, bool(value))
    one.core.system.write(0x100, 4, 1 << 3)
    registers = one.run()
    assert (registers["r4"], registers["r5"], registers["r6"]) == (1, 2, 3)
    assert (registers["r7"], registers["r8"]) == (2, 0)


def test_a_masked_interrupt_ends_sleep_and_is_not_taken() -> None:
    one = bench("72b6" + WFI + "0124" + WFI)
    one.core.system.write(0x100, 4, 1 << 3)
    one.core.resume()
    one.core.run()
    one.core.run()
    assert one.core.sleeping
    one.core.set_interrupt(3, True)
    assert one.core.wakes()
    one.core.resume()
    one.core.run()
    assert one.core.registers()["r4"] == 1
    assert one.core.system.active == []


def test_the_more_urgent_interrupt_goes_first_and_interrupts_the_other() -> None:
    """Both raised at once by r1; interrupt 4 again by r2 in the handler of 3, where it nests: it copies r5 to r6."""
    three = "0135" + "1a60" + "bff36f8f" + "0135" + "7047"  # adds r5,#1; str r2,[r3]; isb; adds r5,#1; bx lr
    four = "2e46" + "0137" + "7047"  # mov r6,r5; adds r7,#1; bx lr
    one = bench("1960" + "bff36f8f" + WFI, {19: three, 20: four})
    one.set(r1=3 << 3, r2=1 << 4, r3=0xE000E200, r5=0, r7=0)
    one.core.system.write(0x403, 1, 0x40)
    one.core.system.write(0x404, 1, 0x20)
    one.core.system.write(0x100, 4, 3 << 3)
    registers = one.run()
    assert (registers["r5"], registers["r6"], registers["r7"]) == (2, 1, 2)
    assert one.core.system.active == []


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "cfsr", "hfsr"),
    [
        ("0868", 0x8200, 1 << 30),  # ldr from nowhere: PRECISERR, BFARVALID
        ("0860", 0x8200, 1 << 30),  # str to nowhere
        ("00de", 1 << 16, 1 << 30),  # udf
        ("01be", 0, 1 << 31),  # bkpt without a debugger
        ("1047", 1 << 17, 1 << 30),  # bx to an address without the Thumb bit
        ("0847", 1 << 8, 1 << 30),  # bx to where nothing is: IBUSERR
    ],
)
def test_faults_tell_why(code: str, cfsr: int, hfsr: int) -> None:
    one = bench(code + WFI, {3: "069a" + WFI})  # ldr r2,[sp,#24]: the stacked pc
    target = 0x50000001 if code == "0847" else 0x50000000
    one.set(r1=target, r2=PROGRAM)
    registers = one.run()
    assert registers["xpsr"] & 0x1FF == 3
    assert (one.core.system.cfsr, one.core.system.hfsr) == (cfsr, hfsr)
    if cfsr & 0x8000:
        assert int.from_bytes(one.core.read(0xE000ED38, 4), "little") == 0x50000000
    assert registers["r2"] == (0x50000000 if code == "0847" else PROGRAM)


def test_a_fault_with_a_handler_of_its_own_goes_there() -> None:
    one = bench("00de" + WFI, {3: "0324" + WFI, 6: "0624" + WFI})
    one.core.system.write(0xD24, 4, 1 << 18)
    assert one.run()["r4"] == 6


def test_a_stack_that_overflowed_is_told_with_the_fault() -> None:
    one = bench("0868" + WFI, {3: WFI})
    one.core._set("psp", RAM + 16)
    one.set(r1=0x50000000, control=2)
    one.run()
    assert one.core.system.cfsr & 1 << 12, "STKERR"


@pytest.mark.parametrize("code", ["71b600de", "0868"])
def test_a_fault_that_cannot_be_taken_is_a_lockup(code: str) -> None:
    """With FAULTMASK set, and inside the hard-fault handler."""
    one = bench(code + WFI, {3: "0868" + WFI})
    one.set(r1=0x50000000)
    with pytest.raises(Crash, match="locked up: a fault inside a fault handler") as error:
        one.run()
    assert error.value.report.registers["pc"] in (PROGRAM + 2, HANDLERS + 64 * 3)


def test_stores_to_flash_are_faults() -> None:
    one = bench("0860" + WFI, {3: "0324" + WFI})
    one.set(r1=0x8000)
    assert one.run()["r4"] == 3
    assert one.core.read(0x8000, 4) == bytes(4)


def test_a_vector_that_is_no_code_is_a_lockup() -> None:
    one = bench("00df" + WFI)
    one.core.write(4 * 11, (HANDLERS).to_bytes(4, "little"))
    with pytest.raises(Crash, match="vector of exception 11"):
        one.run()
    one.core.write(4, (PROGRAM).to_bytes(4, "little"))
    with pytest.raises(Crash, match="reset vector 0x00000200 is no Thumb address"):
        one.core.reset()


# ---- registers and memory ------------------------------------------------------------------------------------------


def test_a_register_nobody_models_ends_the_emulation() -> None:
    one = bench("0868" + WFI)
    one.set(r1=DEVICE + 0x1FF0)
    with pytest.raises(EmulatorError, match="0x40001ff0, where Unicorn's model of the board has no register"):
        one.run()


def test_bytes_of_registers() -> None:
    one = bench("0878" "4a78" "4b88" + WFI)  # ldrb r0,[r1]; ldrb r2,[r1,#1]; ldrh r3,[r1,#2]
    one.set(r1=DEVICE + 0x1000)
    registers = one.run()
    assert (registers["r0"], registers["r2"], registers["r3"]) == (0x44, 0x33, 0x1122)


def test_the_cycle_counter_needs_trace_and_its_own_enable() -> None:
    """DWT CYCCNT (DDI 0403, C1.8.8) follows the instructions."""
    one = bench("0868" "0c68" + WFI)
    for demcr, control, moves in ((0, 1, 0), (1 << 24, 0, 0), (1 << 24, 1, 1)):
        one.core.system.write(0xDFC, 4, demcr)
        one.core._dwt.write(0, 4, control)
        one.set(pc=PROGRAM | 1, r1=0xE0001004)
        one.core.sleeping = False
        one.run()
        one.set(pc=PROGRAM | 1)
        one.core.sleeping = False
        registers = one.run()
        assert registers["r4"] - registers["r0"] == moves


def test_systick_counts_down_and_wraps() -> None:
    one = bench("0868" "0c68" + WFI)
    for register, value in ((0x14, 9), (0x18, 0), (0x10, 5)):
        one.core.system.write(register, 4, value)
    values = [9 - n % 10 for n in range(1, 31)]
    one.set(r1=0xE000E018)
    seen = []
    for _ in range(8):
        one.set(pc=PROGRAM | 1)
        one.core.sleeping = False
        registers = one.run()
        seen += [registers["r0"], registers["r4"]]
    assert set(seen) <= set(values)
    later = seen[4:]
    assert all((a - b) % 10 == 1 for a, b in zip(later[::2], later[1::2], strict=True))
    with pytest.raises(EmulatorError, match="SysTick's interrupt"):
        one.core.system.write(0x10, 4, 7)


def test_a_reset_asked_for_keeps_the_memory() -> None:
    one = bench("0860" + WFI)
    one.core.write(RAM, b"kept")
    one.set(r0=0x05FA0004, r1=0xE000ED0C)
    one.core.resume()
    one.core.run()
    assert one.core.reset_requested
    one.core.reset()
    assert one.core.read(RAM, 4) == b"kept"
    assert (one.core.registers()["pc"], one.core.reset_requested) == (PROGRAM, False)


def test_what_is_no_memory_cannot_be_read() -> None:
    one = bench(WFI)
    for address, size in ((0xFFFE, 4), (0x50000000, 1), (RAM - 1, 2)):
        with pytest.raises(EmulatorError, match=r"are not all memory"):
            one.core.read(address, size)
