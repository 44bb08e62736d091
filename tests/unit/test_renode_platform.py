"""Copies of platform descriptions: everything that is used, nothing that is fetched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.emulators.renode.platform import copy_platform, root_of
from lab.errors import ConfigError
from lab.paths import config_dir

# The shape of Renode's own STM32F4, down to the line that needs the network.
CPU = """\
nvic: IRQControllers.NVIC @ sysbus 0xE000E000
    systickFrequency: 72000000

sysbus:
    init:
        ApplySVD @https://example.invalid/svd/STM32F40x.svd.gz
        Tag <0x40021000, 0x40021003> "GPIOE_MODER" 0xFFFFFFFF
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Renode's own folder."""
    folder = tmp_path / "renode"
    (folder / "platforms" / "cpus").mkdir(parents=True)
    (folder / "platforms" / "boards").mkdir()
    (folder / "platforms" / "cpus" / "stm32f4.repl").write_text(CPU)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder


def used_by(copy: Path) -> list[Path]:
    return [Path(name) for name in re.findall(r'^using\s+"([^"]+)"', copy.read_text(), re.MULTILINE)]


def test_what_fetches_is_left_out_and_the_rest_is_kept(own: Path, out: Path) -> None:
    copy = copy_platform("platforms/cpus/stm32f4.repl", (own,), out)
    kept = [line for line in CPU.splitlines() if "ApplySVD" not in line]
    assert copy.read_text().splitlines() == kept


def test_our_board_is_renodes_part_and_what_it_lacks(own: Path, out: Path) -> None:
    copy = copy_platform("renode/stm32f4-discovery.repl", (config_dir(), own), out)
    (part,) = used_by(copy)
    assert part.parent == out
    assert "ApplySVD" not in part.read_text()
    text = copy.read_text()
    assert "dwt: Miscellaneous.DWT @ sysbus 0xE0001000\n    frequency: 168000000\n" in text
    assert "ccm: Memory.MappedMemory @ sysbus 0x10000000\n    size: 0x10000\n" in text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("sysbus:\n    init:\n        ApplySVD @https://x/y\n", ""),
        ("sysbus:\n    init:\n        ApplySVD @http://x/y\n\n// end\n", "\n// end\n"),
        ("sysbus:\n    init:\n        ApplySVD @https://x\n        // y\ncpu: A @ b\n", "        // y\ncpu: A @ b\n"),
        ("sysbus:\n    init:\n        ApplySVD @https://x\n    size: 3\n", "sysbus:\n    size: 3\n"),
        ("sysbus:\n    size: 3\n    init:\n        ApplySVD @https://x\n", "sysbus:\n    size: 3\n"),
        ("sysbus:\n    init:\n        ApplySVD @x.svd\n", "sysbus:\n    init:\n        ApplySVD @x.svd\n"),
    ],
)
def test_heads_with_nothing_left_go_too(tmp_path: Path, out: Path, text: str, left: str) -> None:
    (tmp_path / "x.repl").write_text(text)
    assert copy_platform("x.repl", (tmp_path,), out).read_text().strip("\n") == left.strip("\n")


@given(st.lists(st.sampled_from(["a: B.C @ sysbus 0x1", "    size: 1", "", "// words", "    init:\n        Do 1"])))
def test_what_fetches_nothing_is_copied_as_it_is(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("x")
    text = "\n".join(lines).strip("\n") + "\n"
    (folder / "x.repl").write_text(text)
    assert copy_platform("x.repl", (folder,), folder).read_text() == text


def test_a_description_that_two_use_is_copied_once(own: Path, out: Path) -> None:
    boards = own / "platforms" / "boards"
    (boards / "kit.repl").write_text('using "platforms/cpus/stm32f4.repl"\n')
    (boards / "near.repl").write_text('using "./kit.repl" prefixed "k_"\nusing "platforms/cpus/stm32f4.repl"\n')
    copy = copy_platform("platforms/boards/near.repl", (own,), out)
    kit, part = used_by(copy)
    assert f'using "{kit}" prefixed "k_"' in copy.read_text()
    assert used_by(kit) == [part]
    assert sorted(path.name for path in out.iterdir()) == ["0-stm32f4.repl", "1-kit.repl", "2-near.repl"]


def test_a_description_that_is_not_there(own: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match=f"the board file names the platform 'nowhere.repl'; it is in none of {own}"):
        copy_platform("nowhere.repl", (own,), out)
    (own / "platforms" / "boards" / "old.repl").write_text('using "platforms/cpus/gone.repl"\n')
    with pytest.raises(ConfigError, match=r"old\.repl uses the platform 'platforms/cpus/gone\.repl'") as error:
        copy_platform("platforms/boards/old.repl", (own,), out)
    assert "RENODE has to name" in error.value.hint


def test_a_circle(own: Path, out: Path) -> None:
    boards = own / "platforms" / "boards"
    (boards / "a.repl").write_text('using "./b.repl"\n')
    (boards / "b.repl").write_text('using "./a.repl"\n')
    with pytest.raises(ConfigError, match=r"a\.repl uses itself: .*a\.repl uses .*b\.repl uses .*a\.repl"):
        copy_platform("platforms/boards/a.repl", (own,), out)


def test_the_root_of_a_program(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert root_of(own / "renode") == own
    assert root_of(own / "bin" / "Release" / "renode") == own
    marked = tmp_path / "checkout"
    marked.mkdir()
    (marked / ".renode-root").write_text("")
    assert root_of(marked / "output" / "renode") == marked
    monkeypatch.setattr("lab.emulators.renode.platform._PACKAGED", tmp_path / "nothing")
    assert root_of(tmp_path / "usr" / "bin" / "renode") is None
    # A package's start script lies where all programs do.
    monkeypatch.setattr("lab.emulators.renode.platform._PACKAGED", own)
    assert root_of(tmp_path / "usr" / "bin" / "renode") == own
