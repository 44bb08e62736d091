"""The registry of running emulated boards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab.emulators.probe.registry import BoardEntry, Registration, boards, find_board, registry_dir
from lab.errors import ConfigError, ProbeError

_ENTRY = BoardEntry("one", "mps2-an386", "cortex-m4f", "lab_mps2_an386", os.getpid(), "g", "q", "c", "socket://x:1")

_OWNER = """
import os, sys, time
from lab.emulators.probe.registry import BoardEntry, Registration
with Registration(BoardEntry("theirs", "b", "c", "t", int(sys.argv[1]))):
    print("registered", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _private(private_lab: Path) -> None:
    pass


def _files() -> list[str]:
    return sorted(path.name for path in registry_dir().iterdir())


def test_an_entry_is_listed_as_it_was_registered_until_it_is_closed() -> None:
    with Registration(_ENTRY) as registration:
        assert [listed.entry for listed in boards()] == [_ENTRY]
        assert find_board("one").path == registration.listed.path == registry_dir() / "one.json"
        # What other programs are promised.
        document = json.loads((registry_dir() / "one.json").read_text())
        assert document["unique_id"] == "one"
        assert {"board", "core", "pid", "gdb", "qtest", "control", "serial_url"} <= set(document)
    assert boards() == []
    assert _files() == []


def test_an_update_replaces_the_entry() -> None:
    with Registration(_ENTRY) as registration:
        registration.update(replace(_ENTRY, pid=0, gdb=""))
        assert find_board("one").entry == replace(_ENTRY, pid=0, gdb="")
        assert not find_board("one").entry.powered


def test_power_is_the_life_of_the_emulators_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    entry = replace(_ENTRY, pid=child.pid)
    assert entry.powered
    child.communicate()
    assert not entry.powered


def test_a_unique_id_is_taken_once_unless_a_duplicate_is_asked_for() -> None:
    with Registration(_ENTRY):
        with pytest.raises(ConfigError, match=r"'one' runs already.*\n.*another unique id"):
            Registration(_ENTRY)
        with Registration(_ENTRY, duplicate=True) as second, Registration(_ENTRY, duplicate=True) as third:
            assert len({second.listed.path, third.listed.path}) == 2
            assert [listed.entry.unique_id for listed in boards()] == ["one"] * 3
            with pytest.raises(ProbeError, match="3 boards have unique id 'one'"):
                find_board("one")
        assert len(boards()) == 1


def test_an_unknown_id_names_the_known_ones() -> None:
    with pytest.raises(ProbeError, match=r"no board has unique id 'two'.*run: none"):
        find_board("two")
    with Registration(_ENTRY), pytest.raises(ProbeError, match="run: one"):
        find_board("two")


def test_a_board_of_another_process_is_seen_and_vanishes_when_that_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(os.getpid())], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        assert owner.stdout.readline() == "registered\n"
        assert find_board("theirs").entry.powered
        with pytest.raises(ConfigError, match="runs already"):
            Registration(replace(_ENTRY, unique_id="theirs"))
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    # Its emulator's process, this one, lives on: only the owner counts.
    assert boards() == []
    assert _files() == []


def test_entries_that_are_no_entries_are_passed_over() -> None:
    with Registration(_ENTRY) as registration:
        registration.listed.path.write_text('{"unique_id": "one"}')
        assert boards() == []
        registration.listed.path.write_text("{")
        assert boards() == []


def test_a_file_that_nobody_owns_is_removed() -> None:
    registry_dir().mkdir(parents=True)
    (registry_dir() / "left.json").write_text(json.dumps({"unique_id": "left"}))
    (registry_dir() / "left.faults").write_text("{}")
    assert boards() == []
    assert _files() == []
