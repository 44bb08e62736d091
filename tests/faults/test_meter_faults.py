"""Faults of a power meter and of its marker wire: the figures of energy go, all others stay."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.catalogue import of
from helpers.fault_bench import FaultBench, Struck, hold
from helpers.toolchain import entry, needs_qemu

import lab.emulators.ppk2
from lab import metered
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.emulators.ppk2 import EmulatedPpk2, Faults
from lab.paths import cache_dir
from lab.power.base import SampleBlock
from lab.power.recorder import Recorder

pytestmark = needs_qemu

FAULTS = {fault.name: fault for fault in of("Power meters")}
ROLL_SAMPLES = 500
"""Shown by the emulated meter before the first pass."""
INJECTIONS = {
    "meter dropouts": Faults(drop_every=16),
    "meter unplugged and plugged in again": Faults(disconnect_after=ROLL_SAMPLES + 100, disconnects=1),
    "meter that goes away every time": Faults(disconnect_after=1),
    "marker stuck": Faults(stuck_after=ROLL_SAMPLES + 50),
    "marker with double edges": Faults(bounce_every=3),
}
STALL_S = 2.0


class Impatient(Recorder):
    """Waits less long for windows that never come."""

    def finish(
        self, windows: int, quiet_s: float, stall_s: float = STALL_S, limit_s: float = math.inf
    ) -> SampleBlock:
        return super().finish(windows, quiet_s, min(stall_s, STALL_S), limit_s)


@contextmanager
def metered_board(faults: Faults) -> Iterator[Device]:
    """The Cortex-M4F of the emulated bench with its meter, which does something wrong."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lab.emulators.ppk2, "EmulatedPpk2", functools.partial(EmulatedPpk2, faults=faults))
        with connected(entry("m4f"), cache_dir()) as device:
            yield device


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_fault_of_the_meter_ends_as_the_catalogue_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "Recorder", Impatient)
    with metered_board(INJECTIONS[name]) as device:
        bench = FaultBench(entry("m4f"), device, tmp_path)
        after = bench.suffer(repeats=1)
        if FAULTS[name].ends == "measured again":
            hold(FAULTS[name], bench, after)
            return
    # Somebody has seen to the meter; the board was well all the time.
    with metered_board(Faults()) as device:
        bench.device = Struck(device)
        hold(FAULTS[name], bench, after)


def test_every_fault_of_a_meter_is_met() -> None:
    assert {*FAULTS} == {*INJECTIONS}
