"""Faults of a microcontroller and of its supply, on an emulated board."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.catalogue import of
from helpers import faulty_workload
from helpers.conformance import entries, symbol, version
from helpers.fault_bench import PASSES, FaultBench, hold
from helpers.toolchain import needs_qemu

from lab.devices.base import Device
from lab.devices.connect import connected
from lab.inventory import Device as Entry
from lab.paths import cache_dir

pytestmark = needs_qemu

FAULTS = {fault.name: fault for fault in of("Microcontrollers")}

UNDEFINED = b"\x00\xde"
"""An instruction that is none, in Thumb."""
SILENCE_S = 1.0
NO_ANSWER = ("hang", "reboot loop")
"""What leaves a board that does not answer: that is waited for in full."""


@dataclass(frozen=True)
class Injection:
    """How a fault is made.

    Attributes:
        strike: what happens in the middle of a job.
        variant: of the workload, in which a sample makes it happen.
        says: what the error has to name.
        before: whether it happens before the first pass: a fast board may be done with all of them by the fourth event.
        repeats: passes over the samples. A job that goes on after the error has to end before the device answers.
    """

    strike: Callable[[FaultBench], None] | None = None
    variant: str = ""
    says: str = ""
    repeats: int = PASSES
    before: bool = False


def flip_weight(bench: FaultBench) -> None:
    """What is computed from now on is wrong."""
    bench.emulator.flip_bit(symbol(bench.image, "offsets")[0], 5)


def flip_code(bench: FaultBench) -> None:
    """The first instruction of the network is none any more, all at once."""
    address, _ = symbol(bench.image, "infer")
    bench.emulator.hold()
    for offset, (found, wanted) in enumerate(zip(bench.emulator.read_memory(address, 2), UNDEFINED, strict=True)):
        for bit in range(8):
            if (found ^ wanted) >> bit & 1:
                bench.emulator.flip_bit(address + offset, bit)
    bench.emulator.release()


INJECTIONS = {
    "brown-out in mid-run": Injection(lambda bench: bench.emulator.power_cut(), says="its supply was cut"),
    "hang": Injection(variant="hang", says="run_into_trouble at model.c:"),
    "hard fault": Injection(variant="hard-fault", says="run_into_trouble at model.c:"),
    "stack overflow": Injection(variant="stack-overflow", says="the stack overflowed in region 'inference'"),
    "arena overflow": Injection(variant="arena-overflow", says="arena"),
    "watchdog reset": Injection(lambda bench: bench.emulator.bite_watchdog(), says="restarted by itself"),
    "non-maskable interrupt": Injection(lambda bench: bench.emulator.raise_nmi(), says="non-maskable interrupt (NMI)"),
    "clock that stands still": Injection(lambda bench: bench.emulator.freeze_clock(), says="stands still", repeats=10),
    "bit flip in a weight": Injection(flip_weight, says="8 of 8 results are wrong", before=True),
    "bit flip in code": Injection(flip_code, says="the core was at infer at model.c:", before=True),
    "reboot loop": Injection(variant=faulty_workload.REBOOT_LOOP, says="lab_training_reset"),
}


@pytest.fixture(scope="module", params=["an386", "an386-unicorn"])
def board(request: pytest.FixtureRequest) -> Iterator[tuple[Entry, Device]]:
    """One emulated board for all faults."""
    (entry,) = (one for one in entries() if one.name == request.param)
    if not version(entry):
        pytest.skip("unicorn is not installed (`lab doctor` says how to get it)")
    with connected(entry, cache_dir()) as device:
        yield entry, device


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_fault_ends_as_the_catalogue_says(
    name: str, board: tuple[Entry, Device], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name not in NO_ANSWER:
        request.getfixturevalue("patient")
    bench = FaultBench(*board, tmp_path)
    injection = INJECTIONS[name]
    strike = injection.strike
    # Only what hangs is waited for.
    bench.device.silence_s = SILENCE_S if name == "hang" else None
    bench.device.after = -1 if injection.before else bench.device.after
    after = bench.suffer(None if strike is None else lambda: strike(bench), injection.variant, injection.repeats)
    assert injection.says in str(after.error or after.run.retries)
    assert all(record.median > 0 for record in after.run.records if record.metric == "latency")
    hold(FAULTS[name], bench, after)


def test_every_fault_of_a_microcontroller_is_met() -> None:
    """That of a board which is not started anew needs a serial port: test_serial_faults.py."""
    assert {*FAULTS} == {*INJECTIONS, "clock that stands still, behind a serial port"}
