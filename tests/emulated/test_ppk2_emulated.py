"""The emulated PPK2 end to end: markers in, protocol on a PTY, our reader, and the closed form as the truth."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lab.emulators.energy_model import Edge, EnergyModel
from lab.emulators.ppk2 import EmulatedPpk2, Faults
from lab.errors import ConfigError, EmulatorError, MeterError
from lab.power.base import SampleBlock
from lab.power.ppk2 import Ppk2
from lab.power.recorder import Recorder
from lab.wire_frames import encode_frame

CLOCK_HZ = 25_000_000
DT_S = 1e-5
BOARD = EnergyModel(3.3, 20e-6, 12e-3, 0.0, "test")
SQUARE = [(k * 0.05 + at, bit) for k in range(10) for at, bit in ((0.02, 1), (0.025, 0))]


class MarkerLine:
    """The second UART of an emulated board."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def send(self, edges: list[tuple[float, int]]) -> None:
        for time_s, bits in edges:
            self._socket.sendall(encode_frame({"c": round(time_s * CLOCK_HZ), "m": bits}))

    def raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def emulated(
    tmp_path: Path,
    model: EnergyModel = BOARD,
    faults: Faults = Faults(),  # noqa: B008 - frozen
) -> Iterator[tuple[Ppk2, MarkerLine]]:
    """A meter that is open and a board that is connected to it."""
    with EmulatedPpk2(tmp_path, CLOCK_HZ, model, seed=1, faults=faults) as peer:
        line = MarkerLine(peer.marker_path)
        with Ppk2(peer.port, voltage_v=model.voltage_v, emulated=True) as meter:
            yield meter, line
        line.close()


def measure(meter: Ppk2, line: MarkerLine, edges: list[tuple[float, int]]) -> SampleBlock:
    with Recorder(meter) as recorder:
        line.send(edges)
        return recorder.stop()


def energy_j(block: SampleBlock, voltage_v: float, active: bool = True) -> float:
    chosen = block.current_a[(block.logic & 1) == int(active)]
    return float(np.sum(chosen, dtype=np.float64) * voltage_v * DT_S)


def within_10_s(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# Each side of every range's top, and well inside the ranges.
@pytest.mark.parametrize(
    "active_a",
    [5e-6, 20e-6, 49.9e-6, 50.1e-6, 120e-6, 499e-6, 501e-6, 3.3e-3, 4.99e-3, 5.01e-3, 12e-3, 59.9e-3, 61e-3, 0.3],
)
def test_energy_between_edges_is_the_closed_form(tmp_path: Path, active_a: float) -> None:
    model = EnergyModel(3.0, 1e-6, active_a, 0.0)
    with emulated(tmp_path, model) as (meter, line):
        block = measure(meter, line, SQUARE)
        assert meter.report.lost == 0
        assert meter.info.relative_uncertainty == (0.15 if active_a > 60e-3 else 0.10)
    assert energy_j(block, 3.0) == pytest.approx(10 * model.energy_j(0.005), rel=1e-3)


@pytest.mark.parametrize("settle_s", [0.0, 20e-6, 1e-3])
def test_sleep_and_active_square_with_settling_edges(tmp_path: Path, settle_s: float) -> None:
    model = EnergyModel(3.3, 20e-6, 12e-3, settle_s)
    with emulated(tmp_path, model) as (meter, line):
        block = measure(meter, line, SQUARE)
    edges = [Edge(time_s, bool(bit)) for time_s, bit in SQUARE]
    begin_s, end_s = 0.015, SQUARE[-1][0] + 0.005
    assert block.current_a.size == round((end_s - begin_s) / DT_S)
    windows = sum(model.charge(a, b, edges) for (a, _), (b, _) in zip(SQUARE[::2], SQUARE[1::2], strict=True))
    assert energy_j(block, 3.3) == pytest.approx(3.3 * windows, rel=1e-3)
    sleep = model.charge(begin_s, end_s, edges) - windows
    assert energy_j(block, 3.3, active=False) == pytest.approx(3.3 * sleep, rel=2e-3)


def test_edges_off_the_sample_grid_cost_at_most_one_sample_each(tmp_path: Path) -> None:
    edges = [(0.0100037, 1), (0.0300081, 0)]
    with emulated(tmp_path) as (meter, line):
        block = measure(meter, line, edges)
    truth = BOARD.energy_j(edges[1][0] - edges[0][0])
    sample_j = 3.3 * 12e-3 * DT_S
    assert abs(energy_j(block, 3.3) - truth) < 2 * sample_j
    whole = BOARD.charge(0.005, 0.005 + block.current_a.size * DT_S, [Edge(t, bool(b)) for t, b in edges])
    assert float(np.sum(block.current_a, dtype=np.float64)) * DT_S == pytest.approx(whole, rel=1e-3)


def test_the_same_markers_give_the_same_samples(tmp_path: Path) -> None:
    runs = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        with emulated(folder) as (meter, line):
            runs.append(measure(meter, line, SQUARE))
    assert np.array_equal(runs[0].current_a, runs[1].current_a)
    assert np.array_equal(runs[0].logic, runs[1].logic)


def test_all_marker_bits_reach_the_logic_inputs(tmp_path: Path) -> None:
    with emulated(tmp_path) as (meter, line):
        block = measure(meter, line, [(0.01, 0b101), (0.02, 0b010), (0.03, 0)])
    assert [int(bits) for bits in np.unique(block.logic)] == [0, 2, 5]
    assert np.count_nonzero(block.logic == 5) == np.count_nonzero(block.logic == 2) == 1000
    assert block.current_a[block.logic == 2].max() < 100e-6


def test_time_stands_still_without_markers(tmp_path: Path) -> None:
    with emulated(tmp_path) as (meter, line):
        meter.start()
        line.send([(0.02, 1)])
        size = 0
        while size < 490:
            size += meter.read(5.0).current_a.size
        assert meter.read(0.2).current_a.size == 0
        line.send([(0.03, 0)])
        while size < 1490:
            size += meter.read(5.0).current_a.size
        size += meter.stop().current_a.size
    assert size == 500 + 1000 + 500


def test_a_slow_host_loses_nothing(tmp_path: Path) -> None:
    with emulated(tmp_path) as (meter, line):
        meter.start()
        line.send([(0.01, 1), (10.0, 0)])
        block = meter.stop()
        assert block.current_a.size == 500 + 999_000 + 500
        assert block.lost == 0


def test_no_marker_no_sample(tmp_path: Path) -> None:
    with emulated(tmp_path) as (meter, _):
        meter.start()
        assert meter.stop().current_a.size == 0


def test_second_stream_on_one_connection(tmp_path: Path) -> None:
    with emulated(tmp_path) as (meter, line):
        first = measure(meter, line, SQUARE)
        second = measure(meter, line, [(time_s + 3.0, bit) for time_s, bit in SQUARE])
    assert second.first == 0
    assert energy_j(second, 3.3) == pytest.approx(energy_j(first, 3.3), rel=2e-3)


@pytest.mark.parametrize("reconnect", [True, False])
def test_a_board_reset_keeps_the_stream_going(tmp_path: Path, reconnect: bool) -> None:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD) as peer, Ppk2(peer.port, voltage_v=3.3) as meter:
        line = MarkerLine(peer.marker_path)
        with Recorder(meter) as recorder:
            line.send(SQUARE[:2])
            if reconnect:
                line.close()
                line = MarkerLine(peer.marker_path)
            line.send(SQUARE[:2])
            block = recorder.stop()
        line.close()
        assert meter.report.lost == meter.report.misaligned == 0
    assert np.count_nonzero(np.diff((block.logic & 1).astype(int)) == 1) == 2
    assert energy_j(block, 3.3) == pytest.approx(2 * BOARD.energy_j(0.005), rel=2e-3)


def test_garbage_on_the_marker_line_is_skipped_and_said(tmp_path: Path) -> None:
    with emulated(tmp_path) as (meter, line), Recorder(meter) as recorder:
        line.raw(b"\x01\x02\x03garbage\x00")
        line.send(SQUARE)
        line.close()
        assert energy_j(recorder.stop(), 3.3) == pytest.approx(10 * BOARD.energy_j(0.005), rel=1e-3)
    assert "no frame" in (tmp_path / "ppk2.log").read_text()


def test_device_power_off_shows_no_current(tmp_path: Path) -> None:
    with emulated(tmp_path) as (meter, line):
        meter.set_output(False)
        block = measure(meter, line, SQUARE)
    assert abs(float(np.mean(block.current_a, dtype=np.float64))) < 5e-9


def test_voltage_set_by_the_host_is_obeyed(tmp_path: Path) -> None:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD) as peer:
        line = MarkerLine(peer.marker_path)
        for turn, voltage_v in enumerate((0.8, 1.8, 5.0)):
            with Ppk2(peer.port, voltage_v=voltage_v) as meter:
                block = measure(meter, line, [(time_s + turn, bit) for time_s, bit in SQUARE])
            idle_a = np.mean(block.current_a[block.logic == 0], dtype=np.float64)
            assert idle_a == pytest.approx(20e-6, rel=2e-3)
        line.close()


def test_dropped_samples_are_counted_exactly(tmp_path: Path) -> None:
    with emulated(tmp_path, faults=Faults(drop_every=1000, drop_count=7)) as (meter, line):
        block = measure(meter, line, SQUARE)
        assert meter.report.samples == 46_500
        assert block.lost == 46 * 7
        assert int(np.count_nonzero(np.isnan(block.current_a))) == block.lost


@pytest.mark.parametrize(
    ("faults", "counted"),
    [
        (Faults(corrupt_every=700), "corrupted"),
        (Faults(duplicate_every=700), "duplicated"),
        (Faults(lose_byte_every=700), "misaligned"),
    ],
)
def test_damage_is_counted_and_the_rest_is_right(tmp_path: Path, faults: Faults, counted: str) -> None:
    with emulated(tmp_path, faults=faults) as (meter, line):
        block = measure(meter, line, SQUARE)
        report = meter.report
    assert getattr(report, counted) == 66
    assert report.samples == block.current_a.size == 46_500
    assert block.lost <= 2 * 66
    idle, active = (block.current_a[(block.logic & 1 == bit) & ~np.isnan(block.current_a)] for bit in (0, 1))
    if not faults.lose_byte_every:
        # A word that lost a byte can look whole; only there a wrong value may remain.
        assert idle.max() < 30e-6
        assert active.min() > 11e-3
    assert float(np.median(active)) == pytest.approx(12e-3, rel=5e-3)


def test_a_meter_that_falls_silent_ends_in_an_error_and_keeps_what_came(tmp_path: Path) -> None:
    with emulated(tmp_path, faults=Faults(silent_after=3000)) as (meter, line), Recorder(meter) as recorder:
        line.send(SQUARE)
        with pytest.raises(MeterError, match="did not confirm the end"):
            recorder.stop()
        assert recorder.samples().current_a.size > 2900


def test_a_meter_that_is_unplugged_is_an_error_and_comes_back_under_the_same_name(tmp_path: Path) -> None:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD, faults=Faults(disconnect_after=3000)) as peer:
        line = MarkerLine(peer.marker_path)
        with Ppk2(peer.port, voltage_v=3.3) as meter, Recorder(meter) as recorder:
            line.send(SQUARE)
            with pytest.raises(MeterError, match="went away"):
                recorder.stop()
        assert within_10_s(Path(peer.port).exists)
        with Ppk2(peer.port, voltage_v=3.3) as meter:
            assert meter.info.kind == "ppk2"
        line.close()


def test_metadata_in_two_pieces_is_read_whole(tmp_path: Path) -> None:
    with emulated(tmp_path, faults=Faults(metadata="split")) as (meter, line):
        assert meter.info.identity == "PPK2 hardware 9173, calibrated"
        assert energy_j(measure(meter, line, SQUARE), 3.3) == pytest.approx(10 * BOARD.energy_j(0.005), rel=1e-3)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [("truncated", "cut off"), ("missing", "no GI3"), ("silent", "silent for"), ("garbage", "not a PPK2.*U-Boot")],
)
def test_a_meter_without_calibration_is_refused(tmp_path: Path, metadata: str, message: str) -> None:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD, faults=Faults(metadata=metadata)) as peer:
        with pytest.raises(MeterError, match=message) as caught, Ppk2(peer.port, voltage_v=3.3):
            pass
        assert peer.port in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(
    ("metadata", "said"), [("uncalibrated", "NOT calibrated"), ("nan", "nominal values for R1, GS2")]
)
def test_doubtful_calibration_is_said(tmp_path: Path, metadata: str, said: str) -> None:
    with emulated(tmp_path, faults=Faults(metadata=metadata)) as (meter, _):
        assert said in meter.info.identity


def test_a_client_that_died_while_streaming_does_not_disturb_the_next(tmp_path: Path) -> None:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD) as peer:
        line = MarkerLine(peer.marker_path)
        fd = os.open(peer.port, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"\x11\x02\x0c\x01\x06")
        line.send([(0.01, 1), (0.2, 0)])
        assert os.read(fd, 100)
        os.close(fd)
        with Ppk2(peer.port, voltage_v=3.3) as meter:
            block = measure(meter, line, [(time_s + 1, bit) for time_s, bit in SQUARE])
        line.close()
    assert energy_j(block, 3.3) == pytest.approx(10 * BOARD.energy_j(0.005), rel=1e-3)


def test_only_one_program_may_have_the_meter(tmp_path: Path) -> None:
    with EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD) as peer, Ppk2(peer.port, voltage_v=3.3):
        with pytest.raises(MeterError, match="cannot be opened") as caught, Ppk2(peer.port, voltage_v=3.3):
            pass
        assert "another program" in caught.value.hint


def test_a_port_that_does_not_exist() -> None:
    with pytest.raises(MeterError, match="/dev/does-not-exist") as caught, Ppk2("/dev/does-not-exist", voltage_v=3.3):
        pass
    assert "lab devices" in caught.value.hint


@pytest.mark.parametrize("voltage_v", [0.0, 0.79, 5.01, float("nan")])
def test_voltages_the_meter_cannot_make(voltage_v: float) -> None:
    with pytest.raises(ConfigError, match="V asked of a PPK2"):
        Ppk2("port", voltage_v=voltage_v)


def test_use_before_open_is_an_error() -> None:
    meter = Ppk2("port", voltage_v=3.3)
    meter.close()
    with pytest.raises(MeterError, match="not open"):
        meter.start()
    with pytest.raises(MeterError, match="read before start"):
        meter.read(0.1)


def test_a_folder_with_too_long_a_name(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(EmulatorError, match="longer than"):
        EmulatedPpk2(folder, CLOCK_HZ, BOARD).start()


def test_stop_removes_everything(tmp_path: Path) -> None:
    peer = EmulatedPpk2(tmp_path, CLOCK_HZ, BOARD)
    peer.start()
    pid = peer.pid
    peer.stop()
    peer.stop()
    assert within_10_s(lambda: gone(pid))
    assert [path.name for path in tmp_path.iterdir()] == ["ppk2.log"]


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from lab.emulators.energy_model import EnergyModel
from lab.emulators.ppk2 import EmulatedPpk2
peer = EmulatedPpk2(Path({str(tmp_path)!r}), 1000000, EnergyModel(3.3, 1e-6, 1e-3))
peer.start()
print(peer.pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert within_10_s(lambda: gone(pid))


def test_it_ends_with_its_standard_input(tmp_path: Path) -> None:
    arguments = ["--marker", "m", "--link", "l", "--clock-hz", "1000", "--voltage", "3", "--idle", "0", "--active", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.emulators.ppk2", *arguments],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"ready /dev/pts/")
    assert (tmp_path / "l").is_symlink()
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
