"""Builds our instruction-counting plug-in for QEMU. Its C source is GPL-2.0-or-later, as QEMU's licence requires."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.errors import CompileError, ToolMissing

_SOURCE = Path(__file__).with_name("lab_count.c")
_FLAGS = ("-std=c99", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class MarkerCount:
    """Exact counts since the start of the emulator, at one store to the marker register."""

    instructions: int
    loads: int
    stores: int

    def since(self, earlier: MarkerCount) -> MarkerCount:
        """Counts between an earlier mark and this one."""
        return MarkerCount(
            self.instructions - earlier.instructions, self.loads - earlier.loads, self.stores - earlier.stores
        )


def plugin_path(cache: Path) -> Path:
    """Where the built plug-in for this source lies, whether it was built or not."""
    return cache / "tcg_plugin" / hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16] / "lab_count.so"


def build_plugin(cache: Path) -> Path:
    """Build the plug-in unless it is there already; returns its path.

    Raises:
        ToolMissing: no C compiler.
        CompileError: the compiler refused; carries its words.
    """
    target = plugin_path(cache)
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ToolMissing("no C compiler for QEMU's counting plug-in", hint="apt-get install gcc")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        result = subprocess.run([compiler, *_FLAGS, "-o", built, _SOURCE], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CompileError(f"{_SOURCE} does not compile:\n{result.stderr.strip()}")
        os.replace(built, target)
    return target


def read_counts(path: Path) -> list[MarkerCount]:
    """The counts a run of QEMU wrote to ``path``; a line cut short by a kill is left out."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [MarkerCount(*map(int, line.split())) for line in whole.splitlines()]
