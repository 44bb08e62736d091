"""Records of training from passes and traces made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import MeterError, ProtocolError, WorkloadError
from lab.events import RegionEvent
from measurements.record import Record, Trace
from measurements.statistics import make_record
from measurements.training import (
    COPY_IN,
    COPY_OUT,
    REGIONS,
    STEP,
    loss_record,
    steps,
    training_energy_records,
    training_latency_records,
    unbroken,
    whole_training,
)

CLOCK_HZ = 1e6
DT_S = 1e-5
VOLTS, IDLE_A = 3.0, 1e-3
QUIET_S = 5e-3
GAP_S = 3e-4
# Each region draws its own current.
ACTIVE_A = {"train.forward": 5e-3, "train.backward": 9e-3, "train.update": 2e-3, "inference": 4e-3}


def passes_of(lengths_s: Sequence[Sequence[float]], regions: Sequence[str] = REGIONS) -> list[RegionEvent]:
    """One step per row, one region per column, ``GAP_S`` apart."""
    at, passes = QUIET_S, []
    for index, row in enumerate(lengths_s):
        for region, length in zip(regions, row, strict=True):
            passes.append(RegionEvent(region, index, round(at * CLOCK_HZ), round((at + length) * CLOCK_HZ)))
            at += length + GAP_S
    return passes


def trace_of(passes: Sequence[RegionEvent]) -> Trace:
    time_s = np.arange(round((passes[-1].end / CLOCK_HZ + QUIET_S) / DT_S)) * DT_S
    current = np.full(time_s.size, IDLE_A, np.float32)
    for one in passes:
        current[(time_s >= one.begin / CLOCK_HZ) & (time_s < one.end / CLOCK_HZ)] = ACTIVE_A[one.region]
    return Trace(0.0, DT_S, VOLTS, current, (current > 1.5 * IDLE_A).astype(np.uint8))


def found(records: Sequence[Record]) -> dict[tuple[str, str], Record]:
    return {(record.region, record.metric): record for record in records}


lengths = st.lists(st.tuples(*[st.integers(100, 900).map(lambda n: n * DT_S)] * 3), min_size=1, max_size=6)


def test_copies_of_an_accelerator_belong_to_their_step() -> None:
    order = (COPY_IN, REGIONS[0], COPY_OUT, *REGIONS[1:])
    passes = passes_of([(1e-3, 2e-3, 3e-3, 4e-3, 5e-3), (2e-3, 2e-3, 3e-3, 4e-3, 6e-3)], order)
    records = found(training_latency_records(passes, CLOCK_HZ, "monotonic", "hardware"))
    np.testing.assert_allclose(records[STEP, "latency"].raw, (15e-3, 17e-3), rtol=1e-6)
    np.testing.assert_allclose(records[COPY_IN, "latency"].raw, (1e-3, 2e-3), rtol=1e-6)
    np.testing.assert_allclose(records[COPY_OUT, "latency"].raw, (3e-3, 3e-3), rtol=1e-6)
    assert unbroken(passes) == 10
    assert unbroken(passes[:7]) == 5, "what comes of a third step's copy alone is no step"
    with pytest.raises(ProtocolError, match="training step 1 came as"):
        training_latency_records([*passes[:7], *passes[8:]], CLOCK_HZ, "monotonic", "hardware")


@settings(max_examples=40, deadline=None)
@given(lengths)
def test_a_step_takes_as_long_as_its_regions(rows: list[tuple[float, ...]]) -> None:
    records = found(training_latency_records(passes_of(rows), CLOCK_HZ, "dwt", "hardware"))
    for column, region in enumerate(REGIONS):
        assert records[region, "latency"].raw == pytest.approx([row[column] for row in rows], abs=2e-6)
    assert records[STEP, "latency"].raw == pytest.approx([sum(row) for row in rows], abs=6e-6)
    assert records[STEP, "cycles"].n == len(rows)
    assert "sum of the step's regions" in records[STEP, "latency"].note
    assert "sum" not in records[REGIONS[0], "latency"].note


@settings(max_examples=40, deadline=None)
@given(lengths)
def test_the_energy_of_a_step_is_that_of_its_regions(rows: list[tuple[float, ...]]) -> None:
    """Closed form; an edge is known to one sample."""
    passes = passes_of(rows)
    records = found(training_energy_records(trace_of(passes), passes, CLOCK_HZ, "modelled", QUIET_S))
    watts = [VOLTS * ACTIVE_A[region] for region in REGIONS]
    per_region = [[power * length for power, length in zip(watts, row, strict=True)] for row in rows]
    edge_j = VOLTS * 9e-3 * 2 * DT_S
    for column, region in enumerate(REGIONS):
        assert records[region, "energy"].raw == pytest.approx([row[column] for row in per_region], abs=edge_j)
    assert records[STEP, "energy"].raw == pytest.approx([sum(row) for row in per_region], abs=3 * edge_j)
    net = [sum(joules) - VOLTS * IDLE_A * sum(row) for joules, row in zip(per_region, rows, strict=True)]
    assert records[STEP, "energy.net"].raw == pytest.approx(net, abs=3 * edge_j)
    assert records[STEP, "power.peak"].raw == pytest.approx([VOLTS * 9e-3] * len(rows), rel=1e-6)
    assert records[STEP, "power.idle"].raw == pytest.approx([VOLTS * IDLE_A] * len(rows), rel=1e-5)
    powers = np.array(records[STEP, "energy"].raw) / np.array([sum(row) for row in rows])
    assert records[STEP, "power"].raw == pytest.approx(powers, rel=0.03)


def test_inferences_in_the_same_trace_are_kept_apart() -> None:
    training = passes_of([(2e-3, 4e-3, 1e-3)] * 2)
    later = round(20e-3 * CLOCK_HZ)
    inferences = [
        RegionEvent("inference", one.index, one.begin + later, one.end + later)
        for one in passes_of([(3e-3,)] * 2, ["inference"])
    ]
    passes = [*training, *inferences]
    records = found(training_energy_records(trace_of(passes), passes, CLOCK_HZ, "modelled", QUIET_S))
    assert records["inference", "energy"].raw == pytest.approx([VOLTS * 4e-3 * 3e-3] * 2, rel=0.02)
    assert records["train.backward", "energy"].raw == pytest.approx([VOLTS * 9e-3 * 4e-3] * 2, rel=0.02)
    assert {region for region, _ in records} == {*REGIONS, STEP, "inference"}


def test_a_model_without_updates_has_steps_of_two_regions() -> None:
    passes = passes_of([(2e-3, 4e-3)] * 3, REGIONS[:2])
    assert steps(passes) == [[0, 1], [2, 3], [4, 5]]
    records = found(training_energy_records(trace_of(passes), passes, CLOCK_HZ, "modelled", QUIET_S))
    assert {region for region, _ in records} == {*REGIONS[:2], STEP}


@pytest.mark.parametrize("missing", [3, 4, 5])
def test_a_step_that_lacks_a_region_is_named(missing: int) -> None:
    passes = passes_of([(1e-3, 1e-3, 1e-3)] * 3)
    del passes[missing]
    with pytest.raises(ProtocolError, match=r"training step [01] came as .* the first one as"):
        training_latency_records(passes, CLOCK_HZ, "dwt", "hardware")


def test_a_trace_that_misses_a_window_is_refused_with_all_regions() -> None:
    passes = passes_of([(1e-3, 2e-3, 1e-3)] * 2)
    with pytest.raises(MeterError, match=r"5 marker windows .* 6 passes through 'train.forward', 'train.backward', "):
        training_energy_records(trace_of(passes[:-1]), passes, CLOCK_HZ, "hardware", QUIET_S)
    with pytest.raises(MeterError, match="no step of training"):
        training_energy_records(trace_of(passes), [], CLOCK_HZ, "hardware", QUIET_S)


def test_what_broke_off_is_told_from_whole_steps() -> None:
    passes = passes_of([(1e-3, 2e-3, 1e-3)] * 3)
    assert [unbroken(passes[:count]) for count in range(10)] == [0, 0, 0, 0, 3, 3, 6, 6, 6, 9]


def test_the_loss_curve_is_a_record() -> None:
    record = loss_record([3.0, 2.0, 1.5], "emulated")
    assert (record.region, record.metric, record.unit, record.raw) == (STEP, "loss", "1", (3.0, 2.0, 1.5))
    with pytest.raises(WorkloadError, match=r"train\.step: loss"):
        loss_record([1.0, float("nan")], "emulated")


def test_the_whole_training_is_so_many_times_the_median_step() -> None:
    step = [make_record(STEP, "latency", "s", "emulated", [0.1, 0.2, 0.3]),
            replace(make_record(STEP, "energy", "J", "modelled", [2.0]), class_uncertainty=0.25)]  # fmt: skip
    other = [make_record("train.forward", "latency", "s", "emulated", [9.0])]
    found = {one.metric: one for one in whole_training([*other, *step], 40, 0.5, 10)}
    assert {name: one.median for name, one in found.items()} == pytest.approx(
        {"training_time": 8.0, "training_energy": 80.0, "time_to_accuracy": 2.0}
    )
    assert found["training_energy"].class_uncertainty == 10.0
    assert (found["training_energy"].source, found["training_time"].source) == ("modelled", "emulated")
    assert "10 steps to 50%" in found["time_to_accuracy"].note


def test_an_accuracy_that_is_never_reached_or_not_asked_for_takes_no_time() -> None:
    step = [make_record(STEP, "latency", "s", "emulated", [0.1])]
    for target, reached in ((0.5, None), (0.0, 10)):
        assert [one.metric for one in whole_training(step, 40, target, reached)] == ["training_time"]
    assert whole_training([], 40) == ()
