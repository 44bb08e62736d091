"""Passes of a job on a device: which samples, what they delivered, and that all of it arrived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lab.deployment import Deployment
from lab.devices.base import Device
from lab.errors import ConfigError, ProtocolError
from lab.events import Done, Job, MetricEvent, RegionEvent, ResultEvent
from lab.workloads.base import Rounds, Score


@dataclass
class Capture:
    """What one pass of a job delivered, kept even where the pass broke off.

    Attributes:
        events: passes through regions.
        results: outputs by the number of their sample.
        named: results that have names, which are no outputs.
        metrics: numbers.
        done: the end.
    """

    events: list[RegionEvent] = field(default_factory=list)
    results: dict[int, bytes] = field(default_factory=dict)
    named: list[ResultEvent] = field(default_factory=list)
    metrics: list[MetricEvent] = field(default_factory=list)
    done: Done | None = None


def outputs_of(deployment: Deployment, job: Job) -> npt.NDArray[np.int8]:
    """Run a job and return nothing but what the device computed: int8, shape (count, output bytes).

    Raises:
        DeviceError, InfrastructureError: the job did not come to its end.
    """
    capture = Capture()
    for _ in collect(deployment.device, job, capture):
        pass
    return joined_outputs(capture, job.count, deployment.prepared.model.output.size)


def first_samples(job: Job, sample_bytes: int, count: int) -> Job:
    """The same job over its first ``count`` samples."""
    if not 0 < count <= job.count:
        raise ConfigError(f"asked for {count} samples; the job has {job.count}", hint=f"1 to {job.count}")
    return replace(job, blob=job.blob[: count * sample_bytes], count=count)


def collect(device: Device, job: Job, capture: Capture) -> Iterator[None]:
    """Run a job into ``capture``, yielding after every event; checks that nothing was lost and that time passes."""
    for event in device.run(job):
        match event:
            case RegionEvent():
                _check_clock(device, event, capture.events)
                capture.events.append(event)
            case ResultEvent(name=""):
                capture.results[event.index] = event.data
            case ResultEvent():
                capture.named.append(event)
            case MetricEvent():
                capture.metrics.append(event)
            case Done():
                capture.done = event
        yield
    done = capture.done
    if done is None:
        raise ProtocolError(f"{device.identity.name} ended its job without saying that it is done")
    arrived = len(capture.results) + len(capture.named)
    if (done.events, done.results) != (len(capture.events), arrived):
        raise ProtocolError(
            f"{device.identity.name} sent {done.events} events and {done.results} results; "
            f"{len(capture.events)} and {arrived} arrived"
        )


def collect_rounds(device: Device, rounds: Rounds, capture: Capture, scores: list[Score]) -> Iterator[None]:
    """Run the jobs of a stream or a training one after another into ``capture``, as if they were one.

    Yields after every event.

    Args:
        device: where they run.
        rounds: makes them; is sent the named results of each.
        capture: takes passes and outputs, numbered through the whole stream.
        scores: takes what ``rounds`` returns.

    Raises:
        ProtocolError: as :func:`collect`, of each job.
        WorkloadError: what ``rounds`` finds is not acceptable.
    """
    named: list[ResultEvent] | None = None
    while True:
        try:
            job = next(rounds) if named is None else rounds.send(named)
        except StopIteration as end:
            scores += end.value
            return
        own = Capture()
        try:
            yield from collect(device, job, own)
        finally:
            # What came before a failure is kept as well.
            _append(own, capture)
        named = own.named


def _append(own: Capture, capture: Capture) -> None:
    """What one job delivered, behind what those before it did: outputs, or losses of steps that have none."""
    first = len(capture.results) or len(capture.metrics)
    capture.results |= {first + index: data for index, data in own.results.items()}
    capture.events += [replace(event, index=first + event.index) for event in own.events]
    capture.metrics += own.metrics
    capture.done = _both_done(capture.done, own.done)


def _both_done(first: Done | None, second: Done | None) -> Done | None:
    """The ends of two jobs as that of one: the highest marks, and all that came."""
    if first is None or second is None:
        return second or first
    return Done(
        max(first.stack_high_water, second.stack_high_water),
        max(first.arena_high_water, second.arena_high_water),
        first.cycles + second.cycles,
        first.events + second.events,
        first.results + second.results,
    )


def _check_clock(device: Device, event: RegionEvent, earlier: Sequence[RegionEvent]) -> None:
    """Refuse a clock that stands still: what it says is no latency.

    A pass may be too short for a clock to see, but not the time between two passes as well.
    """
    if earlier and event.begin == event.end == earlier[-1].end:
        raise ProtocolError(
            f"the clock of {device.identity.name} stands still at {event.end}: pass {event.index} of {event.region!r} "
            "began and ended where the one before it did",
            hint="does something stop the board's timer (a low-power mode, a debugger), or was it never started?",
        )


def joined_outputs(capture: Capture, count: int, size: int) -> npt.NDArray[np.int8]:
    """Results in sample order, shape (count, size)."""
    missing = [index for index in range(count) if len(capture.results.get(index, b"")) != size]
    if missing:
        raise ProtocolError(f"{len(missing)} of {count} results are missing or not {size} bytes, first: {missing[0]}")
    joined = b"".join(capture.results[index] for index in range(count))
    return np.frombuffer(joined, np.int8).reshape(count, size)
