"""The runner: windows of many passes and sleep in the quiet, on QEMU's boards and in a process of this computer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toolchain import SAMPLE_BYTES, built, counting_plugin, entry, needs_qemu, running
from helpers.trained import as_floats, data, reference, trained_model

from lab.build import build
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.emulators.qemu import Qemu
from lab.errors import ProtocolError, WorkloadError
from lab.events import Done, Event, Job, RegionEvent, ResultEvent
from lab.paths import cache_dir
from lab.training import checkpoint, forget, training_job
from lab.wire import Session

pytestmark = needs_qemu

# One for each way to sleep and each clock: SysTick, Nordic's timer, RISC-V's.
BOARDS = (
    "mps2-an386",
    "mps3-an547",
    "lm3s6965evb",
    "netduinoplus2",
    "emcraft-sf2",
    "microbit",
    "riscv32-virt",
    "riscv32-sifive-e",
)
QUIET_INSTRUCTIONS = 2_000_000
SAMPLES = bytes((i * 37) & 0xFF for i in range(3 * SAMPLE_BYTES))
PASSES = Job("infer", SAMPLES, 3, warmup=0, quiet_us=200, marker_line=False)


def regions(events: Sequence[Event], name: str = "inference") -> list[RegionEvent]:
    return [event for event in events if isinstance(event, RegionEvent) and event.region == name]


def windowed(session: Session, passes: int, repeats: int = 1) -> list[RegionEvent]:
    """The windows of a job, after a check of what else it sent."""
    *events, done = session.run(replace(PASSES, window=passes, repeats=repeats))
    found = regions(events)
    assert isinstance(done, Done)
    assert (done.events, done.results, len(events)) == (repeats, 0, repeats)
    assert [one.index for one in found] == [*range(repeats)]
    assert {one.passes for one in found} == {passes}
    return found


@pytest.fixture(scope="module", params=BOARDS)
def board(request: pytest.FixtureRequest) -> Iterator[tuple[Qemu, Session]]:
    with running(request.param, built(request.param), counting_plugin()) as (qemu, _, session):
        session.put_all(PASSES.all_blobs, qemu)
        yield qemu, session


def test_a_window_is_so_many_passes_and_nothing_else(board: tuple[Qemu, Session]) -> None:
    """Every round over the samples costs the same instructions, and hardly more than its passes by themselves."""
    _, session = board
    rounds = {count: windowed(session, 3 * count)[0].cycles for count in (1, 2, 5, 40)}
    each = rounds[2] - rounds[1]
    assert rounds[5] - rounds[2] == 3 * each
    assert rounds[40] - rounds[5] == 35 * each
    alone = sum(one.cycles for one in regions(list(session.run(PASSES))))
    assert alone < each < alone + 3 * 30
    first, second, third = windowed(session, 7, repeats=3)
    assert first.cycles == second.cycles == third.cycles
    assert first.end < second.begin


def test_a_region_costs_what_it_did_before_there_were_windows(board: tuple[Qemu, Session]) -> None:
    _, session = board
    before = [one.cycles for one in regions(list(session.run(PASSES)))]
    windowed(session, 30)
    assert [one.cycles for one in regions(list(session.run(PASSES)))] == before


def test_the_core_sleeps_in_the_quiet_and_its_clock_goes_on(board: tuple[Qemu, Session]) -> None:
    qemu, session = board
    awake = list(session.run(PASSES))
    assert not regions(awake, "idle")
    quiet_us = QUIET_INSTRUCTIONS * 1_000_000 // session.hello.clock_hz
    asleep = replace(PASSES, quiet_us=quiet_us, sleep=True)
    before = len(qemu.counts())
    events = [list(session.run(asleep)) for _ in range(5)]
    for one in events:
        passes, (first, last) = regions(one), regions(one, "idle")
        assert [two.cycles for two in passes] == [two.cycles for two in regions(awake)]
        assert min(first.cycles, last.cycles) >= quiet_us * session.hello.clock_hz // 1_000_000
        assert first.end <= passes[0].begin
        assert passes[-1].end <= last.begin
        assert [event.data for event in one if isinstance(event, ResultEvent)] == [
            event.data for event in awake if isinstance(event, ResultEvent)
        ]
    # Two quiets lie between the last mark of a job and the first of the next; less than one was executed. The runner
    # also waits for the next job there, awake, for as long as this computer takes: the shortest wait tells.
    counts = qemu.counts()[before:]
    marks = len(counts) // len(events)
    gaps = [counts[at].since(counts[at - 1]).instructions for at in range(marks, len(counts), marks)]
    assert len(gaps) == 4
    assert min(gaps) < QUIET_INSTRUCTIONS


# ---- training ----

COUNT, WINDOW, RATE = 16, 40, 0.02
INPUTS, LABELS = data(COUNT)
TRAINING = replace(training_job(INPUTS, LABELS, learning_rate=RATE, seed=5), quiet_us=100)


@pytest.fixture(scope="module", params=["m4f", "host"])
def trainee(request: pytest.FixtureRequest) -> Iterator[Device]:
    found = entry(request.param)
    assert found.board.firmware_board is not None
    with connected(found, cache_dir()) as device:
        device.deploy(build(trained_model(), found.board.firmware_board, cache=cache_dir()))
        yield device


def test_a_window_of_training_goes_on_from_step_to_step(trainee: Device) -> None:
    """Steps in a window learn what PyTorch learns from the same samples in turn; two windows go on from each other."""
    forget(trainee)
    events = list(trainee.run(replace(TRAINING, window=WINDOW, repeats=2)))
    first, second = regions(events, "train.step")
    assert (first.passes, second.passes) == (WINDOW, WINDOW)
    assert len([event for event in events if isinstance(event, RegionEvent)]) == 2
    order = [step % COUNT for _ in range(2) for step in range(WINDOW)]
    expected = reference(INPUTS, LABELS, order, RATE)
    saved = checkpoint(trainee)
    assert saved.step == 2 * WINDOW
    for found, value in zip(saved.variables.values(), (expected.weight, expected.bias, expected.momentum), strict=True):
        assert as_floats(found) == pytest.approx(value.ravel(), rel=1e-4, abs=1e-5)


def test_windows_of_forwards_change_no_variable(trainee: Device) -> None:
    forget(trainee)
    list(trainee.run(TRAINING))
    before = checkpoint(trainee)
    forwards = replace(TRAINING, window=WINDOW, repeats=2, parameters={**TRAINING.parameters, "forward": 1, "seed": 5})
    events = list(trainee.run(forwards))
    assert [one.passes for one in regions(events, "train.forward")] == [WINDOW, WINDOW]
    after = checkpoint(trainee)
    assert after.variables == before.variables
    assert after.step == before.step


def test_a_step_without_a_finite_loss_ends_the_window_before_it_learns(trainee: Device) -> None:
    forget(trainee)
    poisoned = INPUTS.copy()
    poisoned[3] = np.nan
    job = replace(TRAINING, blob=poisoned.tobytes(), window=WINDOW)
    with pytest.raises(WorkloadError, match=r"step 3, sample 3: the loss is not a number"):
        list(trainee.run(job))
    expected = reference(INPUTS, LABELS, [0, 1, 2], RATE)
    saved = checkpoint(trainee)
    assert saved.step == 3
    assert as_floats(next(iter(saved.variables.values()))) == pytest.approx(expected.weight.ravel(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 1 << 32}, r"window.*at most 4294967295"),
        ({"parameters": {"lr": RATE, "seed": 5, "forward": 1}}, r"forward.*needs a 'window'"),
        (
            {
                "window": 2,
                "parameters": {"lr": RATE, "seed": 5, "order": 1},
                "blobs": {**TRAINING.blobs, "order": bytes(2 * COUNT)},
            },
            r"order.*take the samples as they lie",
        ),
    ],
    ids=["too many", "forwards one by one", "an order"],
)
def test_a_window_that_makes_no_sense_is_refused(trainee: Device, change: dict[str, object], message: str) -> None:
    forget(trainee)
    fields = {**TRAINING.__dict__, **change}
    with pytest.raises(ProtocolError, match=message):
        list(trainee.run(Job(**fields)))
    assert checkpoint(trainee).step == 0


def test_a_window_of_inferences_has_its_bound_as_well(trainee: Device) -> None:
    with pytest.raises(ProtocolError, match=r"window.*at most 4294967295"):
        list(trainee.run(Job("infer", INPUTS.tobytes(), COUNT, warmup=0, window=1 << 32)))


def test_a_process_sleeps_in_the_quiet(tmp_path: Path) -> None:
    with connected(entry("host"), cache_dir()) as device:
        device.deploy(build(trained_model(), "host", cache=cache_dir()))
        job = Job("infer", INPUTS.tobytes(), COUNT, warmup=0, quiet_us=20_000, marker_line=False)
        assert not regions(list(device.run(job)), "idle")
        first, last = regions(list(device.run(replace(job, sleep=True))), "idle")
        assert min(first.cycles, last.cycles) >= 20_000_000
