"""Labgrid's programs, in an environment of their own.

``labgrid`` brings ``pyserial-labgrid``, whose ``serial`` package lies over pyserial's: who comes last wins.
So it gets an environment beside the lab's, and the lab's processes stay what they are without it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

from lab.child_environment import for_children
from lab.errors import ToolMissing
from lab.paths import project_root

VARIABLE = "LAB_LABGRID"
"""Names another environment that has labgrid."""
VERSION = "26.0.1"
_HINT = "`lab labgrid install` makes an environment for it, or name one that has it in LAB_LABGRID"


def home() -> Path:
    """Where the environment is: ``LAB_LABGRID``, else ``labgrid`` in the lab's own."""
    named = os.environ.get(VARIABLE, "")
    return Path(named).expanduser().absolute() if named else Path(sys.prefix) / "labgrid"


def labgrid_python() -> str:
    """The Python that has labgrid: that of :func:`home`, else this one where the extra ``labgrid`` is installed.

    Raises:
        ToolMissing: there is none.
    """
    found = _program(home(), "python")
    if found is not None:
        return str(found)
    if os.environ.get(VARIABLE) or importlib.util.find_spec("labgrid") is None:
        raise ToolMissing(f"labgrid is not installed: {home()} has no Python", hint=_HINT)
    return sys.executable


def labgrid_program(name: str) -> str:
    """``labgrid-coordinator``, ``labgrid-exporter`` or ``labgrid-client``.

    Raises:
        ToolMissing: it is not there.
    """
    found = _program(Path(labgrid_python()).parent.parent, name)
    if found is None:
        raise ToolMissing(f"{name} is not installed beside {labgrid_python()}", hint=_HINT)
    return str(found)


def install() -> Path:
    """Make the environment and install labgrid into it.

    Returns:
        Its folder.

    Raises:
        ToolMissing: pip could not install it; its words are in the message.
    """
    folder = home()
    if _program(folder, "python") is None:
        venv.create(folder, with_pip=True)
    pip = [str(_program(folder, "python")), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    done = subprocess.run([*pip, *_what()], env=for_children(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolMissing(f"pip cannot install labgrid {VERSION} into {folder}: {done.stderr.strip()[-1000:]}")
    return folder


def _what() -> list[str]:
    """What pip is to install: the very files that were tested, where the pins are of such a computer."""
    pins = project_root() / "requirements" / "labgrid.txt"
    here = f"# platform: {sys.version_info.major}.{sys.version_info.minor} {platform.system()} {platform.machine()}\n"
    if pins.is_file() and pins.read_text(encoding="utf-8").startswith(here):
        return ["--require-hashes", "--no-deps", "-r", str(pins)]
    return [f"labgrid=={VERSION}"]


def _program(folder: Path, name: str) -> Path | None:
    """A program of an environment."""
    places = (folder / "bin" / name, folder / "Scripts" / f"{name}.exe")
    return next((one for one in places if one.exists()), None)
