"""Bad input to models that the compiler made: refused or stopped by name, on the host and on an emulated board."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from helpers.toolchain import entry, needs_qemu
from torch import nn

from lab.build import build
from lab.compiler.model import CompiledModel
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.errors import ProtocolError, WorkloadError
from lab.paths import cache_dir
from lab.training import FORWARD, checkpoint, forget, restore, train, training_job

pytestmark = needs_qemu

COUNT, CLASSES, SIDE = 6, 3, 6
RATE = 0.05
DEVICES = pytest.mark.parametrize("device_name", ["host", "m4f"])


@cache
def compiled(precision: str = "float32", batch: int = 1, width: int = 4) -> CompiledModel:
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * SIDE * SIDE, CLASSES)
    )
    return compile_training(
        module,
        torch.randn(batch, 1, SIDE, SIDE),
        loss=nn.functional.cross_entropy,
        train=lambda name, _: True,
        optimizer=Sgd(),
        name="refusing",
        precision="int8" if precision == "int8" else "float32",
        calibration=torch.randn(8, 1, SIDE, SIDE),
    ).compiled


def data(model: CompiledModel, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Samples and labels as the model takes them."""
    generator = np.random.default_rng(5)
    real = generator.normal(size=(COUNT, batch, SIDE, SIDE, 1)).astype(np.float32)
    samples = model.input.quantize(real) if model.input.dtype == "int8" else real
    return samples, generator.integers(0, CLASSES, (COUNT, batch), dtype=np.int32)


@contextmanager
def running(device_name: str, model: CompiledModel) -> Iterator[Device]:
    """A device with the model, at its first values."""
    found = entry(device_name)
    with connected(found, cache_dir()) as device:
        device.deploy(build(model, found.board.firmware_board or "host", cache=cache_dir()))
        forget(device)
        yield device


@DEVICES
def test_what_does_not_fit_is_refused_and_changes_nothing(device_name: str) -> None:
    model = compiled()
    samples, labels = data(model)
    with running(device_name, model) as device:
        before = checkpoint(device)
        for wrong in (CLASSES, -1):
            bad = labels.copy()
            bad[4] = wrong
            words = f"'input' at targets: sample 4 has label {wrong}; labels go from 0 to {CLASSES - 1}"
            with pytest.raises(ProtocolError, match=words):
                train(device, samples, bad, learning_rate=RATE)
        size = 4 * SIDE * SIDE
        short = replace(training_job(samples, labels, learning_rate=RATE), blob=samples.tobytes()[:-4])
        with pytest.raises(
            ProtocolError, match=f"'input' at samples: the blob has {COUNT * size - 4} bytes; {COUNT} times {size} are"
        ):
            list(device.run(short))
        with pytest.raises(ProtocolError, match="'input' at targets: the blob has 12 bytes; 6 times 4 are needed"):
            train(device, samples, labels.astype(np.int16), learning_rate=RATE)  # type: ignore[arg-type]
        assert checkpoint(device) == before


@DEVICES
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_loss_that_is_no_number_stops_at_its_step_before_any_update(device_name: str, poison: float) -> None:
    model = compiled()
    samples, labels = data(model)
    poisoned = samples.copy()
    poisoned[3] = poison
    with running(device_name, model) as device:
        train(device, samples[:3], labels[:3], learning_rate=RATE)
        good = checkpoint(device).variables
        forget(device)
        with pytest.raises(WorkloadError, match=f"'nan' at {FORWARD}: step 3, sample 3: the loss is "):
            train(device, poisoned, labels, learning_rate=RATE)
        saved = checkpoint(device)
        assert saved.step == 3
        assert saved.variables == good


def test_training_that_diverges_in_int8_stops_by_itself() -> None:
    model = compiled("int8")
    samples, labels = data(model)
    with running("host", model) as device, pytest.raises(WorkloadError, match=rf"at {FORWARD}: step [1-9]\d*, "):
        train(device, samples, labels, epochs=20, learning_rate=3e38)


def test_each_label_of_a_batch_is_checked() -> None:
    model = compiled(batch=2)
    samples, labels = data(model, 2)
    labels[5, 1] = CLASSES
    with running("host", model) as device:
        with pytest.raises(ProtocolError, match=rf"'input' at targets: sample \d+ has label {CLASSES}; labels go from"):
            train(device, samples, labels, learning_rate=RATE)
        labels[5, 1] = 0
        assert np.isfinite(train(device, samples, labels, learning_rate=RATE).losses).all()


@DEVICES
def test_the_checkpoint_of_another_model_is_refused_by_both_builds(device_name: str) -> None:
    with running(device_name, compiled(width=5)) as device:
        other = checkpoint(device)
    with running(device_name, compiled()) as device:
        before = checkpoint(device)
        assert before.build_id != other.build_id
        words = f"'input' at checkpoint: it is of build {other.build_id}, this is build {before.build_id}"
        with pytest.raises(ProtocolError, match=words):
            restore(device, other)
        assert checkpoint(device) == before
        restore(device, before)
