"""What the host adds to an inference measured on an emulated microcontroller.

Two jobs execute the same number of inferences on one instance, in turns. The first measures each of them: its event and
its result are framed, sent, parsed and collected. The second runs all but one as warm-up, back to back on the device,
with the host doing nothing. Both wall times include the transfer of their samples and the start of the job.
The best turns are compared, since other load on the machine can only slow a turn down.
Claim: measuring costs less than 5 % of the emulation time.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from common import Claim, emulated, image, spoken_digits, spread, verdict

from lab.devices.mcu import Mcu
from lab.events import Job, RegionEvent
from lab.runs import first_samples

NAME = "m4f"
INFERENCES = 60
TURNS = 30
BOUND = 0.05


def run_s(device: Mcu, job: Job, events: int) -> float:
    begin = time.perf_counter()
    seen = sum(isinstance(event, RegionEvent) for event in device.run(job))
    elapsed_s = time.perf_counter() - begin
    if seen != events:
        raise SystemExit(f"{seen} events came, expected {events}")
    return elapsed_s


def main() -> int:
    prepared = spoken_digits()
    whole = replace(prepared.job, warmup=0, repeats=1, quiet_us=0)
    measured = first_samples(whole, prepared.model.input.size, INFERENCES)
    silent = replace(first_samples(whole, prepared.model.input.size, 1), warmup=INFERENCES - 1)
    with_host: list[float] = []
    alone: list[float] = []
    with emulated(NAME) as device:
        device.deploy(image(NAME, prepared.model))
        run_s(device, silent, 1)
        for _ in range(TURNS):
            with_host.append(run_s(device, measured, INFERENCES))
            alone.append(run_s(device, silent, 1))
    ratio = min(with_host) / min(alone) - 1
    per_inference = 1e3 / INFERENCES
    measured_ms, alone_ms = (spread(taken, "ms", per_inference) for taken in (with_host, alone))
    seen = f"{measured_ms} per measured inference, {alone_ms} alone"
    return verdict([Claim(f"host overhead, {NAME}, of emulation time", seen, ratio, BOUND)])


if __name__ == "__main__":
    sys.exit(main())
