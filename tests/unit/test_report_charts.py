"""Units, envelope and chart geometry against plain NumPy and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from measurements.record import Buffer, Layer, Record, RunDetail, Trace
from measurements.report.charts import axis, distribution, error_bar, memory_map, nice_ticks, power_chart, stacked
from measurements.report.envelope import envelope, merged, pulses
from measurements.report.units import NO_FIGURE, exact, quantity, short

FACTORS = {"": 1.0, "p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9}
BYTES = {"B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
traces = hnp.arrays(
    np.float32,
    st.integers(0, 300),
    elements=st.one_of(st.floats(0, 1, width=32), st.just(float("nan"))),
)


def parse(text: str) -> tuple[float, str]:
    number, _, unit = text.replace("\u202f", "").replace("−", "-").partition("\u00a0")
    return float(number), unit


@given(st.floats(1e-11, 1e11), st.sampled_from(["s", "J", "W", "A", "V", "Hz"]))
def test_written_quantity_reads_back_to_four_digits(value: float, unit: str) -> None:
    number, written = parse(quantity(value, unit))
    assert written.endswith(unit)
    assert number * FACTORS[written.removesuffix(unit)] == pytest.approx(value, rel=6e-4)
    if value < 999.0:
        assert 0.9 <= number < 1000.0


@given(st.integers(0, 2**40))
def test_bytes_read_back(size: int) -> None:
    number, written = parse(quantity(size, "bytes"))
    assert number * BYTES[written] == pytest.approx(size, rel=6e-4)


@given(st.integers(0, 10**14))
def test_counts_are_exact(count: int) -> None:
    assert parse(quantity(count, "cycles")) == (float(count), "cycles")


@pytest.mark.parametrize(
    ("value", "unit", "metric", "wanted"),
    [
        (0.00234567, "s", "latency", "2.346 ms"),
        (0.00099999, "s", "latency", "1.000 ms"),
        (1.25e-6, "J", "energy", "1.250 µJ"),
        (0.934, "1", "accuracy", "93.40 %"),
        (262144, "bytes", "peak_ram", "256.0 KiB"),
        (-0.0021, "A", "current", "−2.100 mA"),
        (1e-30, "s", "latency", "1.000e−18 ps"),
    ],
)
def test_examples(value: float, unit: str, metric: str, wanted: str) -> None:
    assert quantity(value, unit, metric).replace("\u00a0", " ") == wanted


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_finite_is_a_dash(value: float | None) -> None:
    assert quantity(value, "s") == NO_FIGURE
    assert exact(value, "s") == "not a finite number"


def test_nominal_and_exact_figures() -> None:
    assert short(25e6, "Hz") == "25\u00a0MHz"
    assert short(3.3, "V") == "3.3\u00a0V"
    assert exact(2914003.0, "cycles") == "2914003 cycles"
    assert float(exact(0.1 + 0.2, "1")) == 0.1 + 0.2


@given(traces, st.integers(1, 64))
def test_envelope_keeps_every_peak(values: npt.NDArray[np.float32], buckets: int) -> None:
    drawn = envelope(values, buckets)
    assert len(drawn.low) == len(drawn.high) == min(buckets, len(values)) == len(drawn.edges) - 1
    assert drawn.edges[0] == 0
    assert drawn.edges[-1] == len(values)
    assert (np.diff(drawn.edges) > 0).all()
    for index, (begin, end) in enumerate(zip(drawn.edges[:-1], drawn.edges[1:], strict=True)):
        finite = values[begin:end][np.isfinite(values[begin:end])]
        if len(finite):
            assert (drawn.low[index], drawn.high[index]) == (finite.min(), finite.max())
        else:
            assert np.isnan(drawn.low[index])
            assert np.isnan(drawn.high[index])


@given(hnp.arrays(np.uint8, st.integers(0, 200)), st.integers(0, 7))
def test_pulses_cover_exactly_the_high_samples(logic: npt.NDArray[np.uint8], bit: int) -> None:
    rebuilt = np.zeros(len(logic), dtype=bool)
    found = pulses(logic, bit)
    for begin, end in found:
        rebuilt[begin:end] = True
    np.testing.assert_array_equal(rebuilt, (logic >> bit) & 1 == 1)
    assert all(first[1] < second[0] for first, second in pairwise(found))


def test_merged_joins_only_close_ranges() -> None:
    assert merged([(0, 2), (3, 5), (9, 10)], 1) == [(0, 5), (9, 10)]
    assert merged([(0, 2), (3, 5)], 0) == [(0, 2), (3, 5)]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_inside_and_are_evenly_spaced(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert len(ticks) <= 6
    slack = 1e-6 * span
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[:1], rtol=1e-3) if len(steps) else True


def test_axis_labels_are_in_the_unit_they_name() -> None:
    shown = axis(0.0, 0.02, "A", 4)
    assert shown.unit == "mA"
    assert [(tick.place, tick.label) for tick in shown.ticks] == [
        (0.0, "0"),
        (25.0, "5"),
        (50.0, "10"),
        (75.0, "15"),
        (100.0, "20"),
    ]


def record(raw: list[float], unit: str = "s") -> Record:
    values = sorted(raw)
    middle = float(np.median(values))
    return Record(
        "inference", "latency", unit, "hardware", tuple(raw), len(raw), middle, values[0], values[-1], values[-1],
        values[-1], raw[0],
    )  # fmt: skip


def test_equal_repeats_are_a_sentence() -> None:
    shown = distribution(record([0.002] * 9))
    assert shown.bins == ()
    assert shown.sentence.replace("\u00a0", " ") == "All 9 repeats equal: 2.000 ms."
    assert "too few" in distribution(record([0.002, 0.003])).sentence
    assert "One repeat" in distribution(record([0.002])).sentence


@given(st.lists(st.floats(1e-3, 1.0), min_size=5, max_size=60).filter(lambda raw: max(raw) - min(raw) > 1e-4))
def test_histogram_covers_all_repeats(raw: list[float]) -> None:
    shown = distribution(record(raw))
    assert shown.bins
    assert max(part.height for part in shown.bins) == 100.0
    assert len(shown.points) == len(raw)
    left, right = shown.bins[0].left, shown.bins[-1].left + shown.bins[-1].width
    assert all(left - 0.1 <= point <= right + 0.1 for point in shown.points)


def test_error_bar_places() -> None:
    bar = error_bar(Record("r", "m", "s", "hardware", (), 5, 2.0, 1.0, 3.0, 3.5, 3.9, 2.0), 4.0)
    assert bar is not None
    assert (bar.median, bar.ci_left, bar.ci_width, bar.p95) == (50.0, 25.0, 50.0, 87.5)


def test_stack_names_what_the_parts_leave() -> None:
    parts = stacked(100.0, [("arena", 60.0), ("stack", 30.0), ("none", 0.0)])
    assert [(part.name, part.share) for part in parts] == [("arena", 60.0), ("stack", 30.0), ("other", 10.0)]
    assert stacked(100.0, []) == ()


def test_memory_map_places() -> None:
    layers = tuple(Layer(i, str(i), "op", 1, 1) for i in range(4))
    plan = RunDetail(layers, (Buffer("a", 0, 100, 0, 1), Buffer("b", 100, 100, 1, 3)), 200, 160)
    drawn = memory_map(plan)
    assert drawn is not None
    first, second = drawn.blocks
    assert (first.left, first.width, second.left, second.width) == (0.0, 50.0, 25.0, 75.0)
    assert second.bottom + second.height == pytest.approx(drawn.arena, abs=0.02)
    assert drawn.lower_bound / drawn.arena == pytest.approx(0.8, abs=1e-3)
    assert "25.0" in drawn.overhead_text
    assert memory_map(RunDetail(layers)) is None


def test_power_chart_draws_the_peak_means_and_regions() -> None:
    current = np.full(100_000, 1e-3, dtype=np.float32)
    logic = np.zeros(100_000, dtype=np.uint8)
    for begin in range(10_000, 90_000, 10_000):
        logic[begin : begin + 2_000] = 1
        current[begin : begin + 2_000] = 5e-3
    current[12_345] = 2e-2
    chart = power_chart(Trace(0.0, 1e-5, 3.3, current, logic, 0), ["inference"] * 8, 500)
    assert chart is not None
    whole, zoom = chart.panels
    assert "20.00\u00a0mA" in whole.description
    assert whole.path.count("H") <= 1000
    top = 1.06 * 2e-2
    assert whole.active == pytest.approx(100.0 * (1.0 - 5e-3 / top), abs=0.2)
    assert whole.idle == pytest.approx(100.0 * (1.0 - 1e-3 / top), abs=0.2)
    assert [shade.begin for shade in whole.shades] == pytest.approx([10.0 * k for k in range(1, 9)])
    assert all(shade.name == "inference" and shade.width == 2.0 for shade in whole.shades)
    assert len(zoom.shades) == 3
    assert "first 3 regions" in zoom.caption


def test_lost_samples_are_a_gap() -> None:
    current = np.full(100, 1e-3, dtype=np.float32)
    current[40:60] = np.nan
    chart = power_chart(Trace(0.0, 1e-3, 3.3, current, np.zeros(100, np.uint8), 20), [], 50)
    assert chart is not None
    assert chart.panels[0].path.count("M") == 2
    assert "nan" not in chart.panels[0].path
    assert "No edge was seen" in chart.summary
    assert "20 samples were lost" in chart.summary


def test_one_repeat_far_out_keeps_the_bins_few() -> None:
    shown = distribution(record([*np.linspace(1e-3, 1.001e-3, 99).tolist(), 1e6]))
    assert 1 <= len(shown.bins) <= 40
    assert "too far apart" in distribution(record([-1.7e308, 1.7e308, 0.0, 1.0, 2.0])).sentence
