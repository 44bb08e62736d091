"""CMSIS-DAP packets, the debug port and the access port, in front of a core that is plain memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyocd.probe.pydapaccess.dap_access_api import DAPAccessIntf

from lab.emulators.probe import cmsis_dap
from lab.emulators.probe.cmsis_dap import PACKET_BYTES, CmsisDapProbe
from lab.emulators.probe.dap import Ack
from lab.emulators.probe.faults import ALWAYS, LinkFaults, LinkState
from lab.emulators.probe.interface import EmulatedInterface
from lab.emulators.probe.registry import BoardEntry, Listed
from lab.emulators.probe.rom_table import PROCESSORS, Processor
from lab.emulators.probe.signals import BusFault, TargetLost, Unplugged

_MEMORY = 0x20000000
_SIZE = 0x3000
_DP, _AP, _W, _R = 0, 1, 0, 2
_SELECT_CSW, _CSW_WORD_INCREMENT = 0x00, 0x12
_INFO, _CONNECT, _TRANSFER, _BLOCK, _ABORT, _PINS, _SEQUENCE = 0x00, 0x02, 0x05, 0x06, 0x08, 0x10, 0x12


@dataclass
class _Core:
    """Memory without a processor."""

    processor: Processor = PROCESSORS[0xC24]
    memory: bytearray = field(default_factory=lambda: bytearray(_SIZE))
    state: LinkState = field(default_factory=LinkState)
    pin: list[bool] = field(default_factory=list)
    closed: bool = False
    lost: bool = False
    stands: bool = True
    read_bytes: list[int] = field(default_factory=list)
    settled: int = 0

    def _offset(self, address: int, size: int) -> int:
        if self.lost:
            raise TargetLost("gone")
        if not _MEMORY <= address <= _MEMORY + _SIZE - size:
            raise BusFault("nothing there")
        return address - _MEMORY

    def read(self, address: int, size: int) -> bytes:
        offset = self._offset(address, size)
        self.read_bytes.append(size)
        return bytes(self.memory[offset : offset + size])

    def can_read_ahead(self, address: int, size: int) -> bool:
        return self.stands and _MEMORY <= address <= _MEMORY + _SIZE - size

    def settle(self) -> None:
        if self.lost:
            raise TargetLost("gone")
        self.settled += 1

    def write(self, address: int, data: bytes) -> None:
        offset = self._offset(address, len(data))
        self.memory[offset : offset + len(data)] = data

    def apply(self, state: LinkState) -> None:
        self.state = state

    def hold_reset(self, held: bool) -> None:
        self.pin.append(held)

    def close(self) -> None:
        self.closed = True


class _Host:
    """What a program does with a probe, packet by packet."""

    def __init__(self, probe: CmsisDapProbe, core: _Core) -> None:
        self.probe, self.core = probe, core

    def ask(self, *packet: int | bytes) -> bytes:
        request = b"".join(part if isinstance(part, bytes) else bytes((part,)) for part in packet)
        assert len(request) <= PACKET_BYTES
        answer = self.probe.handle(request)
        assert len(answer) <= PACKET_BYTES
        return answer

    def transfers(self, *requests: tuple[int, int, int]) -> tuple[int, int, list[int]]:
        """Transfers (port | direction, register, value): how many were done, the last answer, the words read."""
        body = b"".join(
            bytes((kind | register,)) + (b"" if kind & _R else struct.pack("<I", value))
            for kind, register, value in requests
        )
        answer = self.ask(_TRANSFER, 0, len(requests), body)
        assert answer[0] == _TRANSFER
        return answer[1], answer[2], list(struct.unpack(f"<{len(answer[3:]) // 4}I", answer[3:]))

    def write(self, port: int, register: int, value: int) -> int:
        return self.transfers((port | _W, register, value))[1]

    def read(self, port: int, register: int) -> int:
        done, answer, words = self.transfers((port | _R, register, 0))
        assert (done, answer) == (1, Ack.OK)
        return words[0]

    def power_up(self) -> None:
        assert self.ask(_CONNECT, 1) == bytes((_CONNECT, 1))
        assert self.write(_DP, 0x4, 0x50000000) == Ack.OK
        assert self.write(_AP, _SELECT_CSW, _CSW_WORD_INCREMENT) == Ack.OK


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Host:
    return _make_host(tmp_path, monkeypatch)


def _make_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> _Host:
    core = _Core()
    monkeypatch.setattr(cmsis_dap, "CoreModel", lambda _: core)
    monkeypatch.setattr(BoardEntry, "powered", property(lambda entry: entry.pid > 0))
    listed = Listed(BoardEntry("one", "some-board", "cortex-m4f", "some_target", 1), folder / "one.json")
    return _Host(CmsisDapProbe(listed, lambda: listed), core)


def test_the_probe_says_what_it_is(host: _Host) -> None:
    def text(number: int) -> str:
        answer = host.ask(_INFO, number)
        assert answer[1] == len(answer) - 2
        return answer[2:-1].decode()

    assert text(0x03) == "one"
    assert text(0x04) == "2.1.1"
    assert text(0x06) == "some_target"
    assert "some-board" in text(0x08)
    assert host.ask(_INFO, 0xF0) == bytes((_INFO, 1, 1))  # SWD, no JTAG, no SWO
    assert host.ask(_INFO, 0xFF) == bytes((_INFO, 2)) + PACKET_BYTES.to_bytes(2, "little")
    assert host.ask(_INFO, 0x77) == bytes((_INFO, 0))


@pytest.mark.parametrize("command", [0x14, 0x17, 0x7E, 0x80, 0xFE])
def test_a_command_it_does_not_have_is_answered_as_the_specification_says(host: _Host, command: int) -> None:
    assert host.ask(command, 0) == b"\xff"


def test_jtag_is_refused(host: _Host) -> None:
    assert host.ask(_CONNECT, 2) == bytes((_CONNECT, 0))


def test_registers_of_the_debug_port(host: _Host) -> None:
    host.ask(_CONNECT, 1)
    assert host.read(_DP, 0x0) & 0xFFF == 0x477  # Arm's designer code, as every Arm debug port has
    assert host.read(_DP, 0x4) == 0
    host.write(_DP, 0x4, 0x50000000)
    assert host.read(_DP, 0x4) == 0xF0000000


def test_memory_needs_power_up(host: _Host) -> None:
    host.ask(_CONNECT, 1)
    assert host.write(_AP, 0x4, _MEMORY) == Ack.FAULT
    host.write(_DP, 0x0, 4)
    host.power_up()
    assert host.write(_AP, 0x4, _MEMORY) == Ack.OK


def test_only_the_first_access_port_is_there(host: _Host) -> None:
    host.power_up()
    for port, idr in ((0, host.core.processor.ap_idr), (1, 0), (7, 0)):
        host.write(_DP, 0x8, port << 24 | 0xF0)
        assert host.read(_AP, 0xC) == idr


@given(data=st.data())
def test_blocks_of_words_reach_memory_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        host = _make_host(tmp_path_factory.mktemp("packets"), patch)
        host.power_up()
        start = data.draw(st.integers(0, 0x3FF)) * 4
        words = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=126))
        # Within one page of the port, where addresses only rise.
        words = words[: (0x1000 - start) // 4]
        payload = struct.pack(f"<{len(words)}I", *words)
        host.write(_AP, 0x4, _MEMORY + start)
        assert host.ask(_BLOCK, 0, struct.pack("<HB", len(words), _AP | 0xC), payload) == struct.pack(
            "<BHB", _BLOCK, len(words), Ack.OK
        )
        assert host.core.memory[start : start + len(payload)] == payload
        assert not any(host.core.memory[:start])
        assert not any(host.core.memory[start + len(payload) :])
        host.write(_AP, 0x4, _MEMORY + start)
        answer = host.ask(_BLOCK, 0, struct.pack("<HB", len(words), _AP | _R | 0xC))
        assert answer == struct.pack("<BHB", _BLOCK, len(words), Ack.OK) + payload


def _read_block(host: _Host, words: int) -> bytes:
    answer = host.ask(_BLOCK, 0, struct.pack("<HB", words, _AP | _R | 0xC))
    assert answer[:4] == struct.pack("<BHB", _BLOCK, words, Ack.OK)
    return answer[4:]


def test_the_blocks_of_a_page_are_read_from_the_board_at_once(host: _Host) -> None:
    host.power_up()
    host.core.memory[:] = bytes(at * 7 & 0xFF for at in range(_SIZE))
    host.write(_AP, 0x4, _MEMORY)
    seen = b"".join(_read_block(host, words) for words in (126, 126, 4))
    assert seen == host.core.memory[:1024]
    assert host.core.read_bytes == [0x1000]
    # A short read is no part of a longer one.
    host.write(_AP, 0x4, _MEMORY + 64)
    assert _read_block(host, 8) == host.core.memory[64:96]
    assert host.core.read_bytes == [0x1000, 32]


def test_what_was_read_ahead_of_a_reset_is_read_again(host: _Host) -> None:
    host.power_up()
    host.write(_AP, 0x4, _MEMORY)
    _read_block(host, 126)
    host.ask(_PINS, 0x00, 0x80, struct.pack("<I", 0))
    host.core.memory[504:508] = b"next"
    host.ask(_PINS, 0x80, 0x80, struct.pack("<I", 0))
    assert _read_block(host, 126)[:4] == b"next"


def test_nothing_is_read_ahead_while_memory_may_change_by_itself(host: _Host) -> None:
    host.power_up()
    host.core.stands = False
    host.write(_AP, 0x4, _MEMORY)
    _read_block(host, 126)
    host.core.memory[504:508] = b"next"
    assert _read_block(host, 126)[:4] == b"next"
    assert host.core.read_bytes == [504, 504]


_KINDS = ("read", "write", "write by itself", "one read", "one write", "move", "changes by itself, behind an answer")


@example([("read", 126, 0), ("one read", 1, 0), ("read", 126, 0)])
@example([("read", 126, 0), ("write", 10, 0), ("read", 126, 0)])
@example([("read", 126, 0), ("write by itself", 10, 0), ("read", 126, 0)])
@given(st.lists(st.tuples(st.sampled_from(_KINDS), st.integers(1, 126), st.integers(0, 0x3FF)), max_size=30))
def test_what_is_read_ahead_is_never_old(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Against memory and a transfer address that the test keeps itself; addresses wrap at the end of the page."""
    with pytest.MonkeyPatch.context() as patch:
        host = _make_host(tmp_path_factory.mktemp("packets"), patch)
        host.power_up()
        host.write(_AP, 0x4, _MEMORY)
        memory, at = list(range(0x1000, 0x1400)), 0
        host.core.memory[:0x1000] = struct.pack("<1024I", *memory)
        for number, (kind, count, place) in enumerate(steps, 1):
            count = 1 if kind.startswith("one") else count
            places = [(at + index) % 0x400 for index in range(count)]
            if kind == "move":
                at = place
                host.write(_AP, 0x4, _MEMORY + 4 * at)
            elif kind.startswith("changes"):
                # As a routine on the core changes it, which takes a write to the debug registers.
                memory[place] = number
                host.core.memory[4 * place : 4 * place + 4] = struct.pack("<I", number)
                host.write(_DP, 0x8, 0)
            elif kind.endswith("read"):
                seen = _read_block(host, count) if kind == "read" else struct.pack("<I", host.read(_AP, 0xC))
                assert seen == struct.pack(f"<{count}I", *(memory[one] for one in places))
                at = (at + count) % 0x400
            else:
                for one in places:
                    memory[one] = number
                if kind == "write by itself":
                    # Without a word about the address, before or after.
                    host.ask(_BLOCK, 0, struct.pack("<HB", count, _AP | 0xC), struct.pack("<I", number) * count)
                    at = (at + count) % 0x400
                    continue
                host.transfers(*((_AP | _W, 0xC, number),) * min(count, 100))
                for one in places[min(count, 100) :]:
                    host.write(_AP, 0x4, _MEMORY + 4 * one)
                    host.write(_AP, 0xC, number)
                at = (at + count) % 0x400
                host.write(_AP, 0x4, _MEMORY + 4 * at)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 31), st.integers(0, 2**32 - 1)), min_size=1, max_size=40))
def test_any_mix_of_single_transfers_is_done_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        host = _make_host(tmp_path_factory.mktemp("packets"), patch)
        host.power_up()
        memory = [0] * 32
        requests, expected = [], []
        for writing, index, value in steps:
            requests.append((_AP | _W, 0x4, _MEMORY + 4 * index))
            if writing:
                requests.append((_AP | _W, 0xC, value))
                memory[index] = value
            else:
                requests.append((_AP | _R, 0xC, 0))
                expected.append(memory[index])
        assert host.transfers(*requests) == (len(requests), Ack.OK, expected)


@pytest.mark.parametrize(("code", "size"), [(0, 1), (1, 2), (2, 4)])
def test_narrow_accesses_use_their_byte_lanes(host: _Host, code: int, size: int) -> None:
    host.power_up()
    host.core.memory[:8] = bytes(range(0x10, 0x18))
    host.write(_AP, 0x0, code)
    for offset in range(0, 8, size):
        host.write(_AP, 0x4, _MEMORY + offset)
        value = int.from_bytes(host.core.memory[offset : offset + size], "little")
        assert host.read(_AP, 0xC) == value << 8 * (offset % 4)
        host.write(_AP, 0xC, (0xA5A5A5A5 & ((1 << 8 * size) - 1)) << 8 * (offset % 4))
        assert host.core.memory[offset : offset + size] == b"\xa5" * size
        assert host.read(_AP, 0x4) == _MEMORY + offset  # no increment was asked for


@pytest.mark.parametrize("part", sorted(PROCESSORS))
def test_addresses_wrap_within_the_page_of_the_port(host: _Host, part: int) -> None:
    """A driver that does not mind the page (ADIv5, 8.2.2: 1 KiB at least) writes where it did not mean to."""
    host.core.processor = PROCESSORS[part]
    page = PROCESSORS[part].page_bytes
    host.power_up()
    host.write(_AP, 0x4, _MEMORY + page - 4)
    assert host.transfers((_AP | _W, 0xC, 1), (_AP | _W, 0xC, 2))[1] == Ack.OK
    assert int.from_bytes(host.core.memory[page - 4 : page], "little") == 1
    assert int.from_bytes(host.core.memory[:4], "little") == 2


def test_a_fault_sticks_until_it_is_cleared(host: _Host) -> None:
    host.power_up()
    host.write(_AP, 0x4, 0x70000000)
    assert host.transfers((_AP | _R, 0xC, 0)) == (0, Ack.FAULT, [])
    host_ok = host.write(_DP, 0x8, 0)
    assert host_ok == Ack.FAULT
    assert host.read(_DP, 0x4) & 1 << 5
    assert host.ask(_ABORT, 0, struct.pack("<I", 4)) == bytes((_ABORT, 0))
    assert not host.read(_DP, 0x4) & 1 << 5
    host.write(_AP, 0x4, _MEMORY)
    assert host.read(_AP, 0xC) == 0


def test_a_fault_ends_the_packet_where_it_happens(host: _Host) -> None:
    host.power_up()
    host.core.memory[:4] = b"abcd"
    answer = host.transfers(
        (_AP | _W, 0x4, _MEMORY), (_AP | _R, 0xC, 0), (_AP | _W, 0x4, 0), (_AP | _R, 0xC, 0), (_AP | _W, 0x4, _MEMORY)
    )
    assert answer == (3, Ack.FAULT, [int.from_bytes(b"abcd", "little")])


def test_the_reset_pin_reaches_the_core(host: _Host) -> None:
    host.power_up()
    assert host.ask(_PINS, 0x00, 0x80, struct.pack("<I", 0))[1] & 0x80 == 0
    assert host.ask(_PINS, 0x80, 0x80, struct.pack("<I", 0))[1] & 0x80 == 0x80
    assert host.core.pin == [True, False]
    assert host.ask(_PINS, 0x00, 0x00, struct.pack("<I", 0))[1] & 0x80 == 0x80  # reading moves nothing
    assert host.core.pin == [True, False]


def test_a_target_that_lost_its_power_acknowledges_nothing_until_it_has_it_again(host: _Host) -> None:
    host.power_up()
    host.core.lost = True
    assert host.transfers((_AP | _W, 0x4, 0), (_AP | _R, 0xC, 0))[1] == Ack.NONE
    assert host.core.closed
    assert host.transfers((_DP | _R, 0x0, 0)) == (0, Ack.NONE, [])
    assert host.ask(_ABORT, 0, struct.pack("<I", 4)) == bytes((_ABORT, 0xFF))
    host.core.lost = False
    host.ask(_SEQUENCE, 8, b"\xff")  # a line reset
    host.power_up()
    host.write(_AP, 0x4, _MEMORY)
    assert host.read(_AP, 0xC) == 0


def test_what_packets_wrote_is_in_its_place_before_their_answer_is_given(host: _Host, tmp_path: Path) -> None:
    host.power_up()
    interface = EmulatedInterface(Listed(BoardEntry("one", "some-board", "cortex-m4f", "some_target", 1), tmp_path))
    interface._probe = host.probe
    before = host.core.settled
    interface.write([_TRANSFER, 0, 1, _AP | _W | 0x4, *_MEMORY.to_bytes(4, "little")])
    assert host.core.settled == before
    assert interface.read() == bytes((_TRANSFER, 1, Ack.OK))
    assert host.core.settled == before + 1
    with pytest.raises(DAPAccessIntf.DeviceError, match="nothing to say"):
        interface.read()


def test_power_that_goes_before_what_was_written_is_in_its_place_is_noticed_at_the_next_transfer(host: _Host) -> None:
    host.power_up()
    host.write(_AP, 0x4, _MEMORY)
    assert host.write(_AP, 0xC, 1) == Ack.OK
    host.core.lost = True
    host.probe.settle()
    assert host.core.closed
    assert host.transfers((_DP | _R, 0x0, 0)) == (0, Ack.NONE, [])
    # There is nothing left to wait for.
    host.probe.settle()


@pytest.mark.parametrize(("kind", "ack"), [("wait", Ack.WAIT), ("fault", Ack.FAULT), ("no_ack", Ack.NONE)])
def test_faults_of_the_link_hit_the_transfer_they_are_set_for(host: _Host, tmp_path: Path, kind: str, ack: Ack) -> None:
    host.power_up()
    host.write(_AP, 0x4, _MEMORY)
    getattr(LinkFaults(tmp_path / "one.faults"), kind)(after_transfers=2)
    payload = struct.pack("<4I", 1, 2, 3, 4)
    answer = host.ask(_BLOCK, 0, struct.pack("<HB", 4, _AP | 0xC), payload)
    assert answer == struct.pack("<BHB", _BLOCK, 2, ack)
    assert bytes(host.core.memory[:16]) == struct.pack("<4I", 1, 2, 0, 0)
    host.ask(_ABORT, 0, struct.pack("<I", 4))
    assert host.read(_AP, 0x4) == _MEMORY + 8


def test_a_fault_at_an_address_leaves_others_alone(host: _Host, tmp_path: Path) -> None:
    host.power_up()
    LinkFaults(tmp_path / "one.faults").wait(ALWAYS, address=_MEMORY + 8)
    host.write(_AP, 0x4, _MEMORY)
    answer = host.ask(_BLOCK, 0, struct.pack("<HB", 4, _AP | _R | 0xC))
    assert struct.unpack("<HB", answer[1:4]) == (2, Ack.WAIT)
    host.write(_AP, 0x4, _MEMORY + 12)
    assert host.read(_AP, 0xC) == 0


def test_faults_of_the_board_reach_the_core(host: _Host, tmp_path: Path) -> None:
    host.power_up()
    faults = LinkFaults(tmp_path / "one.faults")
    faults.lock_flash("drop")
    host.read(_DP, 0x0)
    assert host.core.state.flash == "drop"
    faults.clear()
    host.read(_DP, 0x0)
    assert host.core.state.flash == "open"


def test_an_unplugged_probe_says_nothing(host: _Host, tmp_path: Path) -> None:
    host.power_up()
    LinkFaults(tmp_path / "one.faults").unplug()
    with pytest.raises(Unplugged):
        host.ask(_INFO, 3)
