"""``nightly.yaml``, the cells it makes, and the commands around a night."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from lab.cli import main
from lab.config_validation import load_settings
from lab.errors import ConfigError, InfrastructureError, ToolMissing
from lab.nightly.config import MatrixEntry, NightlyConfig, Notify, load_plan
from lab.nightly.notify import notify
from lab.paths import config_dir, project_root
from lab.quarantine import Quarantine, quarantined, set_quarantine

BENCH = config_dir() / "emulated.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "nightly.yaml"
    path.write_text(text)
    return path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_matrix_is_laid_over_the_bench_device_by_device(tmp_path: Path) -> None:
    text = """
devices: m4f, m7
matrix:
  - {workload: spoken-digits, variants: ["", q], samples: 3, repeats: 2}
  - {workload: model.tflite, devices: m7}
"""
    plan = load_plan(written(tmp_path, text), BENCH)
    assert [cell.key for cell in plan.cells] == [
        "m4f/spoken-digits", "m4f/spoken-digits/q", "m7/spoken-digits", "m7/spoken-digits/q", "m7/model.tflite",
    ]  # fmt: skip
    assert [device.name for device in plan.devices] == ["m4f", "m7"]
    assert {(cell.samples, cell.repeats) for cell in plan.cells} == {(3, 2), (None, 1)}


def test_durations_are_written_as_people_do_and_the_bench_is_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "desk.yaml").write_text("devices:\n  pc: {board: host}\n")
    text = "bench: desk.yaml\nbudget: 2 h\ncell_limit: 90 s\nmatrix: [{workload: spoken-digits}]\n"
    plan = load_plan(written(tmp_path, text), BENCH)
    assert (plan.config.budget, plan.config.cell_limit) == (7200.0, 90.0)
    assert [cell.key for cell in plan.cells] == ["pc/spoken-digits"]


def test_the_digest_changes_with_what_runs_and_not_with_who_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "json://127.0.0.1/")
    base = "matrix: [{workload: spoken-digits}]\n"
    texts = (base, base + "notify: {urls: [!env HOOK]}\n", base + "budget: 1 h\n", base + "devices: m4f\n")
    first, told, shorter, fewer = (load_plan(written(tmp_path, text), BENCH).digest for text in texts)
    assert first == told
    assert len({first, shorter, fewer}) == 3
    (tmp_path / "boards").symlink_to(BENCH.parent / "boards")
    (tmp_path / "bench.yaml").write_text(BENCH.read_text() + "\n")
    assert load_plan(written(tmp_path, base), tmp_path / "bench.yaml").digest != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("matrix: []\n", "matrix"),
        ("matrx: [{workload: spoken-digits}]\n", "did you mean 'matrix'"),
        ("matrix: [{workload: spoken-digit}]\n", "did you mean 'spoken-digits'"),
        ("matrix: [{workload: spoken-digits, devices: m5f}]\n", "did you mean 'm55'"),
        ("devices: m4f\nmatrix: [{workload: spoken-digits, devices: m7}]\n", "runs on no device"),
        ("matrix: [{workload: spoken-digits}, {workload: spoken-digits}]\n", "stands twice"),
        ("matrix: [{workload: spoken-digits, repeats: 0}]\n", "repeats"),
        ("budget: soon\nmatrix: [{workload: spoken-digits}]\n", "no number with a unit"),
        ("retries: -1\nmatrix: [{workload: spoken-digits}]\n", "retries"),
        ("matrix: [{workload: spoken-digits}]\nnotify: {urls: ['json://me:word@host']}\n", "!env"),
        ("matrix: [{workload: spoken-digits}]\nnotify: {urls: [!env NO_SUCH_VARIABLE_HERE]}\n", "is not set"),
        ("bench: nowhere.yaml\nmatrix: [{workload: spoken-digits}]\n", "nowhere.yaml: no such file"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plan(written(tmp_path, text), BENCH)
    assert said in str(caught.value)


def test_a_missing_file_says_where_the_keys_are_described(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"docs/nightly\.md"):
        load_settings(tmp_path / "no.yaml", NightlyConfig, "docs/nightly.md")


def test_every_key_is_in_the_docs() -> None:
    text = (project_root() / "docs" / "nightly.md").read_text()
    for model in (NightlyConfig, MatrixEntry, Notify):
        for key in model.model_fields:
            assert f"`{key}`" in text, key


def test_list_names_the_cells_and_touches_nothing(private_lab: Path) -> None:
    path = written(private_lab, "devices: m4f, m7\nmatrix: [{workload: spoken-digits}]\n")
    result = call("nightly", "--config", str(path), "--list")
    assert (result.exit_code, result.output) == (0, "m4f/spoken-digits\nm7/spoken-digits\n")
    assert not (private_lab / "store").exists()


def test_a_wrong_file_ends_with_one_message_and_without_a_night(private_lab: Path) -> None:
    result = call("nightly", "--config", str(written(private_lab, "matrix: 3\n")))
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert not (private_lab / "store").exists()


def test_a_store_that_cannot_be_written_is_the_benchs_fault(private_lab: Path) -> None:
    (private_lab / "store").write_text("in the way")
    result = call("nightly", "--config", str(written(private_lab, "matrix: [{workload: spoken-digits}]\n")))
    assert result.exit_code == 3
    assert "point LAB_STORE at a folder you may write to" in result.output


def test_a_device_in_quarantine_is_shown_as_such_and_healed(private_lab: Path) -> None:
    assert "quarantine" not in call("devices").output
    set_quarantine(private_lab / "store", "m4f", Quarantine("silent", "2026-01-01T00:00:00Z"))
    (line,) = [line for line in call("devices").output.splitlines() if "quarantine" in line]
    assert line.startswith("m4f ")
    assert line.endswith("in quarantine since 2026-01-01T00:00:00Z: silent")
    wrong = call("device", "heal", "m4")
    assert wrong.exit_code == 1
    assert "'m4' is not in quarantine; those are: m4f" in wrong.output
    assert call("device", "heal", "m4f").output == "m4f takes part again\n"
    assert quarantined(private_lab / "store") == {}
    assert "quarantine" not in call("devices").output


def test_an_address_that_is_none_is_an_error_that_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Notify.model_construct(urls=(SecretStr("nosuch://t0ken"),))
    with pytest.raises(InfrastructureError) as caught:
        notify(config, "title", "body", good=True)
    assert "address 1 is no address that Apprise knows" in str(caught.value)
    assert "t0ken" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ToolMissing, match="apprise"):
        notify(config, "title", "body", good=True)
