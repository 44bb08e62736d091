"""The guides to SSH and ADB: their bench files are valid, their keys are all, their commands and errors exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import errors
from lab.cli import main
from lab.connection_config import AdbDevice, SshHost, SshJump
from lab.inventory import load_bench
from lab.transports.ssh_keys import expected_key

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["ssh.md", "adb.md"])
def test_bench_files_of_the_guides_are_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_BOARD_PASSWORD", "any")
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    bench = tmp_path / "bench.yaml"
    bench.write_text(block)
    devices = load_bench(bench).devices
    assert len(devices) == 3
    for device in devices.values():
        host = device.config.ssh
        # Keys and fingerprints of the guides are read as such.
        for one in (host, host.jump if host else None):
            if one is not None and one.host_key is not None:
                expected = expected_key(one, None)
                assert bool(expected.keys) != bool(expected.fingerprint)


def test_the_guide_to_ssh_names_every_key() -> None:
    text = (DOCS / "ssh.md").read_text()
    table = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = {key for row in table for key in re.findall(r"`(\w+)`", row)}
    assert named == set(SshHost.model_fields)
    assert set(SshJump.model_fields) <= named
    assert all(f"`{key}`" in (DOCS / "adb.md").read_text() or f"{key}:" in (DOCS / "adb.md").read_text()
               for key in AdbDevice.model_fields)  # fmt: skip


@pytest.mark.parametrize("name", ["ssh.md", "adb.md"])
def test_commands_and_errors_of_the_guides_exist(name: str) -> None:
    text = (DOCS / name).read_text()
    commands = set(re.findall(r"\blab (ssh|push|\w+) (?:pi|phone)\b", text))
    assert commands
    assert commands <= set(main.commands)
    for error in re.findall(r"`((?:Host|Phone|Disk|Transport|Tool)[A-Z]\w+|TransportError)`", text):
        assert issubclass(getattr(errors, error), errors.LabError)
