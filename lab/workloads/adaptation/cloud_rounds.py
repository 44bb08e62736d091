"""A stream whose network is adapted by this computer: the device uploads what its filter takes and receives values.

The host here learns from nothing but the bytes that the device has sent. Everything that goes over the wire for this is
counted: samples upwards, checkpoints of scale and shift downwards, without the frames around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from lab.compiler.model import CompiledModel
from lab.errors import WorkloadError
from lab.events import Job, ResultEvent
from lab.training import FORGET, PARAMETERS, checkpoint_of, restoring
from lab.workloads.adaptation.entropy_filter import THRESHOLDS
from lab.workloads.adaptation.options import CLASSES, Options
from lab.workloads.base import FILTER, FloatArray, Rounds, Score

UPLOAD = "upload"
"""Name of the results that are samples, in the job :data:`lab.workloads.base.FILTER`."""


def filter_job(options: Options, samples: bytes, count: int) -> Job:
    """The job that goes through a stream from its beginning."""
    given = {"classes": CLASSES, "begin": 1, **asdict(THRESHOLDS[options.upload])}
    return Job(FILTER, samples, count, warmup=0, parameters=given)


@dataclass
class _Traffic:
    """What went over the wire so far."""

    uploaded: list[int] = field(default_factory=list)
    bytes_up: int = 0
    received: int = 0


@dataclass(frozen=True)
class CloudRounds:
    """Makes the rounds of a stream: a piece of it, then new values where the host has learnt (``StreamPlan.rounds``).

    Attributes:
        options: the variant.
        cache: folder of the networks that the host has.
        model: of the device.
        samples: of the whole stream; of a shorter one nothing is judged.
        uploaded: samples that PyTorch uploads.
        received: how often its network receives values.
    """

    options: Options
    cache: Path
    model: CompiledModel
    samples: int
    uploaded: tuple[int, ...]
    received: int

    def __call__(self, job: Job) -> Rounds:
        """Jobs over all samples of ``job``.

        Raises:
            WorkloadError: other samples were uploaded than by PyTorch, or the device does not hold what it received.
        """
        from lab.workloads.adaptation.methods import cloud_of

        cloud, traffic = cloud_of(self.options, self.cache), _Traffic()
        yield FORGET
        saved = checkpoint_of((yield PARAMETERS))
        for begin in range(0, job.count, self.options.batch):
            uploaded = [one for one in (yield self._piece(job, begin)) if one.name == UPLOAD]
            traffic.uploaded += [begin + one.index for one in uploaded]
            traffic.bytes_up += sum(len(one.data) for one in uploaded)
            values = cloud.take([self._sample(one) for one in uploaded])
            if values is not None:
                saved = replace(saved, variables={name: values[name].tobytes() for name in saved.variables})
                yield restoring(saved)
                traffic.received += 1
        _check_received(saved.variables, checkpoint_of((yield PARAMETERS)).variables)
        return self._scores(traffic, len(saved.to_bytes())) if job.count == self.samples else []

    def _piece(self, job: Job, begin: int) -> Job:
        each = self.model.input.size
        count = min(self.options.batch, job.count - begin)
        blob = job.blob[begin * each : (begin + count) * each]
        return replace(job, blob=blob, count=count, parameters={**job.parameters, "begin": int(begin == 0)})

    def _sample(self, uploaded: ResultEvent) -> FloatArray:
        """(channels, height, width) of what a device sent."""
        values = np.frombuffer(uploaded.data, np.float32).reshape(self.model.input.shape)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def _scores(self, traffic: _Traffic, values_bytes: int) -> list[Score]:
        if tuple(traffic.uploaded) != self.uploaded:
            first = min(set(traffic.uploaded) ^ set(self.uploaded))
            raise WorkloadError(
                f"the device uploaded {len(traffic.uploaded)} samples, PyTorch {len(self.uploaded)} of the same "
                f"stream; sample {first} is the first that only one of them did"
            )
        up, down = traffic.bytes_up, traffic.received * values_bytes
        expected_up, expected_down = len(self.uploaded) * self.model.input.size, self.received * values_bytes
        return [
            Score("uploaded_share", len(traffic.uploaded) / self.samples, len(self.uploaded) / self.samples),
            Score("bytes_up", up, expected_up, "bytes"),
            Score("bytes_down", down, expected_down, "bytes"),
            Score(
                "bytes_per_sample", (up + down) / self.samples, (expected_up + expected_down) / self.samples, "bytes"
            ),
        ]


def _check_received(sent: Mapping[str, bytes], held: Mapping[str, bytes]) -> None:
    """Whether the device's variables are what it was sent last."""
    others = [name for name, value in sent.items() if held.get(name) != value]
    if others:
        raise WorkloadError(f"the device does not hold what it was sent of {others[0]} ({len(others)} of {len(sent)})")
