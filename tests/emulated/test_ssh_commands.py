"""`lab ssh` and `lab push` on the loopback device, whole: the program, the bench, a real OpenSSH server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.cli import main

LAB = (sys.executable, "-m", "lab")


def test_a_command_its_streams_and_its_status() -> None:
    command = ("sh", "-c", 'cat; printf "%s|" "$@" >&2; exit 7', "sh", "it's  why", "--help", "--")
    words = (*LAB, "ssh", "loopback", "--", *command)
    done = subprocess.run(words, input=b"in\0put", capture_output=True, check=False, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == (b"in\0put", b"it's  why|--help|--|", 7)


def test_without_a_command_a_script_comes_from_standard_input() -> None:
    script = b"echo $((6 * 7)); kill -SEGV $$\n"
    done = subprocess.run((*LAB, "ssh", "loopback"), input=script, capture_output=True, check=False, timeout=120)
    assert (done.stdout, done.returncode) == (b"42\n", 139)


def test_a_terminal() -> None:
    parent, child = os.openpty()
    process = subprocess.Popen((*LAB, "ssh", "loopback"), stdin=child, stdout=child, stderr=child)
    os.close(child)
    said = b""
    try:
        # Typed ahead: the terminal keeps it until the shell reads.
        os.write(parent, b"test -t 0 && echo answer $((6 * 7)); exit 5\n")
        while chunk := _read(parent):
            said += chunk
        assert process.wait(60) == 5
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    assert b"answer 42" in said


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        # Linux says so once the other end is closed (EIO).
        return b""


def test_a_file_is_put_there(tmp_path: Path) -> None:
    source = tmp_path / "tool"
    source.write_bytes(b"#!/bin/sh\necho ran\n")
    source.chmod(0o755)
    target = tmp_path / "device/tool"
    runner = CliRunner()
    words = ["push", "loopback", str(source), str(target)]
    first, second = runner.invoke(main, words), runner.invoke(main, words)
    assert first.output.startswith(f"loopback: {target}: 19 B, 19 B sent\n")
    assert f"{target}: 19 B, there already" in second.output
    assert subprocess.run((target,), capture_output=True, check=True).stdout == b"ran\n"
    # Without a destination it goes into the lab's folder there, which is a new one each time.
    assert "/tool: 19 B, 19 B sent" in runner.invoke(main, words[:3]).output


@pytest.mark.parametrize("words", [("ssh", "m4f"), ("push", "host", __file__)])
def test_devices_that_cannot_be_logged_in_to(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "cannot be logged in to" in done.output
