"""Programs in the flash of emulated boards, put there by pyOCD; resets, breakpoints in flash, faults caught."""

from __future__ import annotations

import io
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from helpers.probe_session import LOOP_OFFSET, probed, program, session_on
from helpers.sandbox import private_places
from helpers.toolchain import needs_qemu
from pyocd.core.exceptions import Error, FlashFailure
from pyocd.core.session import Session
from pyocd.core.target import Target
from pyocd.coresight.cortex_m import CortexM
from pyocd.flash.eraser import FlashEraser
from pyocd.flash.file_programmer import FileProgrammer
from pyocd.flash.loader import MemoryLoader

from lab.emulators.probe import rom_table
from lab.emulators.probe.board import ProbedBoard
from lab.emulators.probe.direct import DirectProbe
from lab.emulators.probe.registry import find_board

pytestmark = needs_qemu

_RAM = 0x20000000
# Board: where its flash is, bytes of a sector there, where its RAM is.
_FLASH = {
    "microbit": (0, 0x400, _RAM),
    "mps2-an386": (0, 0x4000, _RAM),
    "mps2-an500": (0, 0x4000, _RAM),
    "mps2-an505": (0x10000000, 0x4000, 0x38000000),
    "mps3-an547": (0, 0x4000, 0x30000000),
    "netduinoplus2": (0x08000000, 0x4000, _RAM),
}
# Their NMI belongs to the secure state, and the probe's way to it does not.
_TRUSTZONE = ("mps2-an505", "mps3-an547")
_SIZE = 40_000


@dataclass(frozen=True)
class _Bench:
    board: ProbedBoard
    session: Session
    base: int
    sector_bytes: int
    ram: int

    @property
    def stack(self) -> int:
        return self.ram + 0x2000

    @property
    def code(self) -> int:
        return self.ram + 0x1000

    @property
    def core(self) -> CortexM:
        return self.session.target.cores[0]

    def load(self, data: bytes, offset: int = 0) -> None:
        programmer = FileProgrammer(self.session, progress=lambda _: None)
        programmer.program(io.BytesIO(data), file_format="bin", base_address=self.base + offset)

    def flash(self, size: int, offset: int = 0) -> bytes:
        return bytes(self.core.read_memory_block8(self.base + offset, size))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("lab")
        for name, value in private_places(folder, folder / "cache").items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module", params=_FLASH)
def bench(request: pytest.FixtureRequest, places: None) -> Iterator[_Bench]:
    with probed(request.param) as board, session_on(board) as session:
        yield _Bench(board, session, *_FLASH[request.param])


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"


def test_an_image_is_in_flash_after_it_was_programmed(bench: _Bench) -> None:
    data = random.Random(1).randbytes(_SIZE)
    bench.load(data)
    assert bench.flash(_SIZE) == data
    # A few bytes of it change.
    changed = data[:20_000] + b"other bytes" + data[20_011:]
    bench.load(changed)
    assert bench.flash(_SIZE) == changed


def test_a_sector_is_erased_and_its_neighbours_are_not(bench: _Bench) -> None:
    data = random.Random(2).randbytes(3 * bench.sector_bytes)
    bench.load(data)
    eraser = FlashEraser(bench.session, FlashEraser.Mode.SECTOR)
    eraser.erase([(bench.base + bench.sector_bytes, bench.base + 2 * bench.sector_bytes)])
    first, last = data[: bench.sector_bytes], data[2 * bench.sector_bytes :]
    assert bench.flash(len(data)) == first + b"\xff" * bench.sector_bytes + last


def test_flash_that_is_locked_says_so_and_is_programmed_once_it_is_open(bench: _Bench) -> None:
    before = random.Random(3).randbytes(3000)
    bench.load(before)
    bench.board.faults.lock_flash("refuse")
    with pytest.raises(FlashFailure):
        bench.load(bytes(3000))
    bench.board.faults.clear()
    assert bench.flash(3000) == before
    bench.load(bytes(3000))
    assert bench.flash(3000) == bytes(3000)


def test_flash_that_drops_what_is_written_is_found_by_reading_back_only(bench: _Bench) -> None:
    before = random.Random(4).randbytes(3000)
    bench.load(before)
    bench.board.faults.lock_flash("drop")
    bench.load(bytes(3000))
    bench.board.faults.clear()
    assert bench.flash(3000) == before


def test_a_flipped_bit_is_read_back_and_not_in_the_flash(bench: _Bench) -> None:
    data = bytes(range(256)) * 4
    bench.load(data)
    bench.board.faults.flip_bit(bench.base + 700, 5)
    seen = bench.flash(len(data))
    assert [at for at in range(len(data)) if seen[at] != data[at]] == [700]
    assert seen[700] == data[700] ^ 1 << 5
    bench.board.faults.clear()
    assert bench.flash(len(data)) == data


@pytest.fixture
def counting(bench: _Bench) -> CortexM:
    """The core before the first instruction of a program in flash."""
    bench.load(program(bench.base, bench.stack))
    bench.core.reset_and_halt()
    return bench.core


def test_reset_and_halt_stops_before_the_first_instruction(bench: _Bench, counting: CortexM) -> None:
    start = bench.base + LOOP_OFFSET - 2
    assert counting.read_core_registers_raw(["pc", "sp", "msp"]) == [start, bench.stack, bench.stack]
    counting.step()
    assert counting.read_core_register_raw("pc") == start + 2


@pytest.mark.parametrize("kind", ["SYSRESETREQ", "NSRST", "EMULATED"])
def test_every_reset_starts_the_program_again(bench: _Bench, counting: CortexM, kind: str) -> None:
    counting.write_core_register_raw("r0", 0xDEAD)
    reset = Target.ResetType[kind]
    counting.reset(reset)
    assert counting.get_state() is Target.State.RUNNING
    _until(lambda: _count(counting) > 0xDEAD + 10)
    counting.reset_and_halt(reset)
    assert counting.get_state() is Target.State.HALTED
    assert counting.read_core_register_raw("pc") == bench.base + LOOP_OFFSET - 2


def _count(core: CortexM) -> int:
    core.halt()
    count = core.read_core_register_raw("r0")
    core.resume()
    return count


def test_hardware_breakpoints_in_flash(bench: _Bench, counting: CortexM) -> None:
    address = bench.base + LOOP_OFFSET + 2
    counting.set_breakpoint(address, Target.BreakpointType.HW)
    counting.resume()
    _until(counting.is_halted)
    assert counting.get_halt_reason() is Target.HaltReason.BREAKPOINT
    assert counting.read_core_registers_raw(["pc", "r0"]) == [address, 1]
    counting.remove_breakpoint(address)
    counting.resume()
    _until(lambda: _count(counting) > 10)


def test_a_hard_fault_is_caught_at_its_handler(bench: _Bench, counting: CortexM) -> None:
    code = bench.code
    counting.write_memory_block8(code, bytes.fromhex("0168fee7"))  # ldr r1, [r0]; b .
    counting.write_core_registers_raw(["pc", "r0"], [code | 1, 0x3C000000])
    bench.session.target.set_vector_catch(Target.VectorCatch.HARD_FAULT)
    counting.resume()
    _until(counting.is_halted)
    assert counting.get_halt_reason() is Target.HaltReason.VECTOR_CATCH
    assert counting.read_core_register_raw("ipsr") == 3
    assert counting.read_core_register_raw("pc") == bench.base + LOOP_OFFSET + 8
    # The frame that the core pushed has the address of the load.
    assert counting.read32(counting.read_core_register_raw("sp") + 24) == code
    counting.clear_debug_cause_bits()
    counting.reset_and_halt()


def test_a_bkpt_of_the_program_halts_it(bench: _Bench, counting: CortexM) -> None:
    """An assertion, or a call for semihosting: to the emulator without a debugger it is a hard fault."""
    # movs r0, #5; adds r0, #1; bkpt 0xab; adds r0, #1; b .
    counting.write_memory_block8(bench.code, bytes.fromhex("05200130abbe0130fee7"))
    counting.write_core_registers_raw(["pc", "r1", "lr", "psp"], [bench.code | 1, 77, 0xFFFFFFFF, bench.ram + 0x1800])
    bench.session.target.set_vector_catch(Target.VectorCatch.HARD_FAULT)
    counting.clear_debug_cause_bits()
    counting.resume()
    _until(counting.is_halted)
    assert counting.get_halt_reason() is Target.HaltReason.BREAKPOINT
    names = ["pc", "r0", "r1", "lr", "sp", "psp", "ipsr"]
    values = [bench.code + 4, 6, 77, 0xFFFFFFFF, bench.stack, bench.ram + 0x1800, 0]
    assert counting.read_core_registers_raw(names) == values
    # A debugger goes on behind it.
    counting.write_core_register_raw("pc", bench.code + 6 | 1)
    counting.resume()
    _until(lambda: _halts_at(counting, bench.code + 8))
    assert counting.read_core_register_raw("r0") == 7
    counting.reset_and_halt()


def _halts_at(core: CortexM, address: int) -> bool:
    core.halt()
    if core.read_core_register_raw("pc") == address:
        return True
    core.resume()
    return False


@pytest.mark.parametrize("bench", [board for board in _FLASH if board not in _TRUSTZONE], indirect=True)
def test_a_core_that_sleeps_in_its_fault_handler_can_be_examined(bench: _Bench, counting: CortexM) -> None:
    """As many handlers end: for (;;) __WFI(); the hard fault's priority keeps all but an NMI from waking it."""
    handler = bench.base + LOOP_OFFSET + 8
    bench.load(program(bench.base, bench.stack)[: LOOP_OFFSET + 8] + bytes.fromhex("30bffde7"))
    counting.reset_and_halt()
    bench.session.target.set_vector_catch(0)
    counting.write_memory_block8(bench.code, bytes.fromhex("0168fee7"))  # ldr r1, [r0]; b .
    counting.write_core_registers_raw(["pc", "r0"], [bench.code | 1, 0x3C000000])
    counting.resume()
    _until(lambda: _halts_at(counting, handler + 2))
    assert counting.read_core_register_raw("ipsr") == 3
    stack = counting.read_core_register_raw("msp")
    assert counting.read32(stack + 24) == bench.code
    counting.reset_and_halt()


def test_other_exceptions_of_a_shared_handler_are_not_taken_for_hard_faults(bench: _Bench, counting: CortexM) -> None:
    """SVC goes to the handler that the hard fault has too."""
    code = bench.code
    counting.write_memory_block8(code, bytes.fromhex("00dffee7"))  # svc 0; b .
    counting.write_core_register_raw("pc", code | 1)
    bench.session.target.set_vector_catch(Target.VectorCatch.HARD_FAULT)
    counting.resume()
    _until(lambda: _is_at(counting, bench.base + LOOP_OFFSET + 8, 11))
    counting.reset_and_halt()


def _is_at(core: CortexM, address: int, exception: int) -> bool:
    assert core.get_state() is Target.State.RUNNING
    core.halt()
    found = core.read_core_registers_raw(["pc", "ipsr"]) == [address, exception]
    core.resume()
    return found


@pytest.mark.usefixtures("places")
def test_the_program_stays_when_the_session_ends_and_is_lost_with_the_power() -> None:
    data = program(0, _RAM + 0x2000)
    with probed("mps2-an386") as board:
        with session_on(board, resume_on_disconnect=True) as session:
            FileProgrammer(session, progress=lambda _: None).program(io.BytesIO(data), file_format="bin")
            session.target.reset_and_halt()
        with session_on(board, connect_mode="attach") as session:
            core = session.target.cores[0]
            assert core.get_state() is Target.State.RUNNING
            assert bytes(core.read_memory_block8(0, len(data))) == data
            assert core.get_state() is Target.State.RUNNING
        board.power_off()
        board.power_on()
        with session_on(board) as session:
            assert bytes(session.target.read_memory_block8(0, len(data))) == bytes(len(data))


@pytest.mark.usefixtures("places")
def test_every_way_to_connect() -> None:
    with probed("netduinoplus2") as board:
        base, _, ram = _FLASH["netduinoplus2"]
        image = io.BytesIO(program(base, ram + 0x2000))
        with session_on(board) as session:
            FileProgrammer(session, progress=lambda _: None).program(image, file_format="bin", base_address=base)
            session.target.reset()
        seen = {}
        for mode in ("attach", "halt", "pre-reset", "under-reset"):
            with session_on(board, connect_mode=mode) as session:
                core = session.target.cores[0]
                seen[mode] = (core.get_state(), core.get_halt_reason())
                if mode == "under-reset":
                    assert core.read_core_register_raw("pc") == base + LOOP_OFFSET - 2
                core.resume()
    halted, reason = Target.State.HALTED, Target.HaltReason
    assert seen == {
        "attach": (Target.State.RUNNING, None),
        "halt": (halted, reason.DEBUG),
        "pre-reset": (halted, reason.DEBUG),
        "under-reset": (halted, reason.VECTOR_CATCH),
    }


@pytest.mark.usefixtures("places")
def test_breakpoints_left_by_a_debugger_that_died_do_not_stop_the_next() -> None:
    data = program(0, _RAM + 0x2000)
    with probed("mps2-an386") as board:
        with session_on(board) as session:
            FileProgrammer(session, progress=lambda _: None).program(io.BytesIO(data), file_format="bin")
            core = session.target.cores[0]
            core.reset_and_halt()
            core.set_breakpoint(LOOP_OFFSET, Target.BreakpointType.HW)
            core.resume()
            _until(core.is_halted)
            # As the kernel does when a program is killed: the connections end, and nothing is said.
            session.probe._link._interface._probe._port.core._run._gdb._socket.close()
        with session_on(board) as session:
            session.target.reset()
            _until(lambda: _count(session.target.cores[0]) > 10)


class _CountingSocket(socket.socket):
    """Counts the messages that wake the emulator."""

    messages = 0

    def sendall(self, *data: Any) -> None:
        _CountingSocket.messages += 1
        super().sendall(*data)


@pytest.mark.usefixtures("places")
def test_a_page_takes_no_more_messages_to_the_emulator_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """What deployment with the part's own flash algorithm takes its time for: two routines on the core for each page.

    Each is one message that sets the registers and lets the core run, and one that asks for them after it has halted;
    the page itself is three, one for each packet that brings a part of it, and reading it back is one. Counted between
    two images, of which one has 16 pages more, on a board that has been programmed before.
    """
    seen = []
    with probed("microbit") as board:
        monkeypatch.setattr(socket, "socket", _CountingSocket)
        with session_on(board) as session:
            for pages in (1, 8, 24):
                data = random.Random(pages).randbytes(pages * 0x400)
                before = _CountingSocket.messages
                loader = MemoryLoader(session, chip_erase="sector", smart_flash=False, keep_unwritten=False)
                loader.add_data(0, list(data))
                loader.commit()
                programmed = _CountingSocket.messages
                words = session.target.selected_core.ap.read_memory_block32(0, len(data) // 4)
                assert struct.pack(f"<{len(words)}I", *words) == data
                seen.append((programmed - before, _CountingSocket.messages - programmed))
    programming, reading = ((more - less) / 16 for less, more in zip(*seen[1:], strict=True))
    assert programming <= 7
    assert reading <= 1


@pytest.mark.usefixtures("places")
def test_the_debug_port_without_packets_does_the_same() -> None:
    data = random.Random(5).randbytes(_SIZE)
    with (
        probed("mps2-an386") as board,
        session_on(board, DirectProbe(find_board(board.unique_id)), target_override="lab_mps2_an386") as session,
    ):
        FileProgrammer(session, progress=lambda _: None).program(io.BytesIO(data), file_format="bin")
        assert bytes(session.target.read_memory_block8(0, _SIZE)) == data
        core = session.target.cores[0]
        core.write_memory_block8(_RAM, b"in its place")
        assert board.qemu.read_memory(_RAM, 12) == b"in its place"
        core.write_core_register_raw("r3", 77)
        assert core.read_core_register_raw("r3") == 77
        assert core.fpb.available_breakpoints == 6


@pytest.mark.usefixtures("places")
def test_registers_of_the_added_flash_controller_read_as_a_block() -> None:
    with probed("netduinoplus2") as board, session_on(board) as session:
        # ACR, KEYR, OPTKEYR, SR, CR, OPTCR: the control register says that it is locked.
        assert session.target.read_memory_block32(0x40023C00, 6) == [0, 0, 0, 0, 1 << 31, 0]
        assert session.target.read8(0x40023C13) == 0x80


@pytest.mark.usefixtures("places")
def test_a_core_that_the_model_does_not_know_is_named_and_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with probed("mps2-an385") as board:
        with monkeypatch.context() as patch:
            patch.delitem(rom_table.PROCESSORS, 0xC23)
            with pytest.raises(Error) as caught, session_on(board):
                pass
            assert re.search(r"CPUID 0x410fc231.*known: Cortex-M0, ", str(caught.value.__cause__))
        with session_on(board) as session:
            assert session.target.cores[0].name == "Cortex-M3"
