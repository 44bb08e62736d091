"""A real labgrid coordinator and exporter on this computer, each a process of its own, supervised by the lab."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import yaml

from lab.connection_config import SshHost

EXPORTER = "bench"
_START_S = 120.0
_USE = """
import sys
from pathlib import Path
from lab.bench import Bench
from lab.lease import lease_of
bench, device, purpose, priority = sys.argv[1:]
with lease_of(Bench.load(Path(bench)).get(device), purpose, 300.0, priority=priority) as held:
    sys.stdin.readline()
    held.check()
"""


class LabgridSite:
    """A coordinator whose places each have the group of the same name at one exporter.

    Args:
        folder: takes all files.
        places: tags by name.
        resources: of the exporter, by group, as its file has them.
        ttl_s: after how long a dead holder's place is given back.

    Attributes:
        address: of the coordinator.
    """

    def __init__(
        self, folder: Path, places: Mapping[str, Mapping[str, str]], resources: Mapping[str, object], ttl_s: float
    ) -> None:
        self.folder = folder
        self.ttl_s = ttl_s
        self.address = f"127.0.0.1:{free_port()}"
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "exporter.yaml").write_text(json.dumps(resources))
        # What labgrid-client writes; the coordinator itself saves only every 15 s.
        (folder / "places.yaml").write_text(yaml.safe_dump({name: _place(name, tags) for name, tags in places.items()}))

    def __enter__(self) -> Self:
        try:
            self.start_coordinator()
            self.start_exporter()
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_all()

    def anew(self) -> None:
        """Start everything again, with nobody who holds or waits for anything."""
        self._end_all()
        self.start_coordinator()
        self.start_exporter()

    def start_coordinator(self) -> None:
        """Start it under supervision and wait until it serves."""
        arguments = ["coordinator", "--listen", self.address, "--folder", str(self.folder), "--ttl", str(self.ttl_s)]
        self._start("coordinator", arguments, "Coordinator ready")

    def start_exporter(self) -> None:
        """Start it under supervision and wait until the coordinator knows it."""
        file = str(self.folder / "exporter.yaml")
        self._start("exporter", ["exporter", file, "--coordinator", self.address, "--name", EXPORTER], "Exporter ready")

    def stop(self, service: str) -> None:
        """End ``coordinator`` or ``exporter`` with its supervisor, by SIGTERM, and wait."""
        process = self._services.pop(service)
        process.terminate()
        process.wait()

    def kill(self, service: str) -> None:
        """Kill labgrid's own process with -9; its supervisor lives."""
        os.kill(self.pid(service), signal.SIGKILL)

    def kill_for_good(self, service: str) -> None:
        """Kill labgrid's process and its supervisor with -9."""
        supervisor = self._services.pop(service)
        pid = self.pid(service)
        supervisor.kill()
        supervisor.wait()
        # The kernel ends the child of a supervisor that dies with SIGTERM; -9 leaves it no time.
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def pid(self, service: str) -> int:
        """Process id of labgrid's own process."""
        return int(re.findall(r": process (\d+)", self.log(service))[-1])

    def log(self, service: str) -> str:
        """What it and its supervisor said."""
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def client(self, *arguments: str) -> str:
        """What labgrid's own client says."""
        from lab.labgrid.environment import labgrid_program

        command = [labgrid_program("labgrid-client"), "-x", self.address, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def bench(self, path: Path, *, devices: Mapping[str, object] | None = None, **section: object) -> Path:
        """A bench file that names this coordinator."""
        labgrid = {"coordinator": self.address, "ttl": self.ttl_s, "discover": devices is None, **section}
        path.write_text(yaml.safe_dump({"labgrid": labgrid, **({} if devices is None else {"devices": dict(devices)})}))
        return path

    def _start(self, service: str, arguments: Sequence[str], ready: str) -> None:
        with (self.folder / f"{service}.log").open("wb") as log:
            self._services[service] = subprocess.Popen(
                [sys.executable, "-m", "lab", "labgrid", *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, "LAB_STATE": str(self.folder), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while ready not in self.log(service):
            if self._services[service].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{service} did not start: {self.log(service)}")
            time.sleep(0.05)

    def _end_all(self) -> None:
        # A coordinator waits for its exporters when it ends.
        for service in sorted(self._services, reverse=True):
            self.stop(service)


class WaitingHost:
    """A host that waits for a place, and has it until it is told to give it back.

    Args:
        bench: bench file.
        device: of it.
        purpose, priority: of its lease.
        state: its folder of leases, which processes of one host share.
    """

    def __init__(self, bench: Path, device: str, purpose: str, priority: str, state: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _USE, str(bench), device, purpose, priority],
            stdin=subprocess.PIPE, env={**os.environ, "LAB_STATE": str(state)},
        )  # fmt: skip

    def give_back(self) -> None:
        """End it; it had the place until then."""
        self._process.communicate(b"\n")
        assert self._process.returncode == 0

    def lose_power(self) -> None:
        """Kill it and its helper, which would leave the line for it."""
        pid = self._process.pid
        self._process.send_signal(signal.SIGSTOP)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


def ssh_to(server: SshHost, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make plain ``ssh hub`` lead to a server, as a user's ``~/.ssh/config`` would."""
    known = folder / "known_hosts"
    known.write_text(f"[{server.host}]:{server.port} {server.host_key}\n")
    settings = folder / "ssh_config"
    settings.write_text(
        f"Host hub\n  HostName {server.host}\n  Port {server.port}\n  User {server.user}\n"
        f"  IdentityFile {server.key}\n  UserKnownHostsFile {known}\n  StrictHostKeyChecking yes\n"
    )
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {settings} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _place(name: str, tags: Mapping[str, str]) -> dict[str, object]:
    match = {"exporter": EXPORTER, "group": name, "cls": "*", "name": None, "rename": None}
    return {"aliases": [], "comment": "", "tags": dict(tags), "matches": [match], "created": 1.0, "changed": 1.0}
