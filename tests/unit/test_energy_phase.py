"""Windows of a few samples: where the meter's samples lie moves what is measured, and what is stated covers it.

The load is a square whose edges settle exponentially; its energy is known in closed form. The same load is measured
with its samples shifted, as run after run shifts them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.meter_models import ideal_meter
from lab.events import RegionEvent
from measurements.baseline import accept, compare_run
from measurements.differences import compare_runs
from measurements.energy import region_energy, window_records
from measurements.record import Provenance, Record, Run, Trace
from measurements.regions import INFERENCE
from measurements.statistics import make_record, summarize, unsure_of
from measurements.uncertainty import MeterClass, RangeClass
from measurements.window_energy import WindowEnergy

RATE_HZ, CLOCK_HZ = 100_000, 25_000_000
DT = 1.0 / RATE_HZ
VOLTS, IDLE_A, ACTIVE_A = 3.3, 1.1e-3, 2.8e-3
EXACT = MeterClass((RangeClass(1.0, 0.0),))
PHASES = np.arange(0.0013, 1.0, 0.0625)


@dataclass(frozen=True)
class Square:
    """Windows of ``length`` samples with ``gap`` between them, and a time constant of ``settle`` samples."""

    length: float
    gap: float
    settle: float
    active_a: float = ACTIVE_A

    def measured(self, phase: float) -> tuple[WindowEnergy, npt.NDArray[np.float64]]:
        """What is measured with the samples shifted by ``phase``, and true net energy; shape (windows,)."""
        quiet = Segment((200 + phase) * DT, IDLE_A, 0, VOLTS, self.settle * DT)
        active = replace(quiet, duration_s=self.length * DT, current_a=self.active_a, bits=1)
        between = replace(quiet, duration_s=self.gap * DT)
        load = ScriptedLoad([quiet, *[active, between] * 8, replace(quiet, duration_s=300 * DT)])
        edges = np.array([time_s for time_s, _ in load.edges_s()]).reshape(-1, 2)
        passes = [
            RegionEvent(INFERENCE, k, round(begin * CLOCK_HZ), round(end * CLOCK_HZ))
            for k, (begin, end) in enumerate(edges)
        ]
        shown = ideal_meter(load, RATE_HZ, load.due(RATE_HZ))
        trace = Trace(0.0, DT, VOLTS, shown.current_a, shown.logic)
        figures, _ = region_energy(trace, passes, CLOCK_HZ, INFERENCE, 200 * DT, EXACT, framed=True)
        true = [load.truth(begin, end).energy_j - VOLTS * IDLE_A * (end - begin) for begin, end in edges]
        return figures, np.array(true)

    def record(self, phase: float) -> Record:
        """The record of net energy."""
        figures, _ = self.measured(phase)
        return next(one for one in window_records(INFERENCE, figures, "hardware", "") if one.metric == "energy.net")


IN_STEP = Square(2.2, 49.8, 1.0)
"""Every window falls into its samples alike: the clocks narrow nothing down, repeats show nothing."""


@pytest.mark.parametrize("settle", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("length", [1.2, 1.6, 2.0, 2.5, 3.0, 4.1, 8.0])
@pytest.mark.parametrize("out_of_step", [0.0, 0.37])
def test_what_is_stated_holds_the_truth_at_every_phase(settle: float, length: float, out_of_step: float) -> None:
    square = Square(length, np.ceil(length + 50) - length + out_of_step, settle)
    for phase in PHASES:
        figures, true = square.measured(float(phase))
        assert (np.abs(figures.net_j - true) <= figures.edge_net_j).all(), phase


@settings(deadline=None, max_examples=40)
@given(
    length=st.floats(3.5, 40.0), gap=st.floats(45.0, 55.0), settle=st.floats(0.5, 3.0), phase=st.floats(0.01, 0.99)
)
def test_a_region_of_four_samples_is_within_a_per_cent(length: float, gap: float, settle: float, phase: float) -> None:
    """Its level and its time constant show, whatever the phase: both edges follow."""
    figures, true = Square(length, gap, settle).measured(phase)
    if int(np.floor(length)) >= 5:
        assert np.abs(figures.net_j / true - 1).max() < 0.01
    assert (np.abs(figures.net_j - true) <= figures.edge_net_j).all()


def test_the_interval_holds_the_truth_where_repeats_are_all_alike() -> None:
    for phase in PHASES:
        record = IN_STEP.record(float(phase))
        _, true = IN_STEP.measured(float(phase))
        assert max(record.raw) / min(record.raw) - 1 < 1e-2
        assert record.ci_low <= np.median(true) <= record.ci_high
        assert record.run_uncertainty is not None
        assert record.class_uncertainty is not None
        # The meter has no errors of its own here: what is stated is the phase, and it is stated once.
        assert record.class_uncertainty < 1e-3 * record.median
        assert record.combined_uncertainty == pytest.approx(record.run_uncertainty, rel=1e-3)


def test_a_long_window_has_a_narrow_interval() -> None:
    record = Square(1000.3, 50.37, 2.0).record(0.4)
    assert record.run_uncertainty is not None
    assert record.run_uncertainty < 2e-3 * record.median


def test_what_a_record_says_of_the_phase_is_kept_by_its_interval() -> None:
    values = [1.0, 1.1, 1.2, 0.9, 1.05, 1.15, 1.0]
    record = make_record("inference", "energy.net", "J", "hardware", values, unsure=0.25)
    summary = summarize(values)
    assert (record.ci_low, record.ci_high) == (summary.ci_low - 0.25, summary.ci_high + 0.25)
    assert unsure_of(record) == pytest.approx(0.25)
    assert unsure_of(make_record("inference", "energy.net", "J", "hardware", values)) == 0.0
    single = make_record("inference", "energy.net", "J", "hardware", [1.0], unsure=0.25)
    assert single.run_uncertainty == pytest.approx(0.25)
    assert make_record("inference", "energy.net", "J", "hardware", [1.0]).run_uncertainty is None


def run(record: Record, name: str) -> Run:
    provenance = Provenance(
        "one", "board", "core", CLOCK_HZ, "", "ppk2", 0.1, "", "tiny", "", {}, 0, "none", "", "", "", "gcc", "", "c",
        False, "1",
    )  # fmt: skip
    return Run(name, "s", 0, "passed", provenance, (record,))


def test_a_baseline_does_not_call_another_phase_a_change() -> None:
    records = [IN_STEP.record(float(phase)) for phase in PHASES]
    medians = [one.median for one in records]
    # Without the phase the tolerance would be 3 %.
    assert max(medians) / min(medians) - 1 > 0.03
    for accepted in records:
        known = accept(None, [run(accepted, "first")])
        for other in records:
            (row,) = compare_run(known, run(other, "second")).rows
            assert row.verdict == "same"


def test_two_runs_with_another_phase_do_not_differ_and_twice_the_energy_does() -> None:
    records = [IN_STEP.record(float(phase)) for phase in PHASES]
    low, high = (min(records, key=lambda one: one.median), max(records, key=lambda one: one.median))
    (found,) = compare_runs([run(low, "a")], [run(high, "b")]).figures
    # By their repeats alone they differ for certain.
    assert found.adjusted_p < 0.01
    assert found.verdict == "same"
    doubled = replace(IN_STEP, active_a=3 * ACTIVE_A).record(0.4)
    (found,) = compare_runs([run(low, "a")], [run(doubled, "b")]).figures
    assert found.verdict == "worse"
