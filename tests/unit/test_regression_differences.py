"""Two sessions side by side, and ``lab compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.night_runs import HARDWARE, counted, night, noisy, save

from lab.cli import main
from measurements.differences import compare_runs
from measurements.record import Layer, Run, RunDetail
from measurements.statistics import make_record


def repeats(level: float, seed: int, count: int = 30) -> list[float]:
    return list(level * (1 + 0.01 * np.random.default_rng(seed).standard_normal(count)))


def hardware(level: float, seed: int, number: int = 0, **changes: object) -> Run:
    return night(number, noisy(repeats(level, seed)), provenance=HARDWARE, **changes)


def test_a_noisy_figure_that_moved_is_told_with_its_statistics() -> None:
    (one,) = compare_runs([hardware(1.0, 1)], [hardware(1.05, 2)]).figures
    assert (one.verdict, one.exact) == ("worse", False)
    assert one.statistics is not None
    assert one.statistics.ratio_low <= 1.05 <= one.statistics.ratio_high
    assert one.statistics.effect == "large"
    assert one.adjusted_p < 1e-6
    assert one.relative == pytest.approx(0.05, abs=0.01)


def test_less_than_the_minimum_effect_is_nothing_however_sure_it_is() -> None:
    before, after = hardware(1.0, 1), hardware(1.02, 2)
    assert compare_runs([before], [after], minimum_effect=0.05).figures[0].verdict == "same"
    assert compare_runs([before], [after], minimum_effect=0.01).figures[0].verdict == "worse"


def test_many_metrics_do_not_make_one_look_moved_by_chance() -> None:
    """Two hundred figures that did not move: without correction ten of them would look as if they had."""
    def session(seed: int) -> Run:
        generator = np.random.default_rng(seed)
        values = 1 + 0.05 * generator.standard_normal((200, 20))
        return night(0, *(noisy(list(row), metric=f"m{i:03}") for i, row in enumerate(values)), provenance=HARDWARE)

    found = compare_runs([session(1)], [session(2)])
    raw = [one.statistics.p_value for one in found.figures if one.statistics is not None]
    assert sum(p < 0.05 for p in raw) >= 5
    assert {one.verdict for one in found.figures} == {"same"}


def test_counts_are_compared_exactly_and_moved_layers_named() -> None:
    def run(value: float, layer: int) -> Run:
        made = night(0, counted([value, 5.0, 5.0]), make_record("run", "accuracy", "1", "emulated", [0.9]))
        return replace(made, detail=RunDetail(layers=(Layer(0, "conv", "conv", 0, 0, instructions=layer),)))

    found = compare_runs([run(100.0, 10)], [run(99.0, 9)])
    assert [(one.metric, one.verdict) for one in found.figures] == [("instructions", "better"), ("accuracy", "same")]
    assert [one.metric for one in found.of("better")] == ["instructions"]
    assert found.figures[0].statistics is None
    ((layer,),) = found.layers.values()
    assert (layer.name, layer.difference) == ("00 conv", -1.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"toolchain": "gcc 13"}, "toolchain was gcc 12.2, now gcc 13"),
        ({"board": "rev B"}, "board was nucleo-f446re, now rev B"),
        ({"clock": "virtual", "emulator": "QEMU"}, "the device was hardware, now emulated"),
    ],
)
def test_what_is_not_comparable_is_not_compared_and_that_is_said(changes: dict[str, object], told: str) -> None:
    found = compare_runs([hardware(1.0, 1)], [hardware(2.0, 2, **changes)])
    assert found.figures == ()
    assert found.notes == (f"f446: kws: not compared: {told}",)


def test_what_only_one_session_has_is_said() -> None:
    found = compare_runs([hardware(1.0, 1)], [night(0, counted([1.0]), variant="wide")])
    assert found.notes == ("f446: kws: only in the first", "m4f: kws (wide): only in the second")


def test_counts_of_other_repeats_other_units_and_broken_runs_are_left_out() -> None:
    old = [night(0, counted([1.0, 2.0]), noisy([1.0]))]
    assert compare_runs(old, [night(1, counted([1.0]), noisy([1.0], unit="ms"))]).figures == ()
    assert compare_runs(old, [night(1, counted([1.0, 9.0]), status="error", error="?")]).notes == (
        "m4f: kws: only in the first",
    )


# ---- the command --------------------------------------------------------------------------------------------------


def lab(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def test_the_command_shows_what_changed_and_fails_where_it_is_worse(private_lab: Path) -> None:
    runs = [night(i, counted([1000.0 + i]), counted([7.0], metric="loads")) for i in range(2)]
    runs += [hardware(1.0 - 0.1 * i, i, number=i) for i in range(2)]
    save(private_lab / "store", sorted(runs, key=lambda run: run.started_ns))
    done = lab("session0000", "session0001")
    assert done.exit_code == 1, done.output
    lines = done.output.splitlines()
    assert lines[0:2] == ["m4f: kws", "  worse   instructions [inference]  1,000 -> 1,001 instructions  (+0.10%)"]
    assert lines[2] == "f446: kws"
    assert lines[3].startswith("  better  latency [inference]  ")
    assert "effect -1.00 (large), ratio 0.8" in lines[3]
    assert lines[4] == "3 figures compared: 1 worse, 1 better"
    assert "same    loads [inference]" in lab("session0000", "session0001", "--all").output
    back = lab("session0000", "session0000")
    assert (back.exit_code, back.output) == (0, "3 figures compared: 0 worse, 0 better\n")
    assert "1 worse, 0 better" in lab("session0000", "session0001", "--minimum-effect", "50%").output


@pytest.mark.parametrize("share", ["much", "-1 %", "100 %", "nan"])
def test_a_minimum_effect_that_is_no_share_is_refused(private_lab: Path, share: str) -> None:
    assert lab("a", "b", "--minimum-effect", share).exit_code == 2


def test_an_unknown_session_is_named(private_lab: Path) -> None:
    save(private_lab / "store", [night(0, counted([1.0]))])
    done = lab("session0000", "nope")
    assert (done.exit_code, "no runs of session 'nope'" in done.output) == (1, True)
