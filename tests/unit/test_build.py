"""Firmware builds: what is cached, what is not, what the sizes mean and what a user reads when a build cannot be."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import resource
import shutil
import stat
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
from helpers.trained import CLASSES, INPUTS, VARIABLES_BYTES, trained_model

from lab import build as build_module
from lab.artifact import Artifact
from lab.build import ELF_NAME, boards, build, check_fits
from lab.build_tree import Tools
from lab.compiler.model import BufferPlan, CompiledModel, LayerInfo, TensorSpec, Variable
from lab.errors import CompileError, ConfigError, InfrastructureError, ToolMissing

TINY_MODEL = Path(__file__).resolve().parents[1] / "data" / "tiny_model"


def tiny_model(**changes: str) -> CompiledModel:
    """The hand-written model; ``changes`` replaces text in model.c."""
    sources = {path.name: path.read_text() for path in TINY_MODEL.iterdir()}
    for old, new in changes.items():
        assert old in sources["model.c"]
        sources["model.c"] = sources["model.c"].replace(old, new)
    border = TensorSpec(shape=(64,), scale=1.0, zero_point=0)
    layers = (
        LayerInfo("xor", "elementwise", 64, 0, (64,), (64,)),
        LayerInfo("offset", "elementwise", 64, 64, (64,), (64,)),
    )
    plan = (BufferPlan("xor", 0, 64, 0, 1),)
    return CompiledModel("tiny", sources, border, border, layers, plan, 96, 64, "0" * 64)


def run_tool(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def image(cache: Path) -> Artifact:
    return build(tiny_model(), "mps2-an386", cache=cache)


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, starting any program fails the test."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a cached build ran {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)


def test_an_unchanged_build_runs_no_tool_and_gives_the_same_image(image: Artifact, cache: Path, no_tools: None) -> None:
    again = build(tiny_model(), "mps2-an386", cache=cache)
    assert not image.cached
    assert again == dataclasses.replace(image, cached=True)


def test_the_toolchain_version_is_remembered_across_processes(image: Artifact, cache: Path, no_tools: None) -> None:
    build_module._remembered_version.cache_clear()
    assert build(tiny_model(), "mps2-an386", cache=cache).toolchain == image.toolchain
    assert "arm-none-eabi-gcc" in image.toolchain


def test_the_same_content_gives_the_same_bytes_in_another_cache(image: Artifact, tmp_path: Path) -> None:
    elsewhere = build(tiny_model(), "mps2-an386", cache=tmp_path)
    assert elsewhere.digest == image.digest
    assert elsewhere.path.read_bytes() == image.path.read_bytes()


def test_everything_that_goes_in_changes_the_build_id(image: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    model, board = tiny_model(), build_module._read_board("mps2-an386")
    plain, with_tests = build_module._Options(False, ""), build_module._Options(True, "")
    changed_model = tiny_model(**{"^ 0x55": "^ 0x56"})
    seen = [
        build_module._digest(model, board, plain, image.toolchain),
        build_module._digest(changed_model, board, plain, image.toolchain),
        build_module._digest(model, build_module._read_board("mps2-an500"), plain, image.toolchain),
        build_module._digest(model, board, with_tests, image.toolchain),
        build_module._digest(model, board, plain, "another compiler"),
    ]
    assert seen[0].startswith(image.build_id)
    for path in build_module._firmware_files(model, board):

        def one_byte_more(self: Path, changed: Path = path) -> bytes:
            with self.open("rb") as stream:
                return stream.read() + (b"\n" if self == changed else b"")

        monkeypatch.setattr(Path, "read_bytes", one_byte_more)
        seen.append(build_module._digest(model, board, plain, image.toolchain))
        monkeypatch.undo()
    assert len(set(seen)) == len(seen)


def test_files_of_other_boards_do_not_change_the_build_id() -> None:
    files = set(build_module._firmware_files(tiny_model(), build_module._read_board("mps2-an386")))
    names = {str(path.relative_to(build_module.FIRMWARE)) for path in files}
    assert {"CMakeLists.txt", "runner/session.c", "boards/mps2-an386/link.ld", "boards/common/mps2.c"} <= names
    assert not [name for name in names if "hosted" in name or "an500" in name or "fuzz" in name]


def test_kernels_that_the_model_does_not_call_are_not_built() -> None:
    board = build_module._read_board("mps2-an386")
    with_add = tiny_model(**{'#include "lab_model.h"': '#include "lab_model.h"\n#include "lab_add.h"'})
    names = [
        {path.name for path in build_module._firmware_files(model, board) if path.parent.name == "runtime"}
        for model in (tiny_model(), with_add)
    ]
    assert names[0] == {"lab_model.h", "lab_training.c", "lab_training.h"}
    assert {"lab_add.c", "lab_add.h", "lab_requantize.h"} <= names[1] - names[0]
    assert "lab_conv2d.c" not in names[1]


def test_the_build_id_is_in_the_image(image: Artifact) -> None:
    assert image.build_id == image.path.parent.name[:16]
    assert image.build_id.encode() in image.path.read_bytes()


@pytest.mark.parametrize("damage", ["artifact.json", ELF_NAME])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_cache_entry_is_built_again(tmp_path: Path, damage: str, how: str) -> None:
    first = build(tiny_model(), "host", cache=tmp_path)
    victim = first.path.parent / damage
    content = victim.read_bytes()
    victim.unlink()
    if how == "cut":
        victim.write_bytes(content[: len(content) // 2])
    second = build(tiny_model(), "host", cache=tmp_path)
    assert second == first
    assert build(tiny_model(), "host", cache=tmp_path).cached


def _build_in_process(cache: str) -> tuple[str, bool]:
    artifact = build(tiny_model(), "host", cache=Path(cache))
    return artifact.digest, artifact.path.is_file()


def test_two_processes_may_build_the_same_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(_build_in_process, [str(tmp_path)] * 2, chunksize=1)
    assert results[0] == results[1]
    assert results[0][1]
    assert [path.name for path in (tmp_path / "builds").iterdir() if path.name.startswith(".")] == []


# ---- sizes --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_binutils_reports(image: Artifact) -> None:
    output = subprocess.run(["arm-none-eabi-size", "-A", image.path], capture_output=True, text=True, check=True).stdout
    sections = {
        parts[0]: int(parts[1])
        for parts in map(str.split, output.splitlines())
        if len(parts) == 3 and parts[1].isdigit()
    }
    memory = image.memory
    assert memory.flash_bytes == sum(sections.get(name, 0) for name in (".text", ".ARM.exidx", ".data"))
    in_ram = sum(sections[name] for name in (".stack", ".data", ".bss", ".noinit"))
    assert memory.static_ram_bytes + memory.stack_bytes + memory.arena_bytes + 16 == in_ram
    assert memory.arena_bytes == 96
    assert memory.stack_bytes == sections[".stack"] == 16384
    assert memory.weights_bytes == 64


def test_the_runner_takes_no_less_than_the_check_before_a_build_assumes(image: Artifact) -> None:
    memory = image.memory
    assert memory.flash_bytes - memory.weights_bytes >= build_module.RUNNER_FLASH_BYTES
    assert memory.static_ram_bytes + memory.stack_bytes >= build_module.RUNNER_RAM_BYTES


def test_a_model_that_fits_is_let_through() -> None:
    check_fits(tiny_model(), 2**20, 2**18, 2**17)


@pytest.mark.parametrize(
    ("flash", "ram", "arena", "telling"),
    [
        (4096, 2**20, 2**20, "flash is 4096 bytes"),
        (2**20, 8192, 2**20, "RAM is 8192 bytes"),
        (2**20, 2**20, 64, "need 96 bytes, the arena limit is 64 bytes"),
    ],
)
def test_a_model_too_large_is_refused_with_the_sizes_of_its_layers(
    flash: int, ram: int, arena: int, telling: str
) -> None:
    with pytest.raises(CompileError) as caught:
        check_fits(tiny_model(), flash, ram, arena)
    text = str(caught.value)
    assert telling in text
    assert all(layer.name in text for layer in tiny_model().layers)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "telling"),
    [
        ("offsets[SIZE] = {", "offsets[5 << 20] = {", "bytes more flash than mps2-an386 has"),
        ("static const int8_t offsets[SIZE] = {", "static int8_t offsets[5 << 20] = {[9 << 9] = 1, ", "bytes more"),
    ],
)
def test_what_only_the_linker_sees_is_said_in_our_words(tmp_path: Path, old: str, new: str, telling: str) -> None:
    with pytest.raises(CompileError) as caught:
        build(tiny_model(**{old: new}), "mps2-an386", cache=tmp_path)
    assert telling in str(caught.value)
    assert "overflowed" not in str(caught.value)


# ---- errors -------------------------------------------------------------------------------------------------------


def test_an_unknown_board_lists_the_known_ones(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"no firmware for board 'toaster'.*host, linux-aarch64, .*mps2-an386"):
        build(tiny_model(), "toaster", cache=cache)
    assert {"host", "mps2-an386", "mps2-an500", "mps3-an547"} <= set(boards())


def test_bare_metal_has_no_sanitizers(cache: Path) -> None:
    with pytest.raises(ConfigError, match="bare metal"):
        build(tiny_model(), "mps2-an386", cache=cache, sanitize="address,undefined")


def test_what_training_changes_counts_against_the_ram() -> None:
    """2,412 bytes of variables: what fits by itself does not fit with them."""
    model = trained_model()
    assert model.training is not None
    variables = tuple(
        Variable(name, "float32", (size,), (0,), (size,)) for name, size in (("w", 300), ("b", 3), ("w.momentum", 300))
    )
    trained = dataclasses.replace(model, training=dataclasses.replace(model.training, variables=variables))
    ram = model.arena_bytes + build_module.RUNNER_RAM_BYTES
    check_fits(model, 2**20, ram, 2**17)
    check_fits(trained, 2**20, ram + VARIABLES_BYTES, 2**17)
    told = rf"the arena, the variables, .* need {ram + 2412} bytes, the RAM is {ram + 2411}"
    with pytest.raises(CompileError, match=told):
        check_fits(trained, 2**20, ram + 2411, 2**17)


def test_an_image_tells_what_training_changes(cache: Path) -> None:
    memory = build(trained_model(), "mps2-an386", cache=cache).memory
    untrained = build(tiny_model(), "mps2-an386", cache=cache).memory
    assert (memory.variables_bytes, untrained.variables_bytes) == (VARIABLES_BYTES, 0)
    assert memory.weights_bytes == 4 * (INPUTS * CLASSES + CLASSES)
    # The C library keeps a few words of its own for expf and logf.
    assert 0 <= memory.static_ram_bytes - untrained.static_ram_bytes < 256


def test_mlperf_takes_int8_models_only(cache: Path) -> None:
    model = dataclasses.replace(tiny_model(), input=TensorSpec((16,), 1.0, 0, "float32"))
    with pytest.raises(ConfigError, match="'tiny' takes float32 and yields int8; MLPerf Tiny's are int8 models"):
        build(model, "host", cache=cache, personality="mlperf")


@pytest.mark.usefixtures("no_tools_of_pip")
@pytest.mark.parametrize(
    ("missing", "package"),
    [("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("cmake", "cmake"), ("ninja", "ninja-build")],
)
def test_a_missing_tool_names_its_package(
    missing: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in {"arm-none-eabi-gcc", "cmake", "ninja"} - {missing}:
        (tools / program).symlink_to(shutil.which(program) or "")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(ToolMissing, match=f"{missing} is not installed") as caught:
        build(tiny_model(), "mps2-an386", cache=tmp_path / "cache")
    assert f"apt-get install {package}" in caught.value.hint
    assert "pip install 'hil-lab[emulate-pip]'" in caught.value.hint
    assert not list((tmp_path / "cache").glob("builds/*"))


def test_a_compiler_without_its_c_library_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "arm-none-eabi-gcc"
    compiler.write_text('#!/bin/sh\ncase $1 in --version) echo "a compiler 1.0";; *) echo nano.specs;; esac\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ToolMissing) as caught:
        build(tiny_model(), "mps2-an386", cache=tmp_path / "cache")
    assert "libnewlib-arm-none-eabi" in caught.value.hint


def test_a_compile_error_shows_the_compilers_first_lines(cache: Path) -> None:
    with pytest.raises(CompileError, match=r"model\.c:\d+:\d+: error: .*nonsense"):
        build(tiny_model(**{"output[i] = (int8_t)(input[i] ^ 0x55)": "output[i] = nonsense"}), "host", cache=cache)


def test_a_full_disk_is_the_fault_of_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InfrastructureError, match="No space left on device") as caught:
        build(tiny_model(), "host", cache=tmp_path)
    assert "LAB_CACHE" in caught.value.hint


@pytest.mark.parametrize(
    ("printed", "room", "blamed"),
    [
        ("cc1: error: /tmp/x.s: No space left on device", True, True),
        ("ninja: error: WriteFile(x.ninja): File too large", True, True),
        ("CMake Error at FindPackageHandleStandardArgs.cmake:290 (message):", False, True),
        ("model.c:3: error: expected ';'", True, False),
    ],
)
def test_tools_that_fail_for_want_of_room(
    tmp_path: Path, printed: str, room: bool, blamed: bool
) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, usual if room else (30_000, usual[1]))
    refused = pytest.raises(InfrastructureError, match="cannot be written") if blamed else nullcontext()
    try:
        with refused, build_module._cache_errors(tmp_path):
            build_module._blame_the_disk(printed, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_tools_that_are_killed_have_failed_although_they_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGXFSZ, which a process gets that writes more than it may."""
    monkeypatch.setattr(Tools, "run", lambda *_, **__: subprocess.CompletedProcess((), -25, ""))
    with pytest.raises(CompileError, match="cmake ended with status -25"):
        build(tiny_model(), "host", cache=tmp_path)


def test_tools_that_succeed_without_an_image_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMake on a full disk: what it wrote of Ninja's file ends early, and asks for nothing."""
    done = subprocess.CompletedProcess((), 0, "ninja: no work to do.")
    monkeypatch.setattr(Tools, "run", lambda *_, **__: done)
    with pytest.raises(CompileError, match="there is no image"):
        build(tiny_model(), "host", cache=tmp_path)
