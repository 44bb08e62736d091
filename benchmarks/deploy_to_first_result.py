"""From an image in the cache to the first result on an emulated microcontroller. Claim: under 0.5 s.

Deploys the spoken-digits image (a new emulator each time) and runs a job of one sample, as a user's test would.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace

from common import BOARDS, Claim, emulated, image, spoken_digits, spread, verdict

from lab.artifact import Artifact
from lab.events import Job, ResultEvent
from lab.passes import first_samples

DEPLOYMENTS = 10
BOUND_S = 0.5


def first_result_s(name: str, artifact: Artifact, job: Job) -> float:
    with emulated(name) as device:
        begin = time.perf_counter()
        device.deploy(artifact)
        results = [time.perf_counter() - begin for event in device.run(job) if isinstance(event, ResultEvent)]
    return results[0]


def main() -> int:
    prepared = spoken_digits()
    job = replace(first_samples(prepared.job, prepared.model.input.size, 1), warmup=0, repeats=1)
    claims = []
    for name in BOARDS:
        artifact = image(name, prepared.model)
        taken = [first_result_s(name, artifact, job) for _ in range(DEPLOYMENTS)]
        ratio = statistics.median(taken) / BOUND_S
        claims.append(Claim(f"deploy to first result, {name}, of {BOUND_S} s", spread(taken, "ms", 1e3), ratio, 1.0))
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
