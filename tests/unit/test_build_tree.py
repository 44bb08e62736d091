"""Kept build trees: what is compiled anew, what throws a tree away, and that a tree of no use breaks no build."""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers.toolchain import needs_host_compiler, tiny_model

import lab.build
import lab.build_tree
from lab.artifact import Artifact
from lab.build import FIRMWARE, Console, Toolchain, build, tool_path
from lab.build_tree import BuildTree, Tools, borrow, build_in, keep
from lab.compiler.model import CompiledModel
from lab.filelock import try_lock
from lab.paths import cache_dir

pytestmark = needs_host_compiler

GCC = shutil.which("gcc")
LONG_AGO_NS = 1_000_000_000 * 10**9
PROJECT = """cmake_minimum_required(VERSION 3.18)
project(small C)
add_library(lab_model OBJECT ${LAB_MODEL_DIR}/model.c)
add_executable(firmware ${SOURCES} $<TARGET_OBJECTS:lab_model>)
target_include_directories(firmware PRIVATE ${CMAKE_SOURCE_DIR} ${OUTSIDE})
set_target_properties(firmware PROPERTIES SUFFIX .elf)
"""


def logging_compiler(folder: Path, log: Path, extra: str = "") -> None:
    """A compiler ``gcc`` that writes down what it compiles."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gcc"
    path.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {GCC} {extra} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def compiled(log: Path) -> list[str]:
    """The names of the C files that were compiled since the last call."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    # CMake's own tries are targets called cmTC.
    return sorted(Path(line.split()[-1]).name for line in lines if " -c " in line and "cmTC" not in line)


@dataclass
class Small:
    """A project of one C file of its own, one header, one header outside, and a model; its program says all numbers."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> Small:
        (root / "project").mkdir(parents=True)
        (root / "outside").mkdir()
        (root / "project/CMakeLists.txt").write_text(PROJECT)
        (root / "project/kernel.h").write_text("#define KERNEL 1\n")
        (root / "outside/outside.h").write_text("#define OUTSIDE 2\n")
        (root / "project/kernel.c").write_text(
            '#include "kernel.h"\n#include "outside.h"\nint kernel(void);\n'
            "int kernel(void) { return KERNEL * 10 + OUTSIDE; }\n"
        )
        (root / "project/more.c").write_text("int more(void);\nint more(void) { return 0; }\n")
        logging_compiler(root / "bin", root / "log")
        return cls(root)

    @property
    def tools(self) -> Tools:
        cmake, ninja = lab.build.tool_path("cmake"), lab.build.tool_path("ninja")
        assert cmake is not None
        assert ninja is not None
        return Tools(cmake, ninja, os.environ)

    @property
    def inputs(self) -> str:
        return "".join(path.read_text() for path in sorted((self.root / "project").iterdir()))

    def settings(self, tree: BuildTree, sources: str) -> dict[str, str]:
        return {
            "CMAKE_C_COMPILER": str(self.root / "bin/gcc"),
            "LAB_MODEL_DIR": str(tree.model),
            "OUTSIDE": str(self.root / "outside"),
            "SOURCES": sources,
        }

    @contextmanager
    def tree(self) -> Iterator[BuildTree]:
        with borrow(self.root / "cache", "small", self.inputs, self.root / "private") as tree:
            yield tree

    def build_in(self, tree: BuildTree, model: str, sources: str = "kernel.c") -> str:
        files = {"model.c": model.encode()}
        return build_in(tree, files, self.settings(tree, sources), self.tools, self.root / "project")

    def result(self, number: int, sources: str = "kernel.c") -> tuple[int, list[str]]:
        """What the program built with that number returns, and what was compiled for it."""
        model = f"int kernel(void);\nint main(void) {{ return {number} * 100 + kernel(); }}\n"
        with self.tree() as tree:
            assert self.build_in(tree, model, sources) == ""
            returned = subprocess.run([tree.objects / "firmware.elf"], check=False).returncode
            keep(tree, self.settings(tree, sources), self.tools)
        return returned, compiled(self.root / "log")


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small.at(tmp_path)


def rewrite(path: Path, text: str) -> None:
    """Other content with a time before that of every object."""
    path.write_text(text)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


# ---- what is compiled ---------------------------------------------------------------------------------------------


def test_the_next_model_compiles_the_model_only(small: Small) -> None:
    assert small.result(1) == (112, ["kernel.c", "model.c"])
    assert small.result(2) == (212, ["model.c"])
    assert small.result(2) == (212, ["model.c"]), "nothing of a model is kept, so nothing of it can be stale"


def test_sources_come_and_go(small: Small) -> None:
    small.result(1)
    assert small.result(1, "kernel.c;more.c") == (112, ["model.c", "more.c"])
    assert small.result(2) == (212, ["model.c"])
    assert small.result(1, "kernel.c;more.c") == (112, ["model.c"])


@pytest.mark.parametrize(
    ("file", "text", "returned"),
    [("project/kernel.h", "#define KERNEL 2\n", 122), ("outside/outside.h", "#define OUTSIDE 3\n", 113)],
)
def test_a_changed_header_is_seen_whatever_its_time(small: Small, file: str, text: str, returned: int) -> None:
    small.result(1)
    before = (small.root / file).read_text()
    rewrite(small.root / file, text)
    assert small.result(1) == (returned, ["kernel.c", "model.c"])
    rewrite(small.root / file, before)
    assert small.result(1) == (112, ["kernel.c", "model.c"])


def test_a_header_of_an_object_that_a_build_between_did_not_need_is_seen(small: Small) -> None:
    """The object stays in the tree, but Ninja lists only what the last build was made of."""
    (small.root / "project/more.c").write_text("int kernel(void);\nint kernel(void) { return 0; }\n")
    assert small.result(1, "kernel.c") == (112, ["kernel.c", "model.c"])
    assert small.result(1, "more.c") == (100, ["model.c", "more.c"])
    rewrite(small.root / "outside/outside.h", "#define OUTSIDE 7\n")
    assert small.result(1, "kernel.c") == (117, ["kernel.c", "model.c"])


# ---- what throws a tree away --------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "object cut": ("objects/CMakeFiles/firmware.dir/kernel.c.o", truncate),
    "object changed": ("objects/CMakeFiles/firmware.dir/kernel.c.o", flip),
    "object gone": ("objects/CMakeFiles/firmware.dir/kernel.c.o", Path.unlink),
    "log of Ninja changed": ("objects/.ninja_log", truncate),
    "settings of CMake gone": ("objects/CMakeCache.txt", Path.unlink),
    "file too many": ("objects/stranger", Path.touch),
    "note cut": ("note.json", truncate),
    "note gone": ("note.json", Path.unlink),
    "note of another kind": ("note.json", lambda path: rewrite(path, "[]")),
    "note without its lists": ("note.json", lambda path: rewrite(path, '{"inputs": "", "settings": {}, "read": []}')),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a tree of a build; tests take copies."""
    small = Small.at(tmp_path_factory.mktemp("built"))
    small.result(1)
    return small.root


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tree_is_thrown_away(built: Path, tmp_path: Path, damage: str) -> None:
    small = Small(shutil.copytree(built, tmp_path / "copy"))
    with small.tree() as tree:
        assert tree.used
    name, harm = DAMAGES[damage]
    harm(small.root / "cache/small/0" / name)
    with small.tree() as tree:
        assert not tree.used
        assert not tree.folder.exists()


def test_a_build_that_did_not_come_to_its_end_leaves_no_tree(small: Small) -> None:
    small.result(1)
    with small.tree() as tree:
        assert small.build_in(tree, "int main(void) { return 0; }\n", "more.c") == ""
    with small.tree() as tree:
        assert not tree.used
    assert small.result(1)[0] == 112


def test_a_model_that_does_not_compile_is_tried_in_an_empty_tree_as_well(small: Small) -> None:
    small.result(1)
    with small.tree() as tree:
        printed = small.build_in(tree, "int main(void) { return nonsense; }\n")
    assert "nonsense" in printed
    assert compiled(small.root / "log") == ["kernel.c", "model.c", "model.c"]
    assert small.result(2) == (212, ["kernel.c", "model.c"])


def test_a_tree_that_breaks_a_build_is_replaced_by_a_fresh_one(small: Small) -> None:
    small.result(1)
    with small.tree() as tree:
        (tree.objects / "build.ninja").write_text("nonsense\n")
        assert small.build_in(tree, "int kernel(void);\nint main(void) { return kernel(); }\n") == ""
    assert compiled(small.root / "log") == ["kernel.c", "model.c"]


# ---- who may build where ------------------------------------------------------------------------------------------


def test_nobody_waits_and_nobody_shares(small: Small) -> None:
    with small.tree() as first, small.tree() as second:
        assert first.folder != second.folder
        assert small.build_in(first, "int main(void) { return 0; }\n", "more.c") == ""
        assert small.build_in(second, "int main(void) { return 0; }\n", "more.c") == ""
    with small.tree() as again:
        assert again.folder == first.folder


def no_locks(*_: object, **__: object) -> bool:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux tells when a process ends that is nobody's child")
def test_compilers_that_outlive_a_killed_lab_keep_their_tree(small: Small) -> None:
    path = small.root / "lock"
    ours, others = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert try_lock(ours)
    outliving = int(small.tools.run("sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!", lock=ours).stdout)
    ended = os.pidfd_open(outliving)
    os.close(ours)
    assert not try_lock(others)
    os.kill(outliving, signal.SIGKILL)
    select.select([ended], [], [])
    assert try_lock(others)
    for descriptor in (others, ended):
        os.close(descriptor)


def test_without_locks_a_build_is_private(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    small.result(1)
    monkeypatch.setattr(lab.build_tree, "try_lock", no_locks)
    assert small.result(2) == (212, ["kernel.c", "model.c"])
    with small.tree() as tree:
        assert tree.folder == small.root / "private"


def test_without_a_folder_for_trees_a_build_is_private(small: Small) -> None:
    (small.root / "cache").write_text("in the way")
    assert small.result(1)[0] == 112
    assert (small.root / "cache").read_text() == "in the way"


def test_a_tree_that_cannot_be_removed_is_left_alone(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    small.result(1)
    truncate(small.root / "cache/small/0/note.json")

    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with small.tree() as tree:
            assert tree.folder == small.root / "private"


def test_a_note_that_cannot_be_written_fails_no_build(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(self: Path, text: str, **options: str) -> int:
        if self.name == "note.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert small.result(1)[0] == 112
    with small.tree() as tree:
        assert not tree.used


# ---- the firmware -------------------------------------------------------------------------------------------------


def changed(number: int, include: str = "", file: str = "") -> CompiledModel:
    """The tiny model with another number in it, and maybe with another kernel or a file more."""
    model: CompiledModel = tiny_model()
    sources = {"more.c": file} if file else {}
    sources |= model.sources
    sources["model.c"] = sources["model.c"].replace("0x55", hex(number)).replace("#include", f"{include}\n#include", 1)
    assert sources["model.c"] != model.sources["model.c"]
    return replace(model, sources=sources)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the host's compiler, which now is a script, is called with."""
    logging_compiler(tmp_path / "bin", tmp_path / "log")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path / "log"


def test_a_new_model_compiles_itself_and_what_knows_its_size(tmp_path: Path, log: Path) -> None:
    first = build(tiny_model(), "host", cache=tmp_path)
    assert {"session.c", "hosted.c", "lab_training.c", "model.c"} < set(compiled(log))
    second = build(changed(0x56), "host", cache=tmp_path)
    assert compiled(log) == ["build_id.c", "memory.c", "model.c"]
    assert second.digest != first.digest
    build(changed(0x57, ADD), "host", cache=tmp_path)
    with_a_kernel = compiled(log)
    assert "lab_add.c" in with_a_kernel
    assert "session.c" not in with_a_kernel


@dataclass(frozen=True)
class Case:
    """A build, one of several in the same tree."""

    number: int
    board: str
    include: str = ""
    file: str = ""
    test_jobs: bool = False
    console: Console = "uart"
    toolchain: Toolchain = ""

    def build(self, cache: Path) -> Artifact:
        return build(
            changed(self.number, self.include, self.file),
            self.board,
            cache=cache,
            test_jobs=self.test_jobs,
            console=self.console,
            toolchain=self.toolchain,
        )


ADD = '#include "lab_add.h"'
CASES = {
    "gcc": (
        Case(1, "host"),
        Case(2, "host", ADD, test_jobs=True),
        Case(3, "host", file="typedef int other;\n"),
    ),
    "arm-none-eabi-gcc": (
        Case(1, "mps2-an386", toolchain="arm-none-eabi"),
        Case(2, "nrf52840-dk", console="rtt", toolchain="arm-none-eabi"),
        Case(3, "mps2-an386", ADD, test_jobs=True, toolchain="arm-none-eabi"),
    ),
    "zig": (Case(1, "mps2-an386", toolchain="zig"), Case(2, "mps2-an386", ADD, toolchain="zig")),
}


@pytest.mark.parametrize("compiler", CASES)
def test_a_kept_tree_gives_the_images_that_an_empty_cache_gives(tmp_path: Path, compiler: str) -> None:
    """One tree for boards, options, kernels and files that come and go; the last one is built in another cache too."""
    if tool_path(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    caches = tmp_path / "warm", tmp_path / "cold"
    (cache_dir() / "zig").mkdir(parents=True, exist_ok=True)
    for cache in caches:
        cache.mkdir()
        (cache / "zig").symlink_to(cache_dir() / "zig")  # Zig's run-time library takes tens of seconds
    warm = [case.build(caches[0]) for case in CASES[compiler]]
    assert len({image.digest for image in warm}) == len(warm)
    assert len(list((caches[0] / "trees").iterdir())) == 1
    cold = CASES[compiler][-1].build(caches[1])
    assert (cold.build_id, cold.digest, cold.memory) == (warm[-1].build_id, warm[-1].digest, warm[-1].memory)


def test_a_changed_header_of_the_firmware_gives_the_image_of_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(lab.build.FIRMWARE, firmware)
    monkeypatch.setattr(lab.build, "FIRMWARE", firmware)
    monkeypatch.setattr("lab.runtime_files.RUNTIME", firmware / "runtime")
    build(changed(1), "host", cache=tmp_path / "warm")
    header = firmware / "runner/memory.h"
    text = header.read_text()
    assert "GUARD_BYTES 64u" in text
    rewrite(header, text.replace("GUARD_BYTES 64u", "GUARD_BYTES 32u"))
    warm = build(changed(1), "host", cache=tmp_path / "warm")
    cold = build(changed(1), "host", cache=tmp_path / "cold")
    assert (warm.build_id, warm.digest) == (cold.build_id, cold.digest)


def test_trees_are_shared_by_what_has_the_same_compiler_and_processor() -> None:
    tools, plain = Small(Path("/nowhere")).tools, lab.build._Options(False, "")

    def name(board: str, options: lab.build._Options = plain, version: str = "1", toolchain: str = "") -> str:
        described = lab.build._compiled_by(lab.build._read_board(board), toolchain)
        return lab.build._tree_name(described, options, version, tools)

    assert name("host") == name("host", lab.build._Options(True, "", "mlperf"))
    apart = [name("host"), name("host", lab.build._Options(False, "thread")), name("host", version="2")]
    assert len(set(apart)) == 3


def test_definitions_change_no_file_of_the_runner_that_does_not_see_them(tmp_path: Path) -> None:
    """``lab_runner`` of CMakeLists.txt is compiled without them."""
    seen = {"jobs.c", "region.c", "job_test.c", "memory.c", "build_id.c"}
    definitions = [
        "-DLAB_TEST_JOBS", "-DLAB_COUNT_JOB", "-DLAB_PEAKS", "-DLAB_MARKER_SHIFT=7u", "-DLAB_MARKER_CLEAR_SHIFT=23u",
    ]  # fmt: skip
    texts = [path.read_text() for path in FIRMWARE.glob("boards/*/board.cmake")]
    used = {word for text in texts for word in re.findall(r"LAB_MARKER\w+=", text)}
    assert {f"-D{word}" for word in used} == {definition[: definition.index("=") + 1] for definition in definitions[3:]}
    files = sorted(path for path in (FIRMWARE / "runner").glob("*.c") if path.name not in seen)
    assert len(files) > 8
    for file in files:
        objects = [tmp_path / f"{file.stem}.o", tmp_path / f"{file.stem}.defined.o"]
        for output, given in zip(objects, ([], definitions), strict=True):
            command = ["gcc", "-O1", "-c", f"-I{FIRMWARE / 'runtime'}", *given, str(file), "-o", str(output)]
            subprocess.run(command, check=True)
        assert objects[0].read_bytes() == objects[1].read_bytes(), file.name


def test_another_compiler_of_the_same_version_shares_no_tree(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (lab.build._read_board("host"), lab.build._Options(False, ""), "gcc 1", Small(tmp_path).tools)
    names = [lab.build._tree_name(*arguments)]
    logging_compiler(tmp_path / "bin", log, extra="-fno-inline")
    names.append(lab.build._tree_name(*arguments))
    logging_compiler(tmp_path / "other", log, extra="-fno-inline")
    monkeypatch.setenv("PATH", str(tmp_path / "other"), prepend=os.pathsep)
    names.append(lab.build._tree_name(*arguments))
    monkeypatch.setenv("CPATH", "/elsewhere")
    names.append(lab.build._tree_name(*arguments))
    assert len(set(names)) == 4


def test_a_cache_that_can_keep_no_trees_builds_as_well(tmp_path: Path) -> None:
    (tmp_path / "trees").write_text("in the way")
    first = build(tiny_model(), "host", cache=tmp_path)
    assert build(tiny_model(), "host", cache=tmp_path).cached
    assert (tmp_path / "trees").read_text() == "in the way"
    assert first.path.is_file()
    assert [path.name for path in (tmp_path / "builds").iterdir()] == [first.path.parent.name]
