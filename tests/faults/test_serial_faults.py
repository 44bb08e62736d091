"""Faults of the serial line between this computer and a board, and of what somebody has flashed there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.catalogue import of
from helpers import faulty_workload, tiny_workload
from helpers.fault_bench import FaultBench, hold
from helpers.toolchain import needs_qemu
from helpers.wired_board import BOARD, Damage, WiredBoard, unharmed

from lab.artifact import Artifact
from lab.build import build
from lab.devices.connect import connected
from lab.paths import cache_dir

pytestmark = [needs_qemu, pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")]

FAULTS = {fault.name: fault for fault in of("Serial lines")}
SILENCE_S = 3.0
PASSES = 30
"""Over eight samples: some 20 KB on the line, of which a few are on their way when the fault comes."""

OF_A_JOB = b"events"
"""In every frame that tells of passes. A slow host finds all of a job in the port's buffer, 64 KiB: faults that have to
hit the job are there before it begins, and wait for these."""


@pytest.fixture(scope="module")
def image() -> Artifact:
    return build(faulty_workload.model(), BOARD, cache=cache_dir())


@pytest.fixture(scope="module")
def board(image: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WiredBoard]:
    """One board on a desk, flashed with the image that all but one of the tests need."""
    one = WiredBoard(tmp_path_factory.mktemp("desk"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lab.transports.serial_ports.comports", lambda: one.attached)
        one.flash(image)
        try:
            yield one
        finally:
            one.close()


@pytest.fixture
def bench(board: WiredBoard, tmp_path: Path, patient: None) -> Iterator[FaultBench]:
    entry = board.entry()
    with connected(entry, cache_dir()) as device:
        yield FaultBench(entry, device, tmp_path)
    board.line.to_host = board.line.to_board = unharmed


@dataclass
class Once:
    """Does something to the first piece that is long enough and has what it is for, and nothing to the others."""

    harm: Damage
    of: bytes = b""
    done: bool = False

    def __call__(self, data: bytes) -> bytes:
        if self.done or len(data) < 8 or data.count(self.of) < 2:
            return data
        self.done = True
        return self.harm(data)


def without_a_byte(data: bytes) -> bytes:
    return data[: len(data) // 2] + data[len(data) // 2 + 1 :]


def with_noise_inside(data: bytes) -> bytes:
    noise = random.Random(3).randbytes(20)
    return data[: len(data) // 2] + noise + data[len(data) // 2 :]


def with_noise_between(data: bytes) -> bytes:
    """Noise that ends where a frame ends, and so hits none."""
    return data.replace(b"\0", b"\0\x55noise\xaa\0")


def drifted(board: WiredBoard) -> Damage:
    """One byte in 200 of those that the board sends comes wrong, at the rate of now and at faster ones."""
    chance, too_fast = random.Random(4), board.baud

    def damage(data: bytes) -> bytes:
        if board.baud < too_fast:
            return data
        return bytes(byte ^ 0x40 if chance.random() < 0.005 else byte for byte in data)

    return damage


def to_host(harm: Damage) -> Callable[[WiredBoard], None]:
    def strike(board: WiredBoard) -> None:
        board.line.to_host = harm

    return strike


def lose_towards_the_board(board: WiredBoard) -> None:
    board.line.to_board = Once(without_a_byte)


def drift(board: WiredBoard) -> None:
    board.line.to_host = drifted(board)


def replug(board: WiredBoard) -> None:
    before = board.attached[0].device
    board.unplug()
    board.plug_in()
    assert board.attached[0].device != before


INJECTIONS: dict[str, Callable[[WiredBoard], None]] = {
    "serial garbage between frames": to_host(with_noise_between),
    "serial garbage inside of frames": lambda board: to_host(Once(with_noise_inside, OF_A_JOB))(board),
    "byte loss towards the computer": lambda board: to_host(Once(without_a_byte, OF_A_JOB))(board),
    "byte loss towards the board": lose_towards_the_board,
    "baud drift": drift,
    "port that comes back under another name": replug,
}
AHEAD = ("serial garbage between frames", "serial garbage inside of frames", "byte loss towards the computer")


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_fault_of_the_line_ends_as_the_catalogue_says(name: str, board: WiredBoard, bench: FaultBench) -> None:
    bench.device.silence_s = SILENCE_S
    if name in AHEAD:
        bench.device.after = -1
    after = bench.suffer(lambda: INJECTIONS[name](board), repeats=PASSES)
    hold(FAULTS[name], bench, after)


def test_a_stuck_transmitter_ends_as_the_catalogue_says(board: WiredBoard, tmp_path: Path) -> None:
    def get_stuck() -> None:
        board.line.stuck = b"U"

    def come_loose() -> None:
        board.line.stuck = b""

    with board.reset_line(come_loose) as serial:
        entry = board.entry(serial)
        with connected(entry, cache_dir()) as device:
            bench = FaultBench(entry, device, tmp_path)
            bench.device.silence_s = SILENCE_S
            hold(FAULTS["stuck transmitter"], bench, bench.suffer(get_stuck))


def test_a_clock_that_stands_still_ends_as_the_catalogue_says(board: WiredBoard, bench: FaultBench) -> None:
    """A board that nobody starts anew for the next test: it answers, and only its health check shows what is wrong."""
    (fault,) = (one for one in of("Microcontrollers") if one.name == "clock that stands still, behind a serial port")
    hold(fault, bench, bench.suffer(board.freeze_clock, repeats=PASSES))


def test_a_wrong_build_id_ends_as_the_catalogue_says(board: WiredBoard, image: Artifact, tmp_path: Path) -> None:
    (fault,) = (one for one in of("Images and builds") if one.name == "wrong build id")
    board.flash(build(tiny_workload.model(), BOARD, cache=cache_dir()))
    entry = board.entry()
    with connected(entry, cache_dir()) as device:
        bench = FaultBench(entry, device, tmp_path)
        after = bench.suffer()
        assert str(image.path) in str(after.error), "it says what to flash"
        board.flash(image)
        hold(fault, bench, after)


def test_every_fault_of_a_line_is_met() -> None:
    assert {*FAULTS} == {*INJECTIONS, "stuck transmitter"}
