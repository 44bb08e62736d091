"""Builds our instruction-counting plug-in for QEMU. Its C source is GPL-2.0-or-later, as QEMU's licence requires."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from lab.errors import CompileError, ToolMissing
from lab.system_packages import install

QEMU = "qemu-system-arm"
_SOURCE = Path(__file__).with_name("lab_count.c")
_HEADER = Path(__file__).parents[1] / "instruction_class.h"
_FLAGS = ("-std=c99", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")


def qemu_version(name: str = QEMU) -> str:
    """``QEMU x.y.z``, or an empty string where that program of QEMU is not installed."""
    program = shutil.which(name)
    return "" if program is None else _version_of(program)


@cache
def _version_of(program: str) -> str:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+\S*)", text)
    return f"QEMU {found.group(1)}" if found else "QEMU"


def _version() -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", qemu_version())
    return (0, 0) if found is None else (int(found[1]), int(found[2]))


def _abi() -> int:
    """Plug-in ABI to ask for: QEMU 9 dropped version 1, and accepts 2 and newer (its qemu-plugin.h)."""
    return 2 if _version() >= (9, 0) else 1


def _copies() -> int:
    """Whether an instruction's bytes are copied: since QEMU 9.1, which changed that function in all ABI versions."""
    return int(_version() >= (9, 1))


@dataclass(frozen=True)
class MarkerCount:
    """Exact counts since the start of the emulator, at one store to the marker register.

    Attributes:
        instructions, loads, stores: all instructions; accesses of memory, of which one instruction may make several.
        multiplies, divides, branches, floats: instructions of these classes, by opcode (``instruction_class.h``).
    """

    instructions: int
    loads: int
    stores: int
    multiplies: int = 0
    divides: int = 0
    branches: int = 0
    floats: int = 0

    def since(self, earlier: MarkerCount) -> MarkerCount:
        """Counts between an earlier mark and this one."""
        pairs = zip(astuple(self), astuple(earlier), strict=True)
        return MarkerCount(*(now - before for now, before in pairs))


def plugin_path(folder: Path) -> Path:
    """Where the built plug-in for this source and this QEMU lies, whether it was built or not."""
    source = hashlib.sha256(_SOURCE.read_bytes() + _HEADER.read_bytes()).hexdigest()[:16]
    return folder / "tcg_plugin" / f"{source}-abi{_abi()}{'-copies' if _copies() else ''}" / "lab_count.so"


def build_plugin(folder: Path) -> Path:
    """Build the plug-in below ``folder`` unless it is there already; returns its path.

    Raises:
        ToolMissing: no C compiler.
        CompileError: the compiler refused; carries its words.
    """
    target = plugin_path(folder)
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ToolMissing("no C compiler for QEMU's counting plug-in", hint=install("gcc"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / target.name
        command: list[str | Path] = [compiler, *_FLAGS, *_definitions(), "-o", built, _SOURCE]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CompileError(f"{_SOURCE} does not compile:\n{result.stderr.strip()}")
        os.replace(built, target)
    return target


def _definitions() -> tuple[str, str]:
    return f"-DLAB_PLUGIN_ABI={_abi()}", f"-DLAB_PLUGIN_COPIES={_copies()}"


def read_counts(path: Path) -> list[MarkerCount]:
    """The counts a run of QEMU wrote to ``path``; a line cut short by a kill is left out."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [MarkerCount(*map(int, line.split())) for line in whole.splitlines()]
