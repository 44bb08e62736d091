"""The arena of a schedule, drawn: every buffer where it lies, in words, and through the store into the page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.store_runs import make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.record import ArenaSchedule, Buffer, PlannedStep, RunDetail
from measurements.report import render
from measurements.report.arena_chart import arena_svg, describe, live_bytes, phases, role_of
from measurements.report.view import page_view
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.rows import run_row

SVG = "{http://www.w3.org/2000/svg}"
TRAINING = ArenaSchedule(
    steps=(
        PlannedStep("conv", "conv2d", "forward", 900),
        PlannedStep("fc", "matmul", "forward", 40),
        PlannedStep("loss", "nll_loss", "forward"),
        PlannedStep("fc.mm", "matmul", "backward", 40),
        PlannedStep("fc.weight.update", "sgd", "update"),
    ),
    buffers=(
        Buffer("conv", 0, 6000, 0, 3),
        Buffer("fc", 6000, 400, 1, 2),
        Buffer("fc.mm", 6000, 2000, 3, 4),
        Buffer("fc.step", 0, 800, 4, 4),
    ),
    arena_bytes=8000,
    lower_bound_bytes=8000,
    method="best order",
    variables_bytes=160,
)


@st.composite
def schedules(draw: st.DrawFn) -> ArenaSchedule:
    counts = [draw(st.integers(1, 40)), draw(st.integers(0, 60)), draw(st.integers(0, 5))]
    named = [
        (draw(st.text(max_size=8)), phase)
        for phase, count in zip(("forward", "backward", "update"), counts, strict=True)
        for _ in range(count)
    ]
    steps = tuple(PlannedStep(name, "copy", phase) for name, phase in named)
    buffers, top = [], 0
    for number in range(draw(st.integers(1, 12))):
        first = draw(st.integers(0, len(steps) - 1))
        size = draw(st.integers(1, 1 << draw(st.integers(0, 22))))
        offset = draw(st.integers(0, top))
        name = f"{draw(st.text(max_size=6))}{number}"
        buffers.append(Buffer(name, offset, size, first, draw(st.integers(first, len(steps) - 1))))
        top = max(top, offset + size)
    bare = ArenaSchedule(steps, tuple(buffers), top, top)
    return replace(bare, lower_bound_bytes=min(top, max(live_bytes(bare))))


def rectangles(svg: ElementTree.Element) -> list[ElementTree.Element]:
    """One per buffer, in the order of the plan."""
    return [group[1] for group in svg.iter(f"{SVG}g")]


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_a_rectangle_says_offset_size_and_life_of_its_buffer(schedule: ArenaSchedule) -> None:
    svg = ElementTree.fromstring(arena_svg(schedule, title="any"))
    found = rectangles(svg)
    assert len(found) == len(schedule.buffers)
    # The same classes are in the legend, further down.
    lines = {line.get("class"): line for line in reversed(svg.findall(f"{SVG}line"))}
    left, right = float(lines["size"].get("x1", "")), float(lines["size"].get("x2", ""))
    top = float(lines["size"].get("y1", ""))
    strip = [one for one in svg.findall(f"{SVG}rect") if one.get("height") == "10"]
    assert len(strip) == len(schedule.steps)
    bottom = float(strip[0].get("y", "")) - 6
    column, byte = (right - left) / len(schedule.steps), (bottom - top) / schedule.arena_bytes
    for rectangle, buffer in zip(found, schedule.buffers, strict=True):
        x, y, width, height = (float(rectangle.get(name, "")) for name in ("x", "y", "width", "height"))
        # Coordinates are written with two digits.
        assert x == pytest.approx(left + buffer.first * column, abs=0.02)
        assert width == pytest.approx((buffer.last - buffer.first + 1) * column, abs=0.02)
        assert bottom - y == pytest.approx((buffer.offset + buffer.size) * byte, abs=0.02)
        assert height == pytest.approx(max(buffer.size * byte, 0.75), abs=0.03)
    assert float(lines["bound"].get("y1", "")) == pytest.approx(bottom - schedule.lower_bound_bytes * byte, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_what_is_kept_for_backward_differs_by_pattern_too(schedule: ArenaSchedule) -> None:
    svg = ElementTree.fromstring(arena_svg(schedule, title="any", identity="run-7"))
    backward_from = next((number for number, step in enumerate(schedule.steps) if step.phase != "forward"), None)
    for group, buffer in zip(svg.iter(f"{SVG}g"), schedule.buffers, strict=True):
        kept = backward_from is not None and buffer.first < backward_from <= buffer.last
        hatched = [one for one in group if one.get("fill") == "url(#run-7-hatch)"]
        assert len(hatched) == kept
        assert ("kept for backward" in (group[0].text or "")) == kept
        assert f"{buffer.size} bytes at {buffer.offset}" in (group[0].text or "")


def test_phases_peak_and_roles_are_those_of_the_schedule() -> None:
    assert [(one.name, one.first, one.last) for one in phases(TRAINING)] == [
        ("forward", 0, 2), ("backward", 3, 3), ("update", 4, 4),
    ]  # fmt: skip
    assert live_bytes(TRAINING) == (6000, 6400, 6400, 8000, 2800)
    assert [role_of(buffer, TRAINING) for buffer in TRAINING.buffers] == ["kept", "forward", "backward", "update"]
    text = describe(TRAINING)
    for part in ("4 buffers over 5 steps (forward 3, backward 1, update 1)", "in step 3 (fc.mm)", "5.859\u00a0KiB"):
        assert part in text
    drawn = arena_svg(TRAINING, title="net")
    assert "peak: 8000 bytes live in step 3 (fc.mm)" in drawn
    assert "0: conv (conv2d, forward, 900 MACs)" in drawn
    assert "ratio 1.000" in drawn


def test_names_are_escaped() -> None:
    hostile = replace(TRAINING, buffers=(Buffer('<script>"&\'', 0, 8000, 0, 4),))
    drawn = arena_svg(hostile, title="</svg><b>")
    ElementTree.fromstring(drawn)
    assert "<script>" not in drawn
    assert "<b>" not in drawn


@pytest.mark.parametrize("empty", [replace(TRAINING, steps=()), replace(TRAINING, buffers=())])
def test_nothing_to_draw_is_said(empty: ArenaSchedule) -> None:
    with pytest.raises(ValueError, match="no drawing"):
        arena_svg(empty, title="nothing")


def test_the_schedule_survives_the_store_and_is_on_the_page(tmp_path: Path) -> None:
    runs = [replace(make_run(number), detail=RunDetail(training=TRAINING)) for number in (1, 2)]
    with Store(tmp_path) as store:
        for run in runs:
            store.save(run)
        loaded = store.runs()
    assert [run.detail for run in loaded] == [run.detail for run in runs]
    page = render(loaded, {})
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg" class="arena"') == 2
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "Trained variables take 160" in page
    assert "Arena of a training step" not in render([make_run(1)], {})


def test_steps_have_a_table_and_stay_out_of_the_main_figures() -> None:
    cycles = [40_000.0, 3_000.0, 500.0, 6_000.0, 250.0]
    steps = [
        make_record(f"train.layer/{index:02} {step.name}", "cycles", "cycles", "emulated", [value])
        for index, (step, value) in enumerate(zip(TRAINING.steps, cycles, strict=True))
    ]
    whole = make_record("train.step", "cycles", "cycles", "emulated", [sum(cycles)])
    run = replace(make_run(1, records=[whole, *steps]), detail=RunDetail(training=TRAINING))
    (view,) = page_view([run], {}, "page", ()).runs
    assert [row.region for row in view.records] == ["train.step"]
    assert len(view.layer_records) == len(steps)
    assert view.training is not None
    table = view.training.steps
    assert table is not None
    assert table.basis == "cycles"
    assert [row.share for row in table.rows] == pytest.approx([value / sum(cycles) for value in cycles])
    assert [(row.name, row.operator) for row in table.rows][3] == ("fc.mm", "matmul, backward")
    assert table.rows[0].cycles_per_mac == "44.44"
    page = render([run], {})
    assert "Steps of training" in page
    assert "5 steps, 980 MACs" in page


def test_a_run_without_training_is_stored_as_before() -> None:
    assert '"training"' not in str(run_row(make_run(1))["detail"])
