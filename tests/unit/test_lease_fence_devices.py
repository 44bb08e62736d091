"""What goes past a runner is looked up at the host first: a lost device is neither flashed, reset nor switched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.desk_remote import DeskRemote
from helpers.shared_board import SharedLine, shared_board
from helpers.toolchain import SAMPLE_BYTES, built, needs_host_compiler, tiny_output

from lab.artifact import Artifact
from lab.devices.base import Identity, RegionCount
from lab.devices.linux import Linux
from lab.devices.machine import RealMachine
from lab.devices.mcu import Mcu
from lab.errors import LeaseLost, ProtocolError
from lab.events import Job, ResultEvent
from lab.power.switches.base import PowerSwitch
from lab.transports.base import ByteStream

SAMPLE = bytes(range(SAMPLE_BYTES))
INFER = Job("infer", SAMPLE, 1, quiet_us=0)


class Ticket:
    """A lease that can be lost, and may not know it."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLost("device 'board' was taken over from this process")


class Probed:
    """A board with a probe, a reset line and a switch, as :class:`lab.devices.mcu.McuTarget`; writes down its use."""

    memory = None
    title = "lamp"

    def __init__(self, line: SharedLine) -> None:
        self.done: list[str] = []
        self._line = line

    def load(self, artifact: Artifact) -> ByteStream:
        self.done.append("flash")
        return self._line

    def release(self) -> bool:
        return False

    def reset(self) -> bool:
        self.done.append("reset")
        return False

    def check_alive(self) -> None:
        pass

    def core(self) -> None:
        return None

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        raise NotImplementedError

    def set(self, on: bool) -> None:
        self.done.append("switch")

    def state(self) -> bool | None:
        return None

    def powered(self) -> bool:
        return True

    def close(self) -> None:
        pass


def board(target: Probed, fence: Ticket) -> Mcu:
    identity = Identity("board", "host", "hardware", "", frozenset())
    return Mcu(identity, target, None, lambda: PowerSwitch(target, target, off_s=0.0), fence)


def outputs(device: Mcu | Linux) -> list[bytes]:
    return [event.data for event in device.run(INFER) if isinstance(event, ResultEvent)]


def lose(device: Mcu | Linux, fence: Ticket) -> None:
    """Take the device away; whatever is tried then is refused."""
    fence.lost = True
    uses: dict[str, Callable[[], object]] = {
        "deploy": lambda: device.deploy(built(device.identity.board)),
        "run": lambda: list(device.run(INFER)),
        "soft": lambda: device.reset("soft"),
        "power": lambda: device.reset("power"),
        "switch": lambda: device.power("cycle"),
    }
    for use in uses.values():
        with pytest.raises(LeaseLost, match="taken over"):
            use()


@needs_host_compiler
def test_a_lost_board_is_left_alone() -> None:
    with shared_board("board") as line:
        target, fence = Probed(line), Ticket(5)
        device = board(target, fence)
        device.deploy(built("host"))
        assert outputs(device) == [tiny_output(SAMPLE)]
        lose(device, fence)
        assert target.done == ["flash"]


@needs_host_compiler
def test_recovery_of_a_lost_board_ends_before_it_resets() -> None:
    """A reset would make it forget whom it belongs to; what the device says counts as much as what the host knows."""
    with shared_board("board") as line:
        target, fence = Probed(line), Ticket(5)
        device = board(target, fence)
        device.deploy(built("host"))
        newer = board(Probed(line), Ticket(6))
        newer.deploy(built("host"))
        # Its results come behind every hello, with which the older one would resynchronise otherwise.
        assert outputs(newer) == [tiny_output(SAMPLE)]
        with pytest.raises(LeaseLost, match="has been used with token 6 since"):
            device.recover()
        fence.lost = True
        with pytest.raises(LeaseLost, match="taken over"):
            device.recover()
        assert target.done == ["flash"]
        assert outputs(newer) == [tiny_output(SAMPLE)]


@needs_host_compiler
def test_a_lost_computer_is_left_alone(tmp_path: Path) -> None:
    remote, fence = DeskRemote(tmp_path), Ticket(5)
    identity = Identity("desk", "linux-x86-64", "hardware", "", frozenset())
    device = Linux(identity, RealMachine("desk", lambda: remote), "lab", fence=fence)
    try:
        device.deploy(built("linux-x86-64"))
        assert outputs(device) == [tiny_output(SAMPLE)]
        asked = list(remote.sent)
        lose(device, fence)
        assert remote.sent == asked
        with pytest.raises(LeaseLost), device.measuring():
            pass
        with pytest.raises(LeaseLost):
            device.recover()
        fence.lost = False
        assert outputs(device) == [tiny_output(SAMPLE)], "its runner was not touched"
    finally:
        device.close()


def test_nothing_is_looked_up_where_nobody_else_can_be() -> None:
    device = Mcu(Identity("mine", "host", "emulated", "", frozenset()), Probed(SharedLine("none", -1, -1)))
    with pytest.raises(ProtocolError, match="nothing is deployed"):
        device.recover()
