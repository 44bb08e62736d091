"""What the README shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from lab.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_training_example_runs_and_prints_its_plan() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = [block for block in blocks if "compile(" in block]
    printed: list[str] = []
    exec(example.replace("print(", "printed.append("), {"printed": Printed(printed)})
    arena_bytes, variables_bytes = map(int, printed)
    assert arena_bytes > 4 * 8 * 16 * 16
    assert variables_bytes == 4 * (8 * 8 * 9 + 8 + 8 * 14 * 14 * 10 + 10)


class Printed:
    """Takes what the example prints."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def append(self, *values: object) -> None:
        """One call of print."""
        self._lines += map(str, values)


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"`(?:\.venv/bin/)?lab ([a-z-]+)", README))
    assert {"run", "compile", "nightly", "compare", "baseline", "bisect", "store"} <= named
    for command in sorted(named):
        shown = CliRunner().invoke(main, [command, "--help"])
        assert shown.exit_code == 0, command


def test_every_document_it_links_exists() -> None:
    links = re.findall(r"\]\((docs/[^)]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parents[2] / link).exists()] == []
