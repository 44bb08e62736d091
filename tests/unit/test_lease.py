"""Leases, with real processes: competition, death, hang, tokens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.errors import LeaseLost, StoreError
from lab.lease import Lease, holder, lease

_HOLD = """
import sys
from pathlib import Path
from lab.lease import lease
held = lease("board", "a nightly", ttl_s=float(sys.argv[2]), folder=Path(sys.argv[1]))
print(held.record.token, flush=True)
for line in sys.stdin:
    try:
        held.check()
        print("still mine", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0], flush=True)
"""

_COMPETE = """
import os, sys
from pathlib import Path
from lab.lease import lease
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with lease("board", "compete", wait_s=60, folder=folder) as held:
        inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
        print(held.record.token, flush=True)
        os.close(inside)
        os.unlink(folder / "inside")
"""


@contextmanager
def _other_process(folder: Path, ttl_s: float = 30.0) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``board``; it has said its token before this returns."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder), str(ttl_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip().isdigit()
            yield process
        finally:
            process.kill()


def test_a_held_device_is_refused_with_holder_and_purpose(tmp_path: Path) -> None:
    with _other_process(tmp_path) as process:
        with pytest.raises(LeaseLost) as caught:
            lease("board", "mine", folder=tmp_path)
        for part in ("'board'", f"pid {process.pid}", "'a nightly'", "since", "UTC"):
            assert part in caught.value.message
        seen = holder("board", folder=tmp_path)
        assert seen is not None
        assert seen.pid == process.pid


def test_another_device_is_free(tmp_path: Path) -> None:
    with _other_process(tmp_path), lease("board2", "mine", folder=tmp_path) as held:
        held.check()


def test_a_killed_holder_frees_the_device_at_once_and_the_token_rises(tmp_path: Path) -> None:
    with _other_process(tmp_path, ttl_s=3600) as process:
        before = holder("board", folder=tmp_path)
        assert before is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert holder("board", folder=tmp_path) is None
        with lease("board", "mine", folder=tmp_path) as held:
            assert held.record.token > before.token


def test_a_waiter_gets_the_device_when_its_holder_lets_go(tmp_path: Path) -> None:
    with _other_process(tmp_path) as process:
        got: list[Lease] = []
        waiter = threading.Thread(target=lambda: got.append(lease("board", "mine", 60, folder=tmp_path)))
        waiter.start()
        assert process.stdin is not None
        process.stdin.close()
        waiter.join()
        assert got[0].record.pid == os.getpid()
        got[0].release()


def test_a_hung_holder_is_passed_over_and_learns_of_it(tmp_path: Path) -> None:
    with _other_process(tmp_path, ttl_s=0.3) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with lease("board", "recovery", 60, folder=tmp_path) as held:
            assert held.record.pid == os.getpid()
            os.kill(process.pid, signal.SIGCONT)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("check\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer.startswith("LeaseLost")
            assert "'recovery'" in answer
            held.check()


def test_a_living_holder_renews_its_deadline_while_others_are_refused(tmp_path: Path) -> None:
    with lease("board", "long", ttl_s=3.0, folder=tmp_path) as held:
        seen = holder("board", folder=tmp_path)
        while seen is not None and seen.deadline == held.record.deadline:
            with pytest.raises(LeaseLost, match=r"waited 0\.2 s"):
                lease("board", "mine", wait_s=0.2, folder=tmp_path)
            seen = holder("board", folder=tmp_path)
        assert seen is not None
        assert seen.deadline > held.record.deadline
        assert seen.token == held.record.token
        held.check()


def test_competing_processes_never_meet_and_tokens_strictly_rise(tmp_path: Path) -> None:
    rounds, count = 10, 3
    command = [sys.executable, "-c", _COMPETE, str(tmp_path), str(rounds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    per_process = [[int(token) for token in output.split()] for output in outputs]
    assert all(tokens == sorted(tokens) for tokens in per_process)
    assert len({token for tokens in per_process for token in tokens}) == rounds * count


def test_a_released_lease_is_free_and_no_longer_valid(tmp_path: Path) -> None:
    held = lease("board", "mine", folder=tmp_path)
    held.release()
    held.release()
    assert holder("board", folder=tmp_path) is None
    with pytest.raises(LeaseLost, match="released"):
        held.check()


def test_a_record_removed_by_hand_ends_the_lease(tmp_path: Path) -> None:
    with lease("board", "mine", folder=tmp_path) as held:
        (tmp_path / "board.json").unlink()
        with pytest.raises(LeaseLost, match="gone"):
            held.check()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "board.json").write_text("{")
    with pytest.raises(StoreError, match=r"board\.json"):
        lease("board", "mine", folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/leases") as caught:
        lease("board", "mine", folder=tmp_path / "file" / "leases")
    assert "LAB_STATE" in caught.value.hint


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    with lease("../outside", "mine", folder=inner):
        assert [path.name for path in tmp_path.iterdir()] == ["inner"]
