"""A core behind the virtual probe, driven by pyOCD's own CMSIS-DAP code as one on a real probe would be."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from helpers.probe_session import COUNTING_LOOP, STORING_LOOP, probed, session_on
from helpers.sandbox import private_places
from helpers.toolchain import needs_qemu
from pyocd.core.exceptions import TransferFaultError
from pyocd.core.target import Target
from pyocd.coresight.cortex_m import CortexM

from lab.emulators.probe.board import ProbedBoard

pytestmark = needs_qemu

_UNMAPPED = 0x3C000000
_ICSR, _PENDING = 0xE000ED04, 0x945FF000
_THUMB = 0x01000000
_AIRCR, _DFSR, _DHCSR, _DEMCR = 0xE000ED0C, 0xE000ED30, 0xE000EDF0, 0xE000EDFC
_RUN, _HALT = 0xA05F0001, 0xA05F0003
# Board: name of its core, FPU, hardware breakpoints, watchpoints, RAM.
_CORES = {
    "microbit": ("Cortex-M0", False, 4, 2, 0x20000000),
    "mps2-an385": ("Cortex-M3", False, 6, 4, 0x20000000),
    "mps2-an386": ("Cortex-M4", True, 6, 4, 0x20000000),
    "mps2-an500": ("Cortex-M7", True, 8, 4, 0x20000000),
    "mps2-an505": ("Cortex-M33", True, 8, 4, 0x38000000),
    "mps3-an547": ("Cortex-M55", True, 8, 4, 0x30000000),
    "netduinoplus2": ("Cortex-M4", True, 6, 4, 0x20000000),
}


@dataclass(frozen=True)
class _Bench:
    name: str
    board: ProbedBoard
    target: Target
    core: CortexM

    @property
    def ram(self) -> int:
        return _CORES[self.name][4]

    @property
    def code(self) -> int:
        return self.ram + 0x1000

    @property
    def data(self) -> int:
        return self.ram + 0x1800

    @property
    def stack(self) -> int:
        return self.ram + 0x3000


@pytest.fixture(scope="module", params=_CORES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Bench]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("lab")
        for name, value in private_places(folder, folder / "cache").items():
            patch.setenv(name, value)
        with probed(request.param) as board, session_on(board) as session:
            yield _Bench(request.param, board, session.target, session.target.cores[0])


@pytest.fixture
def loop(bench: _Bench) -> Callable[[bytes], CortexM]:
    """Puts code into RAM and the core before it."""

    def load(code: bytes) -> CortexM:
        bench.core.halt()
        # Where a breakpoint was removed, pyOCD puts the instruction back when the core next runs: over the new code.
        bench.core.bp_manager.flush()
        bench.core.write_memory_block8(bench.code, code)
        bench.core.write_core_registers_raw(
            ["pc", "r0", "r1", "sp", "lr", "xpsr"], [bench.code | 1, 0, 0, bench.stack, 0xFFFFFFFF, _THUMB]
        )
        return bench.core

    return load


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"


def test_what_pyocd_discovers(bench: _Bench) -> None:
    name, fpu, breakpoints, watchpoints, _ = _CORES[bench.name]
    core = bench.core
    assert core.name == name
    assert core.has_fpu == fpu
    assert core.fpb.available_breakpoints == breakpoints
    assert core.dwt.watchpoint_count == watchpoints
    assert len(bench.target.cores) == 1
    assert bench.target.get_state() is Target.State.HALTED


def test_the_target_is_known_without_being_named(bench: _Bench) -> None:
    assert bench.target.session.board.target_type == bench.board.entry.target


def test_core_registers_keep_what_is_written(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    chance = random.Random(1)
    names = [f"r{number}" for number in range(13)] + ["lr"]
    if core.has_fpu:
        names += [f"s{number}" for number in range(32)]
    values = [chance.getrandbits(32) for _ in names]
    core.write_core_registers_raw(names, values)
    assert core.read_core_registers_raw(names) == values
    assert core.read_core_register_raw("pc") == bench.code
    if core.has_fpu:
        # d3 is s7 and s6.
        assert core.read_core_register_raw("d3") == values[14 + 7] << 32 | values[14 + 6]
        core.write_core_register_raw("fpscr", 0x03C00000)
        assert core.read_core_register_raw("fpscr") == 0x03C00000
        core.write_core_register_raw("fpscr", 0)


def test_stack_pointers_and_masks_keep_what_is_written(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    before = core.read_core_registers_raw(["r0", "r1", "r5", "pc", "xpsr", "lr"])
    aside = bytes(core.read_memory_block8(bench.ram, 64))
    core.write_core_registers_raw(["msp", "psp", "primask"], [bench.stack - 64, bench.stack - 512, 1])
    assert core.read_core_registers_raw(["msp", "psp", "primask", "sp"]) == [
        bench.stack - 64,
        bench.stack - 512,
        1,
        bench.stack - 64,
    ]
    core.write_core_register_raw("control", 2)
    assert core.read_core_register_raw("sp") == bench.stack - 512
    core.write_core_registers_raw(["control", "primask"], [0, 0])
    if bench.name != "microbit":
        core.write_core_register_raw("basepri", 0x40)
        assert core.read_core_register_raw("basepri") == 0x40
        core.write_core_register_raw("basepri", 0)
    # How that is done leaves nothing behind.
    assert core.read_core_registers_raw(["r0", "r1", "r5", "pc", "xpsr", "lr"]) == before
    assert bytes(core.read_memory_block8(bench.ram, 64)) == aside


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 600, 3001])
def test_memory_keeps_blocks_at_any_address(bench: _Bench, offset: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    around = b"\x5a" * 8
    bench.core.write_memory_block8(bench.data + offset - 8, around)
    bench.core.write_memory_block8(bench.data + offset + size, around)
    bench.core.write_memory_block8(bench.data + offset, data)
    assert bytes(bench.core.read_memory_block8(bench.data + offset - 8, size + 16)) == around + data + around


def test_memory_keeps_single_values(bench: _Bench) -> None:
    core = bench.core
    core.write32(bench.data, 0x11223344)
    assert [core.read8(bench.data + offset) for offset in range(4)] == [0x44, 0x33, 0x22, 0x11]
    assert [core.read16(bench.data + offset) for offset in (0, 2)] == [0x3344, 0x1122]
    core.write8(bench.data + 1, 0xAA)
    core.write16(bench.data + 2, 0xBBCC)
    assert core.read32(bench.data) == 0xBBCCAA44


def test_an_unmapped_address_faults_and_the_next_access_is_fine(bench: _Bench) -> None:
    core = bench.core
    core.write32(bench.data, 42)
    with pytest.raises(TransferFaultError) as caught:
        core.read32(_UNMAPPED)
    assert caught.value.fault_address == _UNMAPPED
    assert core.read32(bench.data) == 42
    with pytest.raises(TransferFaultError):
        core.read_memory_block32(_UNMAPPED, 200)
    assert core.read32(bench.data) == 42
    core.write32(_UNMAPPED, 1)  # on its way
    with pytest.raises(TransferFaultError):
        core.flush()
    assert core.read32(bench.data) == 42


def test_stepping_runs_one_instruction_at_a_time(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    seen = []
    for _ in range(5):
        core.step()
        seen.append(tuple(core.read_core_registers_raw(["pc", "r0"])))
    assert seen == [(bench.code + 2, 1), (bench.code, 1), (bench.code + 2, 2), (bench.code, 2), (bench.code + 2, 3)]


def test_it_runs_until_it_is_halted(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    core.resume()
    assert core.get_state() is Target.State.RUNNING
    core.halt()
    assert core.get_state() is Target.State.HALTED
    assert core.get_halt_reason() is Target.HaltReason.DEBUG
    assert core.read_core_register_raw("pc") in (bench.code, bench.code + 2)
    first = core.read_core_register_raw("r0")
    core.resume()
    _until(lambda: _halted_count(core) > first)


def _halted_count(core: CortexM) -> int:
    core.halt()
    count = core.read_core_register_raw("r0")
    core.resume()
    return count


def test_memory_is_read_and_written_while_the_core_runs(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(STORING_LOOP)
    core.write_core_register_raw("r0", bench.data)
    core.write32(bench.data, 0)
    core.resume()
    _until(lambda: core.read32(bench.data) > 1000)
    first = core.read32(bench.data)
    _until(lambda: core.read32(bench.data) != first)
    core.write32(bench.data + 16, 99)
    assert core.read32(bench.data + 16) == 99
    assert core.get_state() is Target.State.RUNNING
    core.halt()


def test_a_breakpoint_in_ram(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    core.set_breakpoint(bench.code + 2, Target.BreakpointType.SW)
    for count in (1, 2):
        core.resume()
        _until(core.is_halted)
        assert core.get_halt_reason() is Target.HaltReason.BREAKPOINT
        assert core.read_core_registers_raw(["pc", "r0"]) == [bench.code + 2, count]
        # What the breakpoint replaced is what a debugger sees.
        assert bytes(core.read_memory_block8(bench.code, 4)) == COUNTING_LOOP
        # As on hardware, a core neither steps nor runs over a breakpoint that it stands at.
        core.step()
        core.resume()
        _until(core.is_halted)
        assert core.read_core_registers_raw(["pc", "r0"]) == [bench.code + 2, count]
        core.remove_breakpoint(bench.code + 2)
        core.step()
        core.set_breakpoint(bench.code + 2, Target.BreakpointType.SW)
    core.remove_breakpoint(bench.code + 2)
    core.resume()
    assert core.is_running()
    core.halt()
    assert bytes(core.read_memory_block8(bench.code, 4)) == COUNTING_LOOP


# b .; where a routine returns to: bkpt, or nop; a loop behind it that counts in r1 and at [r4]; nop
_RETURN_BKPT, _RETURN_NOP = bytes.fromhex("fee700be"), bytes.fromhex("fee700bf")
_BEHIND = bytes.fromhex("21600131fce700bf")
# movs r0, #1; adds r0, #1; bx lr
_ROUTINE = bytes.fromhex("012001307047")
# strh r2, [r3]; bx lr
_STORING_ROUTINE = bytes.fromhex("1a807047")


def _call(core: CortexM, routine: int, end: int) -> None:
    """As a flash algorithm is called: it halts at the BKPT that the link register points at."""
    core.write_core_registers_raw(["pc", "r0", "lr"], [routine | 1, 0, end | 1])
    core.resume()


def test_a_routine_is_called_again_after_its_code_has_changed(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    """What stood at its two ends is asked for with each halt: it must not be believed once it may have changed."""
    end, routine = bench.code + 2, bench.code + 12
    core = loop(_RETURN_BKPT + _BEHIND + _ROUTINE)
    for _ in range(3):
        _call(core, routine, end)
        _until(core.is_halted)
        assert core.get_halt_reason() is Target.HaltReason.BREAKPOINT
        assert core.read_core_registers_raw(["pc", "r0"]) == [end, 2]
    # The debugger takes the BKPT away: there is nothing to halt at any more.
    core.write32(bench.data, 0)
    core.write_core_registers_raw(["r1", "r4"], [0, bench.data])
    core.write_memory_block8(bench.code, _RETURN_NOP)
    _call(core, routine, end)
    _until(lambda: core.read32(bench.data) > 3)
    core.halt()
    # It is back, and the first instruction is one, too: not even that is executed.
    core.write_memory_block8(bench.code, _RETURN_BKPT)
    core.write_memory_block8(routine, bytes.fromhex("00be0130"))
    _call(core, routine, end)
    _until(core.is_halted)
    assert core.read_core_registers_raw(["pc", "r0"]) == [routine, 0]


def test_a_routine_that_overwrites_where_it_returns_to_is_not_halted_there(
    bench: _Bench, loop: Callable[[bytes], CortexM]
) -> None:
    end, routine = bench.code + 2, bench.code + 12
    core = loop(_RETURN_BKPT + _BEHIND + _STORING_ROUTINE)
    core.write32(bench.data, 0)
    nop = int.from_bytes(_RETURN_NOP[2:], "little")
    core.write_core_registers_raw(["r1", "r2", "r3", "r4"], [0, nop, end, bench.data])
    _call(core, routine, end)
    # This once it halts, where a real core would not: the probe's breakpoint stood there when it was let run.
    _until(core.is_halted)
    assert core.read_core_register_raw("pc") == end
    assert bytes(core.read_memory_block8(bench.code, 4)) == _RETURN_NOP
    _call(core, routine, end)
    _until(lambda: core.read32(bench.data) > 3)
    core.halt()


def test_a_step_that_overwrites_where_a_routine_returns_to_counts_too(
    bench: _Bench, loop: Callable[[bytes], CortexM]
) -> None:
    end, routine = bench.code + 2, bench.code + 12
    core = loop(_RETURN_BKPT + _BEHIND + _STORING_ROUTINE)
    core.write32(bench.data, 0)
    bkpt, nop = (int.from_bytes(code[2:], "little") for code in (_RETURN_BKPT, _RETURN_NOP))
    core.write_core_registers_raw(["r1", "r2", "r3", "r4"], [0, bkpt, end, bench.data])
    _call(core, routine, end)
    _until(core.is_halted)
    core.write_core_registers_raw(["pc", "r2"], [routine | 1, nop])
    core.step()
    _call(core, routine, end)
    _until(lambda: core.read32(bench.data) > 3)
    core.halt()


def test_causes_of_halts_gather_until_they_are_cleared(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    """DFSR (Armv7-M Architecture Reference Manual, C1.6.1), for a debugger that clears it when it likes."""
    halted, bkpt, vector_catch = 1, 2, 8
    core = loop(COUNTING_LOOP)
    core.set_breakpoint(bench.code + 2, Target.BreakpointType.SW)
    core.bp_manager.flush()
    core.write32(_DHCSR, _RUN)
    _until(core.is_halted)
    core.clear_debug_cause_bits()
    assert core.read32(_DFSR) == 0
    core.write_core_register_raw("pc", bench.code | 1)
    core.write32(_DHCSR, _RUN)
    _until(core.is_halted)
    core.write_core_register_raw("pc", bench.code | 1)
    core.remove_breakpoint(bench.code + 2)
    core.bp_manager.flush()
    core.write32(_DHCSR, _RUN)
    core.write32(_DHCSR, _HALT)
    assert core.read32(_DFSR) == halted | bkpt
    core.clear_debug_cause_bits()
    core.set_breakpoint(bench.code, Target.BreakpointType.SW)
    core.bp_manager.flush()
    core.write32(_DHCSR, _RUN)
    _until(core.is_halted)
    core.write32(_DEMCR, 1)
    core.write32(_AIRCR, 0x05FA0004)
    assert core.read32(_DFSR) == bkpt | vector_catch
    core.write32(_DEMCR, 0)
    core.remove_breakpoint(bench.code)


def test_the_stack_pointer_in_use_is_one_of_the_two(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    assert core.read_core_register_raw("msp") == bench.stack
    core.write_core_register_raw("sp", bench.stack - 64)
    assert core.read_core_register_raw("msp") == bench.stack - 64
    # Its last bits are not there.
    core.write_core_register_raw("sp", bench.stack - 125)
    assert core.read_core_register_raw("sp") == bench.stack - 128


def test_nothing_is_read_ahead_while_the_core_runs(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    model = bench.target.session.probe._link._interface._probe._port.core
    # Behind a gate of TrustZone it is read by way of the core.
    assert model.can_read_ahead(bench.ram, 0x400) == (bench.name != "mps2-an505")
    assert not model.can_read_ahead(_ICSR, 4)
    core.resume()
    assert core.is_running()
    assert not model.can_read_ahead(bench.ram, 0x400)
    core.halt()


def test_what_was_written_is_in_the_emulator_when_the_probe_has_answered(
    bench: _Bench, loop: Callable[[bytes], CortexM]
) -> None:
    """Others reach its memory as well: firmware that a serial line tells that its data have come, for one."""
    core = loop(COUNTING_LOOP)
    core.resume()
    for number in range(1, 4):
        data = random.Random(number).randbytes(600)
        core.write_memory_block8(bench.data, data)
        core.flush()
        assert bench.board.qemu.read_memory(bench.data, len(data)) == data
    core.halt()


def test_why_the_core_halted_is_known_although_its_registers_were_written_since(
    bench: _Bench, loop: Callable[[bytes], CortexM]
) -> None:
    core = loop(COUNTING_LOOP)
    core.set_breakpoint(bench.code + 2, Target.BreakpointType.SW)
    core.resume()
    _until(core.is_halted)
    core.write_core_registers_raw(["pc", "r0", "sp", "xpsr"], [bench.code | 1, 40, bench.stack, _THUMB])
    assert core.get_halt_reason() is Target.HaltReason.BREAKPOINT
    names = ["pc", "r0", "sp", "xpsr"]
    assert core.read_core_registers_raw(names) == [bench.code, 40, bench.stack, _THUMB]
    core.resume()
    _until(core.is_halted)
    assert core.read_core_registers_raw(["pc", "r0"]) == [bench.code + 2, 41]
    core.remove_breakpoint(bench.code + 2)


def test_registers_that_were_written_end_with_a_reset(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    core.reset_and_halt()
    after_reset = core.read_core_register_raw("r7")
    core.write_core_register_raw("r7", after_reset + 1)
    core.reset_and_halt()
    assert core.read_core_register_raw("r7") == after_reset


def test_a_watchpoint_halts_after_the_access(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(STORING_LOOP)
    core.write_core_registers_raw(["r0", "r1"], [bench.data, 7])
    core.set_watchpoint(bench.data, 4, Target.WatchpointType.WRITE)
    for value in (7, 8, 9):
        core.resume()
        _until(core.is_halted)
        assert core.get_halt_reason() is Target.HaltReason.WATCHPOINT
        assert core.read32(bench.data) == value
    core.remove_watchpoint(bench.data, 4, Target.WatchpointType.WRITE)
    core.resume()
    _until(lambda: core.read32(bench.data) > 1000)
    core.halt()


def test_breakpoints_may_be_set_while_the_core_runs(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(COUNTING_LOOP)
    core.resume()
    core.set_breakpoint(bench.code, Target.BreakpointType.SW)
    core.bp_manager.flush()
    _until(core.is_halted)
    assert core.read_core_register_raw("pc") == bench.code
    core.remove_breakpoint(bench.code)
    core.bp_manager.flush()


def test_a_sleeping_core_obeys_the_debugger(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    """WFI, and a branch back to it; no interrupt ever comes."""
    core = loop(bytes.fromhex("30bffde7"))
    core.resume()
    # Whether it is asleep cannot be seen from outside; it is within microseconds.
    _until(lambda: _halts_at(core, bench.code + 2))
    # What woke it is gone again.
    assert core.read_core_register_raw("ipsr") == 0
    assert core.read32(_ICSR) & _PENDING == 0
    core.write_memory_block8(bench.code, COUNTING_LOOP)
    core.write_core_registers_raw(["pc", "r0"], [bench.code | 1, 0])
    core.step()
    assert core.read_core_registers_raw(["pc", "r0"]) == [bench.code + 2, 1]


def _halts_at(core: CortexM, address: int) -> bool:
    core.halt()
    if core.read_core_register_raw("pc") == address:
        return True
    core.resume()
    return False


def test_stepping_over_wfi_does_not_sleep(bench: _Bench, loop: Callable[[bytes], CortexM]) -> None:
    core = loop(bytes.fromhex("30bf0130"))
    core.step()
    core.step()
    assert core.read_core_registers_raw(["pc", "r0"]) == [bench.code + 4, 1]


def test_a_core_without_a_program_is_locked_up_and_comes_back(bench: _Bench) -> None:
    """Erased flash: a real core locks up; the emulator must not end of it."""
    core = bench.core
    core.reset()
    assert core.get_state() is Target.State.LOCKUP
    core.halt()
    assert core.get_state() is Target.State.HALTED
    bench.board.check_alive()
    core.write_memory_block8(bench.code, COUNTING_LOOP)
    core.write_core_registers_raw(["pc", "sp", "xpsr"], [bench.code | 1, bench.stack, _THUMB])
    core.resume()
    assert core.get_state() is Target.State.RUNNING
    core.halt()
