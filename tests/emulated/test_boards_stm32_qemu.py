"""The STM32F405 that QEMU emulates, end to end with exact counts; and how far the images of real boards get on it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.toolchain import (
    SAMPLE_BYTES,
    built,
    counting_plugin,
    machine_of,
    needs_qemu,
    running,
    tiny_output,
)

from lab.devices.connect import connected
from lab.emulators.qemu import Qemu
from lab.errors import Crash
from lab.events import Event, Job, RegionEvent, ResultEvent
from lab.inventory import load_bench
from lab.paths import cache_dir, config_dir
from lab.wire import Session

pytestmark = needs_qemu

BOARD = "netduinoplus2"
SAMPLES = bytes((i * 37) & 0xFF for i in range(3 * SAMPLE_BYTES))
EXPECTED = [tiny_output(SAMPLES[i : i + SAMPLE_BYTES]) for i in range(0, len(SAMPLES), SAMPLE_BYTES)]


def results(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, ResultEvent)]


def cycles(session: Session, iterations: int, repeats: int = 1) -> list[int]:
    events = session.run(Job("clock", b"", iterations, repeats=repeats))
    return [event.cycles for event in events if isinstance(event, RegionEvent)]


def test_the_clock_is_exact_to_the_instruction_and_survives_wraps_of_its_timer() -> None:
    """2^32 ns are 33.5 M instructions of 128 ns."""
    with running(BOARD, built(BOARD)) as (_, _, session):
        assert (session.hello.clock, session.hello.clock_hz) == ("virtual", 168_000_000)
        one, two = (set(cycles(session, n, repeats=60)) for n in (1, 2))
        after_sleeps = {cycles(session, 1)[0] for _ in range(5)}
        many = cycles(session, 10_000_001)[0]
    assert len(one) == len(two) == 1
    assert after_sleeps == one
    first, second = one.pop(), two.pop()
    assert many - first == 10_000_000 * (second - first) > 2 * 2**25


def test_a_device_of_the_bench_gives_results_and_counts_that_agree_with_its_clock() -> None:
    """The plug-in sees the region and a constant part of its edges, as on the other emulated boards."""
    counting_plugin()
    entry = load_bench(config_dir() / "emulators.yaml").devices[BOARD]
    jobs = [Job("infer", SAMPLES, 3), *(Job("clock", b"", n) for n in (1, 500, 20_000))]
    artifact = built(BOARD)
    differences = set()
    with connected(entry, cache_dir()) as device:
        assert device.deploy(artifact).blob_bytes > 150_000
        for job in jobs:
            events = list(device.run(job))
            if job.name == "infer":
                assert results(events) == EXPECTED
            timed = [event.cycles for event in events if isinstance(event, RegionEvent)]
            counted = [count.instructions for count in device.count(artifact, job)]
            differences |= {count - clock for count, clock in zip(counted, timed, strict=True)}
    assert len(differences) == 1


def test_the_same_core_takes_the_same_instructions_on_another_board() -> None:
    taken = []
    for board in (BOARD, "mps2-an386"):
        with running(board, built(board)) as (_, _, session):
            session.put("samples", SAMPLES)
            events = list(session.run(Job("infer", b"", 3, profile=True)))
            taken.append([event.cycles for event in events if isinstance(event, RegionEvent)])
    assert taken[0] == taken[1]


def test_a_fault_is_told_and_the_board_restarts() -> None:
    artifact = built(BOARD)
    with running(BOARD, artifact) as (_, _, session):
        with pytest.raises(Crash):
            list(session.run(Job("crash", b"", 1)))
        assert session.open(20, ask=False).build_id == artifact.build_id


# ---- images of real boards on this machine -----------------------------------------------------------------------


class SecondUart:
    """QEMU's second serial port, USART2, as a byte stream."""

    def __init__(self, connection: socket.socket) -> None:
        self.name = "USART2"
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)

    def read(self, timeout_s: float) -> bytes:
        self._connection.settimeout(max(timeout_s, 0.001))
        try:
            return self._connection.recv(4096)
        except TimeoutError:
            return b""

    def close(self) -> None:
        self._connection.close()


@contextmanager
def on_qemu(board: str, folder: Path) -> Iterator[Session]:
    """The image of a real board on QEMU's STM32F405, its line on USART2; the session is open."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen(1)
        listener.settimeout(20)
        with Qemu(machine_of(BOARD), built(board).path, marker_socket=folder / "s") as qemu:
            connection, _ = listener.accept()
            stream = SecondUart(connection)
            qemu.release()
            session = Session(stream, board_is_alive=qemu.check_alive)
            session.open(20, ask=False)
            yield session
            stream.close()


def test_the_image_of_the_nucleo_f446re_infers_there(tmp_path: Path) -> None:
    """It stays at the internal oscillator without RCC; its clock stands without DWT: a quiet time would never end."""
    with on_qemu("nucleo-f446re", tmp_path) as session:
        assert (session.hello.board, session.hello.clock_hz) == ("nucleo-f446re", 16_000_000)
        session.put("samples", SAMPLES)
        events = list(session.run(Job("infer", b"", 3, quiet_us=0)))
    assert results(events) == EXPECTED
    assert {event.cycles for event in events if isinstance(event, RegionEvent)} == {0}


def test_the_image_of_the_discovery_gets_to_its_first_blob_there(tmp_path: Path) -> None:
    """QEMU 7.2 has no core-coupled memory, where this board keeps its blobs; later ones have."""
    with on_qemu("stm32f4-discovery", tmp_path) as session:
        assert (session.hello.board, session.hello.clock_hz) == ("stm32f4-discovery", 16_000_000)
        assert session.hello.blob_address == 0x10000000
        assert cycles(session, 1000, repeats=2) == [0, 0]
