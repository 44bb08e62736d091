"""Histories from a real store: what is one series, what starts a new one, and which commit is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.night_runs import HARDWARE, PROVENANCE, counted, night, noisy, save
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import StoreError, WorkloadError
from measurements import load
from measurements.changepoints import FALSE_ALARM_RATE
from measurements.record import Layer, Run, RunDetail
from measurements.regression import (
    History,
    SeriesKey,
    culprits,
    detect,
    higher_is_better,
    histories,
    is_exact,
    moved_layers,
    relative_change,
)
from measurements.statistics import make_record

KEY = SeriesKey("m4f", "kws", "", "inference", "instructions", "emulated", "mps2-an386", "gcc 12.2")


def loaded(folder: Path, runs: list[Run]) -> list[History]:
    return histories(load(save(folder, runs)))


def history(values: list[float], *, exact: bool = True, metric: str = "instructions") -> History:
    count = range(len(values))
    return History(
        key=replace(KEY, metric=metric),
        values=tuple(values),
        runs=tuple(f"run{i}" for i in count),
        commits=tuple(f"c{i}" for i in count),
        started_ns=tuple(count),
        exact=exact,
    )


# ---- counted figures ----------------------------------------------------------------------------------------------


def test_one_instruction_more_in_one_repeat_is_found_and_its_commit_named(tmp_path: Path) -> None:
    """The median does not move: only one of five inputs takes another branch."""
    plain, dearer = [100.0, 100.0, 100.0, 200.0, 300.0], [100.0, 100.0, 100.0, 200.0, 301.0]
    runs = [night(number, counted(plain if number < 7 else dearer)) for number in range(12)]
    (found,) = loaded(tmp_path, runs)
    (change,) = detect(found)
    assert found.exact
    assert (change.index, change.first_bad_commit, change.last_good_commit) == (7, "c7", "c6")
    assert (change.kind, change.p_value) == ("regression", 0.0)
    assert change.after - change.before == pytest.approx(0.2)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=20))
def test_every_difference_of_a_count_is_a_change_and_nothing_else_is(counts: list[int]) -> None:
    found = detect(history([1e6 + count for count in counts]))
    assert [one.index for one in found] == [i for i in range(1, len(counts)) if counts[i] != counts[i - 1]]
    for one in found:
        assert one.kind == ("regression" if counts[one.index] > counts[one.index - 1] else "improvement")
        assert one.relative == pytest.approx(one.after / one.before - 1)


def test_more_accuracy_is_an_improvement() -> None:
    assert detect(history([0.90, 0.91], metric="accuracy"))[0].kind == "improvement"
    assert detect(history([0.91, 0.90], metric="accuracy"))[0].kind == "regression"
    assert higher_is_better("throughput")
    assert not higher_is_better("energy.net")


def test_the_second_night_of_a_count_is_enough() -> None:
    assert len(detect(history([100.0, 101.0]))) == 1


@pytest.mark.parametrize(
    ("metric", "source", "clock", "exact"),
    [
        ("instructions", "emulated", "virtual", True),
        ("latency", "emulated", "virtual", True),
        ("peak_ram.stack", "emulated", "virtual", True),
        ("latency", "hardware", "dwt", False),
        ("latency", "emulated", "monotonic", False),
        ("energy", "modelled", "virtual", False),
        ("flash", "hardware", "dwt", True),
        ("flash.weights", "hardware", "dwt", True),
        ("peak_ram.stack", "hardware", "dwt", False),
        ("temperature", "emulated", "virtual", False),
    ],
)
def test_which_figures_repeat_exactly(metric: str, source: str, clock: str, exact: bool) -> None:
    assert is_exact(metric, source, clock) == exact


# ---- noisy figures ------------------------------------------------------------------------------------------------


def test_a_noisy_step_is_found_with_its_commits(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    values = np.repeat([1.0, 1.05], [20, 10])[:, np.newaxis] * (1 + 0.01 * generator.standard_normal((30, 9)))
    runs = [night(i, noisy(list(row)), provenance=HARDWARE) for i, row in enumerate(values)]
    (found,) = loaded(tmp_path, runs)
    (change,) = detect(found)
    assert not found.exact
    assert (change.first_bad_commit, change.last_good_commit, change.kind) == ("c20", "c19", "regression")
    assert change.relative == pytest.approx(0.05, abs=0.01)
    assert 0 < change.p_value <= FALSE_ALARM_RATE
    assert detect(found, minimum_effect=0.2) == ()


def test_one_bad_night_is_no_change(tmp_path: Path) -> None:
    runs = [night(i, noisy([2.0 if i == 12 else 1.0 + 0.001 * (i % 3)] * 5), provenance=HARDWARE) for i in range(25)]
    (found,) = loaded(tmp_path, runs)
    assert detect(found) == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_night_that_is_no_number_is_named(value: float) -> None:
    with pytest.raises(WorkloadError, match=r"m4f: kws: latency \[inference\]: night 1 \(run run1\) is"):
        detect(history([1.0, value], exact=False, metric="latency"))


# ---- what one series is -------------------------------------------------------------------------------------------


def test_an_empty_store_has_no_histories() -> None:
    assert histories(pd.DataFrame()) == []


def test_a_night_is_a_session_and_its_value_the_median_of_its_runs(tmp_path: Path) -> None:
    runs = [
        replace(one, run_id=f"{one.run_id}-{place}", started_ns=one.started_ns + place)
        for number in range(2)
        for place, value in enumerate((1.0, 5.0, 2.0))
        for one in [night(number, noisy([value]), provenance=HARDWARE)]
    ]
    (found,) = loaded(tmp_path, runs)
    assert found.values == (2.0, 2.0)
    assert found.started_ns == tuple(sorted(found.started_ns))


@pytest.mark.parametrize("name", ["toolchain", "board", "emulator"])
def test_another_compiler_board_or_emulator_starts_a_new_series_and_says_so(tmp_path: Path, name: str) -> None:
    runs = [night(i, counted([100.0 + (i >= 4)]), **{name: "new" if i >= 4 else "old"}) for i in range(6)]
    before, after = loaded(tmp_path, runs)
    assert (len(before.values), len(after.values)) == (4, 2)
    assert before.note == ""
    assert after.note == (
        f"new series since run night0004-m4f: {name} was old, now new; not compared with the 4 nights before"
    )
    assert detect(before) == detect(after) == ()


def test_hardware_and_emulated_figures_are_never_in_one_series(tmp_path: Path) -> None:
    both = [night(0, noisy([1.0]), provenance=HARDWARE), night(1, noisy([9.0], source="emulated"), provenance=HARDWARE)]
    assert [one.values for one in loaded(tmp_path, both)] == [(9.0,), (1.0,)]


def test_counts_over_other_inputs_are_another_series(tmp_path: Path) -> None:
    """Five inputs cost something else than two of them: that is no regression."""
    found = loaded(tmp_path, [night(0, counted([1.0, 2.0, 3.0])), night(1, counted([1.0]))])
    assert [one.values for one in found] == [(2.0,), (1.0,)]
    assert "repeats was 3, now 1" in found[1].note


@pytest.mark.parametrize(
    ("status", "repeats", "counts"), [("failed", 5, True), ("failed", 3, False), ("error", 5, False)]
)
def test_what_broke_off_is_left_out_but_a_failed_test_counts(
    tmp_path: Path, status: str, repeats: int, counts: bool
) -> None:
    """A regression makes the test fail whose budget it breaks: its figures are what one looks for."""
    runs = [night(i, noisy([1.0] * 5), provenance=HARDWARE) for i in range(3)]
    runs.append(night(3, noisy([2.0] * repeats), provenance=HARDWARE, status=status, error="?"))
    (found,) = loaded(tmp_path, runs)
    assert len(found.values) == 3 + counts


def test_a_dirty_tree_is_said_with_the_commit(tmp_path: Path) -> None:
    (found,) = loaded(tmp_path, [night(0, counted([1.0]), git_dirty=True), night(1, counted([1.0]))])
    assert found.commits == ("c0-dirty", "c1")


def test_one_figure_in_two_units_is_an_error_that_names_the_run() -> None:
    frame = pd.concat([_row(i, unit) for i, unit in enumerate(("s", "ms"))])
    with pytest.raises(StoreError, match=r"f446: kws: latency \[inference\]: stored in ms and s \(run r1\)"):
        histories(frame)


def _row(number: int, unit: str) -> pd.DataFrame:
    run = night(number, noisy([1.0], unit=unit), provenance=HARDWARE, run_id=f"r{number}")
    fields = ("device", "board", "clock", "emulator", "workload", "variant", "toolchain", "git_commit", "git_dirty")
    row: dict[str, object] = {name: getattr(run.provenance, name) for name in fields}
    record = run.records[0]
    named = ("region", "metric", "unit", "source", "n", "raw", "median", "ci_low")
    row |= {name: getattr(record, name) for name in named}
    row |= {"run_id": run.run_id, "session_id": run.session_id, "status": run.status}
    row["started"] = pd.Timestamp(run.started_ns, unit="ns", tz="UTC")
    return pd.DataFrame([row])


# ---- who did it ---------------------------------------------------------------------------------------------------


def test_what_moved_is_gathered_by_commit_with_the_most_moved_region_first(tmp_path: Path) -> None:
    def run(i: int) -> Run:
        dearer = 1 if i >= 5 else 0
        return night(
            i,
            counted([100.0 + dearer], region="layer/00 conv"),
            counted([50.0 + 5 * dearer], region="layer/01 dense"),
            counted([10.0 + (i >= 8)], region="idle"),
            counted([7.0], region="layer/02 softmax"),
        )

    first, second = culprits(loaded(tmp_path, [run(i) for i in range(10)]))
    assert (first.first_bad_commit, first.last_good_commit) == ("c5", "c4")
    assert first.regions == ("layer/01 dense", "layer/00 conv")
    assert (second.first_bad_commit, second.regions) == ("c8", ("idle",))


def test_layers_that_moved_between_two_runs() -> None:
    def layer(index: int, name: str, instructions: int | None, cycles: float | None = None) -> Layer:
        return Layer(index, name, "conv", 0, 0, cycles=cycles, instructions=instructions)

    before = RunDetail(layers=(layer(0, "a", 100), layer(1, "b", 200), layer(2, "c", None, 30.0), layer(3, "d", None)))
    after = RunDetail(
        layers=(layer(0, "a", 101), layer(1, "b", 200), layer(2, "c", 7, 20.0), layer(3, "d", 5), layer(4, "e", 40))
    )
    moved = moved_layers(before, after)
    assert [(one.name, one.unit, one.before, one.after) for one in moved] == [
        ("04 e", "instructions", None, 40.0),
        ("02 c", "cycles", 30.0, 20.0),
        ("00 a", "instructions", 100.0, 101.0),
    ]
    assert [one.difference for one in moved] == [40.0, -10.0, 1.0]


def test_relative_change_keeps_the_sign_of_the_difference() -> None:
    assert relative_change(2.0, 3.0) == 0.5
    assert relative_change(-2.0, -3.0) == -0.5
    assert relative_change(0.0, 0.0) == 0.0
    assert relative_change(0.0, -1.0) == -np.inf


def test_provenance_of_the_key_is_that_of_the_run(tmp_path: Path) -> None:
    (found,) = loaded(tmp_path, [night(0, counted([1.0, 2.0]))])
    assert found.key == replace(KEY, emulator=PROVENANCE.emulator, repeats=2, unit="instructions")


def test_a_step_that_the_place_of_a_meters_samples_may_have_made_is_no_change(tmp_path: Path) -> None:
    """Windows of few samples: the code of night 15 lets the samples fall otherwise. Twice as much is a change."""
    generator = np.random.default_rng(2)

    def stored(step: float, unsure: float) -> History:
        runs = [
            night(
                number,
                make_record(
                    "inference", "energy.net", "J", "hardware",
                    list((1e-6 if number < 15 else 1e-6 * step) * (1 + 1e-3 * generator.standard_normal(7))),
                    unsure=unsure,
                ),
                provenance=HARDWARE,
            )
            for number in range(25)
        ]  # fmt: skip
        (found,) = loaded(tmp_path / f"{step}-{unsure}", runs)
        return found

    assert [change.index for change in detect(stored(1.047, 0.0))] == [15]
    short = stored(1.047, 0.05e-6)
    assert short.unsure == pytest.approx([0.05e-6] * 25)
    assert detect(short) == ()
    assert [change.index for change in detect(stored(1.2, 0.05e-6))] == [15]
