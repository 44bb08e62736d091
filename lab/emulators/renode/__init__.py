"""Renode as an emulator of microcontrollers; ``docs/renode.md`` says what was run of it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path

from lab.errors import ToolMissing

PROGRAM = "renode"
VARIABLE = "RENODE"
REACHABLE = "RENODE_REACHABLE"
"""Set to 1 by whoever lets Renode listen although other computers may reach this one."""
_VERSION_S = 60.0


def find_program() -> Path:
    """Renode's program: what ``RENODE`` names, else ``renode`` in ``PATH``.

    Raises:
        ToolMissing: there is none; says how to get it.
    """
    named = os.environ.get(VARIABLE, "")
    found = shutil.which(named or PROGRAM)
    if found is None:
        raise ToolMissing(
            f"Renode is not installed: {f'{VARIABLE}={named} is no program' if named else 'no renode in PATH'}",
            hint=f"install Renode's own package and name its program with {VARIABLE}; Debian has none (docs/renode.md)",
        )
    return Path(found).resolve()


def renode_version() -> str:
    """Program and version; empty where Renode is not installed."""
    try:
        return version_of(find_program())
    except ToolMissing:
        return ""


def exposed() -> str:
    """Why Renode is not started here; empty where nobody else can reach its ports, or the user allows it.

    Renode listens on all interfaces, at one of its ports to commands of any kind, and has no option for it. In a
    network namespace with nothing but its loopback interface that is nobody's business.
    """
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not others or os.environ.get(REACHABLE) == "1":
        return ""
    return (
        f"Renode would take any command from whoever reaches this computer by {', '.join(others)}: run the lab in a "
        f"network namespace (docs/renode.md), or behind a firewall with {REACHABLE}=1"
    )


@cache
def version_of(program: Path) -> str:
    """``Renode 1.15.3`` or so of a program; ``Renode`` where it does not say."""
    try:
        asked = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "Renode"
    number = re.search(r"\d+(?:\.\d+)+", asked.stdout)
    return f"Renode {number[0]}" if number else "Renode"
