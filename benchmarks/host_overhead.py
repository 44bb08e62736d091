"""What measuring adds to an inference on an emulated microcontroller.

Two jobs execute the same number of inferences on one instance, in turns. The first measures each of them: its event and
its result are framed, sent, parsed and collected. The second runs all but one as warm-up, back to back on the device,
with the host doing nothing. Both include the transfer of their samples and the start of the job.
Compared is QEMU's processor time (user and system), which other load on the machine changes little: what the emulation
is kept from by reporting. The host's own work runs beside it; its processor time and the wall times are printed too.
Claim: measuring costs less than 5 % of the emulation time.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import Claim, image, spoken_digits, target, verdict

from lab.events import Job, RegionEvent
from lab.passes import first_samples
from lab.transports.base import MemoryPort
from lab.wire import Session

NAME = "m4f"
INFERENCES = 150
TURNS = 15
BOUND = 0.05


@dataclass(frozen=True)
class Cost:
    """Seconds of one job: QEMU's processor time, the host's own, and wall time."""

    emulation_s: float
    host_s: float
    wall_s: float


def processor_s(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(session: Session, memory: MemoryPort, pid: int, job: Job) -> Cost:
    emulation_s, host_s, wall_s = processor_s(pid), time.process_time(), time.perf_counter()
    session.put("samples", job.blob, memory)
    seen = sum(isinstance(event, RegionEvent) for event in session.run(job))
    cost = Cost(processor_s(pid) - emulation_s, time.process_time() - host_s, time.perf_counter() - wall_s)
    if seen != job.count:
        raise SystemExit(f"{seen} events came, expected {job.count}")
    return cost


def take_turns(measured: Job, silent: Job) -> list[tuple[Cost, Cost]]:
    emulator = target(NAME)
    stream = emulator.load(image(NAME, spoken_digits().model))
    qemu = emulator.memory
    if qemu is None:
        raise SystemExit(f"{NAME} shares no memory")
    try:
        emulator.release()
        session = Session(stream, board_is_alive=emulator.check_alive)
        session.open(ask=False)
        run(session, qemu, qemu.pid, silent)
        return [
            (run(session, qemu, qemu.pid, measured), run(session, qemu, qemu.pid, silent)) for _ in range(TURNS)
        ]
    finally:
        stream.close()
        emulator.close()


def described(costs: Sequence[Cost]) -> str:
    per_ms = [
        1e3 / INFERENCES * value
        for value in (
            statistics.mean(cost.emulation_s for cost in costs),
            statistics.mean(cost.host_s for cost in costs),
            statistics.median(cost.wall_s for cost in costs),
        )
    ]
    return f"QEMU {per_ms[0]:.2f} ms, host {per_ms[1]:.2f} ms, wall {per_ms[2]:.2f} ms"


def main() -> int:
    prepared = spoken_digits()
    whole = replace(prepared.job, warmup=0, repeats=1, quiet_us=0, marker_line=False)
    measured = first_samples(whole, prepared.model.input.size, INFERENCES)
    silent = replace(first_samples(whole, prepared.model.input.size, 1), warmup=INFERENCES - 1)
    with_host, alone = zip(*take_turns(measured, silent), strict=True)
    ratio = sum(cost.emulation_s for cost in with_host) / sum(cost.emulation_s for cost in alone) - 1
    seen = f"{described(with_host)} per measured inference; {described(alone)} alone; {TURNS} turns of {INFERENCES}"
    return verdict([Claim(f"overhead of measuring, {NAME}, of emulation time", seen, ratio, BOUND)])


if __name__ == "__main__":
    sys.exit(main())
