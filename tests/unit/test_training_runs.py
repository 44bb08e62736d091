"""A workload that is trained on the device, measured through the whole chain on this computer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.toolchain import entry, needs_host_compiler
from helpers.trained import (
    ARENA_USED_BYTES,
    CLASSES,
    EPOCHS,
    EVALUATED,
    INPUTS,
    TRAINED,
    VARIABLES_BYTES,
    data,
    reference,
    trained_model,
    trained_workload,
    xorshift32,
)

from lab import runs
from lab.build import build
from lab.deployment import Deployment
from lab.devices.connect import connected
from lab.errors import WorkloadError
from lab.paths import cache_dir
from lab.training import checkpoint
from lab.workloads.base import Prepared
from measurements.record import Run
from measurements.store import Store
from measurements.training import REGIONS, STEP

pytestmark = needs_host_compiler

STEPS = TRAINED * EPOCHS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    with connected(entry("host"), cache_dir()) as device:
        artifact = build(trained_model(), "host", cache=cache_dir())
        hello = device.deploy(artifact)
        yield Deployment(entry("host"), device, "trained", "", trained_workload(), artifact, hello)


def altered(deployment: Deployment, prepared: Prepared) -> runs.Deployment:
    return Deployment(
        deployment.entry, deployment.device, "trained", "", prepared, deployment.artifact, deployment.hello
    )


def kept(store: Store) -> Run:
    (run,) = store.runs()
    return run


def test_a_run_trains_first_and_records_steps_losses_and_memory(deployment: Deployment, store: Store) -> None:
    measurement = runs.measure(deployment, store, "session")
    for region in (*REGIONS, STEP):
        assert measurement.record("latency", region).n == STEPS
    total = np.sum([measurement.record("latency", region).raw for region in REGIONS], axis=0)
    assert measurement.record("latency", STEP).raw == pytest.approx(tuple(total), rel=1e-12)
    samples, labels = data(TRAINED)
    expected = reference(samples, labels, [*range(TRAINED)] * EPOCHS, 0.02)
    assert measurement.record("loss", STEP).raw == pytest.approx(expected.losses.tolist(), rel=1e-4, abs=1e-4)
    parts = [measurement.record("latency", f"train.layer/{k:02} {name}").n for k, name in enumerate(STEP_NAMES)]
    assert parts == [1] * 4
    assert measurement.record("latency").n == EVALUATED
    assert measurement.median("logit_error", "run") < 1e-4
    assert measurement.median("weight_error", "run") < 1e-5
    final, reference_loss = (measurement.median(f"final_loss{suffix}", "run") for suffix in ("", ".reference"))
    assert final == pytest.approx(reference_loss, rel=1e-4)
    assert kept(store) == measurement.run
    plan = deployment.prepared.training
    assert plan is not None
    assert measurement.run.detail.target_accuracy == plan.target_accuracy
    assert measurement.run.detail.task == deployment.prepared.dataset.note


STEP_NAMES = ("linear", "loss", "linear.weight gradient", "sgd")


def test_memory_is_split_and_counts_training(deployment: Deployment, store: Store) -> None:
    measurement = runs.measure(deployment, store, "session", samples=2)
    names = ("activations", "variables", "stack", "static")
    parts = {name: measurement.median(f"peak_ram.{name}", "run") for name in names}
    assert parts["activations"] == ARENA_USED_BYTES
    assert parts["variables"] == VARIABLES_BYTES == deployment.artifact.memory.variables_bytes
    assert measurement.median("peak_ram", "run") == sum(parts.values())
    assert measurement.median("flash.weights", "run") >= 4 * (INPUTS * CLASSES + CLASSES)


def test_two_runs_are_equal_and_the_device_keeps_what_it_learnt(deployment: Deployment, store: Store) -> None:
    first = runs.measure(deployment, store, "session")
    one = checkpoint(deployment.device)
    second = runs.measure(deployment, store, "session")
    assert checkpoint(deployment.device) == one
    assert (one.step, one.random) == (STEPS, xorshift32(11, STEPS))
    assert first.record("loss", STEP).raw == second.record("loss", STEP).raw
    assert np.array_equal(first.outputs, second.outputs)


def test_a_training_that_is_refused_by_the_workload_keeps_its_curve(deployment: Deployment, store: Store) -> None:
    with pytest.raises(WorkloadError, match="the loss did not fall"):
        runs.measure(altered(deployment, trained_workload(accept=False)), store, "session")
    run = kept(store)
    assert (run.status, run.error) == ("failed", "the loss did not fall")
    assert {(record.region, record.metric): record.n for record in run.records}[STEP, "loss"] == STEPS
    assert not [record for record in run.records if record.region == "inference"]


def test_a_training_that_diverges_keeps_the_steps_before(deployment: Deployment, store: Store) -> None:
    with pytest.raises(WorkloadError, match=r"'nan' at train\.forward: step \d+, sample \d+: the loss is"):
        runs.measure(altered(deployment, trained_workload(learning_rate=1e37)), store, "session")
    found = {(record.region, record.metric): record.n for record in kept(store).records}
    assert 0 < found[STEP, "loss"] == found[STEP, "latency"] < STEPS
    assert found["train.update", "latency"] == found[STEP, "latency"]
