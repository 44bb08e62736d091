"""Simple power analysis: layers and kinds from traces whose layers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.emulators.load import ScriptedLoad, Segment
from lab.energy_config import EnergyModel
from lab.errors import ConfigError
from lab.layer_probe import level_a, recover, script
from lab.workloads.base import LayerProbe
from lab.workloads.security.layer_recovery import PROFILED
from measurements.layer_recovery import Recovery, Template, kinds_of, recover_layers, warning_of
from measurements.record import Layer, Trace

RATE_HZ = 100_000
VOLTAGE_V = 3.3
MODEL = EnergyModel(idle_current_a=1.1e-3, active_current_a=2.8e-3, settle_s=20e-6, source="test")

# Of the workload's two networks on the emulated Cortex-M4F: kind, cycles, loads and stores per instruction.
CNN = (
    ("conv2d", 30767, 0.315, 0.161), ("max_pool2d", 7394, 0.249, 0.056), ("conv2d", 45717, 0.380, 0.065),
    ("depthwise_conv2d", 17921, 0.385, 0.192), ("conv2d", 30970, 0.362, 0.069), ("avg_pool2d", 16355, 0.161, 0.034),
    ("linear", 3757, 0.415, 0.051),
)  # fmt: skip
MLP = (("linear", 11098, 0.440, 0.036), ("linear", 36954, 0.462, 0.026), ("linear", 3757, 0.414, 0.051))
SHORT = ("linear", 1184, 0.364, 0.076)
"""40 inputs, 10 outputs: 47 µs, while the supply takes 60 µs to settle."""


def layers(rows: tuple[tuple[str, int, float, float], ...]) -> list[Layer]:
    return [
        Layer(k, f"l{k}", kind, 0, 0, float(cycles), 100_000, round(loads * 1e5), round(stores * 1e5))
        for k, (kind, cycles, loads, stores) in enumerate(rows)
    ]


def trace_of(load: ScriptedLoad, noise_a: float = 2e-6) -> Trace:
    samples = load.samples(0, load.due(RATE_HZ), RATE_HZ)
    current = samples.current_a + np.random.default_rng(1).normal(0.0, noise_a, samples.current_a.size)
    return Trace(0.0, 1 / RATE_HZ, VOLTAGE_V, current.astype(np.float32), samples.bits)


@pytest.mark.parametrize("rows", [CNN, MLP])
def test_number_and_kinds_are_recovered(rows: tuple[tuple[str, int, float, float], ...]) -> None:
    """Noise of 2 µA, about that of a PPK2's converter at this current."""
    network = layers(rows)
    trace = trace_of(script(network, MODEL, 25e6, VOLTAGE_V))
    result = recover(trace, network, MODEL, LayerProbe(PROFILED))
    assert result.true == tuple(row[0] for row in rows)
    assert result.count_error == 0
    assert result.kind_rate == 1.0
    assert warning_of(trace, len(rows), MODEL.settle_s).startswith(f"This trace shows {len(rows)} layers")


def test_layers_that_are_shorter_than_the_supply_settles_or_like_their_neighbours_are_not_seen() -> None:
    """The limits, as docs/traces.md tells them."""
    network = layers((*MLP, SHORT))
    result = recover(trace_of(script(network, MODEL, 25e6, VOLTAGE_V)), network, MODEL, LayerProbe(PROFILED))
    assert result.count_error == -1
    twins = layers((MLP[0], MLP[1], MLP[1]))
    assert len(recover_layers(trace_of(script(twins, MODEL, 25e6, VOLTAGE_V)), MODEL.settle_s)) == 2


def test_strong_noise_hides_the_layers() -> None:
    network = layers(CNN)
    trace = trace_of(script(network, MODEL, 25e6, VOLTAGE_V), noise_a=0.3e-3)
    assert recover(trace, network, MODEL, LayerProbe(PROFILED)).count_error < 0
    assert warning_of(trace, len(CNN), MODEL.settle_s) == ""


def test_two_levels_show_no_layers() -> None:
    """What the energy model of emulated boards makes of a pass: one stretch, and no warning."""
    pause, work = Segment(3e-3, 1.1e-3, settle_s=20e-6), Segment(5.5e-3, 2.8e-3, settle_s=20e-6)
    trace = trace_of(ScriptedLoad([pause, work] * 6 + [pause]))
    (only,) = recover_layers(trace, 20e-6)
    assert only.power_w == pytest.approx(2.8e-3 * VOLTAGE_V, rel=1e-3)
    assert only.duration_s == pytest.approx(5.5e-3, abs=3e-5)
    assert [warning_of(trace, count, 20e-6) for count in (1, 2, 8)] == ["", "", ""]


def test_a_trace_without_passes_shows_none() -> None:
    quiet = trace_of(ScriptedLoad([Segment(0.05, 1.1e-3)]))
    assert recover_layers(quiet) == ()
    short = Trace(0.0, 1e-5, 3.3, np.ones(4, np.float32), np.zeros(4, np.uint8))
    assert warning_of(short, 3) == ""


def test_a_pass_that_the_trace_cuts_off_is_left_out() -> None:
    """The trace begins inside a pass and ends inside another; what is whole has two stretches."""
    part = Segment(2e-3, 5e-3)
    one = [Segment(2e-3, 5e-3), Segment(3e-3, 8e-3)]
    pause = Segment(4e-3, 1e-3)
    trace = trace_of(ScriptedLoad([part, pause, *one, pause, *one, pause, part]))
    found = recover_layers(trace)
    assert [round(layer.duration_s * 1e3, 1) for layer in found] == [2.0, 3.0]
    assert [layer.power_w for layer in found] == pytest.approx([5e-3 * VOLTAGE_V, 8e-3 * VOLTAGE_V], rel=1e-3)


def test_levels_follow_loads_and_stores() -> None:
    assert level_a(MODEL, 0.40, 0.08) == pytest.approx(MODEL.active_current_a)
    assert level_a(MODEL, 0.5, 0.0) - level_a(MODEL, 0.4, 0.0) == pytest.approx(
        2 * (level_a(MODEL, 0.4, 0.1) - level_a(MODEL, 0.4, 0.0))
    )


def test_templates_of_linear_layers_and_convolutions_are_needed() -> None:
    with pytest.raises(ConfigError, match="linear and conv2d must be there"):
        kinds_of((), [Template("linear", 1.0)])


KINDS = st.lists(st.sampled_from(["conv2d", "linear", "max_pool2d"]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(found=KINDS, true=KINDS)
def test_the_rate_is_that_of_an_edit_distance(found: list[str], true: list[str]) -> None:
    """Against the recursive definition."""

    def distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        table = [[i + j if not i or not j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1):
                change = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
                table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, change)
        return table[-1][-1]

    one = Recovery(tuple(found), tuple(true))
    longer = max(len(found), len(true))
    assert one.kind_rate == (pytest.approx(1 - distance(one.found, one.true) / longer) if longer else 1.0)
    assert one.count_error == len(found) - len(true)
    assert 0.0 <= one.kind_rate <= 1.0
    assert one.majority_rate == (max(true.count(kind) for kind in true) / len(true) if true else 1.0)
