"""What fits a small board trains there; what does not is refused before anything is built, with the numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_qemu
from torch import nn

from lab.bench import Bench
from lab.build import build, check_fits
from lab.compiler.host import HostTraining
from lab.compiler.layer_costs import layer_list
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import TrainingModel, compile_training
from lab.compiler.update_schemes import selection
from lab.devices.connect import connected
from lab.errors import CompileError
from lab.inventory import Board
from lab.paths import cache_dir, config_dir
from lab.runs import deploy as deploy_to
from lab.runs import measure
from lab.training import forget, train
from lab.workloads.networks import digits_mb, folded
from lab.workloads.training.digits_transfer import Update, scheme_of
from measurements.store import Store

STEPS, RATE = 6, 0.02


def model(image: int, update: Update) -> tuple[TrainingModel, torch.Tensor]:
    """DigitsMB with random weights, int8, and samples for it."""
    torch.manual_seed(1)
    samples = torch.randn(STEPS, 1, image, image)
    network = digits_mb().train()
    with torch.no_grad():
        network(samples)
    network = folded(network.eval())
    layers = layer_list(network, samples[:1])
    made = compile_training(
        network, samples[:1], loss=nn.CrossEntropyLoss(), train=selection(scheme_of(update), layers), optimizer=Sgd(),
        precision="int8", calibration=samples, name=f"digits_mb_{image}_{update}",
    )  # fmt: skip
    return made, samples


def board(device: str) -> Board:
    """A board of the small bench."""
    return Bench.load(config_dir() / "small.yaml").get(device).board


@needs_qemu
def test_sparse_training_at_32_pixels_runs_within_128_kib(tmp_path: Path) -> None:
    entry = Bench.load(config_dir() / "small.yaml").get("m4f-128k")
    with connected(entry, cache_dir()) as device, Store(tmp_path) as store:
        deployment = deploy_to(entry, device, "digits-transfer", cache_dir(), "samples=120,evaluated=60,rate=0.05")
        measurement = measure(deployment, store, "test")
    assert measurement.median("peak_ram", "run") < 128 * 1024
    assert measurement.median("arena", "run") == measurement.median("arena.lower_bound", "run") == 70_144
    assert measurement.accuracy > measurement.median("accuracy.untrained", "run")


@needs_qemu
def test_sparse_training_at_48_pixels_runs_within_256_kib(tmp_path: Path) -> None:
    made, samples = model(48, "sparse")
    entry = Bench.load(config_dir() / "small.yaml").get("m4f-256k")
    memory = entry.board.memory
    check_fits(made.compiled, memory.flash_bytes, memory.ram_bytes, memory.arena_limit_bytes)
    inputs = made.compiled.input.quantize(samples.permute(0, 2, 3, 1).contiguous().numpy())
    labels = (np.arange(STEPS) % 10).astype(np.int32)
    with connected(entry, cache_dir()) as device:
        device.deploy(build(made.compiled, entry.board.firmware_board or "", cache=cache_dir()))
        forget(device)
        result = train(device, inputs, labels, learning_rate=RATE, seed=1)
    host = HostTraining(made.compiled, tmp_path)
    expected = [host.step(inputs[n : n + 1], labels[n : n + 1], RATE) for n in range(STEPS)]
    np.testing.assert_allclose(result.losses, expected, rtol=0.01)
    assert result.done.arena_high_water <= made.compiled.arena_bytes


@pytest.mark.parametrize(("image", "device"), [(32, "m4f-128k"), (48, "m4f-256k")])
def test_the_full_update_is_refused_with_the_numbers(image: int, device: str) -> None:
    made, _ = model(image, "full")
    memory, training = board(device).memory, made.compiled.training
    assert training is not None
    with pytest.raises(CompileError) as refused:
        check_fits(made.compiled, memory.flash_bytes, memory.ram_bytes, memory.arena_limit_bytes)
    text = str(refused.value)
    for number in (made.compiled.arena_bytes, memory.ram_bytes, training.lower_bound_bytes, training.variables_bytes):
        assert re.search(rf"\b{number}\b", text), f"{number} is not told:\n{text}"
    assert "fewer layers or channels" in text


def test_a_limit_given_to_the_compiler_is_kept_to() -> None:
    made, samples = model(32, "last")
    limit = made.compiled.arena_bytes - 16
    with pytest.raises(CompileError, match=rf"{made.compiled.arena_bytes}.*{limit}"):
        compile_training(
            digits_mb().eval(), samples[:1], loss=nn.CrossEntropyLoss(), train=["classifier.weight"], optimizer=Sgd(),
            precision="int8", calibration=samples, arena_limit_bytes=limit,
        )  # fmt: skip
