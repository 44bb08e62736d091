"""Trends, Pareto front, matrix and zoom: geometry and figures against closed forms and brute force."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.nights import Made, commit, fill, run_of, runs_of, session, trace_of
from hypothesis import given
from hypothesis import strategies as st

from lab.reporting import trends as trends_of_store
from measurements import load
from measurements.record import Run, Trace
from measurements.report import render
from measurements.report.markdown import render_markdown
from measurements.report.matrix import matrix_view
from measurements.report.night import NightCell, NightSummary
from measurements.report.pareto import Candidate, front, pareto_views
from measurements.report.trend_chart import change_row, percent, trend_chart, trend_view
from measurements.report.trends import Trends, find_trends
from measurements.report.zoom import NOTHING, zoom
from measurements.statistics import make_record

STEPPED = Made("m4f", steps=((20, 1.05),), outliers=(5, 11))
NOISY = Made("rack-1", "nucleo-f446re", steps=((21, 0.9),))
STEADY = Made("m7", "mps2-an500")


@pytest.fixture(scope="module")
def trends(tmp_path_factory: pytest.TempPathFactory) -> Trends:
    folder = fill(tmp_path_factory.mktemp("nights"), [STEPPED, NOISY, STEADY], 24)
    return find_trends(load(folder), session(23), 60)


# trends


def test_the_steps_are_found_at_their_night_with_their_commits(trends: Trends) -> None:
    found = {(one.history.key.device, one.history.key.metric): one.change for one in trends.found}
    assert set(found) == {("m4f", "latency"), ("m4f", "cycles"), ("m4f", "energy")} | {
        ("rack-1", metric) for metric in ("latency", "cycles", "energy")
    }
    exact = found["m4f", "cycles"]
    assert (exact.index, exact.kind, exact.first_bad_commit, exact.last_good_commit) == (
        20, "regression", commit(20), commit(19),
    )  # fmt: skip
    assert exact.relative == pytest.approx(0.05, abs=1e-6)
    assert found["rack-1", "latency"].kind == "improvement"
    assert abs(found["rack-1", "latency"].index - 21) <= 1


def test_only_what_the_night_before_did_not_show_is_new(tmp_path: Path, trends: Trends) -> None:
    assert trends.regressions == ()
    made = replace(STEPPED, steps=((3, 1.05), (5, 1.000001)))
    frame = load(fill(tmp_path, [made], 7))
    new = [find_trends(frame, session(night), 60).regressions for night in range(7)]
    cycles = [[one.change.index for one in found if one.history.key.metric == "cycles"] for found in new]
    assert cycles == [[], [], [], [3], [], [5], []]


def test_a_new_change_names_the_layers_that_moved(tmp_path: Path) -> None:
    fill(tmp_path, [replace(STEPPED, steps=((3, 1.05),))], 4)
    found = trends_of_store(tmp_path, session(3), 60)
    rows = {one.history.key.metric: change_row(one) for one in found.regressions}
    # 5 % more in every layer of helpers.nights; the first has 34 % of the cycles.
    stem = round(0.34 * STEPPED.cycles * 1.05 - 0.34 * STEPPED.cycles)
    assert rows["cycles"].moved.startswith(f"00 stem +{stem} cycles, ")
    assert rows["cycles"].moved.endswith(", 3 more")
    assert f"layers: 00 stem +{stem} cycles" in render([], {}, trends=found)
    assert f"layers: 00 stem +{stem} cycles" in render_markdown([], trends=found)
    fill(tmp_path, [replace(STEPPED, steps=((3, 1.05),))], 5)
    (old,) = [one for one in trends_of_store(tmp_path, session(4), 60).found if one.history.key.metric == "cycles"]
    assert (old.is_new, old.moved) == (False, ())


def test_later_nights_and_nights_too_far_back_are_left_out(tmp_path: Path) -> None:
    frame = load(fill(tmp_path, [STEADY], 12))
    cut = find_trends(frame, session(9), 4)
    assert {one.runs for one in cut.histories} == {
        tuple(run_of(STEADY, night).run_id for night in range(6, 10)),
    }
    assert find_trends(frame, "no such night", 4) == find_trends(frame[:0], session(9), 4) == Trends()


def test_a_chart_places_every_night_and_every_change(trends: Trends) -> None:
    found = [one for one in trends.found if (one.history.key.device, one.history.key.metric) == ("m4f", "energy")]
    history = found[0].history
    chart = trend_chart(history, found)
    heights = np.array([night.y for night in chart.nights])
    fit = np.polyfit(history.values, heights, 1)
    np.testing.assert_allclose(np.polyval(fit, history.values), heights, atol=0.02)
    assert heights.min() > 0.0
    assert heights.max() < 100.0
    np.testing.assert_allclose([night.x for night in chart.nights], (np.arange(24) + 0.5) / 24 * 100, atol=0.01)
    assert {index for index, night in enumerate(chart.nights) if night.outlier} >= {5, 11}
    (step,) = chart.steps
    index = found[0].change.index
    assert step.x == pytest.approx(100.0 * index / 24, abs=0.01)
    assert (step.word, step.commit) == ("▲ worse", commit(index)[:8])
    assert [(level.left, level.left + level.width) for level in chart.levels] == [
        (0.0, pytest.approx(step.x, abs=0.02)), (pytest.approx(step.x, abs=0.02), pytest.approx(100.0, abs=0.02)),
    ]  # fmt: skip


def test_counts_have_whole_ticks_and_one_instruction_shows_in_the_table(trends: Trends) -> None:
    found = next(one for one in trends.found if one.history.key.metric == "cycles" and one.history.exact)
    history = replace(found.history, values=(120_000.0,) * 20 + (120_001.0,) * 4)
    change = replace(found.change, before=120_000.0, after=120_001.0, relative=1 / 120_000)
    one = replace(found, history=history, change=change)
    chart = trend_chart(history, [one])
    assert [tick.label for tick in chart.value.ticks] == ["120\u202f000", "120\u202f001"]
    row = change_row(one)
    assert (row.before, row.after) == ("120\u202f000\u00a0cycles", "120\u202f001\u00a0cycles")
    seconds = replace(one, history=replace(history, key=replace(history.key, metric="latency", unit="s")),
                      change=replace(change, before=0.0048, after=0.00480004))  # fmt: skip
    assert (change_row(seconds).before, change_row(seconds).after) == ("0.0048 s", "0.00480004 s")


def test_what_is_equal_every_night_is_listed_and_not_drawn(trends: Trends) -> None:
    view = trend_view(trends)
    assert view is not None
    assert ("m7 · keyword-digits · run flash", "All 24 nights equal: 38.75\u00a0KiB.") in view.equal
    names = {name for name, _ in view.equal}
    assert {"m7 · keyword-digits · inference latency", "m4f · keyword-digits · run flash"} <= names
    assert not names & {chart.name for chart in (*view.charts, *view.steady)}
    assert "m7 · keyword-digits · inference energy" in {chart.name for chart in view.steady}
    assert len(view.changes) == len(trends.found)
    assert trend_view(Trends()) is None


@given(st.floats(-0.5, 5.0).filter(lambda value: abs(value) > 1e-9))
def test_a_change_never_reads_as_none(relative: float) -> None:
    shown = percent(relative).replace("−", "-").removesuffix("\u00a0%")
    assert float(shown) != 0.0
    assert float(shown) == pytest.approx(100.0 * relative, rel=0.06, abs=0.005)
    assert percent(float("inf")) == "from zero"


# Pareto front


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12
    )
)
def test_the_front_is_what_nobody_beats(points: list[tuple[int, int, int, int]]) -> None:
    candidates = [
        Candidate(number, float(accuracy), tuple(map(float, costs)))
        for number, (accuracy, *costs) in enumerate(points)
    ]
    best = front(candidates)
    table = np.array([(-accuracy, *costs) for accuracy, *costs in points], dtype=float)
    expected = {
        number
        for number, row in enumerate(table)
        if not np.any(np.all(table <= row, axis=1) & np.any(table < row, axis=1))
    }
    assert best == expected
    assert best


def test_kinds_of_clock_and_data_sets_are_never_compared() -> None:
    runs = [run_of(Made(f"m{number}", cycles=1000 * number, accuracy=0.9), 1) for number in range(1, 4)]
    runs += [run_of(Made(f"r{number}", "nucleo-f446re", cycles=900 * number), 1) for number in range(1, 3)]
    other = run_of(Made("m9"), 1)
    runs.append(replace(other, provenance=replace(other.provenance, dataset="another")))
    emulated, hardware = pareto_views(runs)
    assert [row.name.partition(" ")[0] for row in emulated.rows] == ["m1", "m2", "m3"]
    assert [row.on_front for row in emulated.rows] == [True, False, False]
    assert [row.name.partition(" ")[0] for row in hardware.rows] == ["r1", "r2"]
    assert [panel.title for panel in emulated.panels] == ["Latency", "Energy", "Peak RAM"]
    assert pareto_views(runs[:1]) == ()


def test_training_is_compared_by_its_own_costs_and_never_with_inference() -> None:
    """Of three methods, one is the best of all, one never gets there, and one is cheaper in memory."""

    def trained(name: str, accuracy: float, energy_j: float, reached_s: float | None) -> Run:
        run = run_of(Made(name, accuracy=accuracy), 1)
        figures = [make_record("run", "training_time", "s", "emulated", [9.0]),
                   make_record("run", "training_energy", "J", "modelled", [energy_j])]  # fmt: skip
        if reached_s is not None:
            figures.append(make_record("run", "time_to_accuracy", "s", "emulated", [reached_s]))
        return replace(run, records=(*run.records, *figures))

    runs = [trained("best", 0.9, 1.0, 2.0), trained("worse", 0.8, 2.0, 3.0), trained("never", 0.3, 0.5, None)]
    training, inference = pareto_views([*runs, run_of(Made("plain1"), 1), run_of(Made("plain2"), 1)])
    assert training.title.startswith("Training, ")
    assert training.columns == ("Accuracy", "Time to accuracy", "Energy of training", "Peak RAM")
    assert [row.on_front for row in training.rows] == [True, False, True], "the cheapest, though it never gets there"
    assert [row.figures[1] for row in training.rows][2] == "never"
    assert [len(panel.dots) for panel in training.panels] == [2, 3, 3]
    assert [row.name.partition(" ")[0] for row in inference.rows] == ["plain1", "plain2"]
    assert 'id="pareto"' in render(runs, {})


def test_wide_ranges_are_drawn_on_a_logarithmic_axis() -> None:
    runs = [run_of(Made(f"m{power}", cycles=10**power, accuracy=0.8 + 0.01 * power), 1) for power in range(3, 8)]
    (view,) = pareto_views(runs)
    latency, _, ram = view.panels
    assert latency.is_log
    assert not ram.is_log
    places = np.array([dot.x for dot in latency.dots])
    np.testing.assert_allclose(np.diff(places), np.diff(places)[0], atol=0.02)
    assert all(0.0 <= dot.x <= 100.0 and 0.0 <= dot.y <= 100.0 for panel in view.panels for dot in panel.dots)


# matrix


def summary(*cells: NightCell) -> NightSummary:
    return NightSummary("n", cells, (), 1.0, 2.0, 0)


def test_the_matrix_has_every_cell_of_the_night_with_its_verdict() -> None:
    runs = list(runs_of([Made("a", cycles=1000), Made("b", cycles=100_000)], 1))
    cells = [NightCell(run.provenance.device, run.provenance.workload, "", "passed", run_id=run.run_id) for run in runs]
    gone = NightCell("c", "other", "q", "unavailable", "unplugged\nsince May")
    view = matrix_view(runs, summary(*cells, gone), Trends())
    assert view is not None
    assert view.columns == ("keyword-digits", "other (q)")
    assert [row.device for row in view.rows] == ["a", "b", "c"]
    first, second, third = (row.cells for row in view.rows)
    assert first[0] is not None
    assert second[0] is not None
    assert third[1] is not None
    assert (first[0].shade, second[0].shade) == (1, 5)
    assert (first[0].anchor, second[0].anchor) == ("run-1", "run-2")
    assert (third[1].mark, third[1].word, third[1].message) == ("⊘", "without their device", "unplugged")
    assert first[1] is None


def test_a_new_regression_flags_its_cell(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = [replace(STEPPED, steps=((3, 1.01),)), STEADY]
    found = find_trends(load(fill(tmp_path_factory.mktemp("flag"), made, 4)), session(3), 60)
    runs = list(runs_of(made, 1))
    cells = [NightCell(run.provenance.device, run.provenance.workload, "", "passed", run_id=run.run_id) for run in runs]
    view = matrix_view(runs, summary(*cells), found)
    assert view is not None
    flags = {row.device: cell.flag for row in view.rows for cell in row.cells if cell is not None}
    assert flags == {"m4f": "▲", "m7": ""}


def test_without_a_night_one_device_or_one_workload_makes_no_matrix() -> None:
    pair = [run_of(Made("a"), 1), run_of(Made("b"), 1)]
    assert matrix_view(pair, None, Trends()) is None
    assert matrix_view([], summary(), Trends()) is None
    four = [*pair, run_of(Made("a", workload="w"), 1), replace(run_of(Made("b", workload="w"), 1), status="error")]
    view = matrix_view(four, None, Trends())
    assert view is not None
    assert [cell.verdict for row in view.rows for cell in row.cells if cell] == [
        "passed", "passed", "passed", "infrastructure",
    ]  # fmt: skip


# zoom


@given(st.integers(1, 3000), st.integers(1, 200), st.integers(0, 5))
def test_the_packed_trace_is_its_envelope(samples: int, buckets: int, lost: int) -> None:
    rng = np.random.default_rng(samples)
    current = rng.lognormal(-6.0, 1.0, samples).astype(np.float32)
    current[rng.integers(0, samples, lost)] = np.nan
    if not np.isfinite(current).any():
        current[0] = 1e-3
    packed = zoom(Trace(0.0, 1e-5, 3.3, current, np.zeros(samples, np.uint8)), [], buckets)
    assert packed is not None
    settings = json.loads(packed.settings)
    words = np.frombuffer(base64.b64decode(packed.data), "<u2").reshape(3, -1)
    count = words.shape[1]
    assert count == packed.buckets == min(buckets, samples)
    for bucket in range(count):
        part = current[bucket * samples // count : (bucket + 1) * samples // count]
        seen = part[np.isfinite(part)].astype(np.float64)
        if seen.size == 0:
            assert (words[:, bucket] == NOTHING).all()
            continue
        shown = settings["low"] + words[:, bucket] / (NOTHING - 1) * settings["span"]
        expected = (seen.min(), seen.max(), seen.mean())
        np.testing.assert_allclose(shown, expected, atol=settings["span"] / (NOTHING - 1))


def test_regions_are_named_where_there_is_one_for_each_pulse() -> None:
    trace = trace_of(run_of(STEADY, 1))
    packed = zoom(trace, ["a"] * 20, 100)
    assert packed is not None
    regions = json.loads(packed.settings)["regions"]
    assert [regions[0], len(regions)] == [[1000, 3500, "a"], 20]
    unnamed = zoom(trace, ["a"], 100)
    assert unnamed is not None
    assert {name for _, _, name in json.loads(unnamed.settings)["regions"]} == {""}
    assert zoom(replace(trace, current_a=np.full(9, np.nan, np.float32), logic=np.zeros(9, np.uint8)), [], 9) is None


# the page


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_colours_keep_the_contrast_that_wcag_asks_for(dark: bool) -> None:
    """4.5 for text, 3 for what is drawn (WCAG 2.2, success criteria 1.4.3 and 1.4.11)."""
    page = render([], {})
    blocks = re.findall(r":root \{(.*?)\}", page, re.S)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0]))
    if dark:
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[1]))
    texts = [(text, back) for text in ("text", "soft", "accent", "bad", "good") for back in ("page", "card")]
    backed = ("good", "bad", "warn", "emulated", "virtual", "modelled", "hardware")
    texts += [(name, f"{name}-back") for name in backed] + [("soft", "bad-back"), ("soft", "warn-back")]
    texts += [(text, f"r{shade}") for text in ("text", "soft", "accent", "good", "bad") for shade in range(1, 6)]
    texts += [("on-hue", f"h{hue}") for hue in range(8)] + [("card", "idle")]
    weak = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in texts}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
    drawn = ("trace", "active", "idle", "whisker", "tail", "good", "bad", "soft")
    thin = {name: contrast(colours[name], colours["card"]) for name in drawn}
    assert {name: ratio for name, ratio in thin.items() if ratio < 3.0} == {}


def whole_page(trends: Trends) -> tuple[list[Run], str]:
    runs = [run_of(made, 23) for made in (STEPPED, NOISY, STEADY)]
    cells = [NightCell(run.provenance.device, run.provenance.workload, "", "passed", run_id=run.run_id) for run in runs]
    cells.append(NightCell("m9", "keyword-digits", "", "failed", "too slow", ("port gone",)))
    night = replace(summary(*cells), status=1, notes=("resumed",))
    return runs, render(runs, {runs[0].run_id: trace_of(runs[0])}, title="Nightly", trends=trends, night=night)


def test_the_page_of_a_night_tells_all_of_it(trends: Trends) -> None:
    _, page = whole_page(trends)
    assert "3 of 4 cells passed, 1 failed" in page
    assert "✗ failed</span>" in page
    for said in ("too slow", "port gone", "resumed", "▲ worse", "▼ better", commit(20)[:12], "Accuracy against"):
        assert said in page
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_no_meaning_hangs_on_colour_alone(trends: Trends) -> None:
    """Every step, verdict and membership of the front has a word or a sign of its own."""
    _, page = whole_page(trends)
    for step in re.findall(r'<div class="step [^>]*><span>(.*?)</span>', page):
        assert re.search(r"worse|better", step)
    for verdict in re.findall(r'<span class="sign" aria-label="([^"]*)">([^<]+)</span>', page):
        assert all(verdict)
    assert len(re.findall(r'data-label="front">(?:yes|no)<', page)) == 2


def test_what_is_scrolled_or_zoomed_can_be_reached_by_key(trends: Trends) -> None:
    _, page = whole_page(trends)
    assert re.search(r'<canvas tabindex="0" role="img" aria-label="[^"]+Keys:', page)
    assert len(re.findall(r'<button type="button" data-act="\w+"', page)) == 6
    assert '<a class="skip" href="#summary">' in page
    assert re.search(r'<div class="scroll" tabindex="0" role="group" aria-label="Devices and workloads">', page)
