"""MCUNet-5fps trains within the memory of the reference's table, weights random.

The table (project measurements: own first-fit model of int8 activations, 1-bit masks and float32 gradients, no scratch)
says for immediate updates 160.0 KiB for the schemes of 49 and 99 kB, 202.4 KiB for 148 kB and 1284.8 KiB for the full
update; inference takes 160.0 KiB.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lab.compiler.layer_costs import LayerCost, layer_list
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import TrainingModel, compile_training
from lab.compiler.update_schemes import MCUNET_SCHEMES, UpdateScheme, full_update, selection
from lab.workloads.networks import folded, mcunet_5fps

KIB = 1024
INFERENCE_BYTES = 160 * KIB


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, torch.Tensor, tuple[LayerCost, ...]]:
    """Batch norm settled on noise and folded; samples; layers."""
    torch.manual_seed(0)
    module, samples = mcunet_5fps().train(), torch.randn(4, 3, 128, 128)
    with torch.no_grad():
        module(samples)
    module = folded(module.eval())
    return module, samples, layer_list(module, samples[:1])


def compiled(
    network: tuple[nn.Module, torch.Tensor, tuple[LayerCost, ...]], scheme: UpdateScheme, immediate: bool
) -> TrainingModel:
    """The network in int8 under a scheme."""
    module, samples, layers = network
    return compile_training(
        module, samples[:1], loss=nn.CrossEntropyLoss(), train=selection(scheme, layers), optimizer=Sgd(),
        precision="int8", calibration=samples, immediate=immediate,
    )  # fmt: skip


def scratch_bytes(model: TrainingModel) -> int:
    """The most scratch any kernel takes."""
    program = model.program
    steps = program.steps
    return max(step.operation.scratch_bytes(program.inputs_of(step), program.outputs_of(step)) for step in steps)


@pytest.mark.parametrize(("name", "immediate", "table_kib"), [
    ("49kb", True, 160.0), ("99kb", True, 160.0), ("148kb", True, 202.4), ("148kb", False, 507.2),
    ("full", True, 1284.8),
])  # fmt: skip
def test_plans_stay_within_the_table(
    network: tuple[nn.Module, torch.Tensor, tuple[LayerCost, ...]], name: str, immediate: bool, table_kib: float
) -> None:
    scheme = full_update(network[2]) if name == "full" else MCUNET_SCHEMES[name]
    model = compiled(network, scheme, immediate)
    training = model.compiled.training
    assert training is not None
    assert training.arena_bytes <= 1.05 * training.lower_bound_bytes
    scratch = scratch_bytes(model)
    assert scratch < 5 * KIB
    assert training.arena_bytes <= table_kib * KIB + scratch
    assert training.arena_bytes >= INFERENCE_BYTES
    if immediate and name != "full":
        assert training.arena_bytes - INFERENCE_BYTES <= scratch, "sparse training must fit the arena of inference"
