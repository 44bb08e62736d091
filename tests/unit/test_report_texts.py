"""Reports as text: Markdown for pull requests, JUnit XML for CI, CSV and LaTeX for papers."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from helpers.nights import Made, fill, run_of, session
from hypothesis import given
from hypothesis import strategies as st

from measurements import load
from measurements.record import Run
from measurements.report.junit import render_junit
from measurements.report.markdown import LONGEST, render_markdown, text
from measurements.report.night import NightCell, NightSummary
from measurements.report.tables import latex, render_csv, render_latex
from measurements.report.trends import Trends, find_trends

M4F, RACK = Made("m4f"), Made("rack-1", "nucleo-f446re")


def night(*cells: NightCell) -> NightSummary:
    return NightSummary("n", cells, (), 60.0, 3600.0, 1)


def cell(run: Run, **changes: object) -> NightCell:
    made = NightCell(run.provenance.device, run.provenance.workload, "", "passed", run_id=run.run_id, seconds=2.5)
    return replace(made, **changes)


# Markdown


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Trends:
    made = replace(M4F, steps=((8, 1.0000005),))
    return find_trends(load(fill(tmp_path_factory.mktemp("stepped"), [made], 9)), session(8), 60)


def test_markdown_says_first_what_got_worse_and_which_commit_did_it(stepped: Trends) -> None:
    told = render_markdown([run_of(M4F, 8)], trends=stepped)
    assert told.index("### Regressions") < told.index("### Figures")
    row = next(line for line in told.splitlines() if "inference cycles" in line)
    cells = [part.strip() for part in row.strip("|").split(" | ")]
    assert cells[1:4] == ["2\u202f914\u202f003\u00a0cycles", "2\u202f914\u202f004\u00a0cycles", "+3.4e−05\u00a0%"]
    assert cells[4] == "`0008c0ffeec0` (good: `0007c0ffeec0`)"


def test_markdown_of_a_night_keeps_product_and_bench_apart() -> None:
    runs = [run_of(M4F, 1), run_of(RACK, 1)]
    told = render_markdown(
        runs,
        night=night(
            cell(runs[0], verdict="failed", message="accuracy 0.1\nlong story"),
            cell(runs[1], verdict="infrastructure", message="port | gone", retries=("port gone", "probe gone")),
        ),
    )
    failed, bench = told.index("### Failed"), told.index("### The bench")
    assert failed < told.index("accuracy 0.1") < bench < told.index("port \\| gone") < told.index("probe gone")
    assert "long story" not in told
    assert "**0 of 2 cells passed, 1 failed, 1 stopped by the bench**" in told
    assert "### The bench, mended by a retry" not in told


def test_markdown_of_a_night_lists_what_passed_on_a_retry_apart() -> None:
    runs = [run_of(M4F, 1), run_of(RACK, 1)]
    told = render_markdown(runs, night=night(cell(runs[0]), cell(runs[1], retries=("probe gone",))))
    mended = told.split("### The bench, mended by a retry")[1]
    assert re.search(rf"- ✅ {RACK.device} · \S+ passed\n  - tried again after `probe gone`", mended)
    assert told.count("tried again") == 1
    assert "### The bench\n" not in told


@given(st.text(max_size=60))
def test_whatever_is_written_stays_one_cell_of_a_table(value: str) -> None:
    run = run_of(M4F, 1)
    run = replace(run, provenance=replace(run.provenance, device=value, workload="w"))
    told = render_markdown([run], night=night(cell(run, verdict="failed", message=value)))
    rows = [line for line in told.split("\n") if line.startswith("|")]
    heads = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert heads[:3] == [3, 3, 3]
    assert heads[3:] == [9, 9, 9]


def test_nobody_is_called_and_nothing_is_markup() -> None:
    assert text("@team <b>*x*</b> [a](b) `c` #1") == (
        "@\u2060team \\<b\\>\\*x\\*\\</b\\> \\[a\\](b) \\`c\\` \\#1"
    )


def test_a_comment_is_never_too_long_for_github() -> None:
    runs = [replace(run_of(M4F, number), run_id=f"r{number}") for number in range(900)]
    told = render_markdown(runs)
    assert LONGEST - 1000 < len(told) < 65_536
    assert told.endswith("_Cut here: the whole of it is in the HTML report._\n")


# JUnit


def test_junit_counts_failures_and_errors_apart_and_holds_every_figure() -> None:
    runs = [run_of(M4F, 1), run_of(RACK, 1)]
    cells = (
        cell(runs[0]),
        cell(runs[1], verdict="failed", message="too slow\nby far"),
        cell(runs[1], device="m9", verdict="infrastructure", message="gone", retries=("gone",)),
        cell(runs[1], device="m8", verdict="unavailable", message="in quarantine", run_id=""),
        cell(runs[1], device="m7", verdict="unreached", run_id=""),
    )
    root = ET.fromstring(render_junit(runs, title="Nightly", night=night(*cells)))
    (suite,) = root
    assert {name: suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped", "time")} == {
        "name": "Nightly", "tests": "5", "failures": "1", "errors": "2", "skipped": "1", "time": "12.500",
    }  # fmt: skip
    cases = list(suite)
    kinds = [[child.tag for child in case if child.tag != "properties"] for case in cases]
    assert kinds == [[], ["failure"], ["error", "system-out"], ["error"], ["skipped"]]
    assert cases[1].find("failure").get("message") == "too slow"  # type: ignore[union-attr]
    known = {one.get("name"): one.get("value") for one in cases[0].iter("property")}
    latency = next(record for record in runs[0].records if record.metric == "latency")
    assert float(known["m4f.latency[inference] s"] or 0) == latency.median
    assert known["m4f.latency[inference].source"] == "emulated"
    assert known["m4f.run_id"] == runs[0].run_id


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_junit_is_xml_whatever_a_device_says(message: str) -> None:
    run = run_of(M4F, 1)
    told = render_junit([replace(run, status="error", error=message)])
    (case,) = ET.fromstring(told.encode("utf-8", "replace")).iter("testcase")
    assert case.find("error") is not None


# CSV


def test_csv_has_every_record_with_every_digit() -> None:
    runs = [run_of(M4F, 1), run_of(RACK, 2)]
    rows = list(csv.DictReader(io.StringIO(render_csv(runs), newline="")))
    records = [(run, record) for run in runs for record in run.records]
    assert len(rows) == len(records)
    for row, (run, record) in zip(rows, records, strict=True):
        for name in ("median", "ci_low", "ci_high", "p95", "p99", "first", "lost_fraction"):
            assert float(row[name]) == getattr(record, name)
        assert (row["region"], row["metric"], row["unit"], row["source"]) == (
            record.region, record.metric, record.unit, record.source,
        )  # fmt: skip
        assert (row["run_id"], row["device"]) == (run.run_id, run.provenance.device)
        assert row["git_commit"] == run.provenance.git_commit


def test_csv_leaves_what_is_not_finite_empty_and_quotes_the_rest() -> None:
    run = run_of(M4F, 1)
    odd = replace(run.records[0], median=math.nan, ci_high=math.inf, note='a "b", c\nd')
    (row,) = csv.DictReader(io.StringIO(render_csv([replace(run, records=(odd,))]), newline=""))
    assert (row["median"], row["ci_high"], row["note"]) == ("", "", 'a "b", c\nd')


# LaTeX


def test_latex_has_booktabs_rules_units_error_bars_and_footnotes_on_provenance() -> None:
    run = run_of(RACK, 3)
    told = render_latex([run, run_of(M4F, 3)], title="50 % less", label="tab:a")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{50 \% less}", r"\label{tab:a}"):
        assert told.count(rule) == 1
    assert "|" not in re.sub(r"\{[^}]*\}", "", told)
    head = next(line for line in told.splitlines() if "Device &" in line)
    assert head.split(" & ")[2:5] == [r"Accuracy (\%)", "Latency (ms)", "Energy (mJ)"]
    row = next(line for line in told.splitlines() if line.strip().startswith("rack-1"))
    latency = next(record for record in run.records if record.metric == "latency")
    match = re.search(r"\$([\d.]+)(?: \\pm ([\d.]+)|\^\{\+([\d.]+)\}_\{-([\d.]+)\})\$", row.split(" & ")[3])
    assert match is not None
    value, both, above, below = match.groups()
    step = 10.0 ** -len(value.partition(".")[2])
    assert float(value) == pytest.approx(latency.median * 1e3, abs=0.5 * step)
    assert float(above or both) == pytest.approx((latency.ci_high - latency.median) * 1e3, abs=0.5 * step)
    assert float(below or both) == pytest.approx((latency.median - latency.ci_low) * 1e3, abs=0.5 * step)
    for said in ("instruction-counted", r"uncertainty $\pm$2 \%", "Energy model", "arm-none-eabi-gcc", "0003c0ffeec0"):
        assert said in told


def test_latex_leaves_out_what_did_not_pass_and_says_so() -> None:
    told = render_latex([run_of(M4F, 1), replace(run_of(RACK, 1), status="failed")])
    assert "rack-1" not in told
    assert "Runs that did not pass are left out: 1." in told


@given(st.text(max_size=40))
def test_latex_specials_never_stand_bare(value: str) -> None:
    escaped = latex(value)
    bare = re.sub(r"\\(text[a-z]+\{\}|dots\{\}|[{}$&#%_])|\$\\(times|pm|cdot)\$|\$-\$", "", escaped)
    assert not re.search(r"[\\{}$&#%_^<>]", bare)
    assert "\n" not in escaped


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-recommended)")
def test_latex_compiles(tmp_path: Path) -> None:
    odd = replace(M4F, device="weird_#&%$~^\\{}<>_µ", workload="a_b…—×")
    table = render_latex([run_of(M4F, 1), run_of(RACK, 1), run_of(odd, 1)], title="100 % of it_all")
    preamble = r"\documentclass{article}\usepackage{textcomp}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(preamble + table + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
