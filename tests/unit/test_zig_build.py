"""Which compiler builds the firmware, what the image says of it, and that Zig's images are reproducible."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.toolchain import tiny_model

import lab.build
from lab.build import Toolchain, boards, build, tool_path
from lab.errors import ConfigError, ToolMissing
from lab.paths import cache_dir

needs_zig = pytest.mark.skipif(tool_path("zig") is None, reason="ziglang is not installed")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The compilers that are found; a test takes some out."""
    there = {"arm-none-eabi-gcc", "gcc", "zig", "cmake", "ninja"}
    monkeypatch.setattr(lab.build, "tool_path", lambda name: Path("/tools") / name if name in there else None)
    monkeypatch.delenv("LAB_TOOLCHAIN", raising=False)
    return there


def compiler_of(board: str, wanted: str = "") -> str:
    return lab.build._compiled_by(lab.build._read_board(board), wanted).compiler


def test_the_boards_own_compiler_goes_first(installed: set[str]) -> None:
    assert compiler_of("mps2-an386") == "arm-none-eabi-gcc"
    assert compiler_of("host") == "gcc"
    installed.discard("arm-none-eabi-gcc")
    assert compiler_of("mps2-an386") == "zig"
    assert compiler_of("host") == "gcc"
    installed.discard("zig")
    assert compiler_of("mps2-an386") == "arm-none-eabi-gcc", "whose absence names both ways out"
    with pytest.raises(ToolMissing) as error:
        build(tiny_model(), "mps2-an386", cache=Path("/nowhere"))
    assert "apt-get install gcc-arm-none-eabi" in error.value.hint
    assert "pip install 'hil-lab[emulate-pip]'" in error.value.hint


@pytest.mark.parametrize("wanted", ["arm-none-eabi", "zig"])
def test_a_compiler_can_be_asked_for(installed: set[str], wanted: str) -> None:
    program = {"arm-none-eabi": "arm-none-eabi-gcc", "zig": "zig"}[wanted]
    assert compiler_of("mps2-an386", wanted) == program
    installed.discard(program)
    assert compiler_of("mps2-an386", wanted) == program
    assert compiler_of("host", wanted) == "gcc"


def test_a_compiler_nobody_knows_is_refused(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOOLCHAIN", "armcc")
    with pytest.raises(ConfigError, match="'armcc' is not known; allowed: arm-none-eabi, zig"):
        build(tiny_model(), "mps2-an386", cache=Path("/nowhere"))


def test_every_arm_board_has_words_for_zig(installed: set[str]) -> None:
    """The flags of all boards are translated, the floating-point unit and the ABI with them."""
    flags = {name: lab.build._read_board(name) for name in boards()}
    arm = {name: board for name, board in flags.items() if board.toolchain == "arm-none-eabi"}
    assert {"mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "microbit"} <= set(arm)
    for board in arm.values():
        hard = "-mfloat-abi=hard" in board.cpu_flags
        words = lab.build._zig_flags(board)
        assert re.fullmatch(r"-target thumb-freestanding-eabi(hf)? -mcpu=cortex_m\w+(\+\w+)*", words)
        assert ("eabihf" in words) == hard
        assert ("fp" in words) == hard
    assert lab.build._zig_flags(arm["mps2-an386"]).endswith("-mcpu=cortex_m4+vfp4d16sp")


def test_flags_zig_has_no_words_for_are_refused() -> None:
    odd = lab.build._Board("odd", "arm-none-eabi", "-mcpu=cortex-a9 -mthumb", "mps2")
    with pytest.raises(ConfigError, match="no words for the flags '-mcpu=cortex-a9 -mthumb' of board odd"):
        lab.build._zig_flags(odd)


@needs_zig
def test_an_image_says_who_built_it_and_is_the_same_elsewhere(tmp_path: Path) -> None:
    image = build(tiny_model(), "mps2-an386", cache=cache_dir(), toolchain="zig")
    assert re.fullmatch(r"zig \d+\.\d+\.\d+\S* \(clang, compiler-rt\)", image.toolchain)
    assert image.flags == "-target thumb-freestanding-eabihf -mcpu=cortex_m4+vfp4d16sp -O2"
    assert image.memory.arena_bytes == 96
    assert image.memory.stack_bytes == 16384
    (tmp_path / "zig").symlink_to(cache_dir() / "zig")
    elsewhere = build(tiny_model(), "mps2-an386", cache=tmp_path, toolchain="zig")
    assert not elsewhere.cached
    assert (elsewhere.build_id, elsewhere.digest) == (image.build_id, image.digest)
    content = image.path.read_bytes()
    assert b"firmware/runner/session.c" in content, "our own sources have their lines"
    # Zig's run-time library is built once for each cache, and would name it.
    assert str(cache_dir()).encode() not in content
    assert str(tmp_path).encode() not in elsewhere.path.read_bytes()
    others: tuple[Toolchain, ...] = ("arm-none-eabi",)
    for other in others:
        if tool_path("arm-none-eabi-gcc") is not None:
            assert build(tiny_model(), "mps2-an386", cache=cache_dir(), toolchain=other).build_id != image.build_id


@needs_zig
def test_the_environment_chooses_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOOLCHAIN", "zig")
    assert build(tiny_model(), "mps2-an386", cache=cache_dir()).toolchain.startswith("zig ")
