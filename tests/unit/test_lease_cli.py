"""``lab lease``: what a person sees and does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lab.cli import main
from lab.errors import LeaseLost, TransportError
from lab.inventory import Device
from lab.lease import Lease, holder, lease

BENCH = """
devices:
  left: {board: nucleo-f446re, serial: {by_id: "1"}, tags: [desk]}
  right: {board: nucleo-f446re, serial: {by_id: "2"}, tags: [desk]}
  m4f: {board: mps2-an386, emulated: true}
"""


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench.yaml").write_text(BENCH)
    monkeypatch.setenv("LAB_CONFIG", str(tmp_path / "bench.yaml"))
    monkeypatch.setenv("LAB_STATE", str(tmp_path / "state"))


def lab(*words: str) -> Result:
    return CliRunner().invoke(main, ["lease", *words])


def test_a_free_bench() -> None:
    assert lab("list").output == "no device is held\n"
    assert "'left' is held by nobody" in lab("release", "left").output
    assert "'left' is held by nobody" in lab("kick", "left", "--reason", "x").output


def test_holders_are_listed_with_purpose_and_since() -> None:
    with lease("left", "nightly 42", priority="nightly") as held:
        listed = lab("list").output
    holder, lease_of = f"(pid {os.getpid()}) for 'nightly 42' since ", f"nightly, token {held.token}"
    for part in ("left: ", holder, lease_of, "renewed for"):
        assert part in listed


_ASK = "import json, os, sys; from lab.lease import lease; " \
    "held = lease('left', 'inner'); json.dump([os.environ['LAB_LEASE'], held.record.purpose], sys.stdout)"  # fmt: skip


def take(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab", "lease", "take", *words], capture_output=True, text=True, check=False
    )


def test_a_command_gets_the_device_and_what_it_starts_may_use_it() -> None:
    done = take("left", "--purpose", "look at it", "--", sys.executable, "-c", _ASK)
    lent, purpose = json.loads(done.stdout)
    assert lent.removeprefix("left:").isdigit()
    assert purpose == "look at it"
    assert "left is yours for 2 h" in done.stderr
    assert holder("left") is None


def test_the_status_of_the_command_is_that_of_take() -> None:
    assert take("left", "--", sys.executable, "-c", "raise SystemExit(3)").returncode == 3


def test_a_reservation_by_what_a_device_must_have_takes_the_one_that_is_free() -> None:
    with lease("left", "busy"):
        done = take("cpu:cortex-m4f+tag:desk", "--", sys.executable, "-c", "import os; print(os.environ['LAB_LEASE'])")
    assert done.stdout.startswith("right:")


@pytest.mark.parametrize(
    ("busy", "taken", "asked", "told"),
    [
        ("", "near", [("near", False)], ""),
        ("near", "far", [("near", False), ("far", False)], ""),
        ("near far", "near", [("near", False), ("far", False), ("near", True)],
         "none of near, far is free; waiting for near alone"),
        ("far near:unserved", "far", [("near", False), ("far", False), ("far", True)], "waiting for far alone"),
    ],
)  # fmt: skip
def test_of_several_places_the_first_that_is_free_on_all_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: str, taken: str, asked: list[tuple[str, bool]], told: str
) -> None:
    """Others hold them for as long as nobody waits, or no exporter serves one."""
    rows = "".join(f"  {name}: {{board: nucleo-f446re, place: {name}}}\n" for name in ("near", "far"))
    (tmp_path / "bench.yaml").write_text(f"labgrid: {{coordinator: '127.0.0.1:1'}}\ndevices:\n{rows}")
    calls: list[tuple[str, bool]] = []

    def take_place(entry: Device, local: Lease, wait_s: float) -> Lease:
        calls.append((entry.name, wait_s > 0.0))
        if wait_s == 0.0 and entry.name in busy.replace(":unserved", "").split():
            local.release()
            unserved = f"{entry.name}:unserved" in busy.split()
            raise TransportError("no exporter") if unserved else LeaseLost("held by somebody")
        return local

    for module in ("lab.labgrid.lease", "lab.commands.lease"):
        monkeypatch.setattr(f"{module}.take_place", take_place)
    result = lab("take", "board:nucleo-f446re", "--", sys.executable, "-c", "")
    assert f"{taken} is yours for 2 h" in result.output
    assert told in result.output
    assert calls == asked


def test_the_time_of_a_lease_ends() -> None:
    done = take("left", "--for", "0.3 s", "--", sys.executable, "-c", "import time; time.sleep(600)")
    assert done.returncode != 0
    assert "the 0.3 s for which 'left' was taken are over" in done.stderr


@pytest.mark.parametrize("words", [("release", "left"), ("kick", "left", "--reason", "a demo")])
def test_what_runs_in_another_terminal_is_ended(words: tuple[str, ...]) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "lab", "lease", "take", "left", "--", sys.executable, "-c",
         "import time; print('started', flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    assert lab(*words).exit_code == 0
    with lease("left", "mine now"):
        _, complaint = running.communicate()
    assert running.returncode != 0
    assert "'left' was taken away from this process by" in complaint
    assert ("a demo" if words[0] == "kick" else "lab lease release") in complaint


def test_what_nobody_can_take_is_refused() -> None:
    emulated = lab("take", "m4f")
    assert "nothing that fits 'm4f' can be taken" in emulated.output
    assert "each user starts one of their own" in emulated.output
    assert "nosuchprogram: cannot be started" in lab("take", "left", "nosuchprogram").output
    assert holder("left") is None


def test_a_device_of_somebody_else_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.lease.getpass.getuser", lambda: "ann")
    with lease("left", "hers"):
        monkeypatch.setattr("lab.lease.getpass.getuser", lambda: "bob")
        answer = lab("release", "left").output
    assert "'left' is held by ann@" in answer
    assert "lab lease kick left" in answer
