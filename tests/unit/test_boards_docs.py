"""Every board that people own has a wiring note that is true: pins, target, and a bench that loads."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lab.inventory import Board, board_files, load_bench, load_board
from lab.paths import config_dir, project_root

DOCS = project_root() / "docs" / "boards"
REAL = [
    board
    for path in board_files(config_dir()).values()
    if (board := load_board(path)).device_class == "mcu" and board.meter_hookup is not None
]


def page(board: Board) -> str:
    return (DOCS / f"{board.kind}.md").read_text(encoding="utf-8")


def test_there_are_boards_that_people_own() -> None:
    assert {"nucleo-f446re", "nucleo-h743zi", "stm32f4-discovery"} <= {board.kind for board in REAL}


@pytest.mark.parametrize("board", REAL, ids=lambda board: board.kind)
def test_a_note_names_pins_target_and_what_was_not_done(board: Board) -> None:
    text = page(board)
    assert board.pins is not None
    for pin in (board.pins.uart_tx, board.pins.uart_rx, board.pins.marker, board.pins.layer_marker):
        assert pin is None or pin in text
    assert f"`{board.pyocd_target}`" in text
    assert re.search(r"never\s+run\s+on\s+silicon", text)
    assert f"{board.clock_hz // 1_000_000} MHz" in text


@pytest.mark.parametrize("board", REAL, ids=lambda board: board.kind)
def test_a_note_has_a_drawing_with_the_marker_pin(board: Board) -> None:
    assert f"]({board.kind}.svg)" in page(board)
    drawing = ElementTree.parse(DOCS / f"{board.kind}.svg").getroot()
    assert drawing.get("aria-label")
    words = " ".join("".join(text.itertext()) for text in drawing.iter("{http://www.w3.org/2000/svg}text"))
    assert board.pins is not None
    assert board.pins.marker in words
    assert "VOUT" in words


@pytest.mark.parametrize("board", REAL, ids=lambda board: board.kind)
def test_the_bench_of_a_note_loads(board: Board, tmp_path: Path) -> None:
    bench = re.findall(r"```yaml\n(.*?)```", page(board), re.DOTALL)[0]
    (tmp_path / "bench.yaml").write_text(bench)
    (device,) = load_bench(tmp_path / "bench.yaml").devices.values()
    assert device.board.kind == board.kind
    assert device.config.serial is not None
    assert device.config.swd is not None
    assert device.meter is not None
    assert device.meter_voltage_v == board.nominal_voltage_v


@pytest.mark.parametrize("board", REAL, ids=lambda board: board.kind)
def test_the_list_of_boards_has_it(board: Board) -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    assert "None of these firmwares was ever run on silicon." in text
    row = next(line for line in text.splitlines() if f"]({board.kind}.md)" in line)
    assert f"{board.clock_hz // 1_000_000} MHz" in row


def test_every_page_is_listed_and_every_drawing_used() -> None:
    listed = set(re.findall(r"\]\(([\w-]+)\.md\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.stem for path in DOCS.glob("*.md")} - {"README"}
    drawn = {path.stem for path in DOCS.glob("*.svg")}
    assert drawn <= listed
