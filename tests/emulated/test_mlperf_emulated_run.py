"""The lab as runner against the lab's own personality on emulated boards: all three modes, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lab.build import MlperfMode, MlperfModel, build
from lab.compiler.model import CompiledModel, LayerInfo, TensorSpec
from lab.emulators.energy_model import Edge, EnergyModel
from lab.emulators.ppk2 import EmulatedPpk2
from lab.emulators.pty_link import PtyLink
from lab.emulators.qemu import Qemu, QemuMachine
from lab.errors import WorkloadError
from lab.mlperf.benchmarks import Benchmark
from lab.mlperf.session import Request, run
from lab.power.ppk2 import Ppk2
from lab.transports.serial import SerialPort
from measurements.record import Record, Run
from measurements.store import Store

TINY_MODEL = Path(__file__).resolve().parents[1] / "data" / "tiny_model"
VALUES = 64
CLOCK_HZ = 25_000_000
LOAD = EnergyModel(3.3, 1e-3, 8e-3, 0.0, "test")
PIN = 1
INFER_S = 300.0
# The tiny model under the names of two benchmarks; the counts are raised at once.
CLASSIFIER = Benchmark("ic01", "tiny", VALUES, VALUES, 70, 10)
AUTOENCODER = Benchmark("ad01", "tiny", 4 * VALUES, 1, 70, 10)
OFFSETS = np.concatenate([np.arange(8), np.zeros(56, np.int64)]).astype(np.uint8)


@pytest.fixture(scope="module")
def cache(shared_cache: Path) -> Path:
    return shared_cache


@contextmanager
def board(
    cache: Path, model: MlperfModel, mode: MlperfMode = "performance", marker: Path | None = None
) -> Iterator[str]:
    """Path of the PTY of a running board."""
    border = TensorSpec((VALUES,), 1.0, 0)
    sources = {path.name: path.read_text() for path in TINY_MODEL.iterdir()}
    layer = LayerInfo("all", "elementwise", 64, 0, (64,), (64,))
    compiled = CompiledModel("tiny", sources, border, border, (layer,), (), 96, 64, "0" * 64)
    image = build(
        compiled, "mps2-an386", cache=cache, personality="mlperf", mlperf_mode=mode, mlperf_model=model
    )
    spec = QemuMachine(image.board, 7, 0, 0, 0)
    with (
        Qemu(spec, image.path, marker_socket=marker) as qemu,
        PtyLink(SerialPort(qemu.serial_url)) as link,
    ):
        qemu.release()
        yield link.path


def record(one: Run, metric: str) -> Record:
    return next(record for record in one.records if record.metric == metric)


def test_performance_and_accuracy(cache: Path, tmp_path: Path) -> None:
    """The same device, one mode after the other; each opens the port anew."""
    generator = np.random.default_rng(2)
    pixels = generator.integers(0, 256, (6, VALUES), dtype=np.uint8)
    tensors = (pixels.astype(np.int16) - 128).astype(np.uint8)
    scores = ((tensors ^ 0x55) + OFFSETS).view(np.int8)
    labels = np.argmax(scores, axis=1)
    labels[4] = (labels[4] + 1) % VALUES
    for number, row in enumerate(pixels):
        (tmp_path / f"{number}.bin").write_bytes(row.tobytes())
    (tmp_path / "y_labels.csv").write_text("".join(f"{n}.bin,{VALUES},{label}\n" for n, label in enumerate(labels)))
    with board(cache, "ic01") as port, Store(tmp_path / "store") as store:
        timed = run(Request(port, CLASSIFIER, "performance", tmp_path, True, infer_s=INFER_S), store, "s")
        scored = run(Request(port, CLASSIFIER, "accuracy", tmp_path, True, infer_s=INFER_S), store, "s")
    durations = record(timed, "duration")
    assert durations.n == 5
    assert all(10.0 <= seconds < 11.5 for seconds in durations.raw)
    # Instructions: the same count of the same work, whatever the input and the host.
    assert max(durations.raw) - min(durations.raw) < 1e-4
    assert timed.provenance.device == "hil-lab mps2-an386"
    assert {one.source for one in (*timed.records, *scored.records)} == {"emulated"}
    assert record(scored, "accuracy").median == pytest.approx(5 / 6)


def test_energy_is_that_of_the_load_between_the_edges(cache: Path, tmp_path: Path) -> None:
    """The emulated meter draws the current from the marker line; the closed form of the load model is the reference."""
    with EmulatedPpk2(tmp_path, CLOCK_HZ, LOAD) as peer, Store(tmp_path / "store") as store:
        meter = Ppk2(peer.port, voltage_v=LOAD.voltage_v, emulated=True)
        with board(cache, "ad01", "energy", peer.marker_path) as port:
            request = Request(port, AUTOENCODER, "energy", None, True, infer_s=INFER_S, meter=meter, edge_input=PIN)
            one = run(request, store, "s")
    elapsed = record(one, "duration")
    assert elapsed.n == 5
    assert all(10.0 <= seconds < 11.5 for seconds in elapsed.raw)
    count = int(one.provenance.parameters["iterations"])
    # All but the pulse and two marker frames is work.
    expected = [LOAD.voltage_v * LOAD.charge(0.0, seconds, [Edge(4e-4, True)]) / count for seconds in elapsed.raw]
    assert record(one, "energy").raw == pytest.approx(expected, rel=1e-3)
    assert record(one, "energy").source == "modelled"
    assert record(one, "power").median == pytest.approx(LOAD.voltage_v * LOAD.active_current_a, rel=1e-3)


def test_a_board_in_performance_mode_does_not_pass_for_energy(cache: Path, tmp_path: Path) -> None:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, LOAD) as peer, Store(tmp_path / "store") as store:
        meter = Ppk2(peer.port, voltage_v=LOAD.voltage_v, emulated=True)
        with board(cache, "ad01") as port:
            request = Request(port, AUTOENCODER, "performance", None, True, infer_s=INFER_S, meter=meter)
            with pytest.raises(WorkloadError, match="not in energy mode"):
                run(request, store, "s")
