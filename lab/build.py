"""Firmware builds: a compiled model and a board give an image, cached by the content of all that goes into it."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from lab.artifact import Artifact, MemoryUse
from lab.build_folder import private_folder
from lab.build_tree import Tools, borrow, build_in, keep
from lab.compiler.model import CompiledModel
from lab.errors import CompileError, ConfigError, DoesNotFit, InfrastructureError, ToolMissing
from lab.progress import step
from lab.runtime_files import needed_files
from lab.system_packages import install

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware"
ELF_NAME = "firmware.elf"
BUILD_ID_DIGITS = 16
ARENA_GUARD_BYTES = 16  # MEMORY_ARENA_GUARD_BYTES in firmware/runner/memory.h

# What the runner itself takes at the least (measured on mps2-an386 with a model of no size): enough to say before a
# build that a model cannot fit. The linker has the last word.
RUNNER_FLASH_BYTES = 8 * 1024
RUNNER_RAM_BYTES = 23 * 1024
# Stacks of those: what a board has whose board.h says nothing else.
_STACK_BYTES = {"BOARD_STACK_BYTES": 16384, "BOARD_HANDLER_STACK_BYTES": 2048}

Personality: TypeAlias = Literal["runner", "mlperf"]
Console: TypeAlias = Literal["uart", "rtt"]
MlperfMode: TypeAlias = Literal["performance", "energy"]
MlperfModel: TypeAlias = Literal["kws01", "ic01", "vww01", "ad01"]
Toolchain: TypeAlias = Literal["", "arm-none-eabi", "zig"]
Sanitizers: TypeAlias = Literal["", "address,undefined", "thread"]
MLPERF_BUFFER_BYTES = 96 * 96 * 3  # BUFFER_BYTES in firmware/mlperf/dut.c

_SPEED_FLAGS = "-O2"
_HOSTED_BLOB_BYTES = 16 << 20  # HOSTED_BLOB_BYTES in firmware/hosted/hosted.h
_HOSTED_SCRATCH_BYTES = 64 << 10  # more than the runner keeps of it for itself
_BUILT_FROM = {".c", ".h", ".ld", ".cmake"}
_JOB_PEAKS = "job_peaks.c"
"""Of the runner, built only where peaks are asked for."""
_PIP = "pip install 'hil-lab[emulate-pip]'"
_UNWRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
}  # fmt: skip
# What CMake, Ninja and compilers say where they cannot write, which is no fault of what they compile; they do not
# always say it. A build takes twice as much room as what counts as none.
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")
_LEAST_ROOM_BYTES = 1 << 20
_PACKAGES = {
    "cmake": ("cmake",),
    "ninja": ("ninja-build",),
    "gcc": ("gcc",),
    "arm-none-eabi-gcc": ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi"),
    "aarch64-linux-gnu-gcc": ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
    "arm-linux-gnueabihf-gcc": ("gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross"),
    "x86_64-linux-gnu-gcc": ("gcc", "libc6-dev") if platform.machine() == "x86_64" else ("gcc-x86-64-linux-gnu",),
    "zig": (),
}
_ALSO_BY_PIP = {"cmake", "ninja", "arm-none-eabi-gcc", "zig"}
# Where compilers look for programs, headers and libraries besides their own folders.
_SEARCHED_BY_COMPILERS = ("COMPILER_PATH", "GCC_EXEC_PREFIX", "CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH")
# Zig's names by GCC's names of processor and floating-point unit. Zig leaves out what Arm sells as an option.
_ZIG_CPUS = {
    "cortex-m0": "cortex_m0",
    "cortex-m0plus": "cortex_m0plus",
    "cortex-m3": "cortex_m3",
    "cortex-m4": "cortex_m4",
    "cortex-m7": "cortex_m7",
    "cortex-m33": "cortex_m33+dsp",
    "cortex-m33+nodsp": "cortex_m33",
    "cortex-m55": "cortex_m55+dsp+mve_fp+fp_armv8d16",
}
_ZIG_FPUS = {
    "fpv4-sp-d16": "+vfp4d16sp",
    "fpv5-sp-d16": "+fp_armv8d16sp",
    "fpv5-d16": "+fp_armv8d16",
    "": "",
}


@dataclass(frozen=True)
class _Board:
    """What ``board.cmake`` says of a board."""

    name: str
    toolchain: str
    cpu_flags: str
    family: str

    @property
    def compiler(self) -> str:
        return {"host": "gcc", "zig": "zig"}.get(self.toolchain, f"{self.toolchain}-gcc")


@dataclass(frozen=True)
class _Options:
    test_jobs: bool
    sanitize: Sanitizers
    personality: Personality = "runner"
    mlperf_mode: MlperfMode = "performance"
    mlperf_model: MlperfModel = "kws01"
    console: Console = "uart"
    peaks: bool = False
    job_bytes: int = 0


# ---- public -------------------------------------------------------------------------------------------------------


def boards() -> tuple[str, ...]:
    """Names of the boards there is firmware for: the folders of ``firmware/boards`` with a ``board.cmake``."""
    return tuple(sorted(path.parent.name for path in FIRMWARE.glob("boards/*/board.cmake")))


def build(
    model: CompiledModel,
    board: str,
    *,
    cache: Path,
    test_jobs: bool = False,
    sanitize: Sanitizers = "",
    personality: Personality = "runner",
    mlperf_mode: MlperfMode = "performance",
    mlperf_model: MlperfModel = "kws01",
    toolchain: Toolchain = "",
    console: Console = "uart",
    peaks: bool = False,
    job_bytes: int = 0,
) -> Artifact:
    """Build the firmware with ``model`` for ``board``, or take the image from the cache.

    Args:
        model: the model to link in.
        board: a folder of ``firmware/boards``.
        cache: cache folder; may be shared by processes that build at the same time.
        test_jobs: link the jobs that crash, hang and overflow on purpose.
        sanitize: which sanitizers watch; hosted boards only.
        personality: ``runner`` speaks ``docs/wire.md``, ``mlperf`` MLPerf Tiny's protocol (``docs/mlperf.md``).
        mlperf_mode: how that personality tells time: as text, or as edges on the timestamp pin.
        mlperf_model: which benchmark it says it is; decides on the format of inputs and results.
        toolchain: which compiler; empty for what ``LAB_TOOLCHAIN`` says, else the board's own where it is installed,
            else Zig's where that is.
        console: the runner's line: the board's ``uart``, or ``rtt`` through a debug probe (:mod:`lab.transports.rtt`).
        peaks: link the job that measures what the device does at most (:mod:`lab.roofline`).
        job_bytes: that one job sends at most; a hosted board makes room for them, others have what their RAM leaves.

    Raises:
        ConfigError: no such board, a compiler that cannot build for it, sanitizers asked for on bare metal, or a model
            that benchmark cannot feed.
        ToolMissing: cmake, ninja or the compiler is not installed.
        CompileError: the compiler refuses the sources, or the image does not fit the board.
        InfrastructureError: the cache cannot be written.
    """
    described = _compiled_by(_read_board(board), toolchain or os.environ.get("LAB_TOOLCHAIN", ""))
    options = _Options(test_jobs, sanitize, personality, mlperf_mode, mlperf_model, console, peaks,
                       _room_bytes(job_bytes) if described.family == "hosted" else 0)  # fmt: skip
    if personality == "mlperf":
        _check_mlperf(model, options)
    if sanitize and described.family != "hosted":
        raise ConfigError(
            f"sanitizers need an operating system, and {board} is bare metal",
            hint="build for the board 'host' with them",
        )
    if console == "rtt" and described.family == "hosted":
        raise ConfigError(f"{board} is a process and has no debug probe for RTT", hint="leave out rtt: true")
    with _cache_errors(cache):
        version = _toolchain_version(described.compiler, cache)
        digest = _digest(model, described, options, version)
        folder = cache / "builds" / digest
        found = _load(folder)
        if found is not None:
            return found
        with step(f"building firmware for {board}", quiet_below_s=2):
            return _build_into(folder, model, described, options, version)


def runner_ram_bytes(board: str) -> int:
    """What the runner takes of a board's RAM at the least; less than ``RUNNER_RAM_BYTES`` where its stacks are smaller.

    Args:
        board: a folder of ``firmware/boards``.
    """
    header = FIRMWARE / "boards" / board / "board.h"
    text = header.read_text(encoding="utf-8") if header.is_file() else ""
    own = {name: int(size) for name, size in re.findall(r"^#define (BOARD_\w*STACK_BYTES) (\d+)u$", text, re.MULTILINE)}
    return RUNNER_RAM_BYTES + sum(own.get(name, size) - size for name, size in _STACK_BYTES.items())


def check_fits(
    model: CompiledModel, flash_bytes: int, ram_bytes: int, arena_limit_bytes: int, board: str = ""
) -> None:
    """Refuse a model that cannot fit a board, before anything is built.

    Args:
        model: the model.
        flash_bytes: flash of the board.
        ram_bytes: RAM of the board.
        arena_limit_bytes: most bytes a model's arena may take there.
        board: its folder of ``firmware/boards``, where it has one.

    Raises:
        DoesNotFit: with the sizes of every layer.
    """
    variables_bytes = 0 if model.training is None else model.training.variables_bytes
    in_ram = "the arena, the variables" if variables_bytes else "the arena"
    ram_needed = model.arena_bytes + variables_bytes + runner_ram_bytes(board)
    limits = (
        ("weights and the runner", "flash", model.weights_bytes + RUNNER_FLASH_BYTES, flash_bytes),
        ("the arena", "arena limit", model.arena_bytes, arena_limit_bytes),
        (f"{in_ram}, the stack and the runner", "RAM", ram_needed, ram_bytes),
    )
    for what, where, needed, allowed in limits:
        if needed > allowed:
            raise _does_not_fit(model, f"{what} of {model.name!r} need {needed} bytes, the {where} is {allowed} bytes")


def tool_path(program: str) -> Path | None:
    """Where a program is: in PATH, or where pip puts it (``zig`` only there); None where it is not installed."""
    if program == "zig":
        package = importlib.util.find_spec("ziglang")
        folders = [] if package is None else list(package.submodule_search_locations or [])
    else:
        folders = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    found = shutil.which(program, path=os.pathsep.join(folders)) if folders else None
    return None if found is None else Path(found)


# ---- what goes in -------------------------------------------------------------------------------------------------


def _read_board(board: str) -> _Board:
    path = FIRMWARE / "boards" / board / "board.cmake"
    if board not in boards():
        raise ConfigError(
            f"there is no firmware for board {board!r}; there is for {', '.join(boards())}",
            hint="docs/firmware.md says how to add a board",
        )
    settings = dict(re.findall(r"^set\((\w+)\s*(.*?)\)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    return _Board(board, settings["LAB_TOOLCHAIN"], settings["LAB_CPU_FLAGS"], settings["LAB_BOARD_FAMILY"])


def _compiled_by(board: _Board, wanted: str) -> _Board:
    """The board with the compiler that is to be used for it.

    Raises:
        ConfigError: that compiler cannot build for the board.
    """
    known = ("arm-none-eabi", "zig")
    if wanted not in ("", *known):
        raise ConfigError(
            f"toolchain {wanted!r} is not known; allowed: {', '.join(known)}",
            hint="correct or unset LAB_TOOLCHAIN",
        )
    if board.toolchain not in known or wanted == board.toolchain:
        return board
    if board.toolchain == "zig":
        if wanted:
            raise ConfigError(f"{wanted} cannot build for {board.name}; zig can", hint="unset LAB_TOOLCHAIN")
        return board
    if wanted == "zig" or (tool_path(board.compiler) is None and tool_path("zig") is not None):
        return replace(board, toolchain="zig", cpu_flags=_zig_flags(board))
    return board


def _zig_flags(board: _Board) -> str:
    """Zig's words for a board's GCC flags."""
    given = dict(flag.partition("=")[::2] for flag in board.cpu_flags.split())
    abi = "eabihf" if given.get("-mfloat-abi") == "hard" else "eabi"
    cpu, fpu = given.get("-mcpu", ""), given.get("-mfpu", "") if abi == "eabihf" else ""
    if cpu not in _ZIG_CPUS or fpu not in _ZIG_FPUS:
        raise ConfigError(
            f"zig has no words for the flags {board.cpu_flags!r} of board {board.name}",
            hint=f"known processors: {', '.join(_ZIG_CPUS)}; units: {', '.join(filter(None, _ZIG_FPUS))}",
        )
    return f"-target thumb-freestanding-{abi} -mcpu={_ZIG_CPUS[cpu]}{_ZIG_FPUS[fpu]}"


def _check_mlperf(model: CompiledModel, options: _Options) -> None:
    """Refuse what the firmware could only refuse at every command."""
    if options.test_jobs:
        raise ConfigError("the test jobs belong to the runner; the MLPerf Tiny personality has none")
    if (model.input.dtype, model.output.dtype) != ("int8", "int8"):
        raise ConfigError(
            f"{model.name!r} takes {model.input.dtype} and yields {model.output.dtype}; MLPerf Tiny's are int8 models"
        )
    loaded_bytes = model.input.size * (4 if options.mlperf_model == "ad01" else 1)
    if loaded_bytes > MLPERF_BUFFER_BYTES:
        raise ConfigError(
            f"{options.mlperf_model} loads {loaded_bytes} bytes for the input of {model.name!r}; "
            f"the device's buffer has {MLPERF_BUFFER_BYTES}"
        )
    if options.mlperf_model == "ad01" and model.input.size != model.output.size:
        raise ConfigError(
            f"ad01 compares the output with the input, but {model.name!r} has {model.input.size} inputs and "
            f"{model.output.size} outputs"
        )


def _runner_folders(board: _Board, personality: Personality) -> list[Path]:
    shared = FIRMWARE / "hosted" if board.family == "hosted" else FIRMWARE / "boards" / "common"
    folders = [FIRMWARE / "boards" / board.name, shared, FIRMWARE / "runner"]
    if board.toolchain == "zig":
        folders.append(FIRMWARE / "freestanding")
    return [*folders, FIRMWARE / "mlperf"] if personality == "mlperf" else folders


def _runtime_files(model: CompiledModel, board: _Board, personality: Personality, peaks: bool) -> list[Path]:
    """What the model and the runner need of the runtime."""
    runner = [path for folder in _runner_folders(board, personality) for path in folder.rglob("*.[ch]")]
    read = [path.read_text(encoding="utf-8") for path in runner if peaks or path.name != _JOB_PEAKS]
    return needed_files([*model.sources.values(), *read])


def _firmware_files(
    model: CompiledModel, board: _Board, personality: Personality = "runner", peaks: bool = False
) -> Iterator[Path]:
    yield FIRMWARE / "CMakeLists.txt"
    yield FIRMWARE / "toolchains" / f"{board.toolchain}.cmake"
    for folder in _runner_folders(board, personality):
        yield from sorted(path for path in folder.rglob("*") if path.suffix in _BUILT_FROM)
    yield from _runtime_files(model, board, personality, peaks)


def _digest(model: CompiledModel, board: _Board, options: _Options, toolchain: str) -> str:
    digest = hashlib.sha256()

    def add(name: str, content: bytes) -> None:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)

    for name, text in sorted(model.sources.items()):
        add(f"model/{name}", text.encode())
    for path in _firmware_files(model, board, options.personality, options.peaks):
        add(path.relative_to(FIRMWARE).as_posix(), path.read_bytes())
    add("board", f"{board.name} {board.cpu_flags}".encode())
    add("options", repr(options).encode())
    add("toolchain", toolchain.encode())
    return digest.hexdigest()


# ---- tools --------------------------------------------------------------------------------------------------------


def _way_out(program: str) -> str:
    by_system = [install(*_PACKAGES[program])] if _PACKAGES[program] else []
    return ", or ".join([*by_system, _PIP] if program in _ALSO_BY_PIP else by_system)


def _find_tool(program: str) -> Path:
    found = tool_path(program)
    if found is None:
        raise ToolMissing(
            f"{program} is not installed; building firmware needs it",
            hint=_way_out(program),
        )
    return found


def _toolchain_version(compiler: str, cache: Path) -> str:
    """First line of ``--version``, remembered in the cache as long as the program on disk is the same file."""
    path = _find_tool(compiler)
    return _remembered_version(compiler, path, *_file_of(path), cache)


def _file_of(program: Path) -> tuple[int, int]:
    """Time of change in ns and size in bytes: what changes with a program."""
    status = program.resolve().stat()
    return status.st_mtime_ns, status.st_size


@lru_cache
def _remembered_version(compiler: str, path: Path, mtime_ns: int, size: int, cache: Path) -> str:
    key = hashlib.sha256(f"{path}\0{mtime_ns}\0{size}".encode()).hexdigest()[:BUILD_ID_DIGITS]
    note = cache / "toolchains" / f"{compiler}-{key}"
    if note.is_file():
        return note.read_text(encoding="utf-8")
    ask = "version" if compiler == "zig" else "--version"
    output = subprocess.run([path, ask], capture_output=True, encoding="utf-8", check=False).stdout
    version = output.partition("\n")[0].strip()
    if not version:
        raise ToolMissing(f"{path} does not run: {ask} printed nothing", hint=f"anew: {_way_out(compiler)}")
    if compiler == "zig":
        version = f"zig {version} (clang, compiler-rt)"
    note.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(note, version)
    return version


def _check_newlib(compiler: Path) -> None:
    printed = subprocess.run(
        [compiler, "-print-file-name=nano.specs"], capture_output=True, encoding="utf-8", check=False
    ).stdout.strip()
    if not Path(printed).is_absolute():
        raise ToolMissing(f"{compiler.name} has no C library (nano.specs)", hint=install("libnewlib-arm-none-eabi"))


# ---- the cache ----------------------------------------------------------------------------------------------------


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise InfrastructureError(
            f"the build cache {cache} cannot be written: {error.strerror}",
            hint="free some space, or name another folder with LAB_CACHE",
        ) from error


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _load(folder: Path) -> Artifact | None:
    """The cached image; None where there is none, or it is damaged or that of another build."""
    try:
        described = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
        image = (folder / ELF_NAME).read_bytes()
        memory = MemoryUse(**described.pop("memory"))
        artifact = Artifact(path=folder / ELF_NAME, memory=memory, **described, cached=True)
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None
    own = folder.name.startswith(artifact.build_id) and hashlib.sha256(image).hexdigest() == artifact.digest
    return artifact if own else None


def _save(artifact: Artifact, folder: Path) -> None:
    described = asdict(artifact)
    del described["path"], described["cached"]
    (folder / "artifact.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


def _publish(finished: Path, folder: Path) -> None:
    """Move a finished build to its place. Another process may have put the same content there meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        try:
            finished.rename(folder)
            return
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        if _load(folder) is not None:
            return
        # Damaged: moved away first, since removing takes time and renaming does not.
        damaged = folder.with_name(f".damaged-{uuid.uuid4().hex}")
        folder.rename(damaged)
        shutil.rmtree(damaged)


# ---- building -----------------------------------------------------------------------------------------------------


def _build_into(folder: Path, model: CompiledModel, board: _Board, options: _Options, toolchain: str) -> Artifact:
    cache, build_id = folder.parents[1], folder.name[:BUILD_ID_DIGITS]
    sources = {**model.sources, "lab_build_id.h": f'#define LAB_BUILD_ID "{build_id}"\n'}
    files = {name: text.encode() for name, text in sources.items()} | dict(model.binaries)
    with private_folder(folder.parent) as temporary:
        finished = temporary / "finished"
        finished.mkdir()
        tools = _tools(board, cache)
        name, inputs = _tree_name(board, options, toolchain, tools), _tree_inputs()
        # Resolved, since compilers write the folder they run in as the system names it.
        with borrow((cache / "trees").resolve(), name, inputs, private=temporary.resolve() / "tree") as tree:
            settings = _settings(model, board, options, tree.model)
            printed = build_in(tree, files, settings, tools, FIRMWARE)
            if printed:
                _blame_the_disk(printed, cache)
                raise _explain(printed, model, board)
            shutil.copy(tree.objects / ELF_NAME, finished / ELF_NAME)
            model_objects = sorted(tree.objects.glob("CMakeFiles/lab_model.dir/**/*.o*"))
            memory = _memory_use(finished / ELF_NAME, model_objects)
            keep(tree, settings, tools)
        artifact = Artifact(
            path=folder / ELF_NAME,
            board=board.name,
            build_id=build_id,
            digest=hashlib.sha256((finished / ELF_NAME).read_bytes()).hexdigest(),
            toolchain=toolchain,
            flags=f"{board.cpu_flags} {_SPEED_FLAGS}".strip(),
            memory=memory,
        )
        _save(artifact, finished)
        _publish(finished, folder)
    return replace(artifact, cached=False)


def _blame_the_disk(printed: str, cache: Path) -> None:
    """Raise what this process would have met where the tools that failed found no room; return where there is some."""
    if full := _FULL.search(printed):
        raise OSError(errno.ENOSPC, full[0])
    with tempfile.TemporaryFile(dir=cache) as room:
        room.write(bytes(_LEAST_ROOM_BYTES))


def _tree_name(board: _Board, options: _Options, toolchain: str, tools: Tools) -> str:
    """What builds have in common that may share objects; CMake and Ninja see what else differs, notes the files."""
    compiler = _find_tool(board.compiler)
    programs = [(str(path), *_file_of(path)) for path in (compiler, tools.cmake, tools.ninja)]
    searched = [os.environ.get(name, "") for name in _SEARCHED_BY_COMPILERS]
    common = repr((str(FIRMWARE), board.toolchain, board.cpu_flags, options.sanitize, toolchain, programs, searched))
    return f"{board.toolchain}-{hashlib.sha256(common.encode()).hexdigest()[:BUILD_ID_DIGITS]}"


def _tree_inputs() -> str:
    """Digest of all files of the firmware."""
    files = sorted(path for path in FIRMWARE.rglob("*") if path.suffix in _BUILT_FROM or path.name == "CMakeLists.txt")
    named = [(path.relative_to(FIRMWARE).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return hashlib.sha256(repr(named).encode()).hexdigest()


def _settings(model: CompiledModel, board: _Board, options: _Options, sources: Path) -> dict[str, str]:
    """What ``firmware/CMakeLists.txt`` asks for; paths with slashes, since CMake reads a backslash as an escape."""
    settings = {
        "CMAKE_MAKE_PROGRAM": _find_tool("ninja").as_posix(),
        "LAB_BOARD": board.name,
        "LAB_MODEL_DIR": sources.as_posix(),
        "LAB_RUNTIME_SOURCES": ";".join(
            path.as_posix()
            for path in _runtime_files(model, board, options.personality, options.peaks)
            if path.suffix == ".c"
        ),
        "LAB_TEST_JOBS": "ON" if options.test_jobs else "OFF",
        "LAB_PEAKS": "ON" if options.peaks else "OFF",
        "LAB_SANITIZE": options.sanitize,
        "LAB_PERSONALITY": options.personality,
        "LAB_CONSOLE": options.console,
        "LAB_MLPERF_MODE": options.mlperf_mode,
        "LAB_MLPERF_MODEL": options.mlperf_model,
        "LAB_BLOB_BYTES": _hosted_blob_bytes(model, options.job_bytes),
    }
    if board.toolchain == "zig":
        settings |= {"LAB_ZIG": _find_tool("zig").as_posix(), "LAB_ZIG_FLAGS": board.cpu_flags}
    return settings


def _room_bytes(job_bytes: int) -> int:
    """Whole ones of the usual room that a job needs, some of which is the runner's; 0 where one of them does."""
    rooms = -(-(job_bytes + _HOSTED_SCRATCH_BYTES) // _HOSTED_BLOB_BYTES)
    return rooms * _HOSTED_BLOB_BYTES if rooms > 1 else 0


def _hosted_blob_bytes(model: CompiledModel, room_bytes: int = 0) -> str:
    """Room for blobs in a process: the usual or more, and a checkpoint of the model's variables, where that takes half
    of the usual or more; empty for the usual. A process is given memory as it touches it, so that room costs where it
    is used."""
    variables = 0 if model.training is None else model.training.variables_bytes
    kept = -(-variables // _HOSTED_BLOB_BYTES) * _HOSTED_BLOB_BYTES if 2 * variables >= _HOSTED_BLOB_BYTES else 0
    return str(kept + (room_bytes or _HOSTED_BLOB_BYTES)) if kept or room_bytes else ""


def _tools(board: _Board, cache: Path) -> Tools:
    cmake, ninja = _find_tool("cmake"), _find_tool("ninja")
    if board.toolchain == "arm-none-eabi":
        _check_newlib(_find_tool(board.compiler))
    # Only the toolchain file decides on the compiler: variables such as CFLAGS would change the image unseen.
    steering = {"CC", "CFLAGS", "CPPFLAGS", "LDFLAGS"}
    environment = {key: value for key, value in os.environ.items() if key not in steering}
    # Zig builds its run-time library once for each processor: tens of seconds, if it may not keep it.
    zig_cache = str(cache / "zig")
    environment |= {"LC_ALL": "C", "ZIG_GLOBAL_CACHE_DIR": zig_cache, "ZIG_LOCAL_CACHE_DIR": zig_cache}
    return Tools(cmake, ninja, environment)


def _explain(output: str, model: CompiledModel, board: _Board) -> CompileError:
    overflow = re.search(r"region [`'](\w+)' overflowed by (\d+) bytes", output)
    if overflow:
        region = "flash" if overflow[1] == "FLASH" else overflow[1]
        return _does_not_fit(model, f"{model.name!r} needs {overflow[2]} bytes more {region} than {board.name} has")
    lines = output.splitlines()
    telling = [line for line in lines if re.search(r"error:|undefined reference|CMake Error", line)]
    shown = "\n    ".join((telling or lines[-5:])[:5])
    return CompileError(
        f"the firmware for {board.name} with model {model.name!r} does not compile:\n    {shown}",
        hint="generated or runtime C is at fault, not your module: report it with these lines",
    )


def _does_not_fit(model: CompiledModel, message: str) -> DoesNotFit:
    rows = [
        (layer.name, layer.operator, layer.weights_bytes, _bytes(layer.input_shape), _bytes(layer.output_shape))
        for layer in model.layers
    ]
    width = max([len("layer"), *(len(row[0]) for row in rows)])
    table = [f"    {'layer':{width}} {'operator':18} {'weights':>9} {'input':>9} {'output':>9}"]
    table += [f"    {n:{width}} {o:18} {w:9} {i:9} {out:9}" for n, o, w, i, out in rows]
    table.append(f"    {'all':{width}} {'':18} {model.weights_bytes:9}   arena {model.arena_bytes} bytes")
    hint = "make the largest layer smaller, or choose a board with more memory"
    training = model.training
    if training is not None:
        table.append(
            f"    training: arena {training.arena_bytes} bytes ({training.lower_bound_bytes} live at once), trained "
            f"variables {training.variables_bytes} bytes"
        )
        hint = "train fewer layers or channels (`lab compile` shows what each keeps), or take a board with more memory"
    return DoesNotFit("\n".join([message, *table]), hint=hint)


def _bytes(shape: Iterable[int]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


# ---- reading ELF --------------------------------------------------------------------------------------------------

_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR, _SHF_MERGE = 1, 2, 4, 16


def _memory_use(elf: Path, model_objects: Iterable[Path]) -> MemoryUse:
    flash = ram = 0
    model_objects = tuple(model_objects)
    variables = sum(_variable_bytes(path) for path in model_objects)
    with elf.open("rb") as stream:
        image = ELFFile(stream)
        for section in image.iter_sections():
            # What is left of RAM holds blobs: room for the host's data, not use by the firmware.
            if section["sh_flags"] & _SHF_ALLOC and section.name != ".blob_store":
                flash += section["sh_size"] if section["sh_type"] != "SHT_NOBITS" else 0
                ram += section["sh_size"] if section["sh_flags"] & _SHF_WRITE else 0
        sizes = dict.fromkeys(("lab_arena", "lab_stack", "hosted_blob_store"), 0)
        symbols = image.get_section_by_name(".symtab")
        for symbol in symbols.iter_symbols() if isinstance(symbols, SymbolTableSection) else ():
            if symbol.name in sizes:
                sizes[symbol.name] = int(symbol["st_size"])
    return MemoryUse(
        flash_bytes=flash,
        weights_bytes=sum(_constant_bytes(path) for path in model_objects),
        static_ram_bytes=ram - sum(sizes.values()) - variables,
        arena_bytes=sizes["lab_arena"] - ARENA_GUARD_BYTES,
        stack_bytes=sizes["lab_stack"],
        variables_bytes=variables,
    )


def _constant_bytes(path: Path) -> int:
    """Constants of an object file without its strings and tables of pointers."""
    with path.open("rb") as stream:
        sections = {section.name: section for section in ELFFile(stream).iter_sections()}
    return sum(
        int(section["sh_size"])
        for name, section in sections.items()
        if name.startswith(".rodata")
        and not section["sh_flags"] & (_SHF_WRITE | _SHF_EXECINSTR | _SHF_MERGE)
        and not {f".rel{name}", f".rela{name}"} & sections.keys()
    )


def _variable_bytes(path: Path) -> int:
    """What an object file writes at run time."""
    with path.open("rb") as stream:
        return sum(
            int(section["sh_size"])
            for section in ELFFile(stream).iter_sections()
            if section.name.startswith((".data", ".bss")) and not section.name.startswith(".data.rel.ro")
        )
