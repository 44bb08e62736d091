"""The end of a night: which run of a cell counts, what regressed, the exit status, and the command around it all."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.night_runs import counted, save
from helpers.night_runs import night as made
from helpers.scripted_bench import ScriptedBench, devices, plan
from pydantic import SecretStr

from lab import progress
from lab.cli import main
from lab.errors import EmulatorError, WorkloadError
from lab.nightly import bench_worker
from lab.nightly.config import Cell, Notify
from lab.nightly.finish import Ending, finish
from lab.nightly.journal import Outcome, Progress
from measurements.record import Run
from measurements.report.night import Verdict

NIGHTS = 4


def history(figures: list[float]) -> list[Run]:
    """One night per figure, of ``m4f`` with ``kws``."""
    return [made(number, counted([figure])) for number, figure in enumerate(figures)]


def ended(
    folder: Path, runs: list[Run], verdict: Verdict = "passed", *, counting: list[Run] | None = None, **config: object
) -> Ending:
    """Finish the night of the last run, with one cell."""
    store = save(folder / "store", runs)
    cell = Cell(devices(folder)["m4f"], "kws")
    what = plan([cell], **config)
    tonight = runs[-1].session_id
    counting = [run for run in runs if run.session_id == tonight] if counting is None else counting
    outcome = Outcome(cell.key, verdict, "", 1, (), tuple(run.run_id for run in counting), 1.0)
    done = Progress(tonight, what.digest, "c", 0.0, {cell.key: outcome})
    return finish(what, done, store, folder / "reports", ["resumed"])


# what regressed


def test_one_instruction_more_than_last_night_makes_a_night_fail(tmp_path: Path) -> None:
    ending = ended(tmp_path, history([1000.0, 1000.0, 1000.0, 1001.0]))
    assert ending.status == 1
    assert ending.headline == "Nightly session0003: 1 of 1 cells passed; 1 regression"
    summary = (ending.page.parent / "summary.md").read_text()
    assert "c3" in summary
    assert "instructions" in summary
    assert "resumed" in summary


def test_a_regression_can_be_left_to_people(tmp_path: Path) -> None:
    ending = ended(tmp_path, history([1000.0, 1000.0, 1001.0]), fail_on_regression=False)
    assert ending.status == 0
    assert ending.headline.endswith("1 regression")


def test_what_got_worse_the_night_before_is_no_news(tmp_path: Path) -> None:
    ending = ended(tmp_path, history([1000.0, 1000.0, 1001.0, 1001.0]))
    assert (ending.status, "regression" in ending.headline) == (0, False)


def test_what_got_better_makes_no_night_fail(tmp_path: Path) -> None:
    assert ended(tmp_path, history([1000.0, 1000.0, 999.0])).status == 0


def test_only_so_many_nights_are_looked_at(tmp_path: Path) -> None:
    """The step lies before the nights that the report goes back."""
    ending = ended(tmp_path, history([1000.0] + [1001.0] * NIGHTS), nights=NIGHTS)
    assert ending.status == 0
    assert f"over up to {NIGHTS} nights" in ending.page.read_text()


# which run counts


def test_of_a_cell_that_was_tried_again_the_last_run_counts(tmp_path: Path) -> None:
    broken = made(0, counted([5.0]), run_id="first-try", status="error", error="the port went away")
    whole = replace(made(0, counted([7.0]), run_id="second-try"), started_ns=broken.started_ns + 1)
    ending = ended(tmp_path, [broken, whole])
    (case,) = ET.parse(ending.page.parent / "junit.xml").getroot().iter("testcase")
    figures = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert next(value for name, value in figures.items() if name and "instructions" in name) == "7.0"
    assert "the port went away" not in ending.page.read_text()


def test_a_run_that_never_reached_the_store_is_none(tmp_path: Path) -> None:
    stored = made(0, counted([7.0]), device="m7")
    ending = ended(tmp_path, [stored], "failed", counting=[made(1, counted([7.0]))])
    assert ending.status == 1
    (case,) = ET.parse(ending.page.parent / "junit.xml").getroot().iter("testcase")
    assert list(case.iter("property")) == []


# the command


@pytest.fixture
def nightly(private_lab: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedBench, str], Result]:
    """``lab nightly`` on ``m4f`` with two variants of a workload, and a bench that does what it is told."""

    monkeypatch.setattr(progress, "_sink", lambda line: None)

    def run(bench: ScriptedBench, more: str = "") -> Result:
        monkeypatch.setattr(bench_worker, "BenchWorker", lambda store, cache, session: bench)
        path = private_lab / "nightly.yaml"
        path.write_text(
            f"devices: m4f\nretries: 1\nretry_pause: 0\n{more}\n"
            'matrix: [{workload: spoken-digits, variants: ["", q]}]\n'
        )
        return CliRunner().invoke(main, ["nightly", "--config", str(path)])

    return run


FIRST, SECOND = "m4f/spoken-digits", "m4f/spoken-digits/q"


@pytest.mark.parametrize(
    ("script", "more", "status", "said"),
    [
        ({}, "", 0, "2 of 2 cells passed\n"),
        ({SECOND: [WorkloadError("wrong answers")]}, "", 1, "1 of 2 cells passed, 1 failed\n"),
        ({SECOND: [EmulatorError("QEMU died")]}, "", 0, "2 of 2 cells passed\n"),
        ({SECOND: [EmulatorError("QEMU died")] * 2}, "", 3, "1 of 2 cells passed, 1 stopped by the bench\n"),
        ({}, "budget: 1 us", 4, "0 of 2 cells passed, 2 not reached in time\n"),
        ({FIRST: [EmulatorError("QEMU died")] * 2, SECOND: [WorkloadError("wrong")]}, "", 1, "0 of 2 cells passed"),
    ],
    ids=["passed", "product", "bench, once", "bench", "time", "product and bench"],
)
def test_the_exit_status_tells_the_product_the_bench_and_the_time_apart(
    nightly: Callable[[ScriptedBench, str], Result],
    script: dict[str, list[BaseException | None]],
    more: str,
    status: int,
    said: str,
) -> None:
    result = nightly(ScriptedBench(script=script), more)
    assert said in result.output
    assert result.exit_code == status, result.output


def test_a_mirror_that_is_half_configured_makes_a_good_night_a_trouble_of_the_bench(
    nightly: Callable[[ScriptedBench, str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_INFLUX_URL", "http://127.0.0.1:9")
    assert nightly(ScriptedBench(), "").exit_code == 3
    assert nightly(ScriptedBench(script={FIRST: [WorkloadError("wrong")]}), "").exit_code == 1


@pytest.mark.parametrize(("when", "status", "told"), [
    ("always", 0, True), ("always", 1, True), ("trouble", 0, False), ("trouble", 1, True),
])  # fmt: skip
def test_who_is_told_when(
    nightly: Callable[[ScriptedBench, str], Result], monkeypatch: pytest.MonkeyPatch, when: str, status: int, told: bool
) -> None:
    messages: list[tuple[str, bool]] = []

    def notify(config: Notify, title: str, body: str, *, good: bool) -> None:
        assert [url.get_secret_value() for url in config.urls if isinstance(url, SecretStr)] == ["json://127.0.0.1/"]
        assert title.partition(": ")[2] in body
        messages.append((title, good))

    monkeypatch.setattr("lab.nightly.notify.notify", notify)
    monkeypatch.setenv("HOOK", "json://127.0.0.1/")
    script: dict[str, list[BaseException | None]] = {FIRST: [WorkloadError("wrong")]} if status else {}
    result = nightly(ScriptedBench(script=script), f"notify: {{when: {when}, urls: [!env HOOK]}}")
    assert result.exit_code == status, result.output
    assert [good for _, good in messages] == [status == 0] * told
