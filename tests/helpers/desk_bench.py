"""A bench of two devices that the lab takes for hardware, and inner pytest sessions on it.

The devices are real runner processes; `good` works, `wedged` answers to no rung of its ladder.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers.sandbox import environment

_BENCH = """
devices:
  good: {board: desk, ssh: {host: nowhere, user: lab}}
  wedged: {board: desk, ssh: {host: nowhere, user: lab}}
"""
_BOARD = """
kind: desk
title: A runner process that is taken for hardware
device_class: linux
cpu: native
clock_hz: 1 GHz
memory: {flash_bytes: 64 MiB, ram_bytes: 64 MiB, arena_limit_bytes: 16 MiB}
firmware_board: host
nominal_voltage_v: 0.0
"""
_CONFTEST = """
from contextlib import contextmanager

import fixtures.session
import fixtures.trust
import lab.doctor
from helpers import tiny_workload
from lab.devices.host import host_of
from lab.errors import TransportError

tiny_workload.register()
fixtures.trust.HEALTH_WORKLOAD = "tiny"
lab.doctor.availability = lambda entry: ""

def no_rung():
    raise TransportError("no answer from any rung")

@contextmanager
def connected(entry, cache, fence=None):
    device = host_of(entry, "host", cache, None, fence)
    if entry.name == "wedged":
        device.recover = no_rung
    yield device
    device.close()

fixtures.session.connected = connected
"""


@dataclass(frozen=True)
class Session:
    """A finished inner session."""

    output: str
    store: Path


def write(folder: Path, tests: str, bench: str = _BENCH) -> None:
    """The files of a session."""
    (folder / "boards").mkdir(exist_ok=True)
    (folder / "boards" / "desk.yaml").write_text(_BOARD)
    (folder / "bench.yaml").write_text(bench)
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_job.py").write_text("import pytest\nfrom lab.errors import *\n" + tests)


def places_of(folder: Path, cache: Path, device: str = "", **more: str) -> dict[str, str]:
    """The environment of a session."""
    return dict(environment(
        folder / "lab", cache,
        LAB_CONFIG=str(folder / "bench.yaml"), LAB_DEVICE=device, LAB_NO_REPORT="1", COLUMNS="300", **more,
    ))  # fmt: skip


def run(folder: Path, cache: Path, tests: str, device: str, *arguments: str, **more: str) -> Session:
    """Run a session to its end."""
    write(folder, tests)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments]
    places = places_of(folder, cache, device, **more)
    done = subprocess.run(command, cwd=folder, env=places, capture_output=True, text=True, check=False)
    assert "INTERNALERROR" not in done.stdout + done.stderr
    return Session(done.stdout + done.stderr, folder / "lab" / "store")
