"""The training job as the host makes it, and what the host makes of a device's answers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from helpers.trained import data

from lab.artifact import Artifact
from lab.devices.base import Identity, ResetKind, Rung
from lab.errors import ConfigError, ProtocolError
from lab.events import Done, Event, Hello, Job, LogEvent, MetricEvent, RegionEvent, ResultEvent
from lab.training import Checkpoint, checkpoint, forget, train, training_job, training_result

SAMPLES, LABELS = data(5)
DONE = Done(700, 96, 1, 0, 0)


@dataclass
class Scripted:
    """A device that answers every job with the same events."""

    events: Sequence[Event]
    identity: Identity = field(default=Identity("scripted", "host", "emulated", "", frozenset()))

    def deploy(self, artifact: Artifact) -> Hello:
        raise NotImplementedError

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        yield from self.events

    def reset(self, kind: ResetKind) -> Hello:
        raise NotImplementedError

    def recover(self) -> Rung:
        raise NotImplementedError

    def meter(self) -> None:
        return None

    def close(self) -> None:
        pass


def test_a_job_carries_samples_targets_order_and_settings() -> None:
    order = [4, 0, 1, 2, 3, 0, 0, 0, 0, 1]
    job = training_job(SAMPLES[:, ::-1], LABELS, epochs=2, learning_rate=0.25, seed=3, order=order)
    assert np.array_equal(np.frombuffer(job.blob, np.float32).reshape(5, -1), SAMPLES[:, ::-1])
    assert np.frombuffer(job.blobs["targets"], np.int32).tolist() == LABELS.tolist()
    assert np.frombuffer(job.blobs["order"], np.uint16).tolist() == order
    assert (job.name, job.count, job.repeats, job.warmup) == ("train", 5, 2, 0)
    assert job.parameters == {"lr": 0.25, "seed": 3, "order": 1}
    plain = training_job(SAMPLES, LABELS, learning_rate=0.25)
    assert set(plain.blobs) == {"targets"}
    assert plain.parameters == {"lr": 0.25, "seed": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "a target for each sample; there are 0 samples"),
        ({"targets": LABELS[:4]}, "5 samples, 4 targets"),
        ({"epochs": 0}, "training runs for 0 epochs"),
        ({"learning_rate": float("nan")}, "the learning rate is nan"),
        ({"learning_rate": float("inf")}, "the learning rate is inf"),
        ({"learning_rate": -1.0}, "the learning rate is -1"),
        ({"seed": 0}, "the seed is 0"),
        ({"seed": 1 << 32}, "the seed is 4294967296"),
        ({"order": [0, 1, 2, 3]}, "the order names 4 samples from 0 to 3"),
        ({"order": [0, 1, 2, 3, 5]}, "the order names 5 samples from 0 to 5"),
        ({"order": [0, 1, 2, 3, -1]}, "the order names 5 samples from -1 to 3"),
        ({"order": []}, "the order names 0 samples"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_sent(arguments: dict[str, object], message: str) -> None:
    given = {"targets": LABELS, "epochs": 1, "learning_rate": 0.1, "seed": 1, "order": None, "count": 5, **arguments}
    count = given.pop("count")
    assert isinstance(count, int)
    with pytest.raises(ConfigError, match=message):
        training_job(SAMPLES[:count], **given)  # type: ignore[arg-type]


def test_an_order_reaches_as_far_as_sixteen_bits_do() -> None:
    samples, labels = np.zeros((1 << 16, 1), np.int8), np.zeros(1 << 16, np.int32)
    order = range(1 << 16)
    assert len(training_job(samples, labels, learning_rate=1, order=order).blobs["order"]) == 2 << 16
    more = np.zeros(((1 << 16) + 1, 1), np.int8), np.zeros((1 << 16) + 1, np.int32)
    with pytest.raises(ConfigError, match="an order reaches 65536 samples; there are 65537"):
        training_job(*more, learning_rate=1, order=range((1 << 16) + 1))


def test_losses_and_regions_are_told_apart() -> None:
    regions = [RegionEvent("train.forward", 0, 0, 5), RegionEvent("train.backward", 0, 6, 9)]
    metrics = [MetricEvent("loss", 0.5), MetricEvent("else", 3)]
    events: list[Event] = [regions[0], *metrics, LogEvent("x"), regions[1], DONE]
    result = train(Scripted(events), SAMPLES, LABELS, learning_rate=0.1)
    assert (result.losses.tolist(), result.events, result.done) == ([0.5], tuple(regions), DONE)
    assert result.losses.dtype == np.float32
    with pytest.raises(ProtocolError, match="without saying that it is done"):
        training_result(events[:-1])
    with pytest.raises(ProtocolError, match="without saying that it is done"):
        forget(Scripted([]))


def test_variables_that_do_not_agree_with_their_head_are_refused() -> None:
    saved = Checkpoint("0123456789abcdef", 7, 9, {"w": b"abcd", "b": b"xy"})
    head = saved.to_bytes()[:40]
    values: list[Event] = [ResultEvent(0, b"abcd", "w"), ResultEvent(1, b"xy", "b")]
    sent = [*values, ResultEvent(2, head, "lab.checkpoint")]
    assert checkpoint(Scripted([*sent, DONE])) == saved
    damaged: Event = ResultEvent(0, b"abcc", "w")
    for events in ([damaged, *sent[1:]], sent[1:], [sent[0], sent[2]]):
        with pytest.raises(ProtocolError, match="the head says 6; or their checksum is wrong"):
            checkpoint(Scripted([*events, DONE]))
    with pytest.raises(ProtocolError, match="without the head"):
        checkpoint(Scripted([*sent[:2], DONE]))
    assert zlib.crc32(b"abcdxy").to_bytes(4, "little") == head[28:32]
