"""Constants that are too large for C text: the same network, from files that the assembler includes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.build import _hosted_blob_bytes, _room_bytes
from lab.compiler import binary_constants, compile_with_reference
from lab.compiler.float_inference import compile_float_inference
from lab.compiler.host import HostModel
from lab.compiler.model import CompiledModel, CompiledTraining, TensorSpec, Variable
from lab.workloads.classification import model_from_json, model_to_json


def test_a_network_whose_constants_are_files_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 7)).eval()
    samples = torch.randn(8, 2, 6, 6)
    in_text, _ = compile_with_reference(network, samples[:1], calibration=samples, name="small")
    monkeypatch.setattr(binary_constants, "LEAST_BYTES", 80 * 7)
    compiled, integer = compile_with_reference(network, samples[:1], calibration=samples, name="small")
    assert not in_text.binaries
    assert [len(content) >= 80 * 7 for content in compiled.binaries.values()] == [True], "the linear layer's weights"
    assert len(compiled.sources["model.c"]) < len(in_text.sources["model.c"])
    again = model_from_json(model_to_json(compiled))
    assert again == compiled, "base64 in documents of the cache"
    inputs = compiled.input.quantize(samples.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(HostModel(again, tmp_path).run(inputs), integer.run_integer(inputs).reshape(8, -1))


def test_weights_of_float32_are_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    network, samples = nn.Linear(16, 8).eval(), torch.randn(4, 16)
    monkeypatch.setattr(binary_constants, "LEAST_BYTES", 4 * 16 * 8)
    compiled = compile_float_inference(network, samples[:1])
    (file,) = compiled.binaries
    assert compiled.binaries[file] == network.weight.detach().numpy().tobytes()
    assert [one.label for one in binary_constants.arrays_of(compiled.sources["model.c"])] == [file[: -len(".bin")]]
    found = HostModel(compiled, tmp_path).run(samples.numpy())
    np.testing.assert_allclose(found, network(samples).detach().numpy(), atol=1e-6)


def test_another_content_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_constants, "LEAST_BYTES", 1)
    samples = torch.randn(4, 3)

    def digest(value: float) -> str:
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, -1.0, value], [1.0, 0.5, -1.0]]))
            layer.bias.zero_()
        return compile_with_reference(layer.eval(), samples[:1], calibration=samples, name="small")[0].digest

    assert digest(0.25) == digest(0.25)
    assert digest(0.25) != digest(0.75)


@pytest.mark.parametrize(
    ("floats", "job", "room"),
    [
        (1000, 0, ""), (2 << 20, 0, str(32 << 20)), (4 << 20, 0, str(32 << 20)), ((4 << 20) + 1, 0, str(48 << 20)),
        (1000, 15 << 20, ""), (1000, 16 << 20, str(32 << 20)), (2 << 20, 40 << 20, str(64 << 20)),
    ],
)  # fmt: skip
def test_a_process_has_room_for_its_samples_and_a_checkpoint(floats: int, job: int, room: str) -> None:
    """Sixteen megabytes or, of what a job sends, whole ones of those; and so of the variables where they take half."""
    variables = (Variable("weight", "float32", (floats,), (0,), (floats,)),)
    training = CompiledTraining((), (), 0, 0, "", variables, "int32", (1,), 2, 1, "sgd", "float32")
    spec = TensorSpec((1,), 1.0, 0)
    model = CompiledModel("model", {}, spec, spec, (), (), 0, 0, "", training)
    assert _hosted_blob_bytes(model, _room_bytes(job)) == room
