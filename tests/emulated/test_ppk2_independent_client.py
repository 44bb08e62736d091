"""The unmodified ``ppk2-api`` client against the emulated PPK2, and against our reader."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ppk2_api.ppk2_api import PPK2_API, PPK2_MP

from lab.emulators.energy_model import EnergyModel
from lab.emulators.ppk2 import EmulatedPpk2
from lab.power.base import join
from lab.power.ppk2 import Ppk2
from lab.power.ppk2_stream import Calibration, StreamDecoder
from lab.power.recorder import Recorder
from lab.wire_frames import encode_frame

CLOCK_HZ = 25_000_000
BOARD = EnergyModel(3.3, 20e-6, 12e-3, 0.0, "test")
ACTIVE_SAMPLES = 10 * 500
ALL_SAMPLES = 46_500


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[EmulatedPpk2]:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD, seed=3) as running:
        yield running


@pytest.fixture
def board(peer: EmulatedPpk2) -> Iterator[Callable[[], None]]:
    """Plays ten active stretches of 5 ms, 50 ms apart, on the marker line."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(str(peer.marker_path))

    def play() -> None:
        for k in range(10):
            for time_s, bits in ((k * 0.05 + 0.02, 1), (k * 0.05 + 0.025, 0)):
                line.sendall(encode_frame({"c": round(time_s * CLOCK_HZ), "m": bits}))

    yield play
    line.close()


def prepare(client: PPK2_API) -> None:
    assert client.get_modifiers() is True
    client.use_source_meter()
    client.set_source_voltage(3300)
    client.toggle_DUT_power("ON")


def collect(client: PPK2_API, play: Callable[[], None], wanted: int) -> tuple[list[float], list[int]]:
    """Microampere and logic bytes of ``wanted`` samples, or what came in 20 s."""
    currents: list[float] = []
    logic: list[int] = []
    deadline = time.monotonic() + 20
    client.start_measuring()
    play()
    while len(currents) < wanted and time.monotonic() < deadline:
        data = client.get_data()
        # The client reads words from the first byte on and loses its place in reads of less than a word.
        if len(data) >= 4:
            more, bits = client.get_samples(data)
            currents += more
            logic += bits
    client.stop_measuring()
    return currents, logic


def test_plain_client_measures_the_board(peer: EmulatedPpk2, board: Callable[[], None]) -> None:
    client = PPK2_API(peer.port, timeout=1)
    prepare(client)
    assert float(client.modifiers["R"]["0"]) == 1003.3
    known = ALL_SAMPLES - 500 - 1
    currents, logic = collect(client, board, known)
    assert len(currents) >= known
    current_a = np.array(currents) * 1e-6
    active = (np.array(logic) & 1).astype(bool)
    assert np.count_nonzero(active) == ACTIVE_SAMPLES
    # Its spike filter touches the first samples after every edge (0.14 % of the charge of such a square).
    charge = float(current_a.sum() * 1e-5)
    true_charge = (ACTIVE_SAMPLES * 12e-3 + (len(currents) - ACTIVE_SAMPLES) * 20e-6) * 1e-5
    assert charge == pytest.approx(true_charge, rel=5e-3)
    assert float(np.median(current_a[active])) == pytest.approx(12e-3, rel=5e-3)
    assert float(np.median(current_a[~active])) == pytest.approx(20e-6, rel=5e-3)
    assert float(current_a[~active].mean()) > 22e-6


def test_threaded_client_measures_the_board(peer: EmulatedPpk2, board: Callable[[], None]) -> None:
    client = PPK2_MP(peer.port, timeout=1, buffer_max_size_seconds=10, buffer_chunk_seconds=0.01)
    prepare(client)
    # It hands out whole chunks of 1000 samples only.
    currents, logic = collect(client, board, 45_000)
    assert len(currents) >= 45_000
    active = (np.array(logic) & 1).astype(bool)
    assert float(np.median(np.array(currents)[active])) == pytest.approx(12e3, rel=5e-3)
    assert float(np.median(np.array(currents)[~active])) == pytest.approx(20, rel=5e-3)


def test_both_readers_read_the_same_bytes_alike(peer: EmulatedPpk2) -> None:
    client = PPK2_API(peer.port, timeout=1)
    prepare(client)
    rows = {name: client.modifiers[name] for name in ("R", "GS", "GI", "O", "S", "I", "UG")}
    lines = [f"{name}{k}: {float(row[str(k)])!r}" for name, row in rows.items() for k in range(5)]
    calibration = Calibration.parse("\n".join(["Calibrated: 1", *lines, "END", ""]), "port")
    draw = random.Random(0)
    ranges = [draw.randrange(5) for _ in range(50)]
    words = [
        draw.randrange(400, 0x1000) | ranges[k // 10] << 14 | k % 64 << 18 | draw.randrange(256) << 24
        for k in range(500)
    ]
    data = b"".join(word.to_bytes(4, "little") for word in words)
    theirs, logic = client.get_samples(data)
    decoder = StreamDecoder(calibration.currents(3.3))
    ours = join([decoder.feed(data), decoder.finish()])
    # Their spike filter replaces the first samples after each change of range, here every ten samples.
    settled = [k for k in range(500) if k % 10 >= 4]
    assert ours.current_a[settled] == pytest.approx(np.array(theirs)[settled] * 1e-6, rel=1e-5)
    assert ours.logic.tolist() == logic


def test_our_reader_takes_over_from_a_client_that_never_stopped(peer: EmulatedPpk2, board: Callable[[], None]) -> None:
    client = PPK2_API(peer.port, timeout=1)
    prepare(client)
    client.start_measuring()
    board()
    client.ser.close()
    with Ppk2(peer.port, voltage_v=3.3, emulated=True) as meter, Recorder(meter) as recorder:
        assert recorder.stop().current_a.size == 0
