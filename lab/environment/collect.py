"""Many files and commands of a device in one round trip: what a snapshot of its environment is made of.

A shell script on the device lists its files with one ``tail``, which costs one process however many files there are,
and runs a few programs where they are installed. It uses what POSIX shells, busybox and Android's toybox share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.errors import TransportError
from lab.transports.remote import Remote

_TIMEOUT_S = 60.0
_HEADER = re.compile(r"^==> (?:\$ (?P<command>.+)|\? (?P<status>\d+)|(?P<path>.+)) <==$")
_DENIED = re.compile(r"(?P<path>[\w./:@,+-]+)'?(?: for reading)?: Permission denied")
_PROGRAM_MISSING = 127

# Programs of boards lie in /usr/sbin, which a shell over SSH does not always search.
_BEGIN = 'LC_ALL=C; export LC_ALL; PATH="$PATH:/usr/sbin:/sbin"\nroot=$1\n'
_COMMAND = """if command -v {program} >/dev/null 2>&1; then
printf '\\n==> $ %s <==\\n' {quoted}
{command} 2>&1
printf '\\n==> ? %s <==\\n' $?
fi
"""
_FILES = 'cd "$root/" || exit 1\ntail -n +1 /dev/null {globs}\nexit 0\n'


@dataclass(frozen=True)
class Collected:
    """What was found.

    Attributes:
        files: path, as seen from the root, to text without white space around it. Files that are not there, cannot be
            read or hold nothing are left out.
        outputs: command to what it printed and complained; without those that are not installed.
        statuses: command to its exit status.
        denied: paths that are there and may not be read.
    """

    files: Mapping[str, str]
    outputs: Mapping[str, str]
    statuses: Mapping[str, int]
    denied: tuple[str, ...] = ()

    def text(self, path: str) -> str:
        """A file's text; empty where it is not there."""
        return self.files.get(path, "")

    def number(self, path: str) -> int | None:
        """The whole number in a file, None where there is none."""
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def folders(self, pattern: str) -> list[str]:
        """Folders of files whose path matches a regular expression, each once, in the order of their numbers."""
        found = {match[0] for path in self.files if (match := re.match(pattern, path)) is not None}
        return sorted(found, key=lambda path: [int(part) if part.isdigit() else 0 for part in re.split(r"(\d+)", path)])


def script_of(globs: Sequence[str], commands: Sequence[str]) -> str:
    """The script; its first argument is the root.

    Args:
        globs: absolute patterns of files.
        commands: of a shell, the program first, without quotation marks.
    """
    parts = [_BEGIN]
    for command in commands:
        parts.append(_COMMAND.format(program=_program(command), quoted=f"'{command}'", command=command))
    parts.append(_FILES.format(globs=" ".join(glob.lstrip("/") for glob in globs)))
    return "".join(parts)


def _program(command: str) -> str:
    """What has to be installed: the word behind ``sudo -n``."""
    return command.removeprefix("sudo -n ").split()[0]


def collect(remote: Remote, globs: Sequence[str], commands: Sequence[str], root: str = "") -> Collected:
    """Read files and run programs on a device, in one round trip.

    Args:
        remote: the device.
        globs: absolute patterns, such as ``/sys/class/thermal/thermal_zone*/temp``.
        commands: programs with arguments, as constants of the lab; nothing of a user's goes here.
        root: folder that stands for ``/`` in the patterns.

    Raises:
        TransportError: the connection broke, or the root is not there.
    """
    done = remote.run(["sh", "-c", script_of(globs, commands), "sh", root], timeout_s=_TIMEOUT_S)
    if done.status:
        words = done.stderr.decode(errors="replace").strip()
        raise TransportError(f"{remote.name}: cannot look at its files: status {done.status}: {words or 'no words'}")
    return parse(done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def parse(printed: str, complained: str) -> Collected:
    """What the script printed, taken apart."""
    files: dict[str, str] = {}
    outputs: dict[str, str] = {}
    statuses: dict[str, int] = {}
    command, path, lines = "", "", list[str]()

    def end() -> None:
        text = "\n".join(lines).strip("\n").rstrip()
        lines.clear()
        if command:
            outputs[command] = text
        elif path and text.strip():
            files[f"/{path}"] = text.strip()

    for line in printed.splitlines():
        header = _HEADER.match(line)
        if header is None:
            lines.append(line)
            continue
        end()
        if header["status"] is not None:
            statuses[command] = int(header["status"])
        command, path = header["command"] or "", header["path"] or ""
    end()
    ran = {name: text for name, text in outputs.items() if statuses.get(name) != _PROGRAM_MISSING}
    denied = tuple(f"/{match['path']}" for match in _DENIED.finditer(complained))
    return Collected(files, ran, statuses, denied)
