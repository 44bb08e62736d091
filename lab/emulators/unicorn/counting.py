"""The exact instruction clock: a few lines of C that translated code calls at the start of every block."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lab.emulators.unicorn.engine import Engine, c_function, constants, hook_c_function, registers
from lab.errors import CompileError, EmulatorError, ToolMissing
from lab.paths import cache_dir

_SOURCE = Path(__file__).with_name("counting.c")
_HEADER = Path(__file__).parents[1] / "instruction_class.h"
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-nostdlib", "-Wall", "-Wextra", "-Werror")
_CODE_REGIONS = 8
_CACHED_BLOCKS = 65536
_CLASSES = 5
_SUFFIXES = {"win32": "dll", "darwin": "dylib"}


class ClassCount(NamedTuple):
    """Instructions of each class that were executed; see ``instruction_class.h``."""

    multiplies: int
    divides: int
    branches: int
    floats: int


class _Sum(ctypes.Structure):
    _fields_ = (("instructions", ctypes.c_uint32), ("classes", ctypes.c_uint32 * _CLASSES))


class _Block(ctypes.Structure):
    _fields_ = (("address", ctypes.c_uint32), ("bytes", ctypes.c_uint32), ("sum", _Sum))


class _Code(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
        ("bytes", ctypes.c_void_p),
        ("constant", ctypes.c_uint32),
    )


class _State(ctypes.Structure):
    """``lab_counter_t`` of ``counting.c``."""

    _fields_ = (
        ("instructions", ctypes.c_uint64),
        ("classes", ctypes.c_uint64 * _CLASSES),
        ("block", ctypes.c_uint32),
        ("block_bytes", ctypes.c_uint32),
        ("sum", _Sum),
        ("begun", ctypes.c_uint32),
        ("stop", ctypes.c_uint32),
        ("code_regions", ctypes.c_uint32),
        ("blocks", ctypes.c_uint32),
        ("ended", ctypes.c_uint32),
        ("epsr", ctypes.c_int32),
        ("emu_stop", ctypes.c_void_p),
        ("reg_write", ctypes.c_void_p),
        ("code", _Code * _CODE_REGIONS),
        ("cache", _Block * _CACHED_BLOCKS),
    )


class Counter:
    """Counts the instructions of one Unicorn engine.

    A block's instructions are counted when it begins. Inside a block that is watched, the count says which instruction
    runs; elsewhere it says where the block began.

    Args:
        engine: the engine; its hooks are installed here.
        code: where instructions may lie: first address, host address, size in bytes, whether the guest cannot write it.

    Raises:
        ToolMissing: there is no compiler for the counter.
    """

    def __init__(self, engine: Engine, code: Sequence[tuple[int, int, int, bool]]) -> None:
        if len(code) > _CODE_REGIONS:
            raise EmulatorError(f"{len(code)} regions of code; the counter knows {_CODE_REGIONS}")
        self._engine = engine
        self._library = ctypes.CDLL(str(_built()))
        self._state = _State()
        self._state.emu_stop = c_function("uc_emu_stop")
        self._state.reg_write = c_function("uc_reg_write")
        self._state.epsr = registers.UC_ARM_REG_EPSR
        for slot, (address, host, size, constant) in zip(self._state.code, code, strict=False):
            slot.start, slot.end, slot.bytes, slot.constant = address, address + size, host, constant
        self._state.code_regions = len(code)
        self._watched: set[int] = set()
        self._hook(constants.UC_HOOK_BLOCK, "lab_block_begins", 1, 0)
        self._hook(constants.UC_HOOK_TLB_FILL, "lab_translate", 1, 0)

    @property
    def instructions(self) -> int:
        """Instructions begun since the engine was made; inside a call from the guest, with the one that calls."""
        state = self._state
        return int(state.instructions) - int(state.sum.instructions) + int(state.begun)

    @property
    def classes(self) -> ClassCount:
        """What kinds of instructions these were."""
        found = (ctypes.c_uint64 * _CLASSES)()
        self._library.lab_classes(ctypes.byref(self._state), found)
        return ClassCount(*(int(count) for count in found[1:]))

    @property
    def block(self) -> int:
        """Address of the block that runs or ran last."""
        return int(self._state.block)

    def end_block(self) -> None:
        """What was begun has run: called whenever the engine has stopped."""
        self._state.begun = self._state.sum.instructions

    def break_off(self, address: int) -> None:
        """The block that ran broke off before the instruction at an address."""
        self._library.lab_break_off(ctypes.byref(self._state), ctypes.c_uint32(address))

    def stop(self) -> None:
        """Make the engine stop before its next block; any thread may ask."""
        self._state.stop = 1

    @property
    def stopped(self) -> bool:
        """Whether the engine was asked to stop."""
        return bool(self._state.stop)

    def resume(self) -> None:
        """Let the engine run again."""
        self._state.stop = 0

    def begin(self, blocks: int) -> None:
        """The engine is about to run that many blocks; 0 for no limit."""
        self._state.blocks = blocks + 1 if blocks else 0
        self._state.ended = 0

    @property
    def ended(self) -> bool:
        """Whether the engine stopped because it was asked to, rather than for something it met."""
        return bool(self._state.ended)

    def watch_block(self) -> bool:
        """Watch the block that runs; says whether it was not watched before.

        Its translation, which does not call the counter yet, has to be dropped once the engine has stopped.
        """
        if self._state.block in self._watched:
            return False
        self._watched.add(int(self._state.block))
        last = self._state.block + self._state.block_bytes - 1
        self._hook(constants.UC_HOOK_CODE, "lab_instruction_begins", int(self._state.block), int(last))
        return True

    def forget_code(self) -> None:
        """Code was changed from outside."""
        ctypes.memset(ctypes.byref(self._state.cache), 0, ctypes.sizeof(self._state.cache))

    def _hook(self, kind: int, function: str, first: int, last: int) -> None:
        callback = ctypes.cast(getattr(self._library, function), ctypes.c_void_p).value
        status = hook_c_function(self._engine, kind, callback, self._state, first, last)
        if status != 0:
            raise EmulatorError(f"Unicorn takes no hook of kind {kind}: status {status}")


def class_of_thumb(first: int, second: int) -> int:
    """Class of a Thumb instruction from its half-words: 0 for none, else one more than its place in ``ClassCount``."""
    return int(ctypes.CDLL(str(_built())).lab_thumb_class(ctypes.c_uint32(first), ctypes.c_uint32(second)))


def class_of_riscv(word: int) -> int:
    """Class of a RISC-V instruction, as :func:`class_of_thumb`."""
    return int(ctypes.CDLL(str(_built())).lab_riscv_class(ctypes.c_uint32(word)))


def _compiler() -> list[str]:
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        raise ToolMissing(
            "no C compiler for the instruction counter of Unicorn", hint="pip install 'hil-lab[emulate-pip]'"
        )
    return [found]


@lru_cache
def _built() -> Path:
    """The compiled counter, from the cache where it is there."""
    made_for = repr((_FLAGS, sys.platform, platform.machine())).encode()
    digest = hashlib.sha256(_SOURCE.read_bytes() + _HEADER.read_bytes() + made_for).hexdigest()[:16]
    target = cache_dir() / "unicorn" / digest / f"counting.{_SUFFIXES.get(sys.platform, 'so')}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    zig = str(cache_dir() / "zig")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig}
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / target.name
        command = [*_compiler(), *_FLAGS, "-o", str(built), str(_SOURCE)]
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
        if done.returncode != 0:
            raise CompileError(f"{_SOURCE} does not compile:\n{done.stderr.strip()}")
        try:
            built.replace(target)
        except PermissionError:
            # Windows replaces no library that another process has loaded; it is the same one.
            if not target.exists():
                raise
    return target
