"""Two hundred processes, three devices, a third of the processes killed at random: the promises of a lease hold.

The devices judge: each is a runner on a line that all two hundred have. It refuses whoever held it before its present
holder, who then ends with an error, and says so of a session that somebody else opened anew.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from helpers.shared_board import SharedLine, runner, shared_board
from helpers.toolchain import SAMPLE_BYTES, needs_host_compiler, tiny_output

from lab.events import Job, ResultEvent
from lab.lease import Lease, holder, lease, waiting
from lab.wire import Session

DEVICES = ("left", "middle", "right")
PROCESSES = 200
ROUNDS = 2


class Log:
    """Whom a device has served, with which token, in the order of use."""

    def __init__(self, folder: Path, device: str) -> None:
        self._path = folder / f"{device}.log"

    def add(self, token: int) -> None:
        """Written in one call that appends, so that the order in the file is the order of use."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{token} {os.getpid()}\n".encode())
        os.close(descriptor)

    def uses(self) -> list[tuple[int, int]]:
        """Token and process of each use, in order."""
        lines = self._path.read_text().split("\n") if self._path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines if line]


def forked(work: Callable[[], None]) -> int:
    """A process that does ``work`` and ends with status 0, or 1 where it raises."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def use(line: SharedLine, held: Lease, log: Log) -> None:
    """Three inferences in one session; nothing here looks at a record of the lease."""
    line.drain()
    session = Session(line, fence=held, acknowledge_s=20.0, attempts=1)
    session.open(20.0)
    for _ in range(3):
        # Of each process its own, so that what another one puts there in between would show.
        sample = os.getpid().to_bytes(4, "little") * (SAMPLE_BYTES // 4)
        session.put("samples", sample)
        events = session.run(Job("infer", sample, 1, quiet_us=0))
        made = [event.data for event in events if isinstance(event, ResultEvent)]
        if made != [tiny_output(sample)]:
            raise AssertionError(f"{line.name} computed from somebody else's samples")
        log.add(held.token)


def compete(lines: dict[str, SharedLine], folder: Path, number: int) -> None:
    chance = random.Random(number)
    for _ in range(ROUNDS):
        # A third of them would take any device, as a reservation by capability does.
        wanted = DEVICES if number % 3 == 0 else (chance.choice(DEVICES),)
        with lease(wanted, f"competitor {number}", wait_s=120, folder=folder / "leases") as held:
            device = held.record.device
            use(lines[device], held, Log(folder, device))


@needs_host_compiler
def test_two_hundred_compete_and_a_third_is_killed(tmp_path: Path) -> None:
    runner()
    with ExitStack() as stack:
        lines = {device: stack.enter_context(shared_board(device)) for device in DEVICES}
        _compete_and_be_killed(lines, tmp_path)


def _compete_and_be_killed(lines: dict[str, SharedLine], tmp_path: Path) -> None:
    children = [forked(partial(compete, lines, tmp_path, number)) for number in range(PROCESSES)]
    chance = random.Random(8)
    doomed = set(chance.sample(children, PROCESSES // 3))
    for child in chance.sample(sorted(doomed), len(doomed)):
        # Spread over the competition: each is killed once the devices have been used a little more.
        seen = sum(len(Log(tmp_path, device).uses()) for device in DEVICES)
        while sum(len(Log(tmp_path, device).uses()) for device in DEVICES) <= seen and _running(child):
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    status = {child: os.waitpid(child, 0)[1] for child in children}
    assert {os.waitstatus_to_exitcode(status[child]) for child in children if child not in doomed} == {0}
    for device in DEVICES:
        uses = Log(tmp_path, device).uses()
        tokens = [token for token, _ in uses]
        assert tokens == sorted(tokens), f"{device}: an older holder used it after a newer one"
        assert len({pid for token, pid in uses}) >= 10
        owners: dict[int, set[int]] = {}
        for token, pid in uses:
            owners.setdefault(token, set()).add(pid)
        assert all(len(pids) == 1 for pids in owners.values()), f"{device}: two processes with one token"
        assert holder(device, folder=tmp_path / "leases") is None, f"{device} is held by a dead process"
    assert waiting(folder=tmp_path / "leases") == []


def _running(child: int) -> bool:
    return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
