"""Every CNN of the zoo trains in int8 as its integer reference says; what cannot is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.int8_training import (
    CROSS_ENTROPY,
    FLAGS,
    compile_int8,
    memory_of,
    plain_values,
    settled,
    train_beside_reference,
)

from lab.compiler.host import HostTraining
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training
from lab.errors import CompileError
from lab.workloads.networks.zoo import ZOO

TRAINED = (
    "mlp",
    "imu-cnn",
    "ds-cnn",
    "digits-mb-16",
    "resnet8",
    "resnet18",
    "mobilenet-v2",
    "proxylessnas",
    "mcunet",
)


@pytest.mark.parametrize("name", TRAINED)
def test_c_equals_the_integer_reference(name: str, tmp_path: Path) -> None:
    """Two steps of all parameters: every int8 weight to the bit, biases to one step of their grid."""
    entry = ZOO[name]
    torch.manual_seed(0)
    data = entry.example(4, seed=7)
    model = compile_int8(settled(entry.build(), data), data)
    found = train_beside_reference(model, tmp_path, data, [1, 2], 0.02)
    assert found.weights == 0
    assert found.bias_steps <= 1
    assert found.floats < 1e-6
    assert found.moved > 0
    assert found.losses == pytest.approx(found.reference_losses, rel=1e-5)
    assert model.compiled.training is not None
    assert model.compiled.training.precision == "int8"


def test_what_is_frozen_stays_to_the_bit(tmp_path: Path) -> None:
    """Some weights, some biases: nothing else changes, not even a frozen bias that has trained weights folded in."""
    entry = ZOO["ds-cnn"]
    torch.manual_seed(0)
    data = entry.example(4, seed=7)
    module = settled(entry.build(), data)
    chosen = ["block3.pointwise.conv.weight", "block4.depthwise.conv.bias", "block4.pointwise.conv.weight"]
    model = compile_int8(module, data, chosen)
    host = HostTraining(model.compiled, tmp_path, flags=FLAGS)
    before = plain_values(model.program, memory_of(model.program, host.raw_variables()))
    samples = model.compiled.input.quantize(data.permute(0, 2, 3, 1).contiguous().numpy())
    for number in range(3):
        host.step(samples[number : number + 1], np.array([number], dtype=np.int32), 0.5)
    after = plain_values(model.program, memory_of(model.program, host.raw_variables()))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == set(chosen)
    stored = {variable.name for variable in model.compiled.training.variables} if model.compiled.training else set()
    # A bias its trained weights are folded into is a variable as well.
    assert stored == {*chosen, "block3.pointwise.conv.bias", "block4.pointwise.conv.bias"}


@pytest.mark.parametrize(("name", "message"), [("gru", "precision='float32'"), ("vit", "float32"), ("bert", "float32")])
def test_sequence_models_are_refused_by_name(name: str, message: str) -> None:
    entry = ZOO[name]
    torch.manual_seed(0)
    data = entry.example(2)
    with pytest.raises(CompileError) as refused:
        compile_training(
            entry.build().eval(),
            data[:1],
            loss=CROSS_ENTROPY,
            train=lambda _name, _parameter: True,
            optimizer=Sgd(),
            precision="int8",
            calibration=data,
        )
    assert message in f"{refused.value.message} {refused.value.hint}"
