"""A federation on a device: it plays every client in turn, and this computer is the server (``TrainingPlan.rounds``).

A client receives weights as a checkpoint, takes its steps, and uploads; the server knows nothing but what came over the
wire. Bytes of variables are counted as they are sent and received, without the frames around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.compiler.model import UPLOAD, CompiledTraining, Variable
from lab.errors import WorkloadError
from lab.events import Job, ResultEvent
from lab.training import PARAMETERS, Checkpoint, checkpoint_of, reading, restoring
from lab.workloads.base import Rounds, Score
from lab.workloads.training.federated import Federation, FloatArray, Server, Turn, flat, parted

UPLOAD_LIMIT = 1e-3
"""Of a round's uploads, how far the device's may be from PyTorch's: a share of their size, in the median of rounds."""


def shared_variables(training: CompiledTraining) -> list[Variable]:
    """Those that go from the server to the clients: all but what is uploaded in their place."""
    return [one for one in training.variables if one.name != UPLOAD]


def with_upload(training: CompiledTraining, weights: FloatArray) -> dict[str, bytes]:
    """Bytes of every variable where a client begins: the server's weights, and no differences yet."""
    zeros = {one.name: bytes(one.size_bytes) for one in training.variables if one.name == UPLOAD}
    return parted(shared_variables(training), weights) | zeros


@dataclass(frozen=True)
class FederatedRounds:
    """Makes the jobs of all clients and rounds.

    Attributes:
        federation: who trains when.
        training: how the device's model trains.
        server: makes the server anew.
        uploads: PyTorch's, (rounds, clients, values); empty where they are not compared.
    """

    federation: Federation
    training: CompiledTraining
    server: Callable[[], Server]
    uploads: FloatArray

    def __call__(self, job: Job) -> Rounds:
        """The jobs of a training.

        Raises:
            WorkloadError: the device's uploads are not PyTorch's.
        """
        server, errors, uploads, down = self.server(), list[float](), list[FloatArray](), 0
        saved = checkpoint_of((yield PARAMETERS))
        for turn in self.federation.turns():
            begun = self._begun(saved, server.sent)
            yield begun
            yield self._piece(job, turn)
            uploads.append(self._upload((yield self._reading)))
            down += len(begun.blobs["checkpoint"])
            if turn.closes:
                if len(self.uploads):
                    errors.append(_distance(np.stack(uploads), self.uploads[len(errors)]))
                server.take(turn.key, np.stack(uploads))
                each, uploads = uploads[0].nbytes, []
        yield self._begun(saved, server.kept)
        turns = self.federation.rounds * self.federation.clients
        return [*_judged(errors), Score("uplink", each, each, "bytes"),
                Score("bytes_up", turns * each, turns * each, "bytes"),
                Score("bytes_down", down, down, "bytes")]  # fmt: skip

    @property
    def _reading(self) -> Job:
        names = [one.name for one in self.training.variables]
        return reading(names.index(UPLOAD)) if UPLOAD in names else PARAMETERS

    def _begun(self, saved: Checkpoint, weights: FloatArray) -> Job:
        return restoring(replace(saved, variables=with_upload(self.training, weights)))

    def _piece(self, job: Job, turn: Turn) -> Job:
        """A client's steps, on its own samples, with the round's key."""
        first = turn.first % job.count
        count, targets = turn.last - turn.first, job.blobs["targets"]
        each, label = len(job.blob) // job.count, len(targets) // job.count
        return replace(
            job, blob=job.blob[first * each : (first + count) * each], count=count, repeats=1,
            blobs={"targets": targets[first * label : (first + count) * label]},
            parameters={**job.parameters, "seed": turn.key},
        )  # fmt: skip

    def _upload(self, named: Sequence[ResultEvent]) -> FloatArray:
        found = {one.name: one.data for one in named}
        if UPLOAD in found:
            return np.frombuffer(found[UPLOAD], "<f4").astype(np.float32)
        return flat(shared_variables(self.training), found)


def _distance(found: FloatArray, expected: FloatArray) -> float:
    """Of two rounds' uploads, as a share of the expected ones' size."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _judged(errors: Sequence[float]) -> list[Score]:
    """How far the uploads were from PyTorch's.

    Raises:
        WorkloadError: too far.
    """
    if not errors:
        return []
    middle = float(np.median(errors))
    if not middle <= UPLOAD_LIMIT:
        raise WorkloadError(
            f"what clients uploaded differs from PyTorch's by {middle:.2g} of its size in the median of rounds; at "
            f"most {UPLOAD_LIMIT} is allowed"
        )
    return [Score("upload_error", middle, 0.0), Score("upload_error.first", errors[0], 0.0)]
