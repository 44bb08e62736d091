"""Command lines for remote shells: what a shell makes of them, and how their processes are found again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.errors import ConfigError
from lab.transports.remote_command import (
    MARK,
    check_arguments,
    command_line,
    kill_line,
    new_mark,
    numbered,
    parse_probe,
    probe_line,
)

SHELLS = [path for name in ("sh", "bash", "dash", "zsh", "busybox") if (path := shutil.which(name))]
# What is in a file name or an argument on Linux: any bytes but zero, which Python has as surrogates.
WORDS = st.lists(st.text(st.characters(min_codepoint=1, exclude_categories=("Cs",)), max_size=12), max_size=6)


def shell(path: str, line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    applet = ("sh",) if os.path.basename(path) == "busybox" else ()
    return subprocess.run(
        (path, *applet, "-c", os.fsencode(line)),
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        start_new_session=True,
    )


@pytest.mark.parametrize("path", SHELLS)
@settings(max_examples=25, deadline=None)
@given(words=WORDS)
@example(words=["it's", '"$HOME"', "`id`", "a\nb", "\\", "*", "", "!x", "~", "#", "-n", "FOO=bar", "é\udce9"])
def test_words_arrive_as_they_are(path: str, words: list[str]) -> None:
    # Two shells would each take their part: an argument must survive the one that the server starts.
    line = command_line(["printf", r"%s\0", "first", *words], "mark", True)
    done = shell(path, line)
    assert done.stdout == b"".join(os.fsencode(word) + b"\0" for word in ("first", *words))
    assert done.stderr == b""


@pytest.mark.parametrize("own_session", [True, False])
def test_the_shell_becomes_the_command_and_leads_its_group(own_session: bool) -> None:
    line = command_line(["sh", "-c", f'cut -d" " -f1,5 /proc/$$/stat; echo ${MARK}'], "some-mark", own_session)
    # Where the server makes a session, the shell leads it; where it does not, setsid makes one.
    done = subprocess.run(("sh", "-c", line), stdout=subprocess.PIPE, start_new_session=own_session, check=True)
    group, mark = done.stdout.decode().splitlines()
    pid, leader = group.split()
    assert pid == leader
    assert mark == "some-mark"


@pytest.mark.parametrize("argv", [[], [""], ["-c"], "ls -l", ["ls", "a\0b"]])
def test_what_is_no_command_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"list of a program|zero byte"):
        check_arguments(argv)


@pytest.mark.parametrize("path", SHELLS)
def test_killing_by_mark_takes_all_of_one_and_nothing_of_another(path: str) -> None:
    family = new_mark()
    marks = [numbered(family, number) for number in (1, 11, 2)]
    # The second's child took the mark out of its environment, and left nobody but its group.
    tail = "env -i sleep 3600 & exec sleep 3600"
    processes = [
        subprocess.Popen(("sh", "-c", tail), env={**os.environ, MARK: mark}, start_new_session=True) for mark in marks
    ]
    groups = [process.pid for process in processes]
    try:
        assert shell(path, kill_line(marks[0])).returncode == 0
        assert processes[0].wait(20) == -9
        assert [process.poll() for process in processes[1:]] == [None, None]
        assert shell(path, kill_line(family)).returncode == 0
        assert [process.wait(20) for process in processes[1:]] == [-9, -9]
        # A killed process takes a moment to be gone.
        deadline = time.monotonic() + 20
        while any(_has_members(group) for group in groups):
            assert time.monotonic() < deadline
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _has_members(group: int) -> bool:
    """Whether a process group has members that are no corpses."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                    state, _, its_group = file.read().rpartition(") ")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state != "Z":
                return True
    return False


def test_killing_finds_a_shell_that_has_not_become_its_command_yet() -> None:
    mark = numbered(new_mark(), 7)
    line = command_line(["sleep", "3600"], mark, True).replace("exec ", "sleep 3600; exec ")
    process = subprocess.Popen(("sh", "-c", line), start_new_session=True)
    try:
        assert shell("/bin/sh", kill_line(mark)).returncode == 0
        assert process.wait(20) == -9
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("path", SHELLS)
def test_the_probe_tells_the_surroundings(path: str) -> None:
    done = shell(path, f"cd /; {probe_line()}")
    around = parse_probe(done.stdout, done.stderr, "here")
    assert around.home == "/"
    assert around.own_session
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert around.boot_id == file.read().strip()
    shared = subprocess.run((sys.executable, "-c", f"import os; os.system({probe_line()!r})"), stdout=subprocess.PIPE,
                            check=True)  # fmt: skip
    assert not parse_probe(shared.stdout, b"", "here").own_session


def test_shells_that_are_not_posix_or_chatty_are_named() -> None:
    good = shell("/bin/sh", probe_line()).stdout
    with pytest.raises(ConfigError, match=r"user@host: its shell prints 'Welcome!\\n' before") as caught:
        parse_probe(b"Welcome!\n" + good, b"", "user@host")
    assert ".bashrc" in caught.value.hint
    with pytest.raises(ConfigError, match="Illegal variable name") as caught:
        parse_probe(b"", b"Illegal variable name.\n", "user@host")
    assert "chsh" in caught.value.hint
    with pytest.raises(ConfigError, match="did not run"):
        parse_probe(good.splitlines(keepends=True)[0], b"", "user@host")
    no_proc = good.replace(good.split(b"\n")[3], b"")
    assert parse_probe(no_proc, b"", "user@host").boot_id == ""
