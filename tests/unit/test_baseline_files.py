"""Baselines as files: what is accepted, what a comparison says, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers.night_runs import HARDWARE, counted, night, noisy
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ConfigError
from measurements.baseline import (
    LEAST_TOLERANCE,
    Baseline,
    Compared,
    accept,
    baseline_path,
    compare_run,
    read_baseline,
    write_baseline,
)
from measurements.record import Record, Run
from measurements.statistics import make_record


def emulated(*records: Record, number: int = 0, **changes: object) -> Run:
    return night(number, *(records or (counted([100.0, 100.0, 301.0]),)), **changes)


def hardware(*records: Record, **changes: object) -> Run:
    return night(0, *records, provenance=HARDWARE, **changes)


def written(folder: Path, *runs: Run) -> Path:
    path = baseline_path(folder, runs[0])
    write_baseline(path, accept(read_baseline(path), runs))
    return path


def verdicts(compared: Compared) -> dict[str, str]:
    return {row.metric: row.verdict for row in compared.rows}


# ---- files --------------------------------------------------------------------------------------------------------


def test_a_baseline_is_a_small_file_that_a_person_can_read(tmp_path: Path) -> None:
    run = emulated(
        counted([1_234_567.0] * 3),
        make_record("run", "flash", "bytes", "emulated", [40_960]),
        noisy([1e-3, 1.01e-3, 0.99e-3], metric="energy", unit="J", source="modelled"),
    )
    path = written(tmp_path, run)
    assert path == tmp_path / "emulated" / "m4f" / "kws.yaml"
    assert path.read_text().split("device: m4f")[1] == """
workload: kws
variant: ''
source: emulated
series:
- board: mps2-an386
  toolchain: gcc 12.2
  emulator: QEMU 7.2
  repeats: 3
  commit: c0
  run: night0000-m4f
  figures:
    inference:
      energy: {value: 0.001, unit: J, tolerance: 0.03}
      instructions: {value: 1234567, unit: instructions, tolerance: exact}
    run:
      flash: {value: 40960, unit: bytes, tolerance: exact}
"""


@given(
    st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=5),
    st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
)
def test_what_is_written_is_read_again(values: list[float], name: str) -> None:
    from tempfile import TemporaryDirectory

    run = emulated(counted(values), noisy(values), workload=name, variant=name[::-1])
    with TemporaryDirectory() as folder:
        path = written(Path(folder), run)
        assert path.is_relative_to(folder)
        found = read_baseline(path)
        assert found == accept(None, [run])
        assert {row.verdict for row in compare_run(found, run).rows} == {"same"}


def test_different_workloads_and_variants_never_share_a_file(tmp_path: Path) -> None:
    names = [("a", ""), ("a@b", ""), ("a", "b"), ("a/b", ""), ("a", "/b"), ("a b", "")]
    paths = {baseline_path(tmp_path, emulated(workload=workload, variant=variant)) for workload, variant in names}
    assert len(paths) == len(names)
    assert {path.parent for path in paths} == {tmp_path / "emulated" / "m4f"}


def test_accepting_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, emulated())
    before = path.read_text()
    written(tmp_path, emulated())
    assert path.read_text() == before


def test_a_tolerance_that_was_edited_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, emulated(), emulated(number=1))
    path.write_text(path.read_text().replace("tolerance: exact", "tolerance: 0.5"))
    written(tmp_path, emulated(counted([110.0, 110.0, 311.0])))
    (series,) = yaml.safe_load(path.read_text())["series"]
    assert series["figures"]["inference"]["instructions"]["tolerance"] == 0.5
    assert series["figures"]["inference"]["instructions"]["value"] == 177


def test_the_default_tolerance_follows_the_interval_of_the_repeats() -> None:
    (quiet,) = accept(None, [hardware(noisy([1.0, 1.001, 0.999] * 5))]).series
    (loud,) = accept(None, [hardware(noisy([0.8, 1.0, 1.2] * 5))]).series
    record = noisy([0.8, 1.0, 1.2] * 5)
    assert quiet.figures["inference"]["latency"].tolerance == LEAST_TOLERANCE
    assert loud.figures["inference"]["latency"].tolerance == pytest.approx(record.ci_high - record.ci_low, abs=1e-3)


def test_references_of_the_host_are_no_baseline() -> None:
    reference = make_record("run", "accuracy.reference", "1", "modelled", [0.97])
    (series,) = accept(None, [emulated(counted([1.0]), reference)]).series
    assert "run" not in series.figures


def test_of_several_runs_the_median_is_accepted() -> None:
    (series,) = accept(None, [hardware(noisy([value])) for value in (1.0, 5.0, 2.0)]).series
    assert series.figures["inference"]["latency"].value == 2.0


def test_runs_that_disagree_on_a_count_are_not_accepted() -> None:
    with pytest.raises(ConfigError, match=r"disagree on instructions \[inference\].*: 100, 101"):
        accept(None, [emulated(counted([100.0])), emulated(counted([101.0]), number=1)])


def test_a_run_without_figures_is_not_accepted() -> None:
    with pytest.raises(ConfigError, match="night0000-m4f measured nothing"):
        accept(None, [replace(emulated(), records=())])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text.replace("value:", "valeu:"), "figures.inference.instructions.value: Field required"),
        (lambda text: text.replace("value: 167", "value: .nan"), "should be a finite number"),
        (lambda text: text.replace("tolerance: exact", "tolerance: about"), "tolerance"),
        (lambda text: text.replace("tolerance: exact", "tolerance: -1"), "tolerance"),
        (lambda text: text.replace("source: emulated", "source: hardware"), "the two never mix"),
        (lambda text: "- 1\n- [", "not a baseline"),
        (lambda text: "", "the file"),
        (lambda text: "\udcff", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path: Path, damage: object, told: str) -> None:
    path = written(tmp_path, emulated(counted([167.0])))
    assert callable(damage)
    text = damage(path.read_text())
    assert text != path.read_text()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=told) as error:
        read_baseline(path)
    assert str(path) in error.value.message


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "emulated").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_baseline(baseline_path(tmp_path, emulated()), accept(None, [emulated()]))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_baseline(baseline_path(tmp_path, emulated()))


def test_without_a_file_there_is_no_baseline(tmp_path: Path) -> None:
    assert read_baseline(tmp_path / "none.yaml") is None


# ---- comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "verdict"), [(1, "regression"), (0, "same"), (-1, "improvement")])
def test_one_instruction_in_one_repeat_counts(more: int, verdict: str) -> None:
    known = accept(None, [emulated()])
    compared = compare_run(known, emulated(counted([100.0, 100.0, 301.0 + more])))
    assert verdicts(compared) == {"instructions": verdict}
    (row,) = compared.rows
    assert row.allowed == row.baseline
    assert row.measured - row.baseline == pytest.approx(more / 3)


@pytest.mark.parametrize(
    ("metric", "after", "verdict"),
    [
        ("latency", 1.02, "same"), ("latency", 1.04, "regression"), ("latency", 0.96, "improvement"),
        ("auc", 0.98, "same"), ("auc", 0.96, "regression"), ("auc", 1.04, "improvement"),
    ],
)  # fmt: skip
def test_noisy_figures_have_a_tolerance_and_a_direction(metric: str, after: float, verdict: str) -> None:
    known = accept(None, [hardware(noisy([1.0] * 9, metric=metric))])
    (row,) = compare_run(known, hardware(noisy([after] * 9, metric=metric))).rows
    assert row.verdict == verdict
    assert row.allowed == pytest.approx(0.97 if metric == "auc" else 1.03)
    assert row.relative == pytest.approx(after - 1)


def test_what_is_new_and_what_is_gone_is_said() -> None:
    known = accept(None, [emulated(counted([1.0]), counted([2.0], metric="loads"))])
    compared = compare_run(known, emulated(counted([1.0]), counted([3.0], metric="stores")))
    assert verdicts(compared) == {"instructions": "same", "stores": "new", "loads": "gone"}
    assert [row.metric for row in compared.of("gone")] == ["loads"]


def test_the_largest_change_is_named_first_whatever_its_direction() -> None:
    known = accept(None, [emulated(counted([100.0]), counted([100.0], metric="loads"), counted([1.0], metric="auc"))])
    worse = emulated(counted([101.0]), counted([110.0], metric="loads"), counted([0.5], metric="auc"))
    assert [row.metric for row in compare_run(known, worse).of("regression")] == ["auc", "loads", "instructions"]


def test_ignored_figures_are_never_compared(tmp_path: Path) -> None:
    path = written(tmp_path, emulated())
    path.write_text(path.read_text().replace("tolerance: exact", "tolerance: ignored"))
    assert compare_run(read_baseline(path), emulated(counted([9.0] * 3))).rows == ()
    assert compare_run(read_baseline(path), emulated(counted([9.0] * 3, metric="loads"))).of("gone") == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"toolchain": "gcc 13"}, "new series: toolchain was gcc 12.2, now gcc 13"),
        ({"board": "mps2-an386-b"}, "new series: board was mps2-an386, now mps2-an386-b"),
        ({"emulator": "QEMU 9"}, "new series: emulator was QEMU 7.2, now QEMU 9"),
    ],
)
def test_another_compiler_board_or_emulator_is_a_new_series_and_says_so(
    changes: dict[str, object], told: str
) -> None:
    known = accept(None, [emulated()])
    other = emulated(counted([900.0, 900.0, 900.0]), **changes)
    compared = compare_run(known, other)
    assert compared.note == told
    assert verdicts(compared) == {"instructions": "new"}
    both = accept(known, [other])
    assert len(both.series) == 2
    assert verdicts(compare_run(both, other)) == verdicts(compare_run(both, emulated())) == {"instructions": "same"}


def test_other_repeats_are_not_compared() -> None:
    compared = compare_run(accept(None, [emulated()]), emulated(counted([100.0])))
    assert compared.note == "new series: repeats was 3, now 1"


def test_without_a_baseline_everything_is_new() -> None:
    compared = compare_run(None, emulated())
    assert (compared.note, verdicts(compared)) == ("no baseline yet", {"instructions": "new"})


def test_hardware_and_emulated_baselines_never_mix(tmp_path: Path) -> None:
    """Same device name, board and workload: they still lie in different folders and refuse each other."""
    real = hardware(counted([1.0]), device="m4f")
    virtual = emulated(counted([1.0]))
    assert baseline_path(tmp_path, real) != baseline_path(tmp_path, virtual)
    with pytest.raises(ConfigError, match="an emulated device cannot be compared with figures of hardware ones"):
        compare_run(accept(None, [real]), virtual)
    with pytest.raises(ConfigError, match="a hardware device cannot be compared with figures of emulated ones"):
        compare_run(accept(None, [virtual]), real)


def test_units_do_not_mix() -> None:
    known = accept(None, [hardware(noisy([1.0]))])
    with pytest.raises(ConfigError, match=r"latency \[inference\] is measured in ms, its baseline is in s"):
        compare_run(known, hardware(noisy([1000.0], unit="ms")))


def test_a_baseline_without_series_is_like_none() -> None:
    empty = Baseline(device="m4f", workload="kws", variant="", source="emulated", series=())
    assert compare_run(empty, emulated()).note == "no baseline yet"
