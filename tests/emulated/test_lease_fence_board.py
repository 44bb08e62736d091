"""A microcontroller keeps the newest token from connection to connection, until it is reset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from helpers.toolchain import SAMPLE_BYTES, built, needs_qemu, running, tiny_output

from lab.connection_config import SerialPort
from lab.devices.base import Identity
from lab.devices.mcu import Mcu
from lab.devices.wired_mcu import SerialTarget
from lab.errors import LeaseLost
from lab.events import Job, ResultEvent

BOARD = "mps2-an386"
SAMPLE = bytes(range(SAMPLE_BYTES))

pytestmark = needs_qemu


@dataclass(frozen=True)
class Ticket:
    """A lease that its process believes in."""

    token: int

    def check(self) -> None:
        """No record says otherwise."""


@contextmanager
def used(port: str, token: int) -> Iterator[Mcu]:
    """The board, used under a lease and let go of afterwards."""
    fence = Ticket(token)
    identity = Identity("bench", BOARD, "hardware", "", frozenset())
    device = Mcu(identity, SerialTarget(SerialPort(port=port), fence=fence), fence=fence)
    try:
        device.deploy(built(BOARD))
        yield device
    finally:
        device.close()


def works(device: Mcu) -> bool:
    events = device.run(Job("infer", SAMPLE, 1, quiet_us=0))
    return [event.data for event in events if isinstance(event, ResultEvent)] == [tiny_output(SAMPLE)]


def test_a_board_refuses_an_older_lease_until_its_holder_resets_it() -> None:
    milliseconds = 1_800_000_000_000
    with running(BOARD, built(BOARD)) as (_, port, _session):
        port.close()
        with used(port.name, milliseconds) as device:
            assert works(device)
        with used(port.name, milliseconds + 1) as device:
            assert works(device)
        refused = pytest.raises(LeaseLost, match=f"has been used with token {milliseconds + 1} since")
        with refused, used(port.name, milliseconds):
            pass
        with used(port.name, milliseconds + 1) as device:
            assert works(device)
            device.reset("soft")
            assert works(device)
