"""The steps of a prepared training workload by its C on this computer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.compiler.host import HostTraining
from lab.workloads.base import Prepared, Score, TrainingPlan


def plan_of(prepared: Prepared) -> TrainingPlan:
    """How the workload trains."""
    assert prepared.training is not None
    return prepared.training


def train(prepared: Prepared, folder: Path) -> tuple[npt.NDArray[np.float32], dict[str, bytes]]:
    """Losses, float32 (steps,), and the raw variables after the workload's own steps, float32 samples of one each."""
    job = plan_of(prepared).job
    host = HostTraining(prepared.model, folder)
    samples = np.frombuffer(job.blob, np.float32).reshape(job.count, 1, -1)
    targets = np.frombuffer(job.blobs["targets"], np.int32)
    rate = float(job.parameters["lr"])
    places = list(range(job.count)) * job.repeats
    losses = [host.step(samples[n], targets[n : n + 1], rate) for n in places]
    return np.array(losses, np.float32), dict(host.raw_variables())


def judged(prepared: Prepared, losses: npt.NDArray[np.float32], variables: dict[str, bytes]) -> dict[str, Score]:
    """What the workload's own check says of them, by metric."""
    return {one.metric: one for one in plan_of(prepared).check(losses, variables)}
