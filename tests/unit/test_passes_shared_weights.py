"""Weights that a step uses several times: PyTorch's numbers, and no gradient of one use is kept beside another."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler.graph import to_nhwc
from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.joint import Penalised
from lab.compiler.model import CompiledTraining
from lab.compiler.operations.optimizer import Sgd, SgdMomentum
from lab.compiler.program import Program
from lab.compiler.training import TrainingModel, compile_training
from lab.compiler.training_passes import update_each_use
from lab.errors import CompileError
from lab.workloads.networks.local_mlp import Rule
from lab.workloads.networks.local_recurrent import CellName, LocalRecurrent

FEATURES, CLASSES, STEPS, RATE = 5, 3, 3, 0.1
Losses = Callable[[LocalRecurrent, torch.Tensor, torch.Tensor], Iterator[torch.Tensor]]


def network(rule: Rule, *, rows: int = 3, width: int = 24, cell: CellName = "rnn") -> LocalRecurrent:
    torch.manual_seed(5)
    return LocalRecurrent(cell, 1, rows, FEATURES, width, CLASSES, rule, seed=9)


def compiled(
    module: LocalRecurrent, way: Literal["backward", "forward", "each use"], batch: int = 1
) -> TrainingModel:
    return compile_training(
        module, torch.zeros(batch, 1, module.rows, FEATURES), loss=nn.CrossEntropyLoss(), train=lambda *_: True,
        optimizer=Sgd(), forward_only=way != "backward", each_use=way == "each use",
    )  # fmt: skip


def planned(model: TrainingModel) -> CompiledTraining:
    assert model.compiled.training is not None
    return model.compiled.training


def whole(module: LocalRecurrent, images: torch.Tensor, labels: torch.Tensor) -> Iterator[torch.Tensor]:
    """One loss a step."""
    made = module(images)
    loss = functional.cross_entropy(made.output if isinstance(made, Penalised) else made, labels)
    yield loss + made.of(labels) if isinstance(made, Penalised) else loss


def learns_as_pytorch(model: TrainingModel, module: LocalRecurrent, losses: Losses, folder: Path, batch: int) -> None:
    """Some steps of the C and of torch.optim.SGD, which steps once for each loss."""
    host = HostTraining(model.compiled, folder, flags=("-O1", *TRAP_UNDEFINED))
    twin = copy.deepcopy(module)
    optimizer = torch.optim.SGD(twin.parameters(), lr=RATE)
    for images in torch.randn(STEPS, batch, 1, module.rows, FEATURES):
        labels = torch.randint(0, CLASSES, (batch,))
        host.step(to_nhwc(images).numpy(), labels.to(torch.int32).numpy(), RATE)
        for loss in losses(twin, images, labels):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    found = host.variables()
    for name, value in twin.named_parameters():
        assert not torch.equal(value, module.get_parameter(name))
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=1e-4, atol=1e-5)


@needs_host_compiler
def test_through_time_a_gradient_is_one_product_of_all_uses(tmp_path: Path) -> None:
    """Of the rows' states and errors, which are smaller than a gradient of 24 x 24: none is stored."""
    module = network("backprop")
    model = compiled(module, "backward", batch=2)
    learns_as_pytorch(model, module, whole, tmp_path, batch=2)
    weight = module.get_parameter("hidden.0.hidden.weight").numel() * 4
    assert all(buffer.size < weight for buffer in planned(model).buffers)
    updates = [step for step in model.program.steps if "hidden.0.hidden.weight" in step.outputs]
    assert [step.operation.kind for step in updates] == ["matmul.sgd"]


@needs_host_compiler
def test_where_a_gradient_is_smaller_than_what_it_is_of_sums_follow_the_forward_pass(tmp_path: Path) -> None:
    """Of four rows of two samples, gradients of 4 x 4: two are live at once, a sum and the next one."""
    module = network("projection", rows=4, width=4)
    model = compiled(module, "forward", batch=2)
    learns_as_pytorch(model, module, whole, tmp_path, batch=2)
    program, weight = model.program, (4, 4)
    lives = [
        range(next(n for n, one in enumerate(program.steps) if name in one.outputs),
              max(n for n, one in enumerate(program.steps) if name in one.inputs) + 1)
        for name, tensor in program.tensors.items() if tensor.shape == weight and tensor.kind == "activation"
    ]  # fmt: skip
    assert len(lives) == 2 * 4 - 1
    assert max(sum(n in life for life in lives) for n in range(len(program.steps))) <= 3, "two read, one written"


@needs_host_compiler
def test_a_parameter_may_change_after_each_use(tmp_path: Path) -> None:
    module = network("projection")
    model = compiled(module, "each use")
    learns_as_pytorch(model, module, lambda one, *given: one.losses(*given), tmp_path, batch=1)
    arena = planned(model).arena_bytes
    assert planned(compiled(network("projection", rows=2), "each use")).arena_bytes == arena < 5 * 4 * module.width


@needs_host_compiler
def test_so_may_those_of_gated_layers(tmp_path: Path) -> None:
    module = network("projection", rows=2, width=8, cell="gru")
    learns_as_pytorch(
        compiled(module, "each use"), module, lambda one, *given: one.losses(*given), tmp_path, batch=1
    )  # fmt: skip


def test_what_cannot_change_after_each_use_is_refused() -> None:
    with pytest.raises(CompileError, match=r"by plain SGD, not by SGD\(momentum=0.9"):
        update_each_use(Program({}, (), ""), SgdMomentum())
    with pytest.raises(CompileError, match=r"'hidden.0.input.weight' is to change after each use, and .* reads it"):
        compiled(network("backprop", rows=2), "each use")
