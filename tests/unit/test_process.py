"""Children that never outlive the lab: real processes, killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from lab.emulators.process import end, spawn
from lab.errors import EmulatorError, ToolMissing

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


@pytest.fixture
def log(tmp_path: Path) -> IO[bytes]:
    return (tmp_path / "log").open("w+b")


def python(program: str, log: IO[bytes], *, stdin_pipe: bool = False) -> subprocess.Popen[bytes]:
    return spawn([sys.executable, "-c", program], cwd=Path("/"), log=log, stdin_pipe=stdin_pipe, stdout_pipe=True)


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PARENT = """
    import sys, time
    from pathlib import Path
    from lab.emulators.process import spawn
    children = [
        spawn([sys.executable, "-c", {sleeper!r}], cwd=Path("/"), log=sys.stderr.buffer, stdout_pipe=True)
        for _ in range(3)
    ]
    for child in children:
        child.stdout.readline()
    print(*(child.pid for child in children), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_die_with_their_parent(how: signal.Signals) -> None:
    program = textwrap.dedent(PARENT.format(sleeper=SLEEPER))
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        pids = [int(pid) for pid in first_line(parent).split()]
        assert len(pids) == 3
        assert all(map(is_running, pids))
        parent.send_signal(how)
    finally:
        parent.kill()
        parent.communicate()
    assert eventually(lambda: not any(map(is_running, pids)), within_s=5.0)


def test_a_child_outlives_the_thread_that_asked_for_it(log: IO[bytes]) -> None:
    """The kernel sends the parent-death signal when the *thread* that forked ends."""
    started: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: started.append(python(SLEEPER, log)))
    thread.start()
    thread.join()
    (child,) = started
    assert first_line(child) == b"up\n"
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    assert end(child) == -signal.SIGKILL


def test_a_fork_of_the_lab_can_start_children_too(log: IO[bytes]) -> None:
    """It inherits the spawner, but not the spawner's thread."""
    end(python("", log))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if end(python("raise SystemExit(0)", log), grace_s=0.0) in (0, -signal.SIGKILL) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_output_goes_where_it_is_sent(tmp_path: Path, log: IO[bytes]) -> None:
    child = python("import sys; print('out', flush=True); print('err', file=sys.stderr)", log)
    assert first_line(child) == b"out\n"
    assert child.wait(20) == 0
    end(child)
    log.seek(0)
    assert log.read() == b"err\n"
    child = spawn([sys.executable, "-c", "print('both')"], cwd=tmp_path, log=log)
    assert child.wait(20) == 0
    log.seek(0)
    assert log.read() == b"err\nboth\n"


def test_input_environment_and_folder(tmp_path: Path, log: IO[bytes]) -> None:
    program = "import os, sys; print(os.getcwd(), os.environ.get('WHO'), 'HOME' in os.environ, sys.stdin.read())"
    child = spawn(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        log=log,
        stdin_pipe=True,
        stdout_pipe=True,
        environment={"WHO": "me"},
    )
    assert child.stdin is not None
    child.stdin.write(b"said")
    child.stdin.close()
    assert first_line(child).decode().split() == [str(tmp_path), "me", "False", "said"]
    end(child)


def test_a_program_that_is_not_installed(log: IO[bytes]) -> None:
    with pytest.raises(ToolMissing, match="no-such-program is not installed") as error:
        spawn(["no-such-program"], cwd=Path("/"), log=log)
    assert "lab doctor" in error.value.hint


def test_a_missing_setpriv_is_named(tmp_path: Path, log: IO[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="setpriv is not installed") as error:
        spawn(["python"], cwd=Path("/"), log=log)
    assert "util-linux" in error.value.hint


def test_a_folder_that_is_not_there(log: IO[bytes]) -> None:
    with pytest.raises(EmulatorError, match=r"could not be started: .*nowhere"):
        spawn([sys.executable], cwd=Path("/nowhere"), log=log)


def test_a_program_named_relative_to_here_runs_elsewhere(
    tmp_path: Path, log: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho here\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    child = spawn(["./tool"], cwd=Path("/"), log=log, stdout_pipe=True)
    assert first_line(child) == b"here\n"
    end(child)


def closed(process: subprocess.Popen[bytes]) -> bool:
    return all(pipe is None or pipe.closed for pipe in (process.stdin, process.stdout))


def test_end_kills_and_closes_the_pipes(log: IO[bytes]) -> None:
    child = python(SLEEPER, log, stdin_pipe=True)
    assert end(child) == -signal.SIGKILL
    assert closed(child)
    assert end(child) == -signal.SIGKILL


def test_end_asks_first_where_there_is_time(log: IO[bytes]) -> None:
    child = python(SLEEPER, log)
    first_line(child)
    assert end(child, grace_s=10.0) == -signal.SIGTERM


def test_end_kills_who_does_not_listen(log: IO[bytes]) -> None:
    child = python(STUBBORN, log)
    first_line(child)
    assert end(child, grace_s=0.1) == -signal.SIGKILL


def test_end_returns_the_status_of_one_that_ended_by_itself(log: IO[bytes]) -> None:
    child = python("raise SystemExit(7)", log)
    child.wait(20)
    assert end(child) == 7
    assert closed(child)


def test_end_with_something_still_to_be_written(log: IO[bytes]) -> None:
    """Closing a pipe flushes it, into nobody."""
    child = python(SLEEPER, log, stdin_pipe=True)
    assert child.stdin is not None
    child.stdin.write(b"never read")
    child.kill()
    child.wait()
    assert end(child) == -signal.SIGKILL
    assert closed(child)
