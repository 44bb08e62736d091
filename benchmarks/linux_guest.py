"""Emulated Linux devices: how long an image takes to build, a guest to boot to a login, and a saved one to resume.

Three take turns in one run and end with the same login (plain paramiko, a known host key, a first command): a guest
that boots, one that is resumed, and the guest of the trials that this began with (:mod:`lean_guest`: a smaller kernel
and SSH server, no cpufreq, no sensors). The best turns are compared, since other load on the machine can only slow a
turn down, and where the claim allows by QEMU's processor time, which load changes least. Packages come from the cache:
a mirror says nothing of the lab.

Claims: images are the same bytes again; a boot to a login takes no more than the lean guest's, though its kernel is
larger, has cpufreq, and its server is OpenSSH; a resumed guest takes at most a third of one that boots, and is logged
in to no later than the lean one.
"""

from __future__ import annotations

import base64
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from common import Claim, spread, verdict
from lean_guest import LeanGuest

from lab.connection_config import SshHost
from lab.emulator_config import GuestEmulator
from lab.emulators.linux.guest import Guest
from lab.emulators.linux.image import image
from lab.emulators.linux.packages import linux_cache
from lab.emulators.linux.recipes import RECIPES
from lab.inventory import load_board
from lab.paths import cache_dir, config_dir

TURNS = 5
BOARD = "raspberry-pi-4"


@dataclass
class Turns:
    """Seconds of each turn: until the guest can be logged in to, until it was, and QEMU's processor time until then."""

    start_s: list[float] = field(default_factory=list)
    login_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def log_in(host: SshHost) -> None:
    """Log in with plain paramiko and run a command."""
    kind, _, key = str(host.host_key).partition(" ")
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        known = paramiko.Ed25519Key(data=base64.b64decode(key))
        client.get_host_keys().add(f"[127.0.0.1]:{host.port}", kind, known)
        client.connect(
            "127.0.0.1", host.port, str(host.user), key_filename=str(host.key), look_for_keys=False, allow_agent=False
        )
        _, output, _ = client.exec_command("uname -m")
        if output.read() != b"aarch64\n":
            raise SystemExit("the guest did not answer")


def processor_s(pid: int) -> float:
    """Processor time a process has used (proc_pid_stat(5), utime and stime)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def turn(guest: Guest | LeanGuest, turns: Turns) -> None:
    """Start a guest, log in, end it."""
    begin = time.perf_counter()
    try:
        guest.start()
        turns.start_s.append(time.perf_counter() - begin)
        log_in(guest.address_of_ssh())
        turns.login_s.append(time.perf_counter() - begin)
        turns.cpu_s.append(processor_s(guest.pid))
    finally:
        guest.stop()


def build_images() -> tuple[float, int]:
    """Seconds for all images in an empty cache that has the packages, and how many are those of our own cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        shutil.copytree(linux_cache(cache_dir()) / "packages", linux_cache(cache) / "packages")
        begin = time.perf_counter()
        digests = [image(kind, cache).digest for kind in RECIPES]
        build_s = time.perf_counter() - begin
    return build_s, sum(image(kind, cache_dir()).digest in digests for kind in RECIPES)


def main() -> int:
    """Measure, print, say whether the claims hold."""
    for kind in RECIPES:
        image(kind, cache_dir())
    build_s, same = build_images()
    print(f"three images built of packages in the cache: {build_s:.1f} s")
    (section,) = load_board(config_dir() / "boards" / f"{BOARD}.yaml").emulators
    if not isinstance(section, GuestEmulator):
        raise SystemExit(f"{BOARD} is not emulated as a guest")
    booted, resumed, lean = Turns(), Turns(), Turns()
    guests: list[tuple[Guest | LeanGuest, Turns]] = [
        (Guest(section, cache_dir(), resume=False), booted),
        (LeanGuest(cache_dir()), lean),
        (Guest(section, cache_dir()), resumed),
    ]
    for guest, _ in guests:
        turn(guest, Turns())
    for _ in range(TURNS):
        for guest, turns in guests:
            turn(guest, turns)
    for name, turns in (("boot", booted), ("lean boot", lean), ("resume", resumed)):
        for what, values in (("until it can be logged in to", turns.start_s), ("until logged in", turns.login_s),
                             ("QEMU's processor time until then", turns.cpu_s)):  # fmt: skip
            print(f"{name:9} {what:34} best {min(values):5.2f} s, {spread(values, 's')}")
    return verdict(
        [
            Claim("images that are the same bytes again", f"{same} of {len(RECIPES)}", same / len(RECIPES), 1.0, True),
            Claim(
                "boot to login, processor time, against the lean guest's",
                f"{spread(booted.cpu_s, 's')}, lean {spread(lean.cpu_s, 's')}",
                min(booted.cpu_s) / min(lean.cpu_s),
                1.0,
            ),
            Claim(
                "boot to login, processor time, against resume to login",
                f"{spread(booted.cpu_s, 's')}, resumed {spread(resumed.cpu_s, 's')}",
                min(booted.cpu_s) / min(resumed.cpu_s),
                3.0,
                at_least=True,
            ),
            Claim(
                "resume to login against the lean guest's boot to login",
                f"{spread(resumed.login_s, 's')}, lean {spread(lean.login_s, 's')}",
                min(resumed.login_s) / min(lean.login_s),
                1.0,
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
