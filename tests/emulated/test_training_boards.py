"""Training on emulated boards: the steps of PyTorch, what is refused, and a measurement with power and exact counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toolchain import EMULATED_BOARDS, counting_plugin, entry, needs_qemu
from helpers.trained import (
    ARENA_USED_BYTES,
    CLASSES,
    STEPS,
    VARIABLES_BYTES,
    as_floats,
    data,
    reference,
    trained_model,
    trained_workload,
    xorshift32,
)

from lab import runs
from lab.artifact import Artifact
from lab.attempt import METERED_SAMPLES
from lab.build import build
from lab.deployment import Deployment
from lab.devices.base import Counting, Device
from lab.devices.connect import connected
from lab.errors import ProtocolError, WorkloadError
from lab.events import Job, RegionEvent, ResultEvent
from lab.metered import EnergyPlan
from lab.paths import cache_dir
from lab.training import FORWARD, Checkpoint, checkpoint, restore, train, training_job
from measurements.store import Store
from measurements.training import REGIONS, STEP

pytestmark = needs_qemu

DEVICES = dict(zip(EMULATED_BOARDS, ("m4f", "m7", "m55"), strict=True))
COUNT = 16
RATE = 0.02
SAMPLE_S = 1e-5
# A fused multiply-add rounds once where PyTorch rounds twice.
AGREEMENT = 2e-5
SAMPLES, LABELS = data(COUNT)


@pytest.fixture(scope="module", params=EMULATED_BOARDS)
def board(request: pytest.FixtureRequest) -> Iterator[Device]:
    found = entry(DEVICES[request.param])
    with connected(found, cache_dir()) as device:
        device.deploy(built(request.param))
        yield device


def built(board: str) -> Artifact:
    return build(trained_model(), board, cache=cache_dir())


def test_a_board_trains_as_pytorch_does_and_every_step_costs_the_same_instructions(board: Device) -> None:
    expected = reference(SAMPLES, LABELS, [*range(COUNT)] * 3, RATE)
    board.reset("soft")
    result = train(board, SAMPLES, LABELS, epochs=3, learning_rate=RATE, seed=5)
    saved = checkpoint(board)
    assert result.losses == pytest.approx(expected.losses, rel=AGREEMENT, abs=AGREEMENT)
    for data_, value in zip(saved.variables.values(), (expected.weight, expected.bias, expected.momentum), strict=True):
        assert as_floats(data_) == pytest.approx(value.ravel(), rel=AGREEMENT, abs=AGREEMENT)
    assert (saved.step, saved.random) == (3 * COUNT, xorshift32(5, 3 * COUNT))
    assert result.done.arena_high_water == ARENA_USED_BYTES
    assert 0 < result.done.stack_high_water < 2048
    assert len({event.cycles for event in result.events if event.region == "train.backward"}) == 1
    events = board.run(Job("infer", SAMPLES.tobytes(), COUNT))
    logits = np.array([as_floats(event.data) for event in events if isinstance(event, ResultEvent)])
    assert logits == pytest.approx(SAMPLES @ expected.weight.T + expected.bias, abs=1e-4)


def test_a_checkpoint_goes_on_after_a_reset_to_the_bit(board: Device, tmp_path: Path) -> None:
    board.reset("soft")
    initial = checkpoint(board)
    assert (initial.step, initial.random) == (0, 1)
    train(board, SAMPLES, LABELS, learning_rate=RATE, seed=3)
    checkpoint(board).save(tmp_path / "half.npz")
    job = replace(training_job(SAMPLES, LABELS, learning_rate=RATE), parameters={"lr": RATE})
    list(board.run(job))
    end = checkpoint(board)
    board.reset("soft")
    assert checkpoint(board) == initial
    restore(board, Checkpoint.load(tmp_path / "half.npz"))
    list(board.run(job))
    assert checkpoint(board) == end


def test_bad_input_is_refused_by_name_and_changes_nothing(board: Device) -> None:
    before = checkpoint(board)
    labels = LABELS.copy()
    labels[11] = CLASSES
    with pytest.raises(ProtocolError, match="'input' at targets: sample 11 has label 3; labels go from 0 to 2"):
        train(board, SAMPLES, labels, learning_rate=RATE)
    short = replace(training_job(SAMPLES, LABELS, learning_rate=RATE), blob=SAMPLES.tobytes()[:-4])
    with pytest.raises(ProtocolError, match="'input' at samples: the blob has 6396 bytes; 16 times 400 are needed"):
        list(board.run(short))
    other = replace(before, build_id="0" * 16)
    with pytest.raises(ProtocolError, match=f"of build {'0' * 16}, this is build {before.build_id}"):
        restore(board, other)
    poisoned = SAMPLES.copy()
    poisoned[0] = np.nan
    with pytest.raises(WorkloadError, match=f"'nan' at {FORWARD}: step 0, sample 0: the loss is not a number"):
        train(board, poisoned, LABELS, learning_rate=RATE, seed=before.random)
    assert checkpoint(board) == before


def test_the_plugin_counts_the_regions_and_parts_of_a_step(board: Device) -> None:
    counting_plugin()
    assert isinstance(board, Counting)
    name = board.identity.board
    job = replace(training_job(SAMPLES[:1], LABELS[:1], learning_rate=RATE), profile=True)
    board.reset("soft")
    regions = [event for event in board.run(job) if isinstance(event, RegionEvent)]
    events = {(event.region, event.index): event.cycles for event in regions}
    counts = {(count.region, count.index): count for count in board.count(built(name), job)}
    assert counts.keys() == events.keys()
    assert [region for region, _ in counts] == [*REGIONS, *["train.layer"] * len(STEPS)]
    over = {counts[key].instructions - events[key] for key in counts if key[0] in REGIONS}
    assert len(over) == 1
    assert all(counts[region, 0].loads > 0 for region in REGIONS)


@pytest.mark.parametrize("name", ["m4f", "m55"])
def test_a_measurement_has_time_energy_memory_and_losses(name: str, tmp_path: Path) -> None:
    found = entry(name)
    with connected(found, cache_dir()) as device, Store(tmp_path / "store") as store:
        artifact = built(found.board.kind)
        hello = device.deploy(artifact)
        deployment = Deployment(found, device, "trained", "", trained_workload(), artifact, hello)
        measurement = runs.measure(deployment, store, "session")
        clock_hz = hello.clock_hz
    assert measurement.median("weight_error", "run") < 1e-5
    assert measurement.median("logit_error", "run") < 1e-4
    for region in (*REGIONS, "inference"):
        energy = measurement.record("energy", region)
        assert (energy.source, energy.alignment) == ("modelled", "marker")
        assert energy.n == (METERED_SAMPLES if region != "inference" else 8)
        latency = measurement.median("latency", region)
        assert measurement.median("instructions", region) == pytest.approx(latency * clock_hz)
        peak_w = measurement.median("power.peak", region)
        assert energy.median == pytest.approx(latency * peak_w, abs=2 * SAMPLE_S * peak_w)
    steps = [measurement.record("energy", region).raw for region in REGIONS]
    assert measurement.record("energy", STEP).raw == pytest.approx(np.sum(steps, axis=0), rel=1e-9)
    assert measurement.median("peak_ram.variables", "run") == VARIABLES_BYTES
    per_mac = {region: measurement.median("instructions_per_mac", region) for region in REGIONS}
    macs = {"train.forward": 600, "train.backward": 300, "train.update": 300}
    for region, value in per_mac.items():
        assert value == measurement.median("instructions", region) / macs[region]
    assert measurement.record("instructions", "train.layer/03 sgd").n == 1
    assert measurement.trace is not None


def test_training_is_measured_in_windows_of_many_steps_where_a_plan_asks_for_them(tmp_path: Path) -> None:
    found = entry("m4f")
    model = found.board.energy_model
    assert model is not None
    with connected(found, cache_dir()) as device, Store(tmp_path / "store") as store:
        artifact = built(found.board.kind)
        hello = device.deploy(artifact)
        deployment = Deployment(found, device, "trained", "", trained_workload(), artifact, hello)
        measurement = runs.measure(deployment, store, "session", energy=EnergyPlan(0.01, 0.05, max_windows=7))
    power_w = (model.active_current_a - model.idle_current_a) * found.meter_voltage_v
    for region in (STEP, FORWARD, "inference"):
        net = measurement.record("energy.net", region)
        assert net.n == 7
        # Pass by pass a region costs its marks and its edges; in a window passes follow each other at once.
        assert net.median == pytest.approx(measurement.median("latency", region) * power_w, rel=0.02)
        assert "median of 7 windows of" in net.note
    # What cannot be repeated by itself is measured as before.
    assert measurement.record("energy.net", "train.backward").n == METERED_SAMPLES
    # What settles behind a pulse is missing from it: three times a step by its parts, once a window of steps.
    apart = sum(measurement.median("energy.net", region) for region in REGIONS if region != FORWARD)
    apart += measurement.median("latency", FORWARD) * power_w
    missing = measurement.median("energy.net", STEP) - apart
    assert 0 < missing < 2 * power_w * model.settle_s
    # The device is left with what the training of the workload has learnt, whatever was measured since.
    assert measurement.median("weight_error", "run") < 1e-5
