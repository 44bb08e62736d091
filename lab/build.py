"""Firmware builds: a compiled model and a board give an image, cached by the content of all that goes into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
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
from lab.compiler.model import CompiledModel
from lab.errors import CompileError, ConfigError, InfrastructureError, ToolMissing
from lab.progress import step
from lab.runtime_files import needed_files

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware"
ELF_NAME = "firmware.elf"
BUILD_ID_DIGITS = 16
ARENA_GUARD_BYTES = 16  # MEMORY_ARENA_GUARD_BYTES in firmware/runner/memory.h

# What the runner itself takes at the least (measured on mps2-an386 with a model of no size): enough to say before a
# build that a model cannot fit. The linker has the last word.
RUNNER_FLASH_BYTES = 8 * 1024
RUNNER_RAM_BYTES = 23 * 1024

Personality: TypeAlias = Literal["runner", "mlperf"]
MlperfMode: TypeAlias = Literal["performance", "energy"]
MlperfModel: TypeAlias = Literal["kws01", "ic01", "vww01", "ad01"]
Sanitizers: TypeAlias = Literal["", "address,undefined", "thread"]
MLPERF_BUFFER_BYTES = 96 * 96 * 3  # BUFFER_BYTES in firmware/mlperf/dut.c

_SPEED_FLAGS = "-O2"
_PACKAGES = {
    "cmake": "cmake",
    "ninja": "ninja-build",
    "gcc": "gcc",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
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
        return "gcc" if self.toolchain == "host" else f"{self.toolchain}-gcc"


@dataclass(frozen=True)
class _Options:
    test_jobs: bool
    sanitize: Sanitizers
    personality: Personality = "runner"
    mlperf_mode: MlperfMode = "performance"
    mlperf_model: MlperfModel = "kws01"


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

    Raises:
        ConfigError: no such board, sanitizers asked for on bare metal, or a model that benchmark cannot feed.
        ToolMissing: cmake, ninja or the compiler is not installed.
        CompileError: the compiler refuses the sources, or the image does not fit the board.
        InfrastructureError: the cache cannot be written.
    """
    described = _read_board(board)
    options = _Options(test_jobs, sanitize, personality, mlperf_mode, mlperf_model)
    if personality == "mlperf":
        _check_mlperf(model, options)
    if sanitize and described.family != "hosted":
        raise ConfigError(
            f"sanitizers need an operating system, and {board} is bare metal",
            hint="build for the board 'host' with them",
        )
    with _cache_errors(cache):
        toolchain = _toolchain_version(described.compiler, cache)
        digest = _digest(model, described, options, toolchain)
        folder = cache / "builds" / digest
        found = _load(folder)
        if found is not None:
            return found
        with step(f"building firmware for {board}", quiet_below_s=2):
            return _build_into(folder, model, described, options, toolchain)


def check_fits(model: CompiledModel, flash_bytes: int, ram_bytes: int, arena_limit_bytes: int) -> None:
    """Refuse a model that cannot fit a board, before anything is built.

    Args:
        model: the model.
        flash_bytes: flash of the board.
        ram_bytes: RAM of the board.
        arena_limit_bytes: most bytes a model's arena may take there.

    Raises:
        CompileError: with the sizes of every layer.
    """
    variables_bytes = 0 if model.training is None else model.training.variables_bytes
    in_ram = "the arena, the variables" if variables_bytes else "the arena"
    ram_needed = model.arena_bytes + variables_bytes + RUNNER_RAM_BYTES
    limits = (
        ("weights and the runner", "flash", model.weights_bytes + RUNNER_FLASH_BYTES, flash_bytes),
        ("the arena", "arena limit", model.arena_bytes, arena_limit_bytes),
        (f"{in_ram}, the stack and the runner", "RAM", ram_needed, ram_bytes),
    )
    for what, where, needed, allowed in limits:
        if needed > allowed:
            raise _does_not_fit(model, f"{what} of {model.name!r} need {needed} bytes, the {where} is {allowed} bytes")


def symbolize(elf: Path, address: int) -> str:
    """``function at file:line`` of a code address; as much of that as the image tells, at least the address in hex.

    Args:
        elf: the image.
        address: as the device reports it; the Thumb bit is ignored.
    """
    with elf.open("rb") as stream:
        image = ELFFile(stream)
        if image["e_machine"] == "EM_ARM":
            address &= ~1
        function = _function_at(image, address)
        line = _line_at(image, address) if function else ""
    where = function or f"0x{address:08x}"
    return f"{where} at {line}" if line else where


# ---- what goes in -------------------------------------------------------------------------------------------------


def _read_board(board: str) -> _Board:
    path = FIRMWARE / "boards" / board / "board.cmake"
    if board not in boards():
        raise ConfigError(
            f"there is no firmware for board {board!r}; there is for {', '.join(boards())}",
            hint="docs/firmware.md says how to add a board",
        )
    settings = dict(re.findall(r"^set\((\w+)\s*(.*?)\)$", path.read_text(), re.MULTILINE))
    return _Board(board, settings["LAB_TOOLCHAIN"], settings["LAB_CPU_FLAGS"], settings["LAB_BOARD_FAMILY"])


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
    return [*folders, FIRMWARE / "mlperf"] if personality == "mlperf" else folders


def _runtime_files(model: CompiledModel, board: _Board, personality: Personality) -> list[Path]:
    """What the model and the runner need of the runtime."""
    runner = [path for folder in _runner_folders(board, personality) for path in folder.rglob("*.[ch]")]
    return needed_files([*model.sources.values(), *(path.read_text(encoding="utf-8") for path in runner)])


def _firmware_files(model: CompiledModel, board: _Board, personality: Personality = "runner") -> Iterator[Path]:
    yield FIRMWARE / "CMakeLists.txt"
    yield FIRMWARE / "toolchains" / f"{board.toolchain}.cmake"
    for folder in _runner_folders(board, personality):
        yield from sorted(path for path in folder.rglob("*") if path.suffix in {".c", ".h", ".ld", ".cmake"})
    yield from _runtime_files(model, board, personality)


def _digest(model: CompiledModel, board: _Board, options: _Options, toolchain: str) -> str:
    digest = hashlib.sha256()

    def add(name: str, content: bytes) -> None:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)

    for name, text in sorted(model.sources.items()):
        add(f"model/{name}", text.encode())
    for path in _firmware_files(model, board, options.personality):
        add(str(path.relative_to(FIRMWARE)), path.read_bytes())
    add("board", board.name.encode())
    add("options", repr(options).encode())
    add("toolchain", toolchain.encode())
    return digest.hexdigest()


# ---- tools --------------------------------------------------------------------------------------------------------


def _find_tool(program: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(
            f"{program} is not installed; building firmware needs it",
            hint=f"apt-get install {_PACKAGES[program]}",
        )
    return Path(found)


def _toolchain_version(compiler: str, cache: Path) -> str:
    """First line of ``--version``, remembered in the cache as long as the program on disk is the same file."""
    path = _find_tool(compiler)
    status = path.resolve().stat()
    return _remembered_version(compiler, path, status.st_mtime_ns, status.st_size, cache)


@lru_cache
def _remembered_version(compiler: str, path: Path, mtime_ns: int, size: int, cache: Path) -> str:
    key = hashlib.sha256(f"{path}\0{mtime_ns}\0{size}".encode()).hexdigest()[:BUILD_ID_DIGITS]
    note = cache / "toolchains" / f"{compiler}-{key}"
    if note.is_file():
        return note.read_text()
    output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    version = output.partition("\n")[0].strip()
    if not version:
        raise ToolMissing(
            f"{path} does not run: --version printed nothing",
            hint=f"apt-get install --reinstall {_PACKAGES[compiler]}",
        )
    note.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(note, version)
    return version


def _check_newlib(compiler: Path) -> None:
    printed = subprocess.run(
        [compiler, "-print-file-name=nano.specs"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not Path(printed).is_absolute():
        raise ToolMissing(
            f"{compiler.name} has no C library (nano.specs)", hint="apt-get install libnewlib-arm-none-eabi"
        )


# ---- the cache ----------------------------------------------------------------------------------------------------


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
            raise
        raise InfrastructureError(
            f"the build cache {cache} cannot be written: {error.strerror}",
            hint="free some space, or name another folder with LAB_CACHE",
        ) from error


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(text)
    temporary.replace(path)


def _load(folder: Path) -> Artifact | None:
    """The cached image; None where there is none or it is damaged."""
    try:
        described = json.loads((folder / "artifact.json").read_text())
        image = (folder / ELF_NAME).read_bytes()
        memory = MemoryUse(**described.pop("memory"))
        artifact = Artifact(path=folder / ELF_NAME, memory=memory, **described, cached=True)
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None
    return artifact if hashlib.sha256(image).hexdigest() == artifact.digest else None


def _save(artifact: Artifact, folder: Path) -> None:
    described = asdict(artifact)
    del described["path"], described["cached"]
    (folder / "artifact.json").write_text(json.dumps(described, indent=2))


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
    temporary = folder.parent / f".building-{os.getpid()}-{uuid.uuid4().hex}"
    sources, objects, finished = temporary / "model", temporary / "objects", temporary / "finished"
    try:
        sources.mkdir(parents=True)
        finished.mkdir()
        for name, text in model.sources.items():
            (sources / name).write_text(text)
        _compile(model, board, options, sources, objects, build_id=folder.name[:BUILD_ID_DIGITS])
        image = (objects / ELF_NAME).read_bytes()
        shutil.copy(objects / ELF_NAME, finished / ELF_NAME)
        artifact = Artifact(
            path=folder / ELF_NAME,
            board=board.name,
            build_id=folder.name[:BUILD_ID_DIGITS],
            digest=hashlib.sha256(image).hexdigest(),
            toolchain=toolchain,
            flags=f"{board.cpu_flags} {_SPEED_FLAGS}".strip(),
            memory=_memory_use(objects / ELF_NAME, sorted(objects.glob("CMakeFiles/lab_model.dir/**/*.o*"))),
        )
        _save(artifact, finished)
        _publish(finished, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(artifact, cached=False)


def _compile(
    model: CompiledModel, board: _Board, options: _Options, sources: Path, objects: Path, *, build_id: str
) -> None:
    cmake, ninja = _find_tool("cmake"), _find_tool("ninja")
    if board.toolchain == "arm-none-eabi":
        _check_newlib(_find_tool(board.compiler))
    settings = {
        "CMAKE_MAKE_PROGRAM": str(ninja),
        "LAB_BOARD": board.name,
        "LAB_MODEL_DIR": str(sources),
        "LAB_RUNTIME_SOURCES": ";".join(
            str(path) for path in _runtime_files(model, board, options.personality) if path.suffix == ".c"
        ),
        "LAB_BUILD_ID": build_id,
        "LAB_TEST_JOBS": "ON" if options.test_jobs else "OFF",
        "LAB_SANITIZE": options.sanitize,
        "LAB_PERSONALITY": options.personality,
        "LAB_MLPERF_MODE": options.mlperf_mode,
        "LAB_MLPERF_MODEL": options.mlperf_model,
    }
    configure = [str(cmake), "-G", "Ninja", "-S", str(FIRMWARE), "-B", str(objects)]
    _run(configure + [f"-D{key}={value}" for key, value in settings.items()], model, board)
    _run([str(ninja), "-C", str(objects)], model, board)


def _run(command: list[str], model: CompiledModel, board: _Board) -> None:
    # Only the toolchain file decides on the compiler: variables such as CFLAGS would change the image unseen.
    steering = {"CC", "CFLAGS", "CPPFLAGS", "LDFLAGS"}
    environment = {key: value for key, value in os.environ.items() if key not in steering}
    environment["LC_ALL"] = "C"
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise _explain(done.stdout, model, board)


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


def _does_not_fit(model: CompiledModel, message: str) -> CompileError:
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
    return CompileError("\n".join([message, *table]), hint=hint)


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
            if section["sh_flags"] & _SHF_ALLOC:
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


def _function_at(image: ELFFile, address: int) -> str:
    symbols = image.get_section_by_name(".symtab")
    for symbol in symbols.iter_symbols() if isinstance(symbols, SymbolTableSection) else ():
        start = int(symbol["st_value"]) & ~1 if image["e_machine"] == "EM_ARM" else int(symbol["st_value"])
        if symbol["st_info"]["type"] == "STT_FUNC" and start <= address < start + int(symbol["st_size"]):
            return str(symbol.name)
    return ""


def _line_at(image: ELFFile, address: int) -> str:
    """``file:line``; the row of the line table that covers ``address``, in the compilation unit that does."""
    if not image.has_dwarf_info():
        return ""
    dwarf = image.get_dwarf_info()
    ranges = dwarf.get_aranges()
    offset = ranges.cu_offset_at_addr(address) if ranges is not None else None
    program = dwarf.line_program_for_CU(dwarf.get_CU_at(offset)) if offset is not None else None
    if program is None:
        return ""
    files = program.header.file_entry
    first_file = 0 if program.header.version >= 5 else 1
    previous, dropped = None, False
    for state in (entry.state for entry in program.get_entries() if entry.state is not None):
        # The linker leaves the lines of functions it dropped at address 0, where no function is.
        dropped = state.address == 0 if previous is None else dropped
        if previous is not None and not dropped and previous.address <= address < state.address:
            return f"{files[previous.file - first_file].name.decode()}:{previous.line}"
        previous = None if state.end_sequence else state
    return ""
