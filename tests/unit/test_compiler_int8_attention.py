"""Vision transformers in int8: the integers against real numbers, and whole networks to the bit in C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.float_inference import compile_program, program_of
from lab.compiler.host import TRAP_UNDEFINED, HostModel
from lab.compiler.operations.matmul import MatMul
from lab.compiler.operators.layer_norm import LayerNorm
from lab.compiler.operators.product import Product
from lab.compiler.quantized import Affine
from lab.errors import CompileError
from lab.workloads.networks.vit import PreNormBlock
from lab.workloads.uncertainty.lgvit_networks import Embedding, Transformer

SMALL = Transformer(1, 8, 2, 12, 1, 3, ())
EXAMPLES = settings(max_examples=25, deadline=None)


class Tokens(nn.Module):
    """A transformer from pixels to a map of patches: a convolution at the end leaves it without a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Embedding(SMALL), PreNormBlock(SMALL.width, SMALL.heads))
        self.norm, self.last = nn.LayerNorm(SMALL.width), nn.Conv2d(SMALL.width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.blocks(x))
        y: torch.Tensor = self.last(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
        return y.flatten(1)


def made() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(2)
    network = Tokens()
    for name, one in network.named_parameters():
        if "norm" in name:
            nn.init.normal_(one)
    return network.eval(), torch.rand(24, 1, 8, 8)


@needs_host_compiler
def test_a_transformer_in_c_is_its_integers_to_the_bit_and_near_pytorch(tmp_path: Path) -> None:
    network, x = made()
    program = program_of(network, x[:1], x)
    dtypes = {program.tensors[name].dtype for step in program.steps for name in step.outputs}
    assert dtypes == {"int8"}
    kinds = [step.operation.label for step in program.steps]
    assert {"layer_norm", "matmul", "softmax", "table", "add", "conv2d", "write", "copy", "reshape"} == set(kinds)
    assert kinds.count("matmul") == 2, "products of activations; linear layers are convolutions"
    model = compile_program(program, "tokens")
    samples = model.input.quantize((3 * x - 1).permute(0, 2, 3, 1).numpy())
    found = HostModel(model, tmp_path, flags=("-O2", *TRAP_UNDEFINED)).run(samples, arena_fill=0x5A)
    integers = [program.run(torch.from_numpy(one[None]), None, {})[program.output] for one in samples]
    np.testing.assert_array_equal(found, torch.stack(integers).reshape(len(x), -1).numpy())
    samples = model.input.quantize(x.permute(0, 2, 3, 1).numpy())
    integers = [program.run(torch.from_numpy(one[None]), None, {})[program.output] for one in samples]
    with torch.no_grad():
        real = network(x).numpy()
    error = model.output.dequantize(torch.stack(integers).reshape(len(x), -1).numpy()) - real
    assert np.sqrt(np.mean(error**2)) < 0.03 * (real.max() - real.min())


@EXAMPLES
@given(
    seed=st.integers(0, 2**31), channels=st.sampled_from([1, 2, 7, 48, 768, 16384]), spread=st.floats(0, 90),
    scale=st.sampled_from([1e-4, 0.02, 3.0]), gain=st.sampled_from([0.0, 1e-3, 1.0, 10.0]),
)  # fmt: skip
def test_a_layer_norm_in_integers_is_the_equation_within_a_step(
    seed: int, channels: int, spread: float, scale: float, gain: float
) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = (gain * rng.normal(0, 1, channels).astype(np.float32) for _ in range(2))
    layer = LayerNorm(weight, bias, 1e-5)
    given_by, output = Affine(scale, int(rng.integers(-20, 20))), Affine(0.04, int(rng.integers(-20, 20)))
    q = torch.from_numpy(np.clip(np.rint(rng.normal(rng.normal(0, 40), spread, (1, 3, channels))), -128, 127)).long()
    # In float64: float32 loses the variance of many like values.
    x = (q - given_by.zero_point).double() * scale
    centred = x - x.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    steps = (normal * torch.from_numpy(weight) + torch.from_numpy(bias)) / output.scale + output.zero_point
    found = layer.quantize([given_by], output).run([q])
    assert float((found - steps.clamp(-128, 127)).abs().max()) < 0.52


@EXAMPLES
@given(seed=st.integers(0, 2**31), transpose_a=st.booleans(), transpose_b=st.booleans(), batch=st.integers(1, 3))
def test_a_product_of_activations_in_integers_is_that_of_real_numbers(
    seed: int, transpose_a: bool, transpose_b: bool, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns, depth = (int(one) for one in rng.integers(1, 9, 3))
    sizes = MatMul(transpose_a, transpose_b, batch, rows, columns, depth)
    affines = [Affine(float(rng.uniform(0.01, 0.1)), int(rng.integers(-128, 128))) for _ in range(3)]
    a = rng.integers(-128, 128, (batch, depth, rows) if transpose_a else (batch, rows, depth))
    b = rng.integers(-128, 128, (batch, columns, depth) if transpose_b else (batch, depth, columns))
    real = np.einsum(
        f"n{'kr' if transpose_a else 'rk'},n{'ck' if transpose_b else 'kc'}->nrc",
        *((q - one.zero_point) * one.scale for q, one in zip((a, b), affines, strict=False)),
    )
    expected = np.clip(real / affines[2].scale + affines[2].zero_point, -128, 127)
    found = Product(sizes).quantize(affines[:2], affines[2]).run([torch.from_numpy(a), torch.from_numpy(b)])
    assert np.abs(found.numpy().reshape(expected.shape) - expected).max() < 1


class Other(nn.Module):
    """Something of activations between two layers with weights."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Conv2d(1, 4, 1), function, nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.function(self.first(x)))
        return y


@pytest.mark.parametrize("function", [nn.LogSoftmax(1), nn.Softmax(2), nn.GroupNorm(2, 4)])
def test_what_has_no_int8_form_is_refused_by_name(function: nn.Module) -> None:
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(CompileError, match=r"'function' \(\w+\) at 'function'.* has no int8 form"):
        program_of(Other(function), x[:1], x)


def test_what_the_integers_cannot_hold_is_refused() -> None:
    one = np.ones(1, np.float32)
    with pytest.raises(CompileError, match=r"scales by 5e\+06 output steps"):
        LayerNorm(one, one, 1e-5).quantize([Affine(0.1, 0)], Affine(2e-7, 0))
    with pytest.raises(CompileError, match="over 16385 elements; at most 16384"):
        LayerNorm(np.ones(16385, np.float32), one, 1e-5).quantize([Affine(0.1, 0)], Affine(0.1, 0))
    with pytest.raises(CompileError, match="over 16385 elements; at most 16384"):
        Product(MatMul(False, False, 1, 1, 1, 16385)).quantize([Affine(0.1, 0)] * 2, Affine(0.1, 0))
    flat = LayerNorm(0 * one, one, 1e-5).quantize([Affine(0.1, 0)], Affine(0.1, 3))
    assert flat.run([torch.zeros(1, 1, 1, dtype=torch.int64)]).tolist() == [[[13]]]
