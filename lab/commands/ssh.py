"""``lab ssh`` and ``lab push``: by hand on a device with an operating system, over SSH or ADB."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.bench import Bench
from lab.errors import ConfigError, TransportError
from lab.lease import held
from lab.paths import cache_dir
from lab.units import format_quantity

if TYPE_CHECKING:
    from lab.devices.linux import Linux
    from lab.transports.remote import RemoteProcess

_CHUNK = 1 << 16
_LISTEN_S = 0.1
_INTERRUPTED = 130


@click.command("ssh", context_settings={"allow_interspersed_args": False})
@click.argument("device")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def ssh(config: Path, device: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on DEVICE, or log in to it where there is none.

    The words of COMMAND arrive as they are; a pipe or a * is for a shell: lab ssh pi -- sh -c 'ls *.bin | wc -l'.
    Standard input goes to it unless it is a terminal. What it complains of is shown when it ends. The exit status is
    its own, 128 + n where signal n ended it. An emulated device is started for it and ends with it.
    """
    command = command[1:] if command[:1] == ("--",) else command
    with _opened(config, device, "lab ssh") as machine:
        if not command and sys.stdin.isatty():
            status = _log_in(machine)
        else:
            status = _run(machine.remote.start(command or ("sh",)))
    sys.exit(status)


@click.command("push")
@click.argument("device")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("destination", required=False)
@click.pass_obj
def push(config: Path, device: str, file: Path, destination: str | None) -> None:
    """Put FILE on DEVICE, whole or not at all, and compare its digest there.

    DESTINATION is a file; without it the file keeps its name, in the lab's folder on the device. It may be run there if
    it may be run here. What lies there already is not sent again, and what was cut off goes on.
    """
    with _opened(config, device, "lab push") as machine:
        place = destination or f"{machine.folder}/{file.name}"
        pushed = machine.remote.push(file, place, executable=os.access(file, os.X_OK))
        size = format_quantity(pushed.size_bytes, "B")
        sent = "there already" if not pushed.sent_bytes else f"{format_quantity(pushed.sent_bytes, 'B')} sent"
        click.echo(f"{device}: {pushed.path}: {size}, {sent}")
        emulated = machine.identity.source == "emulated"
    if emulated:
        click.echo("the emulated device ends now, and what was put on it with it")


@contextlib.contextmanager
def _opened(config: Path, name: str, purpose: str) -> Iterator[Linux]:
    from lab.devices.connect import connected
    from lab.devices.linux import Linux

    entry = Bench.load(config).get(name)
    if entry.board.device_class not in ("linux", "phone"):
        raise ConfigError(
            f"{name} is a {entry.board.kind}, which cannot be logged in to",
            hint="boards of class linux and phone can: `lab devices` lists the bench",
        )
    with held(entry, purpose) as fence, connected(entry, cache_dir(), fence) as device:
        if not isinstance(device, Linux):
            raise ConfigError(f"{name} cannot be logged in to")
        yield device


def _run(process: RemoteProcess) -> int:
    """Pass on a command's input and output until it ends."""
    if sys.stdin.isatty():
        process.end_input()
    else:
        threading.Thread(target=_feed, args=(process,), daemon=True).start()
    try:
        while True:
            try:
                sys.stdout.buffer.write(process.read(_LISTEN_S))
            except TransportError:
                # Raises where the connection broke; otherwise it was the end.
                status = process.poll()
                if status is None:
                    raise
                break
            sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        process.kill()
        return _INTERRUPTED
    sys.stderr.write(process.stderr_tail())
    return status


def _feed(process: RemoteProcess) -> None:
    # A command need not read all it is given, and may end before.
    with contextlib.suppress(TransportError, OSError):
        while data := os.read(sys.stdin.fileno(), _CHUNK):
            process.write(data)
        process.end_input()


def _log_in(machine: Linux) -> int:
    """A shell on the device in this terminal."""
    from lab.transports.remote import Terminals

    remote = machine.remote
    if not isinstance(remote, Terminals):
        raise ConfigError(f"{remote.name} offers no terminal", hint="name a command: `lab ssh DEVICE -- COMMAND`")
    size = shutil.get_terminal_size()
    process = remote.terminal(os.environ.get("TERM", "vt100"), size.columns, size.lines)
    ended = threading.Event()
    with _raw_terminal():
        threading.Thread(target=_show, args=(process, ended), daemon=True).start()
        while not ended.is_set():
            if select.select([sys.stdin], [], [], _LISTEN_S)[0]:
                # It may end while a key is pressed.
                with contextlib.suppress(TransportError):
                    process.write(os.read(sys.stdin.fileno(), _CHUNK))
    return process.wait(0.0)


def _show(process: RemoteProcess, ended: threading.Event) -> None:
    with contextlib.suppress(TransportError):
        while True:
            os.write(sys.stdout.fileno(), process.read(_LISTEN_S))
    ended.set()


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go to the device as they are typed, Ctrl-C as well."""
    try:
        import termios
        import tty
    except ImportError as error:
        hint = "name a command: `lab ssh DEVICE -- COMMAND`"
        raise ConfigError("this system has no POSIX terminal", hint=hint) from error
    before = termios.tcgetattr(sys.stdin)
    # What was typed ahead is kept.
    tty.setraw(sys.stdin, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
