"""Labgrid's coordinator and exporter as services: on loopback, started again when they end, cleaned up after.

labgrid's exporter ends when its coordinator does (exit status 100) and leaves its ser2net behind when it is killed;
ser2net listens on all addresses, whatever address the exporter was told. So here an exporter finds another ``ser2net``
first in its path: one that listens on one address and ends with the exporter. Where the kernel cannot promise that (no
``setpriv``), the supervisor ends what a program has left behind.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType

from lab.child_environment import for_children
from lab.errors import ConfigError, InfrastructureError, ToolMissing
from lab.labgrid.client import Coordinator
from lab.labgrid.config import LabgridConfig, is_loopback
from lab.labgrid.dead import DeathWatch, LineWatch, cancel_dead, release_dead
from lab.labgrid.environment import labgrid_program
from lab.system_packages import install

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_WELL_S = 30.0
_GRACE_S = 6.0
_POLL_S = 0.1

Say = Callable[[str], None]

_SER2NET = """#!/bin/sh
# Made by the lab: ser2net on one address, and no longer than the exporter that starts it.
for argument do
  shift
  case $argument in
    *"accepter: telnet(rfc2217,mode=server),tcp,"*) argument="${{argument%tcp,*}}tcp,{address},${{argument##*tcp,}}" ;;
    [0-9]*:telnet:*) argument="{address},$argument" ;;
  esac
  set -- "$@" "$argument"
done
exec {guard} {program} "$@"
"""


@dataclass(frozen=True)
class Service:
    """A program that is to run for ever.

    Attributes:
        name: for people.
        command: program and arguments.
        folder: its working folder, where a coordinator keeps its places.
        environment: whole environment.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]


def coordinator_service(listen: str, folder: Path, *, unprotected: bool) -> Service:
    """A coordinator.

    Args:
        listen: ``host:port``.
        folder: where it keeps ``places.yaml``; made where missing.
        unprotected: allows an address that others can reach.

    Raises:
        ConfigError: others can reach that address, and nobody said that they may.
        ToolMissing: labgrid is not installed.
    """
    refuse_others(listen.rpartition(":")[0], unprotected=unprotected)
    folder.mkdir(parents=True, exist_ok=True)
    return Service("coordinator", [labgrid_program("labgrid-coordinator"), "-l", listen], folder, for_children())


@contextmanager
def exporter_service(
    coordinator: str, name: str, resources: Path, address: str, *, unprotected: bool
) -> Iterator[Service]:
    """An exporter whose serial ports listen on one address.

    Args:
        coordinator: ``host:port``.
        name: its name; unique at the coordinator.
        resources: what it exports, in labgrid's format.
        address: where serial ports listen.
        unprotected: allows an address that others can reach.

    Raises:
        ConfigError: others can reach that address, and nobody said that they may; or the file does not exist.
        ToolMissing: labgrid or ser2net is not installed.
    """
    refuse_others(address, unprotected=unprotected)
    if not resources.is_file():
        raise ConfigError(f"{resources}: no such file", hint="docs/labgrid.md has one to copy")
    command = [
        labgrid_program("labgrid-exporter"), "-c", coordinator, "-n", name, "--hostname", address,
        str(resources.absolute()),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="lab-exporter-") as folder:
        write_ser2net(Path(folder) / "ser2net", address)
        environment = for_children()
        environment["PATH"] = f"{folder}:{environment.get('PATH', '')}"
        yield Service(f"exporter {name}", command, resources.absolute().parent, environment)


def write_ser2net(path: Path, address: str) -> None:
    """Write the program that stands for ser2net.

    Raises:
        ToolMissing: ser2net is not installed.
    """
    program = shutil.which("ser2net") or shutil.which("ser2net", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ToolMissing("ser2net is not installed, and an exporter's serial ports need it", hint=install("ser2net"))
    guard = shutil.which("setpriv")
    guarded = f"{shlex.quote(guard)} --pdeathsig KILL --" if guard else ""
    path.write_text(_SER2NET.format(address=address, guard=guarded, program=shlex.quote(program)), encoding="utf-8")
    path.chmod(0o700)


def refuse_others(host: str, *, unprotected: bool) -> None:
    """Refuse an address that other computers can reach.

    Raises:
        ConfigError: nobody said that they may.
    """
    if unprotected or is_loopback(host):
        return
    raise ConfigError(
        f"'{host or 'all addresses'}' can be reached by other computers, and neither labgrid nor ser2net asks who is "
        "there: whoever can connect can take, program and read every board",
        hint="listen on 127.0.0.1 and let others come by SSH (docs/labgrid.md), or add --unprotected where everybody "
        "in the network is trusted",
    )


def supervise(service: Service, say: Say, meanwhile: Callable[[threading.Event], None] | None = None) -> None:
    """Run a program until this one is asked to end (SIGTERM, SIGINT), starting it again whenever it ends.

    Args:
        service: what to run.
        say: takes what happened, a line at a time.
        meanwhile: runs in a thread of its own, until the event is set.

    Raises:
        ToolMissing: it cannot be started at all.
    """
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    before = [(number, signal.signal(number, end)) for number in (signal.SIGTERM, signal.SIGINT)]
    thread = None if meanwhile is None else threading.Thread(target=meanwhile, args=(ending,), daemon=True)
    try:
        if thread is not None:
            thread.start()
        _keep_running(service, say, ending)
    finally:
        ending.set()
        for number, handler in before:
            signal.signal(number, handler)
        if thread is not None:
            thread.join()


def _keep_running(service: Service, say: Say, ending: threading.Event) -> None:
    pause_s = _FIRST_PAUSE_S
    while not ending.is_set():
        began = monotonic()
        process = _start(service)
        say(f"{service.name}: process {process.pid}")
        while process.poll() is None and not ending.wait(_POLL_S):
            pass
        if ending.is_set():
            _end(process)
            return
        _end_what_it_left(process)
        if monotonic() - began > _WELL_S:
            pause_s = _FIRST_PAUSE_S
        say(f"{service.name} ended with {process.returncode}; starting it again in {pause_s:g} s")
        ending.wait(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _start(service: Service) -> subprocess.Popen[bytes]:
    guard = shutil.which("setpriv")
    guarded = [guard, "--pdeathsig", "TERM", "--"] if guard else []
    try:
        # A session of its own: Ctrl-C is for the supervisor, which ends it in order.
        return subprocess.Popen(
            [*guarded, *service.command], cwd=service.folder, env=service.environment, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ToolMissing(f"{service.command[0]} cannot be started: {error.strerror}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _end_what_it_left(process)


def _end_what_it_left(process: subprocess.Popen[bytes]) -> None:
    """End what a program that was killed had started: a port that goes on serving a board is one that nobody holds."""
    # macOS says PermissionError where none of the group lives.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def keep_clean(config: LabgridConfig, say: Say, ending: threading.Event) -> None:
    """Give back places of dead holders, and take dead waiters out of the line, until ``ending`` is set.

    Goes on across restarts of the coordinator.

    Args:
        config: the coordinator.
        say: takes what happened.
        ending: ends it.
    """
    watch, line = DeathWatch(config.ttl), LineWatch(config.ttl)
    while not ending.is_set():
        try:
            with Coordinator(config) as coordinator:
                while not ending.is_set():
                    for place in release_dead(coordinator, watch):
                        say(f"{place.name} was given back for {place.describe()}, whose heart stopped")
                    for waiter in cancel_dead(coordinator, line, coordinator.line()):
                        say(f"{waiter.owner} was taken out of the line for {waiter.wanted}: its heart stopped")
                    ending.wait(min(1.0, config.ttl / 4))
        except ToolMissing as missing:
            say(str(missing))
            return
        except InfrastructureError:
            # It is being started again.
            ending.wait(_FIRST_PAUSE_S)
