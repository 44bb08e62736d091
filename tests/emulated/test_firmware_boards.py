"""The firmware on QEMU's boards: its clock is exact, its marker edges are those of its events, its faults are told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.artifact import Artifact
from lab.build import build
from lab.compiler.model import CompiledModel, LayerInfo, TensorSpec
from lab.emulators.qemu import Qemu, QemuMachine
from lab.emulators.tcg_plugin import build_plugin
from lab.errors import Crash, OutOfMemory
from lab.events import Done, Event, Job, RegionEvent, ResultEvent
from lab.postmortem.image import Image
from lab.transports.serial import SerialPort
from lab.wire import Session
from lab.wire_frames import FrameDecoder

TINY_MODEL = Path(__file__).resolve().parents[1] / "data" / "tiny_model"
SAMPLE_BYTES = 64
# Machine of QEMU, clock as the board says it; shared memory and marker register.
BOARDS = {
    "mps2-an386": (QemuMachine("mps2-an386", 7, 0x21000000, 1 << 24, 0x40028000), 25_000_000),
    "mps2-an500": (QemuMachine("mps2-an500", 7, 0x60000000, 1 << 24, 0x40028000), 25_000_000),
    "mps3-an547": (QemuMachine("mps3-an547", 7, 0x60000000, 1 << 31, 0x59302000), 32_000_000),
}
SAMPLES = bytes((i * 37) & 0xFF for i in range(3 * SAMPLE_BYTES))


def expected_output(sample: bytes) -> bytes:
    return bytes(((value ^ 0x55) + (i if i < 8 else 0)) & 0xFF for i, value in enumerate(sample))


@pytest.fixture(scope="module", params=sorted(BOARDS))
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    border = TensorSpec((SAMPLE_BYTES,), 1.0, 0)
    layers = tuple(LayerInfo(name, "elementwise", 64, 0, (64,), (64,)) for name in ("xor", "offset"))
    sources = {path.name: path.read_text() for path in TINY_MODEL.iterdir()}
    model = CompiledModel("tiny", sources, border, border, layers, (), 96, 64, "0" * 64)
    return build(model, request.param, cache=tmp_path_factory.mktemp("cache"), test_jobs=True)


class MarkerLine:
    """Reads the second UART all the time: a line that nobody reads would hold the board up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._edges: list[tuple[int, int]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        decoder = FrameDecoder()
        with contextlib.suppress(OSError):
            while data := self._connection.recv(65536):
                edges = [(int(str(message["c"])), int(str(message["m"]))) for message in decoder.feed(data)]
                with self._changed:
                    self._edges += edges
                    self._changed.notify()

    def edges(self, count: int) -> list[tuple[int, int]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._edges) >= count, timeout=20)
            return self._edges[:count]


@dataclass
class Board:
    """A running board with an open session."""

    qemu: Qemu
    session: Session
    marker: MarkerLine

    def run(self, name: str, count: int = 0, repeats: int = 1, profile: bool = False) -> list[Event]:
        return list(self.session.run(Job(name, b"", count, repeats=repeats, profile=profile)))

    def cycles(self, iterations: int, repeats: int = 1) -> list[int]:
        """Cycles of regions around a loop, one per repeat."""
        events = self.run("clock", iterations, repeats)
        return [event.cycles for event in events if isinstance(event, RegionEvent)]

    def edges(self, count: int) -> list[tuple[int, int]]:
        """The first ``count`` edges from the marker line: (cycles, bits)."""
        return self.marker.edges(count)


@contextmanager
def board(image: Artifact, folder: Path, plugin: Path | None = None) -> Iterator[Board]:
    spec, _ = BOARDS[image.board]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "m"))
    listener.listen(1)
    listener.settimeout(20)
    with Qemu(spec, image.path, marker_socket=folder / "m", plugin=plugin) as qemu:
        marker, _ = listener.accept()
        stream = SerialPort(qemu.serial_url)
        qemu.release()
        session = Session(stream, board_is_alive=qemu.check_alive)
        session.open(20, ask=False)
        yield Board(qemu, session, MarkerLine(marker))
        stream.close()
        marker.close()
    listener.close()


def test_the_board_says_what_it_is(image: Artifact, tmp_path: Path) -> None:
    spec, clock_hz = BOARDS[image.board]
    with board(image, tmp_path) as running:
        hello = running.session.hello
    assert (hello.board, hello.build_id) == (image.board, image.build_id)
    assert (hello.clock, hello.clock_hz) == ("virtual", clock_hz)
    assert (hello.arena_bytes, hello.stack_bytes) == (image.memory.arena_bytes, image.memory.stack_bytes)
    assert hello.blob_address == spec.shared_address


def test_the_clock_repeats_to_the_instruction(image: Artifact, tmp_path: Path) -> None:
    """The same region, 60 times in a row, after sleeps of the core and after another boot: one number."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    with board(image, tmp_path / "1") as running:
        counts = [running.cycles(n, repeats=60) for n in (0, 1, 1000)]
        counts += [running.cycles(1000, repeats=3) for _ in range(10)]
    with board(image, tmp_path / "2") as running:
        counts += [running.cycles(1000, repeats=60)]
    assert [len(set(repeated)) for repeated in counts] == [1] * len(counts)
    assert {repeated[0] for repeated in counts[2:]} == {counts[2][0]}


def test_the_clock_is_linear_and_an_empty_region_costs_almost_nothing(image: Artifact, tmp_path: Path) -> None:
    with board(image, tmp_path) as running:
        empty, one, two, many = (running.cycles(n)[0] for n in (0, 1, 2, 100_001))
    per_iteration = two - one
    assert many - one == 100_000 * per_iteration
    assert 0 <= empty <= 4  # the job's own test of its count
    assert 4 <= per_iteration <= 10


def test_the_clock_survives_a_wrap_of_the_timer_inside_a_region(image: Artifact, tmp_path: Path) -> None:
    """2^32 ticks of 40 ns (31.25 ns) are 1.34 G (1.05 G) instructions of 128 ns: this region is longer."""
    with board(image, tmp_path) as running:
        one, two, many = (running.cycles(n)[0] for n in (1, 2, 200_000_001))
    assert many - one == 200_000_000 * (two - one) > 2**32 * 40 // 128


def test_infer_gives_the_models_outputs_and_the_marker_line_its_edges(image: Artifact, tmp_path: Path) -> None:
    with board(image, tmp_path) as running:
        running.session.put("samples", SAMPLES)
        events = running.run("infer", count=3, repeats=2, profile=True)
        edges = running.edges(2 + 2 * 6)
    outputs = [event.data for event in events if isinstance(event, ResultEvent)]
    assert outputs == [expected_output(SAMPLES[i : i + SAMPLE_BYTES]) for i in range(0, len(SAMPLES), SAMPLE_BYTES)]
    passes = [event for event in events if isinstance(event, RegionEvent) and event.region == "inference"]
    layers = [event for event in events if isinstance(event, RegionEvent) and event.region == "layer"]
    assert [event.index for event in passes] == [0, 0, 1, 1, 2, 2]
    assert len({event.cycles for event in passes}) == 1
    assert len({(event.index, event.cycles) for event in layers}) == 2
    assert 0 <= passes[0].cycles - sum(event.cycles for event in layers[:2]) < 20
    in_events = [edge for event in passes for edge in ((event.begin, 1), (event.end, 0))]
    assert edges[1:-1] == in_events
    quiet_cycles = 2000 * BOARDS[image.board][1] // 1_000_000
    assert edges[0][1] == edges[-1][1] == 0
    assert edges[1][0] - edges[0][0] >= quiet_cycles
    assert edges[-1][0] - edges[-2][0] >= quiet_cycles
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.events, done.results, done.arena_high_water) == (12, 3, SAMPLE_BYTES)
    assert 0 < done.stack_high_water < 1024


def test_a_job_without_the_marker_line_sends_nothing_on_it(image: Artifact, tmp_path: Path) -> None:
    with board(image, tmp_path) as running:
        running.session.put("samples", SAMPLES)
        silent = list(running.session.run(Job("infer", b"", 1, marker_line=False)))
        loud = running.run("infer", count=1)
        edges = running.edges(4)
    first, second = ([one for one in events if isinstance(one, RegionEvent)] for events in (silent, loud))
    assert edges[1:3] == [(second[0].begin, 1), (second[0].end, 0)]
    assert first[0].cycles == second[0].cycles


def test_the_plugin_counts_what_the_clock_counts(image: Artifact, tmp_path: Path) -> None:
    """Between its two stores to the marker the plug-in sees the region and a constant part of its edges."""
    with board(image, tmp_path, build_plugin(tmp_path)) as running:
        clock = [count for n in (0, 1, 500, 20_000) for count in running.cycles(n, repeats=3)]
        marks = running.qemu.counts()
    assert len(marks) == 2 * len(clock)
    counted = [end.since(begin).instructions for begin, end in zip(marks[::2], marks[1::2], strict=True)]
    assert len({many - few for many, few in zip(counted, clock, strict=True)}) == 1


def test_a_blob_placed_in_shared_memory_is_checked_and_used(image: Artifact, tmp_path: Path) -> None:
    with board(image, tmp_path) as running:
        running.session.put("samples", SAMPLES, memory=running.qemu)
        first = [event.data for event in running.run("infer", 3) if isinstance(event, ResultEvent)]
    assert first == [expected_output(SAMPLES[i : i + SAMPLE_BYTES]) for i in range(0, len(SAMPLES), SAMPLE_BYTES)]


def test_a_fault_tells_where_and_the_board_restarts(image: Artifact, tmp_path: Path) -> None:
    with board(image, tmp_path) as running:
        with pytest.raises(Crash) as caught:
            running.run("crash")
        registers = caught.value.report.registers
        assert Image(image.path).where(registers["pc"]).startswith("job_crash at job_test.c:")
        assert registers["bfar"] == 0x5FFF0000
        assert registers["cfsr"] & 1 << 15  # BFARVALID, Armv7-M ARM B3.2.15
        assert caught.value.report.region == "inference"
        assert running.session.open(20, ask=False).build_id == image.build_id


@pytest.mark.parametrize(("job", "count"), [("recurse", 100_000), ("overrun", 0)])
def test_a_damaged_guard_is_out_of_memory(image: Artifact, tmp_path: Path, job: str, count: int) -> None:
    with board(image, tmp_path) as running, pytest.raises(OutOfMemory, match="overflow"):
        running.run(job, count)


def test_a_lock_up_is_seen(image: Artifact, tmp_path: Path) -> None:
    with board(image, tmp_path) as running, pytest.raises(Crash, match="locked up"):
        running.run("lockup")
