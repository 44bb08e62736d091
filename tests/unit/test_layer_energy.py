"""Energy per layer by regression, against scripted loads whose layers' energies are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from lab.emulators.load import ScriptedLoad, Segment
from lab.errors import ConfigError, MeterError
from measurements import layer_energy
from measurements.layer_energy import LayerEnergy, LayerTime, layer_energies, marked_layer_energies
from measurements.record import Trace

RATE_HZ = 100_000
DT_S = 1.0 / RATE_HZ
VOLTAGE_V = 3.3
# Microseconds and milliampere; the third is a fifth of a sample long, the fifth half of one.
LAYERS = ((137.3, 12.0), (44.9, 5.0), (2.1, 20.0), (81.7, 9.0), (5.2, 16.0), (260.4, 7.5))


def load_of(passes: int, settle_s: float = 0.0) -> tuple[ScriptedLoad, list[float]]:
    """Idle, then passes with idle stretches of random length between them; the load and the begins of the passes."""
    rng = np.random.default_rng(passes)
    segments, begins, now = [Segment(1e-3, 1e-3)], [], 1e-3
    for _ in range(passes):
        begins.append(now)
        segments += [Segment(us * 1e-6, ma * 1e-3, settle_s=settle_s) for us, ma in LAYERS]
        pause = float(rng.uniform(200e-6, 400e-6))
        segments.append(Segment(pause, 1e-3, settle_s=settle_s))
        now += sum(us for us, _ in LAYERS) * 1e-6 + pause
    return ScriptedLoad(segments), begins


def times() -> list[LayerTime]:
    edges = np.cumsum([0.0] + [us * 1e-6 for us, _ in LAYERS])
    return [LayerTime(f"layer{k}", float(a), float(b)) for k, (a, b) in enumerate(pairwise(edges))]


def truth_j() -> list[float]:
    return [us * 1e-6 * ma * 1e-3 * VOLTAGE_V for us, ma in LAYERS]


def recorded(load: ScriptedLoad, noise_a: float = 0.0, seed: int = 0) -> Trace:
    samples = load.samples(0, load.due(RATE_HZ), RATE_HZ)
    noise = np.random.default_rng(seed).normal(0.0, noise_a, samples.current_a.size) if noise_a else 0.0
    return Trace(0.0, DT_S, VOLTAGE_V, (samples.current_a + noise).astype(np.float32), samples.bits)


def test_layers_shorter_than_a_sample_are_told_apart() -> None:
    load, begins = load_of(40)
    found = layer_energies(recorded(load), begins, times())
    assert [one.name for one in found] == [f"layer{k}" for k in range(6)]
    assert [one.energy_j for one in found] == pytest.approx(truth_j(), rel=1e-4)
    assert [one.power_w for one in found] == pytest.approx([ma * 1e-3 * VOLTAGE_V for _, ma in LAYERS], rel=1e-4)
    assert [one.duration_s for one in found] == pytest.approx([us * 1e-6 for us, _ in LAYERS])


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Noise of 0.3 mA: of 60 x 6 intervals of 95 %, between 90 and 99 % hold (three standard errors on either side)."""
    load, begins = load_of(25)
    inside = [
        one.ci_low_j <= true <= one.ci_high_j
        for seed in range(60)
        for one, true in zip(layer_energies(recorded(load, 0.3e-3, seed), begins, times()), truth_j(), strict=True)
    ]
    assert 0.91 <= np.mean(inside) <= 0.99


def test_more_passes_make_the_intervals_narrower() -> None:
    def widths(passes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        load, begins = load_of(passes)
        found = layer_energies(recorded(load, 0.3e-3), begins, times())
        return np.array([one.ci_high_j - one.ci_low_j for one in found])

    assert np.median(widths(20) / widths(320)) == pytest.approx(4.0, rel=0.25)


def test_settling_supplies_move_little_between_neighbours() -> None:
    """A time constant of half a sample: what a layer's current takes to arrive is charged to the next one."""
    load, begins = load_of(60, settle_s=5e-6)
    found = layer_energies(recorded(load), begins, times())
    long = [0, 3, 5]
    assert [found[k].energy_j for k in long] == pytest.approx([truth_j()[k] for k in long], rel=0.1)
    assert sum(one.energy_j for one in found) == pytest.approx(sum(truth_j()), rel=0.03)


def test_a_profiled_pass_that_took_longer_is_scaled() -> None:
    load, begins = load_of(40)
    slow = [LayerTime(one.name, one.begin_s * 1.25, one.end_s * 1.25) for one in times()]
    found = layer_energies(recorded(load), begins, slow, stretch=0.8)
    assert [one.energy_j for one in found] == pytest.approx(truth_j(), rel=1e-4)


def test_lost_samples_and_a_measured_voltage_are_taken_as_they_are() -> None:
    load, begins = load_of(60)
    trace = recorded(load)
    trace.current_a[::97] = np.nan
    volts = np.full(trace.current_a.size, 1.65, np.float32)
    found = layer_energies(replace(trace, measured_v=volts), begins, times())
    assert [one.energy_j for one in found] == pytest.approx([joule / 2 for joule in truth_j()], rel=1e-3)


@dataclass(frozen=True)
class Pass:
    """As the device reports it."""

    region: str
    index: int
    begin: int
    end: int


def test_the_marker_and_a_profiled_pass_are_all_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 100 MHz whose profiled pass takes longer by 200 cycles of marks per layer."""
    clock_hz, cycles = 100e6, [round(us * 100) for us, _ in LAYERS]
    rng = np.random.default_rng(0)
    segments, passes, now = [Segment(2e-3, 1e-3)], [], 200_000
    for index in range(60):
        levels = zip(cycles, LAYERS, strict=True)
        segments += [Segment(count / clock_hz, ma * 1e-3, bits=1) for count, (_, ma) in levels]
        passes.append(Pass("inference", index, now + 5_000_000, now + 5_000_000 + sum(cycles)))
        pause = int(rng.integers(20_000, 40_000))
        segments.append(Segment(pause / clock_hz, 1e-3))
        now += sum(cycles) + pause
    profiled, at = [], 0
    for index, count in enumerate(cycles):
        profiled.append(Pass("layer", index, at + 200, at + 200 + count))
        at += 200 + count
    trace = recorded(ScriptedLoad([*segments, Segment(1e-3, 1e-3)]))
    found = marked_layer_energies(trace, passes, profiled, clock_hz, ["a", "b"])
    assert [one.name for one in found][:3] == ["layer/00 a", "layer/01 b", "layer/02"]
    # The begin of the passes is known to a fiftieth of a sample: for the layer of 2.1 µs that is a tenth of it.
    assert [one.energy_j for one in found] == pytest.approx(truth_j(), rel=0.1)
    assert [found[k].energy_j for k in (0, 3, 5)] == pytest.approx([truth_j()[k] for k in (0, 3, 5)], rel=0.005)
    # With room for fewer equations fewer passes are taken, and less is known.
    monkeypatch.setattr(layer_energy, "_MOST_SHARES", 12 * 57 * 7)
    fewer = marked_layer_energies(trace, passes, profiled, clock_hz, ["a", "b"])
    assert [fewer[k].energy_j for k in (0, 3, 5)] == pytest.approx([truth_j()[k] for k in (0, 3, 5)], rel=0.02)
    assert fewer[5].ci_high_j - fewer[5].ci_low_j > found[5].ci_high_j - found[5].ci_low_j
    with pytest.raises(ConfigError, match="60 passes of 0 layers"):
        marked_layer_energies(trace, passes, [], clock_hz)


def test_no_layer_gives_energy_back() -> None:
    """A layer of 0 A in strong noise: its least-squares power may be negative, its energy is not."""
    quiet = [Segment(1e-3, 1e-3)]
    for _ in range(12):
        quiet += [Segment(3e-6, 0.0), Segment(50e-6, 5e-3), Segment(201.7e-6, 1e-3)]
    begins = [1e-3 + k * 254.7e-6 for k in range(12)]
    layers = [LayerTime("nothing", 0.0, 3e-6), LayerTime("work", 3e-6, 53e-6)]
    energies: list[LayerEnergy] = []
    for seed in range(12):
        energies.append(layer_energies(recorded(ScriptedLoad(quiet), 2e-3, seed), begins, layers)[0])
    assert min(one.energy_j for one in energies) == 0.0
    assert all(one.ci_low_j == 0.0 <= one.energy_j <= one.ci_high_j for one in energies)


def test_passes_that_always_fall_alike_do_not_tell_short_layers_apart() -> None:
    segments = [Segment(1e-3, 1e-3)]
    for _ in range(50):
        segments += [Segment(2e-6, 5e-3), Segment(3e-6, 9e-3), Segment(995e-6, 1e-3)]
    layers = [LayerTime("a", 0.0, 2e-6), LayerTime("b", 2e-6, 5e-6)]
    with pytest.raises(MeterError, match="50 passes of 2 layers do not tell the layers apart"):
        layer_energies(recorded(ScriptedLoad(segments)), [1e-3 + k * 1e-3 for k in range(50)], layers)


@pytest.mark.parametrize(
    ("begins", "layers", "said"),
    [
        ([], [LayerTime("a", 0, 1e-4)], "0 passes of 1 layers"),
        ([0.0], [], "1 passes of 0 layers"),
        ([0.0], [LayerTime("a", 1e-4, 1e-4)], "longer than nothing"),
        ([0.0], [LayerTime("a", 0, 2e-4), LayerTime("b", 1e-4, 3e-4)], "may not overlap"),
        ([0.0, 5e-5], [LayerTime("a", 0, 1e-4)], "less than their length"),
        ([0.0, 1.0], [LayerTime("a", 0, 1e-4)], r"lie outside the 0\.1 s"),
    ],
)
def test_times_that_make_no_sense_are_named(begins: list[float], layers: list[LayerTime], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        layer_energies(recorded(ScriptedLoad([Segment(0.1, 1e-3)])), begins, layers)
