"""Faults of a debug probe and of the flash behind it, on an emulated board behind a virtual probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faults.catalogue import of
from helpers import tiny_workload
from helpers.fault_bench import FaultBench, hold
from helpers.probed import probed_entry
from helpers.toolchain import needs_qemu

from lab.build import build
from lab.devices.connect import connected, console_of
from lab.devices.mcu import Mcu
from lab.devices.swd_mcu import SwdTarget
from lab.emulators.probe.board import ProbedBoard
from lab.emulators.probe.faults import ALWAYS
from lab.paths import cache_dir

pytestmark = needs_qemu

FAULTS = {fault.name: fault for fault in of("Debug probes")}
SOME_TRANSFERS = 300
"""Fewer than it takes to compare the flash with an image."""
WELL_INTO_FLASHING = 1500


@dataclass(frozen=True)
class Desk:
    """A board with its probe, and the bench that uses it."""

    board: ProbedBoard
    bench: FaultBench

    def mend(self) -> None:
        """The cable is plugged in, the part is unlocked, the board has power."""
        self.board.faults.clear()
        if not self.board.entry.pid:
            self.board.power_on()


@contextmanager
def desk_of(name: str, folder: Path) -> Iterator[Desk]:
    """A device of the bench of probed boards, without its meter."""
    entry = probed_entry(name)
    entry = replace(entry, config=entry.config.model_copy(update={"meter": None}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LAB_STATE", str(folder))
        with connected(entry, cache_dir()) as device:
            assert isinstance(device, Mcu)
            target = device._target
            assert isinstance(target, SwdTarget)
            assert target._board is not None
            yield Desk(target._board, FaultBench(entry, device, folder))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_of("m4f-swd", tmp_path_factory.mktemp("desk")) as one:
        yield one


INJECTIONS: dict[str, Callable[[ProbedBoard], None]] = {
    "no acknowledge": lambda board: board.faults.no_ack(ALWAYS),
    "no acknowledge, once": lambda board: board.faults.no_ack(after_transfers=SOME_TRANSFERS),
    "a link that says WAIT": lambda board: board.faults.wait(after_transfers=SOME_TRANSFERS),
    "probe unplugged while flash is written": lambda board: board.faults.unplug(after_transfers=WELL_INTO_FLASHING),
    "flash that reads back different": lambda board: board.faults.flip_bit(0x1000, 0),
    "flash that is locked": lambda board: board.faults.lock_flash("refuse"),
    "flash that takes nothing and says it did": lambda board: board.faults.lock_flash("drop"),
    "a board without power": lambda board: board.power_off(),
}


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_fault_of_the_probe_ends_as_the_catalogue_says(name: str, desk: Desk, tmp_path: Path) -> None:
    bench = FaultBench(desk.bench.entry, desk.bench.device.device, tmp_path)
    # So that flash has to be written.
    bench.device.deploy(build(tiny_workload.model(), bench.entry.board.kind, cache=cache_dir()))
    INJECTIONS[name](desk.board)
    after = bench.suffer()
    desk.mend()
    hold(FAULTS[name], bench, after)


def test_a_link_that_is_lost_in_mid_run_ends_as_the_catalogue_says(tmp_path: Path) -> None:
    """Where the runner's line goes through the probe as well."""
    with desk_of("m4f-rtt", tmp_path) as through:
        bench = through.bench
        assert console_of(bench.entry) == "rtt"
        after = bench.suffer(through.board.faults.no_ack, repeats=20)
        hold(FAULTS["no acknowledge in mid-run"], bench, after)


def test_every_fault_of_a_probe_is_met() -> None:
    assert {*FAULTS} == {*INJECTIONS, "no acknowledge in mid-run"}
