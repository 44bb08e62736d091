"""Networks in float32 between int8 samples and int8 answers: the C against PyTorch, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler.float_inference import compile_between_int8, program_of
from lab.compiler.host import TRAP_UNDEFINED, HostModel
from lab.compiler.int8_border import int8_border
from lab.compiler.quantized import Affine
from lab.errors import CompileError
from lab.workloads.continual.vit import PatchFeatures


def small() -> tuple[nn.Module, torch.Tensor]:
    """Attention over a few tokens, and samples."""
    torch.manual_seed(4)
    return PatchFeatures((1, 12, 8), 8, 10).eval(), torch.randn(40, 1, 12, 8)


def test_the_c_is_pytorch_but_for_what_is_rounded_the_other_way(tmp_path: Path) -> None:
    network, samples = small()
    model = compile_between_int8(network, samples[:1], samples, name="small")
    assert (model.input.dtype, model.output.dtype) == ("int8", "int8")
    assert (model.input.shape, model.output.shape) == ((12, 8, 1), (10,))
    assert [one.operator for one in model.layers][:: len(model.layers) - 1] == ["dequantize", "quantize"]
    taken = model.input.quantize(samples.permute(0, 2, 3, 1).numpy())
    with torch.no_grad():
        real = network(torch.from_numpy(model.input.dequantize(taken)).permute(0, 3, 1, 2)).numpy()
    found = HostModel(model, tmp_path, flags=("-O2", *TRAP_UNDEFINED)).run(taken).reshape(real.shape)
    assert found.dtype == np.int8
    assert int(found.max()) - int(found.min()) > 100
    apart = np.abs(found - model.output.quantize(real).astype(int))
    assert apart.max() <= 1
    assert (apart != 0).mean() < 0.01
    # Where the grid does not saturate, a value is within half a step of it.
    inside = found < 127
    assert np.abs(model.output.dequantize(found) - real)[inside].max() <= 0.501 * model.output.scale


def test_the_reference_of_the_program_is_that_of_its_steps() -> None:
    network, samples = small()
    program = int8_border(program_of(network, samples[:1]), Affine(0.02, 3), Affine(0.01, -128))
    sample = torch.tensor([[[[7]]]], dtype=torch.int8).expand(1, 12, 8, 1).contiguous()
    told = program.run(sample, None, {})[program.output]
    with torch.no_grad():
        real = network(torch.full((1, 1, 12, 8), 0.08))
    expected = np.clip(np.rint(real.numpy() / 0.01) - 128, -128, 127)
    assert told.dtype == torch.int8
    assert np.abs(told.numpy() - expected).max() <= 1


def test_a_network_keeps_its_mode_and_what_is_not_float_or_not_finite_is_refused() -> None:
    network, samples = small()
    network.train()
    compile_between_int8(network, samples[:1], samples)
    assert network.training
    program = int8_border(program_of(network, samples[:1]), Affine(0.02, 3), Affine(0.01, -128))
    with pytest.raises(CompileError, match=r"'<sample>' is int8, and an int8 border is made of float32"):
        int8_border(program, Affine(0.02, 3), Affine(0.01, -128))
    with pytest.raises(CompileError, match="infinite or NaN values on the calibration data: the input"):
        compile_between_int8(network, samples[:1], samples * torch.inf)
