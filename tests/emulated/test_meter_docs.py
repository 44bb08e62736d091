"""The commands of docs/meters.md do what the page says, on the bench that needs no hardware."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import tiny_workload
from helpers.sandbox import private_places
from helpers.toolchain import needs_qemu

from lab.cli import main
from lab.emulators.meters import MODULES as PEERS
from lab.inventory import board_files, load_board
from lab.paths import cache_dir, config_dir, project_root
from lab.power.registry import MODULES

PAGE = (project_root() / "docs" / "meters.md").read_text()
COMMANDS = [line.partition("#")[0].split(maxsplit=1)[1] for line in PAGE.splitlines() if line.startswith("lab meter ")]
ROWS = "duration_s,instructions,loads,stores,energy_j\n" + "".join(
    f"{d},{n},{loads},{s},{3e-3 * d + 2e-10 * n + 1e-10 * loads + 3e-10 * s}\n"
    for d, n, loads, s in (
        (0.01, 1e5, 4e4, 1e4), (0.01, 1e6, 1e4, 9e3), (0.02, 9e5, 5e5, 1e4), (0.01, 8e5, 1e4, 5e5),
        (0.05, 3e5, 2e3, 1e5), (0.01, 5e5, 3e5, 1e3), (0.03, 6e5, 1e5, 3e5), (0.02, 7e5, 3e5, 2e5),
    )
)  # fmt: skip


@needs_qemu
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order: one uses what another made."""
    for name, value in private_places(tmp_path, cache_dir()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    tiny_workload.register()
    (tmp_path / "rows.csv").write_text(ROWS)
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        words = shlex.split(command)
        board = ["--workload", "tiny"] if words[1] in ("watch", "record") else []
        done = CliRunner().invoke(main, [*words, *board])
        assert done.exit_code == 0, f"{command}\n{done.output}"
        assert done.output
    assert (tmp_path / "trace.csv").exists()
    assert list((tmp_path / "store" / "calibrations").iterdir())


def test_every_command_is_on_the_page() -> None:
    group = main.commands["meter"]
    names = set(CliRunner().invoke(group, ["--help"]).output.partition("Commands:")[2].split("\n"))
    words = {line.split()[0] for line in names if line.strip()}
    assert {"list", "watch", "record", "calibrate", "selftest", "export", "import", "fit"} <= words
    for name in ("list", "watch", "record", "calibrate", "selftest", "export", "import", "fit"):
        assert re.search(rf"\b{name}\b", PAGE)


def test_every_kind_of_meter_is_in_the_table() -> None:
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for kind in MODULES:
        assert f"`{kind}`" in table
    for kind in ("ppk2", "lpm01a", "otii", "scpi"):
        assert kind in PEERS
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{kind}`") and line.count("|") > 5]
        assert row.rstrip().endswith("| yes |")


@pytest.mark.parametrize("kind", ["mps2-an386", "netduinoplus2", "mps2-an500", "mps3-an547"])
def test_the_table_of_models_is_that_of_the_board_files(kind: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| Cortex") and f"`{kind}`" in line]
    board = load_board(board_files(config_dir())[kind])
    assert board.energy_model is not None
    per_clock_nj = board.energy_model.active_current_a * board.nominal_voltage_v / board.clock_hz * 1e9
    cells = [cell.strip() for cell in row.split("|")]
    assert float(cells[2]) == pytest.approx(per_clock_nj, abs=0.005)
    classes = board.energy_model.classes
    assert classes is not None
    published = classes.instruction_nj.published
    assert cells[3] == ("none known" if published is None else f"{published[0]:g} to {published[1]:g}")
