"""Loads of emulated meters: samples and truth of scripts against numerical integration, markers against arithmetic."""

from __future__ import annotations

import itertools
import math
import selectors
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from lab.emulators.energy_model import Edge, EnergyModel
from lab.emulators.load import MarkedLoad, MarkerSocket, ScriptedLoad, Segment
from lab.errors import ConfigError
from lab.wire_frames import encode_frame

CLOCK_HZ = 25_000_000
BOARD = EnergyModel(3.3, 20e-6, 12e-3, 0.0, "test")

segments = st.builds(
    Segment,
    duration_s=st.floats(1e-5, 0.05),
    current_a=st.floats(0, 0.5),
    bits=st.integers(0, 255),
    voltage_v=st.floats(0.8, 5.0),
    settle_s=st.sampled_from([0.0, 1e-5, 1e-3]),
)


def current_at(script: list[Segment], time_s: float) -> tuple[float, float]:
    """Current and voltage at a time, one segment after another: the definition, without closed forms."""
    begin_s, before_a = 0.0, script[0].current_a
    for segment in script:
        elapsed_s = time_s - begin_s
        soft = segment.settle_s > 0
        last = segment is script[-1]
        at_s = elapsed_s if last or elapsed_s < segment.duration_s else segment.duration_s
        left = math.exp(-at_s / segment.settle_s) if soft else 0.0
        now_a = segment.current_a + (before_a - segment.current_a) * left
        if last or elapsed_s < segment.duration_s:
            return now_a, segment.voltage_v
        begin_s, before_a = begin_s + segment.duration_s, now_a
    raise AssertionError("the last segment never ends")


@settings(max_examples=60, deadline=None)
@given(st.lists(segments, min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_truth_is_the_integral_of_the_definition(script: list[Segment], a: float, b: float) -> None:
    load = ScriptedLoad(script)
    begin_s, end_s = sorted((a * load.duration_s, b * load.duration_s))
    truth = load.truth(begin_s, end_s)
    steps = np.cumsum([segment.duration_s for segment in script]).tolist()
    cuts = [begin_s, *(step for step in steps if begin_s < step < end_s), end_s]
    charge = energy = 0.0
    for low, high in itertools.pairwise(cuts):
        middle = (low + high) / 2
        voltage_v = current_at(script, middle)[1]
        # Bounds a hair inside, where the current is continuous.
        part = integrate.quad(lambda t: current_at(script, t)[0], low, high - 1e-15, limit=200)[0]
        charge += part
        energy += part * voltage_v
    assert truth.charge_c == pytest.approx(charge, rel=1e-6, abs=1e-12)
    assert truth.energy_j == pytest.approx(energy, rel=1e-6, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(segments, min_size=1, max_size=6), st.sampled_from([100, 1_000, 5_000, 100_000]))
def test_samples_add_up_to_the_truth(script: list[Segment], rate: int) -> None:
    load = ScriptedLoad(script)
    count = load.due(rate) + 3
    shown = load.samples(0, count, rate)
    truth = load.truth(0.0, count / rate)
    assert float(np.sum(shown.current_a)) / rate == pytest.approx(truth.charge_c, rel=1e-9, abs=1e-15)
    assert float(np.sum(shown.current_a * shown.voltage_v)) / rate == pytest.approx(truth.energy_j, rel=1e-9, abs=1e-15)


@given(st.lists(segments, min_size=1, max_size=4), st.integers(0, 50), st.integers(1, 50))
def test_samples_do_not_depend_on_where_they_are_cut(script: list[Segment], cut: int, more: int) -> None:
    load = ScriptedLoad(script)
    whole = load.samples(0, cut + more, 1_000)
    parts = [load.samples(0, cut, 1_000), load.samples(cut, cut + more, 1_000)]
    assert np.allclose(np.concatenate([part.current_a for part in parts]), whole.current_a, rtol=1e-9, atol=1e-15)
    assert np.array_equal(np.concatenate([part.bits for part in parts]), whole.bits)


def test_a_script_by_hand() -> None:
    load = ScriptedLoad([Segment(0.5, 1e-3, 0, 3.0), Segment(0.25, 10e-3, 1, 2.0), Segment(0.25, 0.0, 2, 3.0)])
    assert load.duration_s == 1.0
    assert load.due(1000) == 1000
    truth = load.truth(0.25, 0.75)
    assert truth.charge_c == pytest.approx(0.25e-3 + 2.5e-3)
    assert truth.energy_j == pytest.approx(0.75e-3 + 5e-3)
    assert truth.mean_current_a == pytest.approx(5.5e-3)
    assert truth.mean_power_w == pytest.approx(11.5e-3)
    assert load.edges_s() == [(0.5, True), (0.75, False)]
    assert load.edges_s(1) == [(0.75, True)]
    shown = load.samples(498, 502, 1000)
    assert shown.current_a == pytest.approx([1e-3, 1e-3, 10e-3, 10e-3])
    assert shown.voltage_v == pytest.approx([3.0, 3.0, 2.0, 2.0])
    assert shown.bits.tolist() == [0, 0, 1, 1]


def test_an_edge_inside_a_sample_is_shared_by_time() -> None:
    shown = ScriptedLoad([Segment(0.0015, 1e-3, 0, 3.0), Segment(0.1, 3e-3, 1, 2.0)]).samples(0, 3, 1000)
    assert shown.current_a == pytest.approx([1e-3, 2e-3, 3e-3])
    # Half a millisecond at 3 V and 1 mA, half at 2 V and 3 mA.
    assert shown.voltage_v[1] == pytest.approx((1.5 + 3.0) / 2)
    assert shown.bits.tolist() == [0, 0, 1]


def test_a_recorded_trace_is_shown_as_it_was_recorded() -> None:
    recorded = np.array([1e-3, 5e-6, 0.0, 20e-3])
    load = ScriptedLoad.recorded(recorded, 1_000, 3.0, np.array([0, 1, 1, 0]))
    shown = load.samples(0, 4, 1_000)
    assert shown.current_a == pytest.approx(recorded)
    assert shown.bits.tolist() == [0, 1, 1, 0]
    # At half the rate two samples become their mean.
    assert load.samples(0, 2, 500).current_a == pytest.approx([0.5025e-3, 10e-3])


def test_a_script_survives_its_file(tmp_path: Path) -> None:
    load = ScriptedLoad([Segment(0.5, 1e-3, 7, 3.0, 1e-4), Segment(0.25, 10e-3, 1, 2.0, 2e-4)])
    load.write(tmp_path / "load.npy")
    again = ScriptedLoad.read(tmp_path / "load.npy")
    assert again.truth(0.1, 0.7) == load.truth(0.1, 0.7)
    assert again.edges_s(2) == load.edges_s(2)


@pytest.mark.parametrize(
    "script", [[], [Segment(0.0, 1e-3)], [Segment(1.0, -1e-3)], [Segment(1.0, math.nan)], [Segment(math.inf, 1e-3)]]
)
def test_scripts_that_cannot_be(script: list[Segment]) -> None:
    with pytest.raises(ConfigError, match="at least one segment"):
        ScriptedLoad(script)


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=8),
    st.sampled_from([1_000_000, 25_000_000, 168_000_000]),
    st.sampled_from([1_000, 4_000, 100_000]),
)
def test_time_is_known_up_to_the_last_marker(gaps: list[int], clock_hz: int, rate: int) -> None:
    load = MarkedLoad(BOARD, clock_hz)
    for k, cycles in enumerate(np.cumsum(gaps).tolist()):
        load.mark(cycles, k % 2)
        assert load.due(rate) == cycles * rate // clock_hz


def test_a_marked_board_is_its_model() -> None:
    load = MarkedLoad(BOARD, CLOCK_HZ)
    for time_s, bits in ((0.01, 1), (0.03, 0), (0.05, 3)):
        load.mark(round(time_s * CLOCK_HZ), bits)
    edges = [Edge(0.01, True), Edge(0.03, False), Edge(0.05, True)]
    truth = load.truth(0.0, 0.06)
    assert truth.charge_c == pytest.approx(BOARD.charge(0.0, 0.06, edges))
    assert truth.energy_j == pytest.approx(3.3 * truth.charge_c)
    shown = load.samples(0, 60, 1_000)
    assert shown.bits.tolist() == [0] * 10 + [1] * 20 + [0] * 20 + [3] * 10
    assert np.all(shown.voltage_v == 3.3)
    load.forget(0.04)
    assert load.samples(45, 60, 1_000).bits.tolist() == [0] * 5 + [3] * 10


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_reset_goes_on_with_the_next_sample(by_itself: bool) -> None:
    load = MarkedLoad(BOARD, CLOCK_HZ)
    load.mark(CLOCK_HZ // 10 + 7, 1)
    assert load.due(100_000) == 10_000
    if by_itself:
        load.restart()
        assert load.due(100_000) == 10_001
    load.mark(CLOCK_HZ // 100, 1)
    assert load.due(100_000) == 10_001 + 1_000
    shown = load.samples(10_001, 11_002, 100_000)
    assert shown.bits.tolist() == [0] * 1_000 + [1]


def test_the_marker_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with selectors.DefaultSelector() as selector:
        marker = MarkerSocket(tmp_path / "m", selector)
        with socket.socket(socket.AF_UNIX) as board:
            board.connect(str(tmp_path / "m"))
            board.sendall(encode_frame({"c": 5, "m": 1}) + b"\x01\x02garbage\x00" + encode_frame({"c": 9, "m": 0}))
            board.sendall(encode_frame({"c": "x", "m": 0}))
        marker.fetch()
        assert marker.take() == [(5, 1), (9, 0), None]
        assert marker.take() == []
        assert "no frame" in capsys.readouterr().err
        marker.fetch()
        assert marker.take() == []
        marker.close()
    assert not (tmp_path / "m").exists()


def test_all_boards_that_came_and_went_are_read_at_once(tmp_path: Path) -> None:
    """STOP fetches once: a board that was reset in between is another connection, and must not be left waiting."""
    with selectors.DefaultSelector() as selector:
        marker = MarkerSocket(tmp_path / "m", selector)
        boards = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for number, board in enumerate(boards):
            board.connect(str(tmp_path / "m"))
            board.sendall(encode_frame({"c": number, "m": 1}))
        for board in boards[:2]:
            board.close()
        marker.fetch()
        assert marker.take() == [(0, 1), None, (1, 1), None, (2, 1)]
        boards[2].close()
        marker.close()
