"""Streams sent in rounds: one numbering, one end, and what is kept of a round that breaks off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from helpers.scripted_runs import PASS_CYCLES, SAMPLE_BYTES, ScriptedDevice, begins

from lab.errors import Crash, ProtocolError
from lab.events import Done, Event, Job, MetricEvent, RegionEvent, ResultEvent
from lab.passes import Capture, collect_rounds, joined_outputs
from lab.workloads.base import Rounds, Score

SCORE = Score("uploaded_share", 0.5, 0.5)


def piece(count: int) -> Job:
    return Job("filter", bytes(count * SAMPLE_BYTES), count, warmup=0)


def answers(arena: int = 96, stack: int = 700, lost: int = 0) -> list[Event]:
    """Two samples, of which the second is uploaded."""
    events: list[Event] = []
    for sample in range(2):
        events.append(RegionEvent("inference", sample, begins(sample), begins(sample) + PASS_CYCLES))
        events.append(ResultEvent(sample, bytes([sample] * SAMPLE_BYTES)))
    upload = [ResultEvent(1, b"sample", "upload")][lost:]
    return [*events, *upload, MetricEvent("filter.high", 0.9), Done(stack, arena, 1000, 2, 3)]


def played(*scripts: Sequence[Event]) -> ScriptedDevice:
    def of(events: Sequence[Event]) -> Iterator[Event]:
        yield from events

    return ScriptedDevice([lambda _, one=one: of(one) for one in scripts])


def run(device: ScriptedDevice, rounds: Rounds) -> tuple[Capture, list[Score]]:
    capture, scores = Capture(), list[Score]()
    for _ in collect_rounds(device, rounds, capture, scores):
        pass
    return capture, scores


def test_rounds_are_one_stream_and_each_is_made_of_what_came() -> None:
    seen: list[list[str]] = []

    def rounds() -> Rounds:
        for _ in range(2):
            seen.append([f"{one.name} {one.index}" for one in (yield piece(2))])
        return [SCORE]

    device = played(answers(96, 700), answers(128, 600))
    capture, scores = run(device, rounds())
    assert scores == [SCORE]
    assert seen == [["upload 1"], ["upload 1"]], "outputs have no name, and are not sent to it"
    assert [one.index for one in capture.events] == [0, 1, 2, 3]
    assert joined_outputs(capture, 4, SAMPLE_BYTES)[:, 0].tolist() == [0, 1, 0, 1]
    assert [one.name for one in capture.metrics] == ["filter.high"] * 2
    assert capture.done == Done(700, 128, 2000, 4, 6)


def test_jobs_without_passes_number_nothing() -> None:
    restored = [Done(500, 0, 10, 0, 0)]

    def rounds() -> Rounds:
        yield piece(2)
        assert (yield Job("restore", b"", 0, warmup=0)) == []
        yield piece(2)
        return []

    capture, scores = run(played(answers(), restored, answers()), rounds())
    assert sorted(capture.results) == [0, 1, 2, 3]
    assert scores == []
    assert capture.done is not None
    assert capture.done.arena_high_water == 96


def test_no_round_at_all_ends_at_once() -> None:
    def rounds() -> Rounds:
        yield from ()
        return [SCORE]

    device = played(answers())
    capture, scores = run(device, rounds())
    assert (capture.events, capture.done, scores, device.jobs) == ([], None, [SCORE], [])


def test_what_came_before_a_failure_is_kept() -> None:
    def breaking() -> Iterator[Event]:
        yield from answers()[:2]
        raise Crash("the device reported 'crash'")

    def rounds() -> Rounds:
        while True:
            yield piece(2)

    first = answers()
    device = ScriptedDevice([lambda _: iter(first), lambda _: breaking()])
    capture = Capture()
    with pytest.raises(Crash):
        for _ in collect_rounds(device, rounds(), capture, []):
            pass
    assert [one.index for one in capture.events] == [0, 1, 2]
    assert sorted(capture.results) == [0, 1, 2]


def test_an_upload_that_was_lost_is_noticed() -> None:
    def rounds() -> Rounds:
        yield piece(2)
        return []

    with pytest.raises(ProtocolError, match="sent 2 events and 3 results; 2 and 2 arrived"):
        run(played(answers(lost=1)), rounds())
