"""Where a figure comes from, as far as this computer knows: commit, lab version, tool versions."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lab.paths import project_root

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Checkout:
    """State of the working tree.

    Attributes:
        commit: full hash, empty outside a checkout or without git.
        dirty: whether tracked files differ from the commit, or untracked ones that git does not ignore exist.
    """

    commit: str
    dirty: bool


@cache
def checkout(folder: Path | None = None) -> Checkout:
    """State of the checkout that holds ``folder`` (default: the lab); read once per process."""
    root = folder or project_root()
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if not commit:
        return Checkout("", False)
    return Checkout(commit, bool(_output("git", "-C", str(root), "status", "--porcelain")))


@cache
def lab_version() -> str:
    """Version of the installed lab, ``0+unknown`` when it runs without having been installed."""
    try:
        return version("hil-lab")
    except PackageNotFoundError:
        return "0+unknown"


@cache
def tool_version(program: str) -> str:
    """First line a program prints for ``--version``; empty when it is not installed. Read once per process."""
    lines = _output(program, "--version").splitlines()
    return lines[0].strip() if lines else ""


def _output(program: str, *args: str) -> str:
    """Standard output of a short command; empty when it is missing, fails or hangs."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            (path, *args),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
