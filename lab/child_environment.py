"""The environment of processes the lab starts that need no secret: emulators, meters, guards, runners.

``/proc/<pid>/environ`` of a process shows what it was started with to its user for as long as it runs, and a crash dump
holds it too. What a bench file took from a variable (``!env NAME``) was taken for this process.
"""

from __future__ import annotations

import os

from lab.same_bits import given

_secret_names = {"LAB_INFLUX_TOKEN"}
# Without them programs are not found, or find nothing; `user: !env USER` makes no secret of them.
_EVERYBODYS = {
    "PATH", "HOME", "USER", "LOGNAME", "USERNAME", "SHELL", "TERM", "TMPDIR", "TEMP", "TMP", "LANG", "LC_ALL", "TZ",
    "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "USERPROFILE", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK",
}  # fmt: skip


def keep_from_children(name: str) -> None:
    """From now on no child gets this variable, unless it is one that every process needs."""
    if name not in _EVERYBODYS:
        _secret_names.add(name)


def for_children(**more: str) -> dict[str, str]:
    """This process's environment without its secrets and what makes its own arithmetic slow, and with some more."""
    kept = {name: value for name, value in os.environ.items() if name not in _secret_names | given()}
    return {**kept, **more}
