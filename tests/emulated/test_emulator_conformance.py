"""Every emulator of every board keeps :class:`lab.emulators.base.McuEmulator`'s contract, and the lab on it its own.

One instance per device of ``device_configs/emulators.yaml`` serves all tests; those that break it deploy it anew.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import capstone
import numpy as np
import pytest
from helpers.conformance import Bed, bed, entries, job, network, outputs, symbol, version, weights
from helpers.toolchain import counting_plugin

from lab.emulators.base import FaultKind
from lab.emulators.registry import create
from lab.errors import ConfigError, Crash, DeviceError, EmulatorError, Hang, OutOfMemory, ProtocolError
from lab.events import Event, RegionEvent
from lab.inventory import Device, board_files, load_board
from lab.paths import config_dir
from lab.wire import Session
from lab.wire_frames import decode_frame

ENTRIES = entries()
CONDITIONAL = re.compile(r"(c\.)?b(eq|ne|lt|ge|gt|le|hi|ls|cs|cc|mi|pl|vs|vc|hs|lo)(z|u)?(\.[nw])?|cbn?z")
CLOCK = job("clock", 200, repeats=1_000_000)
SILENCE_S = 0.05
# Images for boards that people own have the board's own clock, and pins for the marker.
REAL_CLOCKS = {
    "nucleo-f446re": "dwt",
    "stm32f4-discovery": "dwt",
    "nucleo-h743zi": "dwt",
    "nrf52840-dk": "dwt",
    "rpi-pico": "systick",
}
# The others have one UART.
WITHOUT_MARKER_LINE = ("microbit", "emcraft-sf2", "riscv32-virt", *REAL_CLOCKS)
# The word that no processor of this architecture executes: permanently undefined in Thumb, zero on RISC-V.
ILLEGAL = {"arm": (0xDE00).to_bytes(2, "little"), "riscv": bytes(2)}


@pytest.fixture(scope="module", params=ENTRIES, ids=lambda entry: entry.name)
def deployed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    with bed(request.param) as one:
        yield one


@pytest.fixture
def machine(deployed: Bed) -> Iterator[Bed]:
    """The board in good order, whatever the test before did to it."""
    yield deployed
    deployed.device.recover()


def takes(machine: Bed, fault: FaultKind) -> bool:
    """Whether the emulator has this fault; one that has not must say so."""
    if fault in machine.emulator.faults:
        return True
    inject = {
        "nmi": machine.emulator.raise_nmi,
        "watchdog": machine.emulator.bite_watchdog,
        "frozen-clock": machine.emulator.freeze_clock,
    }
    with pytest.raises(ConfigError, match=f"cannot take the fault '{fault}'; allowed: .*power-cut"):
        inject[fault]()
    return False


def begun(machine: Bed) -> Iterator[Event]:
    """A job that goes on for ever, three passes in."""
    events = machine.session().run(CLOCK, 5.0)
    for _ in range(3):
        next(events)
    return events


# ---- what it is -----------------------------------------------------------------------------------------------------


def test_every_emulator_of_every_board_is_on_the_bench() -> None:
    boards = [load_board(path) for path in board_files(config_dir()).values()]
    # The boards with less memory are held to it by the planner; they run the same image.
    there = {
        (board.firmware_board, section.kind)
        for board in boards
        for section in board.emulators
        if board.firmware_board == board.kind and board.device_class == "mcu"
    }
    tested = {(entry.board.kind, entry.emulator.kind) for entry in ENTRIES if entry.emulator is not None}
    assert tested == there


def test_it_is_held_until_it_is_released_and_stops_twice(machine: Bed) -> None:
    section = machine.entry.emulator
    assert section is not None
    emulator = create(machine.entry.board, section, machine.artifact.path)
    assert (emulator.kind, emulator.version) == (section.kind, version(machine.entry))
    assert "power-cut" in emulator.faults
    emulator.start()
    stream = emulator.open_serial()
    low, size = symbol(machine.artifact, "lab_stack")
    assert emulator.read_memory(low, size) == bytes(size), "nothing has run"
    emulator.release()
    hello = Session(stream, board_is_alive=emulator.check_alive).open(20.0, ask=False)
    assert (hello.board, hello.build_id) == (machine.artifact.board, machine.artifact.build_id)
    clock = REAL_CLOCKS.get(machine.entry.board.kind, "virtual")
    assert (hello.clock, hello.clock_hz) == (clock, machine.entry.board.clock_hz)
    stream.close()
    for _ in range(2):
        emulator.stop()
        with pytest.raises(EmulatorError):
            emulator.check_alive()


def test_it_answers_with_the_hosts_bytes(machine: Bed) -> None:
    assert np.array_equal(machine.infer(), network().outputs)


def test_blobs_arrive_whole_through_the_wire_and_beside_it(machine: Bed) -> None:
    """The smallest, and as much as the store takes, or several frames."""
    stream = machine.device._stream
    assert stream is not None
    room = min(machine.device.reset("power").blob_bytes, 2048)
    for beside, size in ((False, 1), (False, room), (True, room), (True, 7)):
        machine.emulator.reset()
        session = Session(stream, board_is_alive=machine.emulator.check_alive)
        address = session.open(20.0, build_id=machine.artifact.build_id, ask=False).blob_address
        data = random.Random(size).randbytes(size)
        session.put("echo", data, machine.emulator if beside else None)
        assert machine.emulator.read_memory(address, size) == data


def test_the_same_work_takes_the_same_instructions(machine: Bed) -> None:
    first, second = (machine.cycles(network().job) for _ in range(2))
    assert first == second
    empty, some, more, most = (set(machine.cycles(job("clock", n, repeats=3))) for n in (0, 100, 200, 300))
    assert max(empty) <= 5
    assert len(some) == len(more) == len(most) == 1
    assert most.pop() - 2 * more.pop() + some.pop() == 0


def test_reading_an_exact_clock_takes_one_path(machine: Bed) -> None:
    """A branch in it would be an instruction more now and then, at some phase of some counter."""
    section = machine.entry.emulator
    if section is None or section.kind != "qemu":
        return
    address, size = symbol(machine.artifact, "port_cycles")
    code = machine.emulator.read_memory(address, size)
    found = instructions(machine, code)
    assert len(found) > 10
    assert not [name for name in found if CONDITIONAL.fullmatch(name)]


def instructions(machine: Bed, code: bytes) -> list[str]:
    """Mnemonics of a function up to its return."""
    if machine.locks_up:
        decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    else:
        decoder = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV32 | capstone.CS_MODE_RISCVC)
    names = []
    for one in decoder.disasm(code, 0):
        names.append(str(one.mnemonic))
        if one.mnemonic in ("c.jr", "ret") or (one.mnemonic, one.op_str) == ("bx", "lr") or "pc}" in one.op_str:
            return names
    raise AssertionError(f"no return in {names}")


def test_memory_and_registers(machine: Bed) -> None:
    emulator = machine.emulator
    stack, size = symbol(machine.artifact, "lab_stack")
    emulator.hold()
    registers = emulator.registers()
    emulator.release()
    assert stack <= registers["sp"] <= stack + size
    assert machine.artifact.memory.flash_bytes
    start, _ = symbol(machine.artifact, "reset_handler")
    assert 0 <= registers["pc"] - start // 0x10000 * 0x10000 < 0x20000
    # Above the guard and far below what the runner uses.
    place = stack + 128
    before = emulator.read_memory(place, 40)
    emulator.write_memory(place, bytes(range(40)))
    assert emulator.read_memory(place - 4, 48)[4:44] == bytes(range(40))
    emulator.write_memory(place, before)
    assert machine.works()


# ---- what goes wrong by itself --------------------------------------------------------------------------------------


def test_reset_keeps_the_serial_line(machine: Bed) -> None:
    stream = machine.device._stream
    for kind in ("power", "soft"):
        assert machine.device.reset(kind).build_id == machine.artifact.build_id
        assert machine.device._stream is stream
        assert machine.works()


def test_a_crash_is_reported_and_survived(machine: Bed) -> None:
    with pytest.raises(Crash) as error:
        list(machine.device.run(job("crash")))
    assert error.value.report.location.startswith("job_crash at ")
    assert error.value.report.region == "inference"
    assert machine.device.recover() == "resync"
    assert machine.works()


def test_a_stack_that_overflows_damages_nothing_else(machine: Bed) -> None:
    with pytest.raises(OutOfMemory, match="stack"):
        list(machine.session().run(job("recurse", 1_000_000)))
    assert machine.device.recover() == "resync"
    assert machine.works()


def test_a_hang_is_found_where_it_is(machine: Bed) -> None:
    with pytest.raises(Hang, match="job_hang"):
        list(machine.device.run(job("hang"), silence_s=SILENCE_S))
    machine.device.reset("power")
    assert machine.works()


def test_a_lockup(machine: Bed) -> None:
    with pytest.raises(DeviceError) as error:
        list(machine.session().run(job("lockup"), 10.0 if machine.locks_up else SILENCE_S))
    if not machine.locks_up:
        assert isinstance(error.value, Hang)
        machine.device.reset("power")
        assert machine.works()
        return
    assert isinstance(error.value, Crash)
    assert "locked up" in str(error.value)
    assert machine.device.recover() == "re-deploy"
    assert machine.works()


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_a_power_cut_in_a_job(machine: Bed) -> None:
    events = begun(machine)
    machine.emulator.power_cut()
    with pytest.raises(EmulatorError, match="supply") as error:
        list(events)
    assert error.value.transient, "the lab tries again on a recovered device"
    with pytest.raises(EmulatorError):
        machine.works()
    assert machine.device.recover() == "re-deploy"
    assert machine.works()


def test_a_flipped_bit_in_ram_is_a_bit(machine: Bed) -> None:
    stack, _ = symbol(machine.artifact, "lab_stack")
    before = machine.emulator.read_memory(stack + 128, 2)
    for bit in (0, 7):
        machine.emulator.flip_bit(stack + 129, bit)
    assert machine.emulator.read_memory(stack + 128, 2) == bytes([before[0], before[1] ^ 0x81])
    for bit in (0, 7):
        machine.emulator.flip_bit(stack + 129, bit)
    # The guard below the stack is looked at after each job.
    machine.emulator.flip_bit(stack, 3)
    with pytest.raises(OutOfMemory, match="stack"):
        list(machine.session().run(job("clock", 1)))
    machine.emulator.flip_bit(stack, 3)
    machine.device.recover()
    assert machine.works()


def test_a_flipped_bit_in_a_weight_changes_results_until_it_is_flipped_back(machine: Bed) -> None:
    address, size = weights(machine.artifact)
    for place in range(address, address + size, 36):
        machine.emulator.flip_bit(place, 6)
    assert not machine.works()
    for place in range(address, address + size, 36):
        machine.emulator.flip_bit(place, 6)
    assert machine.works()


def test_flipped_bits_in_code_are_a_crash(machine: Bed) -> None:
    """Enough of them make the model's first instruction one that no processor executes."""
    address, _ = symbol(machine.artifact, "infer")
    before = machine.emulator.read_memory(address, 2)
    illegal = ILLEGAL["arm" if machine.locks_up else "riscv"]
    for offset, (found, wanted) in enumerate(zip(before, illegal, strict=True)):
        for bit in range(8):
            if (found ^ wanted) >> bit & 1:
                machine.emulator.flip_bit(address + offset, bit)
    session = machine.session()
    session.put_all(network().job.all_blobs, machine.emulator)
    with pytest.raises(Crash) as error:
        list(session.run(network().job))
    assert error.value.report.registers["pc"] == address
    # A reset restores what an emulator loads as RAM.
    machine.emulator.write_memory(address, before)
    machine.device.recover()
    assert machine.works()


def test_an_nmi_is_reported_as_one(machine: Bed) -> None:
    if not takes(machine, "nmi"):
        return
    events = begun(machine)
    machine.emulator.raise_nmi()
    with pytest.raises(Crash, match=r"non-maskable interrupt \(NMI\)") as error:
        list(events)
    assert error.value.report.registers["pc"] > 0
    assert machine.device.recover() == "resync"
    assert machine.works()


def test_a_watchdog_that_nobody_feeds_resets_the_board(machine: Bed) -> None:
    if not takes(machine, "watchdog"):
        return
    events = begun(machine)
    machine.emulator.bite_watchdog()
    with pytest.raises(ProtocolError, match="restarted by itself"):
        list(events)
    assert machine.device.recover() == "resync"
    assert machine.works()


def test_a_frozen_clock_stands_still(machine: Bed) -> None:
    if not takes(machine, "frozen-clock"):
        return
    before = machine.cycles(network().job)
    machine.emulator.freeze_clock()
    events = list(machine.device.run(network().job))
    passes = [event for event in events if isinstance(event, RegionEvent)]
    assert {event.end for event in passes[1:]} == {passes[1].begin}
    assert min(before) > 0
    assert np.array_equal(outputs(events), network().outputs), "the core goes on"
    machine.device.reset("power")
    assert machine.cycles(network().job) == before, "a reset starts it again"


# ---- the marker -----------------------------------------------------------------------------------------------------


def test_the_counting_plugin_finds_the_marker_register(machine: Bed) -> None:
    """Its counts lie above the firmware's own by what the edges of a region take, the same for every region."""
    if machine.entry.emulator is None or machine.entry.emulator.kind != "qemu":
        with pytest.raises(EmulatorError, match="cannot be counted"):
            machine.target.count(machine.artifact, network().job)
        return
    counting_plugin()
    counted = [count.instructions for count in machine.target.count(machine.artifact, network().job)]
    edges = {many - few for many, few in zip(counted, machine.cycles(network().job), strict=True)}
    assert len(edges) == 1
    assert 0 < edges.pop() < 100


def test_the_marker_line_carries_frames(machine: Bed, tmp_path: Path) -> None:
    section = machine.entry.emulator
    assert section is not None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "marker"))
        listener.listen(1)
        listener.settimeout(10.0)
        emulator = create(machine.entry.board, section, machine.artifact.path, marker_socket=tmp_path / "marker")
        try:
            emulator.start()
            stream = emulator.open_serial()
            line, _ = listener.accept()
            emulator.release()
            session = Session(stream, board_is_alive=emulator.check_alive)
            session.open(20.0, ask=False)
            list(session.run(job("clock", 1)))
            stream.close()
        finally:
            emulator.stop()
        with line:
            line.settimeout(10.0)
            frames = b"".join(iter(lambda: line.recv(4096), b"")).split(b"\0")
    edges = [message for frame in frames if frame and (message := decode_frame(frame)) is not None]
    marks = [edge.get("m") for edge in edges]
    assert marks == ([] if machine.entry.board.kind in WITHOUT_MARKER_LINE else [1, 0])


# ---- between emulators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [one for one in ENTRIES if one.config.emulator], ids=lambda entry: entry.name)
def test_emulators_of_one_board_count_alike(entry: Device) -> None:
    """Independent counts of one image: QEMU's instruction clock and another emulator's."""
    twin = next(one for one in ENTRIES if one.board == entry.board and one.config.emulator is None)
    with bed(entry) as other, bed(twin) as qemu:
        assert qemu.artifact.digest == other.artifact.digest
        assert qemu.cycles(network().job) == other.cycles(network().job)
