"""``lab baseline``: sessions of the store against the files, as a user calls it."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.night_runs import HARDWARE, counted, night, noisy, save

from lab.baselines import table
from lab.cli import main
from measurements.baseline import Row


@pytest.fixture
def folder(private_lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_BASELINES", str(private_lab / "baselines"))
    return private_lab / "baselines"


def lab(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["baseline", *arguments])


def stored(folder: Path, *runs: object) -> None:
    save(folder.parent / "store", runs)  # type: ignore[arg-type]


def test_accept_then_compare_then_a_regression_then_accept_it(folder: Path) -> None:
    stored(folder, night(0, counted([1000.0])), night(0, noisy([1.0] * 9), provenance=HARDWARE))
    done = lab("accept")
    assert done.exit_code == 0, done.output
    assert sorted(folder.rglob("*.yaml")) == [folder / "emulated/m4f/kws.yaml", folder / "hardware/f446/kws.yaml"]
    assert "2 files changed" in done.output
    assert lab("accept").output == "nothing changed\n"
    assert lab("compare").output == "session session0000: no regression in 2 runs\n"

    stored(folder, night(1, counted([1001.0])), night(1, noisy([0.9] * 9), provenance=HARDWARE))
    done = lab("compare")
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "m4f: kws: 1 regression",
        "  FIGURE                    MEASURED            BASELINE            ALLOWED               CHANGE",
        "  instructions [inference]  1,001 instructions  1,000 instructions  = 1,000 instructions  worse (+1)",
        "f446: kws: 1 improvement",
        "  FIGURE               MEASURED  BASELINE  ALLOWED    CHANGE",
        "  latency [inference]  900 ms    1 s       <= 1.03 s  better (-10.00%)",
    ]
    assert lab("compare", "session0000").exit_code == 0
    assert lab("accept").exit_code == 0
    assert lab("compare").exit_code == 0


def test_the_figures_of_failed_tests_are_accepted_only_when_asked(folder: Path) -> None:
    stored(folder, night(0, counted([1000.0]), status="failed", error="worse than the baseline"))
    done = lab("accept")
    assert done.exit_code == 1
    assert "1 runs, none of which passed" in done.output
    assert "--failed" in done.output
    assert not folder.exists()
    assert lab("accept", "--failed").exit_code == 0
    assert lab("compare").exit_code == 0
    stored(folder, night(1, counted([7.0])), night(1, counted([8.0]), provenance=HARDWARE, status="failed", error="?"))
    assert "left out, for it failed: f446: kws" in lab("accept").output


def test_runs_that_broke_off_are_not_compared(folder: Path) -> None:
    stored(folder, night(0, counted([1000.0])))
    lab("accept")
    stored(folder, night(1, counted([2000.0]), status="error", error="the cable fell out"))
    assert lab("compare").output == "session session0001: no regression in 0 runs\n"


def test_a_new_series_and_new_figures_are_said(folder: Path) -> None:
    stored(folder, night(0, counted([1000.0])))
    assert "m4f: kws: no baseline yet; `lab baseline accept` accepts these figures" in lab("compare").output
    lab("accept")
    stored(folder, night(1, counted([1000.0]), counted([5.0], metric="loads")))
    stored(folder, night(2, counted([9.0], metric="loads")))
    assert "m4f: kws: no baseline for loads [inference]; `lab baseline accept` accepts them" in (
        lab("compare", "session0001").output
    )
    assert "m4f: kws: not measured any more: instructions [inference]" in lab("compare").output
    stored(folder, night(3, counted([900.0]), toolchain="gcc 13"))
    assert "m4f: kws: new series: toolchain was gcc 12.2, now gcc 13; `lab baseline accept`" in lab("compare").output


def test_a_refused_session_leaves_the_files_as_they_are(folder: Path) -> None:
    stored(folder, night(0, counted([1000.0])), night(1, counted([1001.0]), session_id="session0000"))
    done = lab("accept")
    assert (done.exit_code, "disagree on instructions" in done.output) == (1, True)
    assert not folder.exists()


@pytest.mark.parametrize("verb", ["accept", "compare"])
def test_an_unknown_session_or_an_empty_store_is_said(folder: Path, verb: str) -> None:
    done = lab(verb)
    assert (done.exit_code, "no runs yet" in done.output) == (1, True)
    stored(folder, night(0, counted([1.0])))
    done = lab(verb, "last-year")
    assert (done.exit_code, "'last-year'" in done.output) == (1, True)


def test_the_folder_can_be_given(folder: Path, tmp_path: Path) -> None:
    stored(folder, night(0, counted([1.0])))
    assert lab("accept", "--folder", str(tmp_path / "elsewhere")).exit_code == 0
    assert (tmp_path / "elsewhere/emulated/m4f/kws.yaml").is_file()
    assert not folder.exists()


def test_a_table_shows_every_digit_of_a_count_and_both_directions() -> None:
    nan = float("nan")

    def row(metric: str, unit: str, figures: tuple[float, float, float], exact: bool) -> Row:
        verdict = "new" if isnan(figures[1]) else "regression"
        return Row("m4f", "kws", "", "run", metric, unit, *figures, exact, verdict)  # type: ignore[arg-type]

    lines = table(
        [
            row("flash", "bytes", (40_961.0, 40_960.0, 40_960.0), True),
            row("accuracy", "1", (0.90, 0.97, 0.9409), False),
            row("latency", "s", (0.0011, 0.001, 0.001), True),
            row("drops", "1", (3.0, 0.0, 0.0), False),
            row("temperature", "°C", (41.0, nan, nan), False),
            row("auc", "1", (0.96, 0.97, 0.97), False),
        ]
    )
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "flash [run]", "accuracy [run]", "latency [run]", "drops [run]", "temperature [run]",
        "auc [run]",
    ]  # fmt: skip
    assert "40,961 bytes" in lines[1]
    assert "worse (+1)" in lines[1]
    assert ">= 0.9409" in lines[2]
    assert "worse (-7.22%)" in lines[2]
    assert "worse (+10.00%)" in lines[3]
    assert "worse (from nothing)" in lines[4]
    assert ">= 0.97" in lines[6], "without a tolerance too"
