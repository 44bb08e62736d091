"""Every emulated meter with a port, made and reached as a bench entry has it: one board, one truth, several meters."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from lab.emulators.energy_model import EnergyModel
from lab.emulators.load import MarkedLoad, ScriptedLoad, Segment
from lab.emulators.lpm01a import EmulatedLpm01a
from lab.emulators.meters import start_meter
from lab.emulators.otii import EmulatedOtii
from lab.emulators.ppk2 import EmulatedPpk2
from lab.meter_config import MeterConfig
from lab.power.base import SampleBlock
from lab.power.ppk2 import RANGES, Ppk2
from lab.power.recorder import Recorder
from lab.power.registry import make_meter
from lab.wire_frames import encode_frame

CLOCK_HZ = 25_000_000
VOLTAGE_V = 3.0
_ADAPTER: TypeAdapter[MeterConfig] = TypeAdapter(MeterConfig)


@dataclass(frozen=True)
class Case:
    """A meter and how far its figure of a window may lie from the truth of the same samples, relative."""

    meter: dict[str, object]
    bound: float


CASES = [
    Case({"kind": "ppk2"}, 1e-3),
    Case({"kind": "lpm01a"}, 5e-4),
    Case({"kind": "lpm01a", "sample_rate": 5_000, "output": "energy"}, 5e-4),
    Case({"kind": "lpm01a", "sample_rate": 100_000, "format": "binary"}, 1e-3),
    Case({"kind": "otii", "sample_rate": 4_000, "limit_a": 5.0}, 1e-6),
]
NAMES = ["ppk2", "lpm01a-ascii", "lpm01a-energy", "lpm01a-binary", "otii"]


def config(case: Case) -> MeterConfig:
    return _ADAPTER.validate_python({**case.meter, "emulated": True})


def windows(block: SampleBlock) -> list[tuple[int, int]]:
    steps = np.diff((block.logic & 1).astype(int), prepend=0)
    return list(zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True))


def charge_c(block: SampleBlock, begin: int, end: int, rate: float) -> float:
    return float(np.sum(block.current_a[begin:end], dtype=np.float64)) / rate


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_bench_entry_becomes_a_meter_of_the_board(tmp_path: Path, case: Case) -> None:
    """Ten windows off every sample grid, of a board with settling edges."""
    board = EnergyModel(VOLTAGE_V, 30e-6, 9e-3, 2e-4, "test")
    draw = random.Random(7)
    edges = [(0.05 + 0.1 * k + 0.01 * draw.random(), 1 - k % 2) for k in range(20)]
    load = MarkedLoad(board, CLOCK_HZ)
    with ExitStack() as stack:
        started = start_meter(config(case), tmp_path, CLOCK_HZ, board, stack)
        assert started.config.emulated
        assert started.address
        meter = stack.enter_context(make_meter(started.config, VOLTAGE_V))
        rate = meter.info.sample_rate_hz
        line = stack.enter_context(socket.socket(socket.AF_UNIX))
        line.connect(str(started.marker_path))
        with Recorder(meter, started.config.marker_input) as recorder:
            for time_s, bits in edges:
                line.sendall(encode_frame({"c": round(time_s * CLOCK_HZ), "m": bits}))
                load.mark(round(time_s * CLOCK_HZ), bits)
            block = recorder.finish(windows=10, quiet_s=0.0, stall_s=0.5)
        info = meter.info
    assert info.emulated
    assert info.kind == case.meter["kind"]
    assert block.lost == block.saturated == 0
    found = windows(block)
    assert len(found) == 10
    # The first sample whose begin the marker was high at; the stream began before the first edge.
    origin = int(np.ceil(edges[0][0] * rate)) - found[0][0]
    for begin, end in found:
        truth = load.truth((origin + begin) / rate, (origin + end) / rate)
        assert charge_c(block, begin, end, rate) == pytest.approx(truth.charge_c, rel=case.bound)


def random_script(seed: int) -> ScriptedLoad:
    """Sleep at microamperes, bursts up to 45 mA, edges anywhere, some of them soft; bit 0 marks the bursts."""
    draw = random.Random(seed)
    segments = []
    for _ in range(12):
        segments.append(Segment(draw.uniform(0.01, 0.05), draw.uniform(2e-6, 2e-4), 0, VOLTAGE_V))
        soft = draw.choice([0.0, 0.0, 3e-4])
        burst = Segment(draw.uniform(0.02, 0.06), 10 ** draw.uniform(-3.5, -1.35), 1, VOLTAGE_V, soft)
        segments += [burst, replace(burst, duration_s=0.01, current_a=burst.current_a / 3)]
    return ScriptedLoad([*segments, Segment(0.05, 5e-6, 0, VOLTAGE_V)])


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_random_loads_of_known_charge(tmp_path: Path, case: Case) -> None:
    load = random_script(3)
    entry = config(case)
    with ExitStack() as stack:
        if entry.kind == "ppk2":
            peer = stack.enter_context(EmulatedPpk2(tmp_path, CLOCK_HZ, load))
            entry = entry.model_copy(update={"port": peer.port})
        elif entry.kind == "lpm01a":
            board = stack.enter_context(EmulatedLpm01a(tmp_path, CLOCK_HZ, load))
            entry = entry.model_copy(update={"port": board.port})
        else:
            server = stack.enter_context(EmulatedOtii(tmp_path, CLOCK_HZ, load))
            entry = entry.model_copy(update={"host": server.host, "tcp_port": server.tcp_port})
        meter = stack.enter_context(make_meter(entry, VOLTAGE_V))
        meter.start()
        block = meter.stop()
        rate = meter.info.sample_rate_hz
    assert block.current_a.size == load.due(round(rate))
    assert block.lost == block.saturated == 0
    found = windows(block)
    assert len(found) == 12
    for begin, end in found:
        truth = load.truth(begin / rate, end / rate)
        assert charge_c(block, begin, end, rate) == pytest.approx(truth.charge_c, rel=2 * case.bound)
    # Sleep is where a meter's quantisation shows most.
    whole = load.truth(0.0, block.current_a.size / rate)
    assert charge_c(block, 0, block.current_a.size, rate) == pytest.approx(whole.charge_c, rel=case.bound)


def test_ppk2_tells_the_uncertainty_of_each_range(tmp_path: Path) -> None:
    """A staircase through all five ranges; the worst range that was used is the one that counts."""
    tops = [one.upto_a for one in RANGES]
    stairs = [Segment(0.01, 0.5 * top, 0, VOLTAGE_V) for top in tops[:4]]
    with EmulatedPpk2(tmp_path, CLOCK_HZ, ScriptedLoad([*stairs, Segment(0.01, 0.5, 1, VOLTAGE_V)])) as peer:
        with Ppk2(peer.port, voltage_v=VOLTAGE_V) as meter:
            assert meter.info.relative_uncertainty == 0.10
            meter.start()
            block = meter.stop()
            assert meter.report.in_range == (1000,) * 5
            assert meter.info.relative_uncertainty == 0.15
            assert [one.upto_a for one in meter.info.ranges] == sorted(tops)
        for k, stair in enumerate(stairs):
            mean = float(np.mean(block.current_a[1000 * k : 1000 * (k + 1)], dtype=np.float64))
            assert mean == pytest.approx(stair.current_a, rel=2e-3)
            assert abs(mean - stair.current_a) < RANGES[k].relative * stair.current_a + RANGES[k].offset_a


def test_ppk2_above_its_highest_range_is_saturated(tmp_path: Path) -> None:
    load = ScriptedLoad([Segment(0.01, 1e-3), Segment(0.01, 1.5, 1), Segment(0.01, 1e-3)])
    with EmulatedPpk2(tmp_path, CLOCK_HZ, load) as peer, Ppk2(peer.port, voltage_v=3.3) as meter:
        meter.start()
        assert meter.stop().saturated == 1000


def test_a_recorded_trace_is_played_back(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    recorded = draw.uniform(1e-4, 2e-2, 3000)
    bits = np.repeat([0, 1, 0], 1000)
    load = ScriptedLoad.recorded(recorded, 1_000, VOLTAGE_V, bits)
    with EmulatedOtii(tmp_path, CLOCK_HZ, load) as peer:
        reached = {"kind": "otii", "emulated": True, "sample_rate": 1_000, "host": peer.host, "tcp_port": peer.tcp_port}
        with make_meter(_ADAPTER.validate_python(reached), VOLTAGE_V) as meter:
            meter.start()
            block = meter.stop()
    assert block.current_a == pytest.approx(recorded, rel=1e-6)
    assert np.array_equal(block.logic & 1, bits)
