"""The clients of QEMU's sockets against scripted servers, and the bus over a scripted memory."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.emulators.probe.bus import Bus
from lab.emulators.probe.faults import BitFlip
from lab.emulators.probe.qmp import Monitor, Region
from lab.emulators.probe.qtest import Qtest
from lab.emulators.probe.rsp import GdbRemote
from lab.emulators.probe.signals import BusFault, TargetLost

_MAP = """FlatView #0
 AS "memory", root: system
 Root memory region: system
  0000000000000000-ffffffffffffffff (prio 0, i/o): system

FlatView #1
 AS "cpu-memory-0", root: armv7m-container
 Root memory region: armv7m-container
  0000000000000000-00000000003fffff (prio 0, ram): mps.ssram1
  0000000008000000-00000000080fffff (prio 0, rom): STM32F405.flash
  0000000020000000-000000002000ffff (prio 0, ram): sram
  0000000040000000-0000000040000fff (prio -1000, i/o): uart @0000000000000010
"""


@contextmanager
def _server(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """One client, served by ``serve`` until it or the client ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def work() -> None:
        connection, _ = listener.accept()
        # The client may go while it is answered.
        with connection, contextlib.suppress(OSError):
            serve(connection)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield str(path)
    finally:
        listener.close()
        thread.join(10.0)


def _packet(body: str) -> bytes:
    return f"${body}#{sum(body.encode()) & 0xFF:02x}".encode()


@dataclass
class _Gdbstub:
    """Answers what the script says; whatever else with an empty packet."""

    script: dict[str, str]
    first: bytes = b""
    seen: list[str] = field(default_factory=list)
    raw: bytes = b""
    messages: list[int] = field(default_factory=list)

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(self.first)
        while data := connection.recv(65536):
            self.raw += data
            self.messages.append(data.count(b"$"))
            for part in data.split(b"$")[1:]:
                body = part.split(b"#")[0].decode()
                assert part.split(b"#")[1][:2] == b"%02x" % (sum(body.encode()) & 0xFF)
                self.seen.append(body)
                answer = self.script.get(body, "")
                # QEMU acknowledges, and may stop at once.
                connection.sendall(b"+" + (b"" if answer == "(runs)" else _packet(answer)))


def test_gdb_is_asked_for_the_description_and_rid_of_old_breakpoints_first(tmp_path: Path) -> None:
    stub = _Gdbstub({"?": "T05thread:01;"})
    with _server(tmp_path / "gdb", stub) as path:
        GdbRemote(path, running=False).close()
    assert stub.seen[0] == "?"
    assert stub.seen[1].startswith("qXfer:features:read:target.xml:")


def test_the_stop_that_connecting_causes_is_taken_off_the_line(tmp_path: Path) -> None:
    stub = _Gdbstub({"?": "T05thread:01;", "g": "01000000" * 17}, first=_packet("T02thread:01;"))
    with _server(tmp_path / "gdb", stub) as path:
        gdb = GdbRemote(path, running=True)
        assert gdb.read_core() == [1] * 17
        gdb.close()


def test_registers_and_memory_travel_in_target_order(tmp_path: Path) -> None:
    script = {"P19=00000001": "OK", "m20000000,4": "0a0b0c0d", "M20000000,2:beef": "OK", "p2a": "78563412"}
    stub = _Gdbstub(script)
    with _server(tmp_path / "gdb", stub) as path:
        gdb = GdbRemote(path, running=False)
        gdb.write_core(25, 0x01000000)
        assert gdb.read_memory(0x20000000, 4) == bytes.fromhex("0a0b0c0d")
        gdb.write_memory(0x20000000, bytes.fromhex("beef"))
        assert gdb.read_raw(42) == bytes.fromhex("78563412")
        with pytest.raises(BusFault, match="0x30000000"):
            gdb.read_memory(0x30000000, 4)
        with pytest.raises(BusFault, match="0x30000000"):
            gdb.write_memory(0x30000000, b"\0")
        with pytest.raises(BusFault, match="refused Z1,0,2"):
            gdb.set_point(1, 0, 2)
        gdb.close()


def test_big_blocks_are_split_and_put_together(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10
    parts = {f"m{at:x},{len(data[at : at + 1024]):x}": data[at : at + 1024].hex() for at in range(0, len(data), 1024)}
    with _server(tmp_path / "gdb", _Gdbstub(parts)) as path:
        gdb = GdbRemote(path, running=False)
        assert gdb.read_memory(0, len(data)) == data
        gdb.close()


def test_an_acknowledgement_is_not_a_stop(tmp_path: Path) -> None:
    stub = _Gdbstub({"c": "(runs)"})
    with _server(tmp_path / "gdb", stub) as path:
        gdb = GdbRemote(path, running=False)
        gdb.resume()
        for _ in range(50):
            assert not gdb.stopped(0.0)
        gdb.close()
    # Nothing was acknowledged: to a machine that runs, any byte is an order to stop.
    assert b"+" not in stub.raw


def test_what_can_wait_travels_with_what_comes_next(tmp_path: Path) -> None:
    """A message wakes QEMU, which takes longer than anything that is asked of it."""
    script = {f"P{number:x}=07000000": "OK" for number in range(3)}
    script |= {"g": "03000000" * 17, "m100,2": "00be", "m200,2": "E14", "c": "(runs)"}
    stub = _Gdbstub(script)
    with _server(tmp_path / "gdb", stub) as path:
        gdb = GdbRemote(path, running=False)
        for number in range(3):
            gdb.write_core(number, 7)
        core, known, unknown = gdb.post_core([0x100, 0x200])
        assert gdb.halfword_of(unknown) == b""
        assert gdb.core_of(core) == [3] * 17
        assert gdb.halfword_of(known) == b"\x00\xbe"
        gdb.write_core(0, 7)
        gdb.resume()
        # The answer to the register is no stop.
        for _ in range(50):
            assert not gdb.stopped(0.0)
        gdb.close()
    assert stub.messages == [1, 1, 6, 2]


def test_a_stop_is_found_behind_the_answers_that_came_before_it(tmp_path: Path) -> None:
    stub = _Gdbstub({"P0=07000000": "OK", "c": "T05thread:01;"})
    with _server(tmp_path / "gdb", stub) as path:
        gdb = GdbRemote(path, running=False)
        gdb.write_core(0, 7)
        gdb.resume()
        assert gdb.stopped(10.0)
        assert gdb.wait_stop() == b"T05thread:01;"
        gdb.close()


def test_a_register_that_is_refused_is_told_with_the_next_answer(tmp_path: Path) -> None:
    stub = _Gdbstub({"P0=07000000": "E22", "g": "00000000" * 17})
    with _server(tmp_path / "gdb", stub) as path:
        gdb = GdbRemote(path, running=False)
        gdb.write_core(0, 7)
        with pytest.raises(BusFault, match="refused a register: E22"):
            gdb.read_core()
        gdb.close()


def test_a_register_is_written_although_the_connection_ends(tmp_path: Path) -> None:
    stub = _Gdbstub({"P0=07000000": "OK"})
    with _server(tmp_path / "gdb", stub) as path:
        gdb = GdbRemote(path, running=False)
        gdb.write_core(0, 7)
        gdb.close()
    assert stub.seen[-1] == "P0=07000000"


def test_memory_written_by_another_way_is_there_before_the_core_sees_it(tmp_path: Path) -> None:
    stub = _Gdbstub({"m0,2": "0000", "M0,1:07": "OK", "g": "00000000" * 17, "c": "(runs)", "s": "T05thread:01;"})
    with _server(tmp_path / "gdb", stub) as path:
        before: list[int] = []
        gdb = GdbRemote(path, running=False, settle=lambda: before.append(len(stub.seen)))

        def step() -> None:
            gdb.step()
            gdb.wait_stop()

        touches: list[Callable[[], object]] = [
            lambda: gdb.read_memory(0, 2),
            lambda: gdb.write_memory(0, b"\x07"),
            lambda: gdb.halfword_of(gdb.post_core([0])[1]),
            step,
            gdb.resume,
        ]
        for number, touch in enumerate(touches, 1):
            sent = len(stub.seen)
            touch()
            # Once, and the stub had seen nothing of it by then.
            assert before[number - 1 :] == [sent]
        gdb.close()


def test_a_gdbstub_that_goes_away_is_a_lost_target(tmp_path: Path) -> None:
    with _server(tmp_path / "gdb", lambda connection: None) as path, pytest.raises(TargetLost):
        GdbRemote(path, running=False)
    with pytest.raises(TargetLost, match="does not answer"):
        GdbRemote(str(tmp_path / "nothing"), running=False)


class _Qmp:
    """A monitor; events come whenever they like."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.running = True

    def __call__(self, connection: socket.socket) -> None:
        lines = connection.makefile("rwb")

        def say(document: object) -> None:
            lines.write(json.dumps(document).encode() + b"\n")
            lines.flush()

        say({"QMP": {"version": {}}})
        for line in lines:
            request = json.loads(line)
            self.commands.append(request["execute"])
            say({"event": "NIC_RX_FILTER_CHANGED"})
            if request["execute"] == "query-status":
                say({"return": {"running": self.running}})
            elif request["execute"] == "human-monitor-command":
                assert request["arguments"]["command-line"] == "info mtree -f"
                say({"return": _MAP})
            elif request["execute"] == "bad":
                say({"error": {"class": "GenericError", "desc": "no such thing"}})
            else:
                say({"return": {}})
            if request["execute"] == "system_reset":
                say({"event": "RESET", "data": {}})


def test_the_monitor_sorts_answers_from_events(tmp_path: Path) -> None:
    server = _Qmp()
    with _server(tmp_path / "qmp", server) as path:
        monitor = Monitor(path)
        assert monitor.running()
        server.running = False
        assert not monitor.running()
        monitor.reset()
        with pytest.raises(TargetLost, match="no such thing"):
            monitor.execute("bad")
        monitor.close()
    assert server.commands == ["qmp_capabilities", "query-status", "query-status", "system_reset", "bad"]


def test_the_memory_map_is_the_one_of_the_core(tmp_path: Path) -> None:
    with _server(tmp_path / "qmp", _Qmp()) as path:
        monitor = Monitor(path)
        regions = monitor.memory_map()
        monitor.close()
    assert regions == [
        Region(0, 0x3FFFFF, "ram", "mps.ssram1"),
        Region(0x08000000, 0x080FFFFF, "rom", "STM32F405.flash"),
        Region(0x20000000, 0x2000FFFF, "ram", "sram"),
        Region(0x40000000, 0x40000FFF, "i/o", "uart @0000000000000010"),
    ]
    assert [region.is_memory for region in regions] == [True, True, True, False]


def _qtest_server(connection: socket.socket) -> None:
    memory = bytearray(256)
    lines = connection.makefile("rwb")
    for line in lines:
        words = line.decode().split()
        address = int(words[1], 16)
        if words[0] == "b64write":
            data = base64.b64decode(words[3])
            memory[address : address + int(words[2], 16)] = data
            answer = "OK"
        elif words[0] == "b64read":
            answer = "OK " + base64.b64encode(memory[address : address + int(words[2], 16)]).decode()
        elif words[0] == "readw":
            # QEMU prints 64 bits of everything.
            answer = f"OK 0x{int.from_bytes(memory[address : address + 2], 'little'):016x}"
        else:
            answer = "ERR Unknown command"
        lines.write(answer.encode() + b"\n")
        lines.flush()


def test_qtest_reads_and_writes(tmp_path: Path) -> None:
    with _server(tmp_path / "qtest", _qtest_server) as path:
        qtest = Qtest(path)
        qtest.write_block(16, b"hello")
        assert qtest.read_block(14, 9) == b"\0\0hello\0\0"
        assert qtest.read(16, 2) == int.from_bytes(b"he", "little")
        with pytest.raises(TargetLost, match="ERR Unknown command"):
            qtest.read(16, 4)
        qtest.close()


@dataclass
class _SlowQtest:
    """A server that answers nothing until it has seen so many commands."""

    first: int
    refuse: bytes = b"none"
    seen: int = 0
    answered: int = 0

    def __call__(self, connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        waiting: list[bytes] = []
        for line in lines:
            self.seen += 1
            waiting.append(b"FAIL\n" if self.refuse in line else b"OK 0x07\n")
            if self.seen >= self.first:
                self.answered += len(waiting)
                connection.sendall(b"".join(waiting))
                waiting = []


@pytest.mark.parametrize("ending", ["settle", "read", "close"])
def test_blocks_are_not_waited_for_one_by_one_but_are_there_when_it_matters(tmp_path: Path, ending: str) -> None:
    """A client that waited for the first answer would wait for ever."""
    blocks = 3
    server = _SlowQtest(first=blocks + (ending == "read"))
    with _server(tmp_path / "qtest", server) as path:
        qtest = Qtest(path)
        for at in range(blocks):
            qtest.write_block(16 * at, bytes(16))
        if ending == "settle":
            qtest.settle()
            assert server.answered == blocks
        elif ending == "read":
            assert qtest.read(0, 4) == 7
            assert server.answered == blocks + 1
        qtest.close()
        assert server.answered == server.first


def test_answers_that_nobody_reads_do_not_fill_the_socket(tmp_path: Path) -> None:
    server = _SlowQtest(first=1)
    with _server(tmp_path / "qtest", server) as path:
        qtest = Qtest(path)
        for at in range(32):
            qtest.write_block(16 * at, bytes(16))
        # So many are waited for, whoever asks.
        assert server.answered == 32
        qtest.close()


def test_a_block_that_is_refused_is_named_later(tmp_path: Path) -> None:
    with _server(tmp_path / "qtest", _SlowQtest(1, refuse=b"0x20")) as path:
        qtest = Qtest(path)
        qtest.write_block(0x20, bytes(4))
        with pytest.raises(TargetLost, match="'b64write 0x20 "):
            qtest.read(0x10, 4)
        qtest.close()


class _Memory:
    """What qtest reaches: 64 KiB twice with a gap, and a device whose every access is noted."""

    def __init__(self) -> None:
        self.data = {0x20000000: bytearray(0x100), 0x20000100: bytearray(0x100)}
        self.device: list[tuple[int, int]] = []

    def read_block(self, address: int, size: int) -> bytes:
        base = address & ~0xFF
        assert address + size <= base + 0x100, "an access over the end of a region"
        return bytes(self.data[base][address - base : address - base + size])

    def write_block(self, address: int, data: bytes) -> None:
        base = address & ~0xFF
        assert address + len(data) <= base + 0x100
        self.data[base][address - base : address - base + len(data)] = data

    def read(self, address: int, size: int) -> int:
        if address >= 0x40000000:
            self.device.append((address, size))
            return 0
        return int.from_bytes(self.read_block(address, size), "little")

    def write(self, address: int, value: int, size: int) -> None:
        self.device.append((address, size))

    def settle(self) -> None:
        self.settled = True


_REGIONS = [
    Region(0x40000000, 0x40000FFF, "i/o", "device"),
    Region(0x20000100, 0x200001FF, "ram", "second"),
    Region(0x20000000, 0x200000FF, "ram", "first"),
    Region(0x08000000, 0x080000FF, "rom", "flash"),
]


@given(st.integers(0, 0x1FF), st.binary(min_size=1, max_size=64))
def test_the_bus_crosses_regions_and_stops_where_nothing_is(offset: int, data: bytes) -> None:
    memory = _Memory()
    bus = Bus(memory, _REGIONS)  # type: ignore[arg-type]
    address = 0x20000000 + offset
    if offset + len(data) > 0x200:
        with pytest.raises(BusFault, match="0x20000200"):
            bus.write(address, data)
        assert not any(memory.data[0x20000000] + memory.data[0x20000100]), "nothing of it may be written"
        return
    bus.write(address, data)
    assert bus.read(address, len(data)) == data


def test_only_one_kind_of_memory_may_be_read_ahead() -> None:
    """Reading a device does something; where nothing is, reading is an error."""
    bus = Bus(_Memory(), _REGIONS)  # type: ignore[arg-type]
    assert bus.is_plain(0x20000000, 0x100)
    assert bus.is_plain(0x080000FC, 4)
    assert not bus.is_plain(0x080000FC, 8)
    assert not bus.is_plain(0x40000000, 4)
    assert not bus.is_plain(0x30000000, 4)


def test_the_bus_counts_what_may_have_changed_memory_and_passes_on_that_it_must_be_there() -> None:
    memory = _Memory()
    bus = Bus(memory, _REGIONS)  # type: ignore[arg-type]
    bus.read(0x20000000, 8)
    assert bus.writes == 0
    bus.write(0x20000000, bytes(8))
    # A store to a device may change memory as well: a flash controller's does.
    bus.write_register(0x40000000, 1)
    assert bus.writes == 2
    bus.settle()
    assert memory.settled


def test_devices_are_accessed_once_and_in_the_width_that_was_asked_for() -> None:
    memory = _Memory()
    bus = Bus(memory, _REGIONS)  # type: ignore[arg-type]
    bus.read(0x40000004, 4)
    bus.read(0x40000002, 1)
    bus.write(0x40000006, b"\1\2")
    assert memory.device == [(0x40000004, 4), (0x40000002, 1), (0x40000006, 2)]


@given(st.sets(st.tuples(st.integers(0, 63), st.integers(0, 7)), max_size=8))
def test_flipped_bits_are_wrong_in_what_is_read_and_nowhere_else(flips: set[tuple[int, int]]) -> None:
    memory = _Memory()
    bus = Bus(memory, _REGIONS)  # type: ignore[arg-type]
    bus.write(0x20000000, bytes(64))
    bus.flips = tuple(BitFlip(0x20000000 + at, bit) for at, bit in flips)
    seen = bus.read(0x20000000, 64)
    assert {(at, bit) for at in range(64) for bit in range(8) if seen[at] >> bit & 1} == flips
    bus.flips = ()
    assert bus.read(0x20000000, 64) == bytes(64)


def test_code_runs_aside_in_ram_of_the_right_state_of_security() -> None:
    regions = [
        Region(0x00000000, 0x000000FF, "ram", "code"),
        Region(0x20000000, 0x200000FF, "i/o", "tz-mpc-upstream"),
        Region(0x30000000, 0x300000FF, "i/o", "tz-mpc-upstream"),
    ]
    bus = Bus(_Memory(), regions)  # type: ignore[arg-type]
    assert bus.is_memory(0x30000010)
    assert bus.scratch() == 0x20000000
    bus.through_core = object()  # type: ignore[assignment]
    assert bus.scratch() == 0x30000000
    with pytest.raises(BusFault, match="no RAM"):
        Bus(_Memory(), regions[:1]).scratch()  # type: ignore[arg-type]
