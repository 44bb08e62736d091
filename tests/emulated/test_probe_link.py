"""Faults of the link to an emulated board as pyOCD's own CMSIS-DAP code reports them; after each all is well again."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest
from helpers.probe_session import probed, session_on
from helpers.sandbox import private_places
from helpers.toolchain import needs_qemu
from pyocd.core.exceptions import (
    Error,
    ProbeError,
    TransferError,
    TransferFaultError,
    TransferTimeoutError,
)
from pyocd.core.helpers import ConnectHelper
from pyocd.flash.file_programmer import FileProgrammer

from lab.emulators.probe.board import ProbedBoard
from lab.emulators.probe.direct import DirectProbe
from lab.emulators.probe.faults import ALWAYS, SOUND
from lab.emulators.probe.registry import claim, find_board
from lab.emulators.probe.signals import InUse
from lab.errors import ConfigError, EmulatorError

pytestmark = needs_qemu

_RAM = 0x20000000
_VALUE = 0x1234ABCD


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbedBoard]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("lab")
        for name, value in private_places(folder, folder / "cache").items():
            patch.setenv(name, value)
        with probed("mps2-an386") as one:
            yield one


@pytest.fixture(autouse=True)
def _sound(board: ProbedBoard) -> Iterator[None]:
    yield
    board.faults.clear()
    board.power_on()


def _listed() -> list[str]:
    return [probe.unique_id for probe in ConnectHelper.get_all_connected_probes(blocking=False)]


def _works(board: ProbedBoard) -> bool:
    with session_on(board) as session:
        session.target.write32(_RAM, _VALUE)
        return bool(session.target.read32(_RAM) == _VALUE)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("wait", TransferTimeoutError, "WAIT"),
        ("fault", TransferFaultError, "FAULT"),
        ("no_ack", TransferError, "No ACK"),
    ],
)
def test_one_bad_transfer_is_one_error(board: ProbedBoard, kind: str, error: type[Error], words: str) -> None:
    with session_on(board) as session:
        session.target.write32(_RAM, _VALUE)
        session.target.flush()
        getattr(board.faults, kind)()
        with pytest.raises(error, match=words):
            session.target.read32(_RAM)
        assert board.faults.state == SOUND
        assert session.target.read32(_RAM) == _VALUE


def test_a_fault_at_an_address_tells_it(board: ProbedBoard) -> None:
    with session_on(board) as session:
        target = session.target
        target.write_memory_block8(_RAM, bytes(range(200)))
        target.flush()
        board.faults.fault(ALWAYS, address=_RAM + 100)
        assert target.read32(_RAM) == 0x03020100
        with pytest.raises(TransferFaultError) as caught:
            target.read_memory_block8(_RAM, 200)
        assert caught.value.fault_address <= _RAM + 100 < caught.value.fault_end_address
        board.faults.clear()
        assert bytes(target.read_memory_block8(_RAM, 200)) == bytes(range(200))


def test_a_transfer_that_goes_wrong_in_the_midst_of_programming(board: ProbedBoard) -> None:
    data = bytes(range(256)) * 200
    with session_on(board) as session:
        board.faults.fault(after_transfers=5000)
        with pytest.raises(TransferError):
            FileProgrammer(session, progress=lambda _: None).program(io.BytesIO(data), file_format="bin")
    with session_on(board) as session:
        FileProgrammer(session, progress=lambda _: None).program(io.BytesIO(data), file_format="bin")
        assert bytes(session.target.read_memory_block8(0, len(data))) == data


def test_a_dead_link_is_told_at_once_when_a_session_opens(board: ProbedBoard) -> None:
    board.faults.no_ack(ALWAYS)
    with pytest.raises(Error), session_on(board):
        pass
    board.faults.clear()
    assert _works(board)


def test_a_probe_unplugged_in_the_midst_of_programming(board: ProbedBoard) -> None:
    data = bytes(range(256)) * 200
    with session_on(board) as session:
        board.faults.unplug(after_transfers=5000)
        with pytest.raises(ProbeError, match="unplugged"):
            FileProgrammer(session, progress=lambda _: None).program(io.BytesIO(data), file_format="bin")
        assert board.faults.state.unplugged
        with pytest.raises(ProbeError, match="unplugged"):
            session.target.read32(_RAM)
    assert _listed() == []
    board.faults.clear()
    assert _listed() == [board.unique_id]
    with session_on(board) as session:
        FileProgrammer(session, progress=lambda _: None).program(io.BytesIO(data), file_format="bin")
        assert bytes(session.target.read_memory_block8(0, len(data))) == data


def test_a_slow_link_changes_nothing_but_the_time(board: ProbedBoard) -> None:
    board.faults.slow(0.001)
    data = bytes(range(256)) * 10
    with session_on(board) as session:
        session.target.write_memory_block8(_RAM, data)
        assert bytes(session.target.read_memory_block8(_RAM, len(data))) == data


def test_a_board_that_loses_its_power(board: ProbedBoard) -> None:
    with session_on(board) as session:
        session.target.write32(_RAM, _VALUE)
        session.target.flush()
        board.power_off()
        assert not board.entry.powered
        with pytest.raises(TransferError, match="No ACK"):
            session.target.read32(_RAM)
    # The probe is powered by the host.
    assert _listed() == [board.unique_id]
    with pytest.raises(Error), session_on(board):
        pass
    board.power_on()
    with session_on(board) as session:
        assert session.target.read32(_RAM) == 0
    assert _works(board)


def test_an_emulator_that_died_is_a_board_without_power(board: ProbedBoard) -> None:
    with session_on(board) as session:
        session.target.read32(_RAM)
        board.qemu.power_cut()
        with pytest.raises(TransferError, match="No ACK"):
            session.target.read32(_RAM)
    with pytest.raises(EmulatorError):
        board.check_alive()
    board.power_off()
    board.power_on()
    assert _works(board)


def test_a_probe_serves_one_program_at_a_time(board: ProbedBoard) -> None:
    with session_on(board) as first:
        with pytest.raises(ProbeError, match="in use by another program"), session_on(board):
            pass
        direct = DirectProbe(find_board(board.unique_id))
        with pytest.raises(ProbeError, match="in use by another program"), session_on(board, direct):
            pass
        first.target.write32(_RAM, _VALUE)
        assert first.target.read32(_RAM) == _VALUE
    assert _works(board)
    with session_on(board, DirectProbe(find_board(board.unique_id)), target_override=board.entry.target):
        assert not _claimable(board)
    assert _claimable(board)


def _claimable(board: ProbedBoard) -> bool:
    try:
        os.close(claim(find_board(board.unique_id)))
    except InUse:
        return False
    return True


def test_two_probes_with_one_unique_id_are_both_seen(board: ProbedBoard) -> None:
    with pytest.raises(ConfigError, match="runs already"), probed("mps2-an386", board.unique_id):
        pass
    with probed("mps2-an386", board.unique_id, duplicate=True):
        assert _listed() == [board.unique_id] * 2
        both = ConnectHelper.get_all_connected_probes(blocking=False, unique_id=board.unique_id)
        assert len(both) == 2
    assert _listed() == [board.unique_id]
    assert _works(board)


def test_the_serial_port_of_a_board_is_the_one_in_the_registry(board: ProbedBoard) -> None:
    url = board.entry.serial_url
    assert url == board.qemu.serial_url
    with board.serial_on_pty() as link:
        assert board.entry.serial_url == link.path
    assert board.entry.serial_url == url
    # A power cycle is a new emulator.
    board.power_off()
    assert board.entry.serial_url == ""
    board.power_on()
    board.open_serial().close()
