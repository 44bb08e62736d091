"""A continual learner's job on this computer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lab.compiler.host import HostTraining
from lab.workloads.base import Prepared


def losses_of(prepared: Prepared, host: HostTraining) -> npt.NDArray[np.float32]:
    """All steps of the job, from the begin."""
    assert prepared.training is not None
    job = prepared.training.job
    samples = np.frombuffer(job.blob, np.int8).reshape(job.count, -1)
    targets = np.frombuffer(job.blobs["targets"], np.int32).reshape(job.count, -1)
    host.reset()
    host.state.random = int(job.parameters["seed"])
    rate = float(job.parameters["lr"])
    return np.array([host.step(*pair, rate) for pair in zip(samples, targets, strict=True)], np.float32)
