"""A stand-in for a device: this computer's own shell, a folder in place of its kernel's files, and programs of its own.

What is run is real; what a board has and this computer lacks (``vcgencmd``, ``nvpmodel``, cpufreq) are scripts and
files.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import TransportError
from lab.transports.remote import Finished, Pushed, RemoteProcess


class StandIn:
    """Runs commands here, as a :class:`lab.transports.remote.Remote`.

    Args:
        folder: takes ``root``, the files, ``bin``, the programs, and ``home``.
        uid: what ``id -u`` says; None for the real one.

    Attributes:
        breaks_at: number of the command at which the connection breaks; None: never.
        comes_back: whether it can be connected again.
        commands: all that were run.
    """

    name = "stand-in"

    def __init__(self, folder: Path, uid: int | None = 0) -> None:
        self.root = folder / "root"
        self.home = folder / "home"
        self._programs = folder / "bin"
        for one in (self.root, self.home, self._programs):
            one.mkdir(parents=True, exist_ok=True)
        self.breaks_at: int | None = None
        self.comes_back = True
        self.commands: list[list[str]] = []
        self.reconnects = 0
        if uid is not None:
            self.program("id", f"echo {uid}")

    def file(self, path: str, text: str | int) -> Path:
        """Write a file of the kernel."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")
        return place

    def files(self, files: Mapping[str, str | int]) -> None:
        """Write many."""
        for path, text in files.items():
            self.file(path, text)

    def text(self, path: str) -> str:
        """What a file of the kernel holds."""
        return (self.root / path.lstrip("/")).read_text().strip()

    def program(self, name: str, script: str) -> None:
        """Install a program."""
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        """Run a command."""
        if self.breaks_at is not None and len(self.commands) >= self.breaks_at:
            raise TransportError("stand-in: the connection broke", transient=True)
        self.commands.append(list(argv))
        environment = {**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}", "HOME": str(self.home)}
        try:
            done = subprocess.run(
                list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False, cwd=self.home,
                env=environment,
            )  # fmt: skip
        except FileNotFoundError as error:
            return Finished(127, b"", str(error).encode())
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Finished(status, done.stdout, done.stderr)

    def start(self, argv: Sequence[str]) -> RemoteProcess:
        raise NotImplementedError

    def push(self, source: Path, destination: str, *, executable: bool = False) -> Pushed:
        raise NotImplementedError

    def pull(self, source: str, destination: Path) -> None:
        raise NotImplementedError

    def reconnect(self, timeout_s: float) -> None:
        """Connect again, where that is possible."""
        self.reconnects += 1
        if not self.comes_back:
            raise TransportError("stand-in: it does not answer", transient=True)
        self.breaks_at = None

    def close(self) -> None:
        """Nothing is held open."""


CPUFREQ = "/sys/devices/system/cpu/cpufreq"


def raspberry_pi_4(folder: Path, uid: int | None = 0) -> StandIn:
    """Files and programs of a Raspberry Pi 4 that are looked at."""
    device = StandIn(folder, uid)
    policy = f"{CPUFREQ}/policy0"
    device.files(
        {
            f"{policy}/affected_cpus": "0 1 2 3",
            f"{policy}/scaling_governor": "ondemand",
            f"{policy}/scaling_available_governors": "conservative ondemand userspace powersave performance schedutil",
            f"{policy}/scaling_available_frequencies": "600000 700000 800000 1500000 1800000",
            f"{policy}/scaling_cur_freq": 1800000,
            f"{policy}/scaling_min_freq": 600000,
            f"{policy}/scaling_max_freq": 1800000,
            f"{policy}/cpuinfo_min_freq": 600000,
            f"{policy}/cpuinfo_max_freq": 1800000,
            "/sys/devices/system/cpu/online": "0-3",
            "/sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "/sys/class/thermal/thermal_zone0/temp": 48312,
            "/sys/class/hwmon/hwmon1/in0_lcrit_alarm": 0,
            "/proc/loadavg": "0.08 0.03 0.01 1/132 1234",
            "/proc/uptime": "1234.56 4321.00",
            "/proc/meminfo": "MemTotal:        3884000 kB\nMemFree:  3000000 kB\nMemAvailable:    3500000 kB",
        }
    )
    device.program("vcgencmd", 'case "$1" in get_throttled) echo throttled=0x0;; *) exit 1;; esac')
    return device
