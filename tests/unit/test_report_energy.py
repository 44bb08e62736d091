"""Both kinds of uncertainty, and rejected measurements, in every form of the report and through the store."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.store_runs import make_run

from measurements.record import ArenaSchedule, Buffer, Layer, PlannedStep, Rejection, Run, RunDetail
from measurements.report import render
from measurements.report.markdown import render_markdown
from measurements.report.tables import render_csv, render_latex
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.rows import run_row

VALUES = [0.0100, 0.0102, 0.0101, 0.0099, 0.0100, 0.0103, 0.0098]
REJECTION = Rejection("lost-samples", "12 of 1000 samples inside the windows were lost (1.20%)", True)


def measured() -> Run:
    energy = make_record("inference", "energy", "J", "hardware", VALUES, alignment="marker", class_uncertainty=0.0005)
    return make_run(1, records=(*make_run(1).records, energy))


def rejected() -> Run:
    return replace(make_run(2), status="error", error="energy is rejected", detail=RunDetail(rejections=(REJECTION,)))


def test_the_page_shows_both_kinds_apart_and_combined() -> None:
    page = render([measured()], {})
    record = measured().records[-1]
    assert record.run_uncertainty == pytest.approx(0.0003)
    assert record.combined_uncertainty == pytest.approx((0.0005**2 + 0.0003**2) ** 0.5)
    text = page.replace("\u202f", " ").replace("\u00a0", " ")
    assert "class ±500.0 µJ, runs ±300.0 µJ, combined ±583.1 µJ" in text
    assert "meter&#39;s class ±500.0 µJ" in text or "meter's class ±500.0 µJ" in text


def layered() -> Run:
    """Two layers, the energy of one of which is known."""
    record = make_record("layer/01 pool", "energy.layer", "J", "hardware", [4e-6], class_uncertainty=3e-7)
    detail = RunDetail(layers=(Layer(0, "conv", "conv2d", 100, 10, 500.0), Layer(1, "pool", "max_pool2d", 0, 0, 70.0)))
    return replace(make_run(3), records=(replace(record, ci_low=3.6e-6, ci_high=4.4e-6),), detail=detail)


def test_the_table_of_layers_has_their_energy_where_it_was_measured() -> None:
    text = render([layered()], {}).replace("\u202f", " ").replace("\u00a0", " ")
    assert '<th scope="col" class="num">Energy</th>' in text
    assert 'data-label="energy">4.000 µJ ±500.0 nJ</td>' in text
    assert 'class="num gone" data-label="energy"></td>' in text
    unknown = replace(layered(), records=())
    assert '<th scope="col" class="num">Energy</th>' not in render([unknown], {})


def test_parts_of_a_training_step_have_their_energy_as_well() -> None:
    record = make_record("train.layer/00 conv", "energy.layer", "J", "hardware", [2e-6], class_uncertainty=1e-7)
    other = make_record("layer/00 conv", "energy.layer", "J", "hardware", [9e-6], class_uncertainty=1e-7)
    buffers = (Buffer("x", 0, 16, 0, 0),)
    schedule = ArenaSchedule((PlannedStep("conv", "conv2d", "forward", 100),), buffers, 16, 16)
    run = replace(make_run(3), records=(record, other), detail=RunDetail(training=schedule))
    text = render([run], {}).replace("\u202f", " ").replace("\u00a0", " ")
    assert 'data-label="energy">2.000 µJ ±100.0 nJ</td>' in text
    assert 'data-label="energy">9' not in text


def test_the_page_and_the_store_keep_what_the_meter_said(tmp_path: Path) -> None:
    said = ("capture 3: 7 of 1000 samples lost", "the board said: <E>")
    run = replace(measured(), detail=RunDetail(meter_notes=said))
    with Store(tmp_path) as store:
        store.save(run)
        (stored,) = store.runs()
    assert stored.detail.meter_notes == run.detail.meter_notes
    page = render([stored], {})
    assert "What the meter said of its stream" in page
    assert "<li>capture 3: 7 of 1000 samples lost</li>" in page
    assert "<li>the board said: &lt;E&gt;</li>" in page
    assert "What the meter said of its stream" not in render([measured()], {})


def test_runs_without_notes_of_a_meter_are_stored_as_they_were_before_there_were_any() -> None:
    assert "meter_notes" not in str(run_row(measured())["detail"])


def test_the_page_says_why_energy_was_rejected() -> None:
    page = render([rejected()], {})
    assert "Energy was measured and rejected" in page
    assert "lost-samples" in page
    assert "more than 0.1 % of the samples inside the windows were lost" in page
    assert REJECTION.message in page
    assert "Energy was measured and rejected" not in render([measured()], {})


def test_the_comment_on_a_pull_request_has_both() -> None:
    text = render_markdown([measured(), rejected()]).replace("\u202f", " ").replace("\u00a0", " ")
    assert "± 500.0 µJ (class)" in text
    assert "rejected: lost-samples" in text


def test_csv_has_all_three_uncertainties() -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv([measured()]))))
    energy = rows[-1]
    assert float(energy["class_uncertainty"]) == 0.0005
    assert float(energy["run_uncertainty"]) == pytest.approx(0.0003)
    assert float(energy["combined_uncertainty"]) == pytest.approx(0.000583095, rel=1e-5)
    assert rows[0]["class_uncertainty"] == ""


def test_latex_marks_which_uncertainty_is_which() -> None:
    table = render_latex([measured(), rejected()])
    assert r"\,(\mathrm{A}) \pm 0.50\,(\mathrm{B})$" in table
    assert "A is that of the repeats, B what the meter's class allows" in table
    assert "Measurements of energy that were rejected: 1." in table
    alone = make_record("inference", "energy", "J", "hardware", [0.01], class_uncertainty=0.0005)
    single = render_latex([make_run(1, records=(*make_run(1).records, alone))])
    assert r"$10.00 \pm 0.50\,(\mathrm{B})$" in single
    without = render_latex([make_run(1)])
    assert "mathrm" not in without


def test_the_store_keeps_both(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for run in (measured(), rejected()):
            store.save(run)
            assert store.run(run.run_id) == run
        assert store.verify().problems == ()
