"""Programs that work switches: run one, take what it printed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

from lab.errors import InfrastructureError, ToolMissing
from lab.system_packages import install

PACKAGES: Mapping[str, str] = {"uhubctl": "uhubctl", "ykushcmd": "ykush-control", "usbrelay": "usbrelay"}
"""Program to Debian package."""
_LONGEST_S = 20.0


def missing_program(program: str) -> str:
    """Why a program cannot be used, with the way out; empty where it can."""
    if shutil.which(program) is not None:
        return ""
    return f"{program} is not installed: {install(PACKAGES[program])}"


def run(command: Sequence[str]) -> str:
    """What a program printed to standard output.

    Raises:
        ToolMissing: it is not installed.
        InfrastructureError: it failed, or did not end; carries its own words.
    """
    if missing_program(command[0]):
        raise ToolMissing(
            f"{command[0]} is not installed; a power switch of the bench needs it",
            hint=install(PACKAGES[command[0]]),
        )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(
            f"`{' '.join(command)}` did not end within {_LONGEST_S:g} s",
            hint="is its USB device stuck? Unplug it and plug it in again",
        ) from error
    if done.returncode:
        words = " ".join((done.stdout + done.stderr).split()) or "nothing"
        raise InfrastructureError(
            f"`{' '.join(command)}` failed with exit status {done.returncode}; it said: {words[:300]}",
            hint="is it attached, and may you use it? These programs need root or a udev rule (docs/switches.md)",
        )
    return done.stdout
