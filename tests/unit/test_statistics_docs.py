"""The examples of docs/statistics.md and docs/regression.md run, and say what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.night_runs import counted, night, save

from lab.cli import main
from lab.paths import project_root


def examples(page: str, language: str) -> list[str]:
    text = (project_root() / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_example_of_the_statistics_page_says_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = examples("statistics.md", "python")
    names: dict[str, object] = {}
    exec(example, names)
    assert names["begin"] == 5
    assert "# 5:" in example
    figures, effect = capsys.readouterr().out.splitlines()
    assert figures == "0.0121 0.012 0.0121"
    assert effect == re.findall(r"\.effect\)\s+# (\w+)", example)[0]


def test_the_example_of_the_regression_page_names_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / ".lab", [night(i, counted([100.0 + 10 * (i >= 3)])) for i in range(6)])
    monkeypatch.chdir(tmp_path)
    (example,) = examples("regression.md", "python")
    exec(example, {})
    assert capsys.readouterr().out.splitlines() == [
        "m4f: kws: instructions [inference] regression +10.0% c2 c3",
        "c3 ('inference',)",
    ]


def test_every_command_of_the_regression_page_exists() -> None:
    lines = [line.split("#")[0].split() for block in examples("regression.md", "sh") for line in block.splitlines()]
    commands = [words for words in lines if words[0] == "lab"]
    assert len(commands) >= 5
    for words in commands:
        known = CliRunner().invoke(main, [*[word for word in words[1:3] if word.isalpha()], "--help"])
        assert known.exit_code == 0, words
        for option in (word for word in words if word.startswith("--")):
            assert option in known.output, words
