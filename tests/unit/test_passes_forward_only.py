"""Learning on the way forward: PyTorch's numbers, and nothing of a layer outlives the next one."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import entry, needs_host_compiler
from torch import nn

from lab.artifact import Artifact
from lab.build import build
from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.joint import Penalised
from lab.compiler.operations.optimizer import Optimizer, Sgd, SgdMomentum
from lab.compiler.training import TrainingModel, compile_training
from lab.devices.connect import connected
from lab.errors import ProtocolError, WorkloadError
from lab.events import Job, RegionEvent
from lab.paths import cache_dir
from lab.training import FORWARD, read_parameters, train, training_job
from lab.workloads.networks.local_mlp import LocalMlp, Rule

pytestmark = needs_host_compiler

CLASSES, STEPS, RATE = 4, 12, 0.02
SAMPLES = np.random.default_rng(3).normal(size=(STEPS, 4, 4, 1)).astype(np.float32)
LABELS = (np.arange(STEPS) % CLASSES).astype(np.int32)


def network(rule: Rule, depth: int = 3) -> LocalMlp:
    torch.manual_seed(5)
    return LocalMlp(16, 32, depth, CLASSES, rule, seed=9)


def compiled(module: nn.Module, optimizer: Optimizer | None = None, *, forward_only: bool = True) -> TrainingModel:
    names = [name for name, _ in module.named_parameters()]
    return compile_training(
        module, torch.zeros(1, 1, 4, 4), loss=nn.CrossEntropyLoss(), train=names, optimizer=optimizer or Sgd(),
        name="local", forward_only=forward_only,
    )  # fmt: skip


def by_autograd(module: nn.Module, momentum: float = 0.0) -> dict[str, np.ndarray]:
    twin = copy.deepcopy(module)
    optimizer = torch.optim.SGD(twin.parameters(), lr=RATE, momentum=momentum)
    for sample, label in zip(SAMPLES, torch.from_numpy(LABELS).long(), strict=True):
        made, answer = twin(torch.from_numpy(sample).permute(2, 0, 1)[None]), label[None]
        output = made.output if isinstance(made, Penalised) else made
        loss = nn.functional.cross_entropy(output, answer)
        optimizer.zero_grad()
        loss = loss + made.of(answer) if isinstance(made, Penalised) else loss
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: one.detach().numpy() for name, one in twin.named_parameters()}


def on_host(model: TrainingModel, folder: Path) -> tuple[list[float], dict[str, np.ndarray]]:
    host = HostTraining(model.compiled, folder, flags=("-O1", *TRAP_UNDEFINED))
    losses = [host.step(SAMPLES[n : n + 1], LABELS[n : n + 1], RATE) for n in range(STEPS)]
    return losses, dict(host.variables())


@pytest.mark.parametrize("rule", ["periodic", "projection"])
def test_variables_are_those_of_autograd(rule: Rule, tmp_path: Path) -> None:
    module = network(rule)
    expected = by_autograd(module)
    _, found = on_host(compiled(module), tmp_path)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected["hidden.0.weight"], module.get_parameter("hidden.0.weight").detach().numpy())


def test_optimisers_with_state_learn_on_the_way(tmp_path: Path) -> None:
    module = network("periodic")
    _, found = on_host(compiled(module, SgdMomentum(momentum=0.9)), tmp_path)
    for name, value in by_autograd(module, momentum=0.9).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", ["periodic", "projection"])
def test_the_arena_does_not_grow_with_depth(rule: Rule) -> None:
    shallow, deep = (compiled(network(rule, depth)).compiled.training for depth in (2, 4))
    behind = compiled(network(rule, 4), forward_only=False).compiled.training
    assert shallow is not None
    assert deep is not None
    assert behind is not None
    assert deep.learns_forward
    assert not behind.learns_forward
    assert deep.arena_bytes == shallow.arena_bytes < behind.arena_bytes


def test_no_output_of_a_layer_outlives_the_next_one() -> None:
    """Each hidden output, by the plan, is dead once the next layer has been updated."""
    model = compiled(network("periodic", 3))
    training = model.compiled.training
    assert training is not None
    names = [step.name for step in training.steps]
    for layer in range(1, 3):
        before = next(step for step in model.program.steps if step.name == f"hidden.{layer - 1}")
        updates = [n for n, step in enumerate(model.program.steps) if f"hidden.{layer}.weight" in step.outputs]
        readers = [n for n, step in enumerate(model.program.steps) if before.outputs[0] in step.inputs]
        assert updates
        assert max(readers) <= max(updates)
    assert names.index("hidden.0") < names.index("hidden.1")


def test_inference_has_no_step_of_learning() -> None:
    model = compiled(network("periodic"))
    assert model.inference.of_kind("target") == ()
    assert len(model.inference.steps) < len(model.program.steps) / 4
    assert {layer.name for layer in model.compiled.layers} >= {"hidden.0", "classifier"}


def test_a_step_is_one_region_on_a_runner() -> None:
    module = network("periodic")
    model = compiled(module).compiled
    assert model.training is not None
    with connected(entry("host"), cache_dir()) as device:
        built: Artifact = build(model, "host", cache=cache_dir(), sanitize="address,undefined")
        device.deploy(built)
        result = train(device, SAMPLES, LABELS, learning_rate=RATE)
        found = model.training.to_torch(read_parameters(device))
        job = training_job(SAMPLES, LABELS, learning_rate=RATE)
        windowed = Job("train", job.blob, job.count, warmup=0, window=STEPS, blobs=job.blobs, parameters=job.parameters)
        regions = [one.region for one in device.run(windowed) if isinstance(one, RegionEvent)]
        alone = Job(
            "train", job.blob, job.count, warmup=0, window=4, blobs=job.blobs,
            parameters={**job.parameters, "forward": 1},
        )  # fmt: skip
        with pytest.raises(ProtocolError, match="no forward that changes nothing"):
            list(device.run(alone))
        with pytest.raises(WorkloadError, match=f"'nan' at {FORWARD}: step 0, sample 0"):
            train(device, np.full_like(SAMPLES, np.nan), LABELS, learning_rate=RATE)
    assert [event.region for event in result.events] == [FORWARD] * STEPS
    assert regions == ["train.step"]
    for name, value in by_autograd(module).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
