"""Passes of a job: the samples it keeps, and that what arrives is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.scripted_runs import (
    INPUTS,
    SAMPLE_BYTES,
    SAMPLES,
    ScriptedDevice,
    altered,
    begins,
    kept,
    measured,
    prepared,
)

from lab.errors import ConfigError, ProtocolError
from lab.events import Done, Event, RegionEvent, ResultEvent
from lab.passes import first_samples
from measurements.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


# The job


@pytest.mark.parametrize("count", [1, 7, SAMPLES])
def test_first_samples_keeps_whole_samples_from_the_front(count: int) -> None:
    job = replace(prepared().job, repeats=3, profile=True)
    shorter = first_samples(job, SAMPLE_BYTES, count)
    assert shorter.blob == INPUTS[:count].tobytes()
    assert replace(shorter, blob=job.blob, count=job.count) == job


@pytest.mark.parametrize("count", [-1, 0, SAMPLES + 1])
def test_first_samples_refuses_what_the_job_does_not_hold(count: int) -> None:
    with pytest.raises(ConfigError, match=f"asked for {count} samples; the job has {SAMPLES}"):
        first_samples(prepared().job, SAMPLE_BYTES, count)


# What arrives must be complete


def _without(index: int) -> Callable[[Event], Event | None]:
    def change(event: Event) -> Event | None:
        return None if isinstance(event, ResultEvent) and event.index == index else event

    return change


def _one_event_less(event: Event) -> Event | None:
    return None if isinstance(event, RegionEvent) and event.index == 3 else event


def _short(event: Event) -> Event | None:
    return ResultEvent(2, event.data[:-1]) if isinstance(event, ResultEvent) and event.index == 2 else event


def _renumbered(event: Event) -> Event | None:
    """As many results as announced, but one stands in another's place."""
    return ResultEvent(SAMPLES, event.data) if isinstance(event, ResultEvent) and event.index == 5 else event


def _frozen(event: Event) -> Event:
    """The clock stops in the third pass."""
    stopped = begins(2) + 7
    if isinstance(event, RegionEvent):
        return replace(event, begin=min(event.begin, stopped), end=min(event.end, stopped))
    return event


def _endless(event: Event) -> Event | None:
    return None if isinstance(event, Done) else event


def _backwards(event: Event) -> Event | None:
    return replace(event, end=event.begin - 1) if isinstance(event, RegionEvent) else event


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without(4), rf"sent {SAMPLES} events and {SAMPLES} results; {SAMPLES} and {SAMPLES - 1} arrived"),
        (_one_event_less, rf"sent {SAMPLES} events and {SAMPLES} results; {SAMPLES - 1} and {SAMPLES} arrived"),
        (_short, rf"1 of {SAMPLES} results are missing or not 4 bytes, first: 2"),
        (_renumbered, rf"1 of {SAMPLES} results are missing or not 4 bytes, first: 5"),
        (_endless, "ended its job without saying that it is done"),
        (_backwards, "clock went backwards"),
        (_frozen, rf"the clock of scripted stands still at {begins(2) + 7}: pass 3 of 'inference'"),
    ],
    ids=["result lost", "event lost", "short result", "wrong number", "no end", "clock backwards", "clock frozen"],
)
def test_an_incomplete_capture_is_a_protocol_error_and_kept(
    store: Store, change: Callable[[Event], Event | None], told: str
) -> None:
    with pytest.raises(ProtocolError, match=told) as caught:
        measured(store, ScriptedDevice([altered(change)]))
    run = kept(store)
    assert (run.status, run.error) == ("failed", str(caught.value))
