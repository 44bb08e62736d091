"""How an argument list becomes the one line that a remote shell takes, and how what it started is found again.

SSH servers and Android's daemon hand a command to a shell (RFC 4254, 6.5: a command is one string). Every word is
quoted, so that the shell sees a program and its arguments and nothing else. Each command carries a mark in its
environment, which all it starts inherits: by it the whole tree is found and killed over a second channel, also when
parts of it moved to a session of their own.
"""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import ConfigError

MARK = "LAB_REMOTE"
"""The variable with the mark."""

_PROBE_WORD = 'it\'s `a` "word" of $HOME *'

# Files of processes that end while they are read are skipped. A marked group leader's group goes with it: that
# catches what took the mark out of its environment. A new process may be born while others are killed.
_KILL = """n=0
while [ $n -lt 8 ]; do
n=$((n+1)); l=
for f in $(grep -ls {pattern} /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null); do
p=${{f#/proc/}}; p=${{p%/*}}; l="$l $p"; s=
IFS= read -r s 2>/dev/null </proc/$p/stat
s=${{s##*) }}; set -- $s
[ "$3" = "$p" ] && kill -9 -$p
done 2>/dev/null
[ -z "$l" ] && exit 0
kill -9 $l 2>/dev/null
done
exit 1"""

# Only what is built into a POSIX shell, so that it costs nothing on a slow board.
_PROBE = (
    "printf '%s\\n' {word} \"$PWD\";s=;IFS= read -r s </proc/self/stat;s=${{s##*) }};set -- $s;"
    'if [ "$3" = "$$" ];then echo own;else echo shared;fi;b=;IFS= read -r b </proc/sys/kernel/random/boot_id;'
    "printf '%s\\n' \"$b\""
)


@dataclass(frozen=True)
class Surroundings:
    """What a command meets on the device.

    Attributes:
        home: where commands start, absolute.
        own_session: whether the server gives each command a session of its own.
        boot_id: the kernel's name for this boot (``/proc/sys/kernel/random/boot_id``); empty where there is none.
    """

    home: str
    own_session: bool
    boot_id: str


def new_mark() -> str:
    """A mark nobody else has; marks of single commands are made of it by :func:`numbered`."""
    return uuid.uuid4().hex


def numbered(mark: str, number: int) -> str:
    """The mark of one command."""
    return f"{mark}-{number}-"


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse what no program can be given.

    Raises:
        ConfigError: no program, one that a shell would take for its own option, or a zero byte.
    """
    if isinstance(argv, str) or not argv or not argv[0] or argv[0].startswith("-"):
        raise ConfigError(f"a command is a list of a program and its arguments, not {argv!r}")
    for word in argv:
        if "\0" in word:
            raise ConfigError(f"an argument of {argv[0]} has a zero byte, which no program can be given: {word!r}")


def command_line(argv: Sequence[str], mark: str, own_session: bool) -> str:
    """What a POSIX shell runs as ``argv``, marked, as the leader of a process group of its own.

    The shell turns into the program, so that its status, also that of a signal, is the command's. ``setsid`` of
    util-linux and busybox forks where it already is a group leader, and its parent ends at once with status 0:
    it is used only where the server gives a command no session of its own.

    Raises:
        ConfigError: as :func:`check_arguments`.
    """
    check_arguments(argv)
    return f"export {MARK}={mark};exec {'' if own_session else 'setsid '}{shlex.join(argv)}"


def kill_line(mark: str, variable: str = MARK) -> str:
    """What a POSIX shell runs to kill all that carries ``mark`` or a mark made of it; status 0 once nothing is left."""
    # Written so that it does not match the command line it stands in.
    return _KILL.format(pattern=shlex.quote(f"{variable}=[{mark[0]}]{mark[1:]}"))


def probe_line() -> str:
    """What tells :class:`Surroundings`; its answer goes to :func:`parse_probe`."""
    return _PROBE.format(word=shlex.quote(_PROBE_WORD))


def parse_probe(answer: bytes, complaint: bytes, name: str) -> Surroundings:
    """Understand the answer to :func:`probe_line`.

    Raises:
        ConfigError: the user's shell is not POSIX, or its start-up files print something.
    """
    text = answer.decode(errors="replace")
    before, word, rest = text.partition(_PROBE_WORD + "\n")
    lines = rest.split("\n")
    if not word or len(lines) < 3:
        raise ConfigError(
            f"{name}: its shell did not run a command as POSIX shells do; it said {(text or _text(complaint))[:200]!r}",
            hint="the login shell must be sh, bash, dash, ash, ksh or zsh: `chsh -s /bin/sh` on the device",
        )
    if before:
        raise ConfigError(
            f"{name}: its shell prints {before[:200]!r} before a command's own output",
            hint="let its start-up files (.bashrc, /etc/profile) print only where standard input is a terminal",
        )
    boot_id = lines[2] if re.fullmatch(r"[0-9a-f-]{36}", lines[2]) else ""
    return Surroundings(lines[0], lines[1] == "own", boot_id)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
