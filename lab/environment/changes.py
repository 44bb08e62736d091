"""What is changed on a device for a measurement, and the note on the device that says how to undo it.

Before the first change a file is written on the device; each change adds a line with its undoing before it is made.
When all is undone the file goes. Where the lab is killed, or the connection does not come back, the file stays, and the
next who connects undoes what it says (:func:`undo_left_over`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import ConfigError, TransportError
from lab.transports.remote import Finished, Remote

FILE = "environment-undo.jsonl"
_TIMEOUT_S = 60.0
_RIGHTS_HINT = (
    "log in as root, or let the user do it without a password: echo \"$USER ALL=(ALL) NOPASSWD: ALL\" | sudo tee "
    "/etc/sudoers.d/hil-lab"
)


@dataclass(frozen=True)
class Action:
    """Something that is done on a device: ``value`` written to a file, or a program run.

    Attributes:
        path: of the file, as seen from the root; empty for a program.
        value: what is written.
        argv: the program; empty for a file.
    """

    path: str = ""
    value: str = ""
    argv: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(self.argv) or f"{self.value} > {self.path}"


def write(path: str, value: str | int) -> Action:
    """Write to a file."""
    return Action(path=path, value=str(value))


def program(*argv: str) -> Action:
    """Run a program."""
    return Action(argv=argv)


@dataclass(frozen=True)
class Change:
    """A change and its undoing.

    Attributes:
        name: what is changed, in words: ``governor of policy0``.
        found: what it was, in words.
        asked: what it is to be.
        do, undo: how; undone in the reverse order of all changes.
    """

    name: str
    found: str
    asked: str
    do: Action
    undo: Action


@dataclass(frozen=True)
class Hands:
    """How things are done on a device.

    Attributes:
        remote: the device.
        prefix: what gives the rights of root, such as ``sudo -n``; empty for root itself, and for phones.
        may: whether there are rights to change the kernel's settings.
        root: folder that stands for ``/`` in the paths of files.
    """

    remote: Remote
    prefix: tuple[str, ...] = ()
    may: bool = True
    root: str = ""

    def do(self, action: Action) -> Finished:
        """Do it; says how it ended."""
        if action.argv:
            argv = [*self.prefix, *action.argv]
            return self.remote.run(argv, timeout_s=_TIMEOUT_S)
        # What tee prints again is of no use, and what it complains says why the kernel refused.
        argv = [*self.prefix, "tee", f"{self.root}{action.path}"]
        return self.remote.run(argv, timeout_s=_TIMEOUT_S, stdin=f"{action.value}\n".encode())

    def change(self, change: Change) -> None:
        """Make a change.

        Raises:
            ConfigError: the device refuses, or there are no rights.
        """
        done = self.do(change.do)
        if done.status == 0:
            return
        words = _words(done)
        denied = "ermission denied" in words or "not permitted" in words or not self.may
        raise ConfigError(
            f"{self.remote.name}: {change.name} cannot be set to {change.asked} (it is {change.found or 'not known'}): "
            f"{change.do}: {words}",
            hint=_RIGHTS_HINT if denied else "leave it out of environment:, or ask for something the device takes",
        )


def hands_of(remote: Remote, root: str = "") -> Hands:
    """Find out by which rights things are done on a device: root's own, or those of ``sudo`` without a password."""
    user = remote.run(["id", "-u"]).text
    if user == "0":
        return Hands(remote, root=root)
    try:
        sudo = remote.run(["sudo", "-n", "true"]).status == 0
    except TransportError as error:
        if error.transient:
            raise
        sudo = False
    return Hands(remote, ("sudo", "-n"), root=root) if sudo else Hands(remote, may=False, root=root)


class UndoFile:
    """The file on the device that says what is still to be undone.

    Args:
        hands: the device.
        folder: of the lab on the device.
    """

    def __init__(self, hands: Hands, folder: str) -> None:
        self._hands = hands
        self._folder = folder
        self.path = f"{folder}/{FILE}"

    def add(self, change: Change) -> None:
        """Write down how a change is undone, before it is made.

        Raises:
            TransportError: it could not be written.
        """
        action = change.undo
        line = json.dumps({"name": change.name, "path": action.path, "value": action.value, "argv": list(action.argv)})
        script = 'mkdir -p "$1" && cat >> "$2"'
        argv = ["sh", "-c", script, "sh", self._folder, self.path]
        done = self._hands.remote.run(argv, stdin=f"{line}\n".encode())
        if done.status:
            raise TransportError(
                f"{self._hands.remote.name}: {self.path} cannot be written, so nothing was changed: {_words(done)}",
                hint="is the device's disk full or read-only?",
            )

    def entries(self) -> list[tuple[str, Action]]:
        """Name and undoing of each change, in the order they were made; damaged lines are left out."""
        done = self._hands.remote.run(["cat", self.path])
        found = []
        for line in done.text.splitlines() if done.status == 0 else []:
            try:
                fields = json.loads(line)
                action = Action(str(fields["path"]), str(fields["value"]), tuple(map(str, fields["argv"])))
                found.append((str(fields["name"]), action))
            except (ValueError, KeyError, TypeError):
                # The device lost power while it wrote this line: its change was not made.
                continue
        return found

    def remove(self) -> None:
        """Nothing is left to be undone."""
        self._hands.remote.run(["rm", "-f", self.path])


def undo_all(hands: Hands, file: UndoFile, entries: Sequence[tuple[str, Action]]) -> list[str]:
    """Undo changes, the last one first, and remove the file; what could not be undone, in words.

    Raises:
        TransportError: the connection broke; the file stays.
    """
    failed = []
    for name, action in reversed(entries):
        done = hands.do(action)
        if done.status:
            failed.append(f"{name} was not put back: {action}: {_words(done)}")
    file.remove()
    return failed


def undo_left_over(hands: Hands, folder: str) -> tuple[str, ...]:
    """Undo what a run left behind that broke off; what was done, in words; nothing where there was nothing.

    Raises:
        TransportError: the connection broke.
    """
    file = UndoFile(hands, folder)
    entries = file.entries()
    if not entries:
        return ()
    failed = undo_all(hands, file, entries)
    names = ", ".join(name for name, _ in entries)
    return (f"an earlier run broke off and left behind: {names}; put back now", *failed)


def _words(done: Finished) -> str:
    text = (done.stderr or done.stdout).decode(errors="replace").strip()
    return text.splitlines()[-1] if text else f"status {done.status}"
