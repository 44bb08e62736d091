"""Renode itself, where it is installed; the conformance suite runs on it as well."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.toolchain import board_kind, built

from lab.emulator_config import RenodeEmulator
from lab.emulators.renode import renode_version
from lab.emulators.renode.machine import Renode, RenodeBoard
from lab.emulators.renode.record import PATTERN, record
from lab.wire import Session

pytestmark = [
    pytest.mark.skipif(not renode_version(), reason="Renode is not installed: RENODE names no program, PATH has none"),
    pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"),
]
KIND = "stm32f4-discovery"
BLOBS = 0x10000000


def board() -> RenodeBoard:
    section = next(one for one in board_kind(KIND).emulators if isinstance(one, RenodeEmulator))
    return RenodeBoard(section.platform, section.uart, section.mips, section.iwdg)


@pytest.fixture
def renode() -> Iterator[Renode]:
    with Renode(board(), built(KIND).path) as running:
        yield running


def test_virtual_time_is_exact(renode: Renode) -> None:
    renode.run_for(0.01)
    first = renode.executed_instructions()
    renode.run_for(0.01)
    assert renode.executed_instructions() - first == 10_000 * board().mips


def test_the_runner_answers(renode: Renode) -> None:
    stream = renode.open_serial()
    renode.release()
    hello = Session(stream, board_is_alive=renode.check_alive).open(60.0, ask=False)
    assert (hello.board, hello.clock, hello.clock_hz) == (KIND, "dwt", 168_000_000)
    stream.close()


def test_memory_and_registers(renode: Renode) -> None:
    renode.write_memory(BLOBS, PATTERN)
    assert renode.read_memory(BLOBS, len(PATTERN)) == PATTERN
    renode.flip_bit(BLOBS, 7)
    assert renode.read_memory(BLOBS, 1) == bytes([PATTERN[0] ^ 0x80])
    vectors = renode.read_memory(0x08000000, 8)
    assert renode.registers()["sp"] in (0, int.from_bytes(vectors[:4], "little"))


def test_a_dialogue_can_be_recorded(tmp_path: Path) -> None:
    recorded = record(board(), built(KIND).path, BLOBS)
    recorded.save(tmp_path / "dialogue.json")
    assert all(isinstance(pair.answer, dict) and pair.answer["status"] == "PASS" for pair in recorded.pairs)
