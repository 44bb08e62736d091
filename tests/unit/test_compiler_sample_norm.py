"""Batch norm by a sample's own statistics in int8: the integers against real numbers, the passes, the whole network."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler import compile_with_reference
from lab.compiler.graph import Clamp
from lab.compiler.host import TRAP_UNDEFINED, HostModel
from lab.compiler.operators.sample_norm import QuantizedSampleNorm, SampleNorm, reciprocal_root
from lab.compiler.quantized import Affine
from lab.compiler.sample_norm import normalised, sample_norm
from lab.errors import CompileError

SOURCE = ("mean", "variance", "weight", "bias")
EXAMPLES = settings(max_examples=40, deadline=None)


def operator_of(rng: np.random.Generator, channels: int, tau: float = 0.9, balance: float = 0.9) -> SampleNorm:
    """A norm of a source whose values lie within some five of 0."""
    return SampleNorm(
        mean=rng.normal(0, 1, channels).astype(np.float32),
        variance=rng.uniform(0.1, 2, channels).astype(np.float32),
        weight=rng.normal(0, 1, channels).astype(np.float32),
        bias=rng.normal(0, 1, channels).astype(np.float32),
        tau=tau, balance=balance, eps=1e-5,
    )  # fmt: skip


def in_integers(operator: SampleNorm, q: torch.Tensor, given_by: Affine, output: Affine) -> torch.Tensor:
    made = operator.quantize([given_by], output)
    assert isinstance(made, QuantizedSampleNorm)
    return made.run([q])


@given(
    seed=st.integers(0, 2**31), channels=st.integers(1, 12), side=st.integers(1, 12), moved=st.floats(-3, 3),
    tau=st.sampled_from([0.0, 0.5, 0.9, 1.0]), balance=st.sampled_from([0.0, 0.9, 1.0]),
)  # fmt: skip
@EXAMPLES
def test_the_integers_are_the_equations_within_a_step(
    seed: int, channels: int, side: int, moved: float, tau: float, balance: float
) -> None:
    rng = np.random.default_rng(seed)
    operator = operator_of(rng, channels, tau, balance)
    given_by, output = Affine(0.05, int(rng.integers(-20, 20))), Affine(0.1, int(rng.integers(-20, 20)))
    q = torch.from_numpy(np.clip(np.rint(rng.normal(moved / 0.05, 15, (3, side, side, channels))), -128, 127)).long()
    real = ((q - given_by.zero_point) * given_by.scale).to(torch.float32)
    # Each sample alone, in PyTorch's own words.
    source = map(torch.from_numpy, (operator.mean, operator.variance, operator.weight, operator.bias))
    of_one = partial(normalised, **dict(zip(SOURCE, source, strict=True)), tau=tau, balance=balance, eps=operator.eps)
    expected = torch.cat([of_one(one[None].permute(0, 3, 1, 2)) for one in real]).permute(0, 2, 3, 1)
    torch.testing.assert_close(operator.run([real]), expected, atol=2e-2, rtol=1e-3)
    steps = expected / output.scale + output.zero_point
    # A channel that does not vary and leans on itself alone is divided by its epsilon: any rounding of its mean shows.
    settled = real.var((1, 2), correction=0, keepdim=True).expand_as(steps) > 0.01 * (1 - tau)
    off = (in_integers(operator, q, given_by, output) - steps.clamp(-128, 127)).abs()
    assert off[settled].numel() == 0 or float(off[settled].max()) < 0.75


def test_a_clamp_is_fused_as_bounds_and_the_values_saturate() -> None:
    operator = replace(operator_of(np.random.default_rng(0), 4), activation=Clamp(0.0, math.inf))
    q = torch.randint(-128, 128, (2, 5, 5, 4), generator=torch.Generator().manual_seed(0))
    found = in_integers(operator, q, Affine(0.05, 3), Affine(0.001, -100))
    assert (int(found.min()), int(found.max())) == (-100, 127)
    plain = in_integers(replace(operator, activation=None), q, Affine(0.05, 3), Affine(0.001, -100))
    assert torch.equal(found, plain.clamp(-100, 127))
    real = (q - 3).to(torch.float32) * 0.05
    assert float(operator.run([real]).min()) == 0


def test_what_the_sample_is_worth_falls_with_its_distance() -> None:
    operator = replace(operator_of(np.random.default_rng(1), 3), mean=np.zeros(3, np.float32))
    made = operator.quantize([Affine(0.05, 0)], Affine(0.1, 0))
    assert isinstance(made, QuantizedSampleNorm)
    shares = made.share_of_sample(torch.tensor([[0, 0, 0], [40, 0, 0], [400, 400, 400]]) << 12)[:, 0] / 2**31
    deviation = float(np.sqrt(operator.variance[0])) / 0.05
    distance = 1 - math.exp(-((0.1 * 40 / deviation) ** 2))
    np.testing.assert_allclose(shares, [0.1, 0.1 * (1 - 0.9 * distance), 0.1 * (1 - 0.9)], atol=1e-4)


def test_the_reciprocal_root_is_that_of_real_numbers() -> None:
    values = torch.linspace(2**28, 2**30 - 1, 5001, dtype=torch.float64).long()
    found = reciprocal_root(values).double() / 2**29
    torch.testing.assert_close(found, (values.double() / 2**30).rsqrt(), rtol=1e-7, atol=0.0)


@pytest.mark.parametrize(
    ("variance", "weight", "words"),
    [
        (0.0, 1.0, "a channel of the source has the variance 0"),
        (math.nan, 1.0, "a channel of the source has the variance 0"),
        (1.0, 2e5, r"a channel is scaled by 2e\+06 output steps"),
    ],
)
def test_what_the_integers_cannot_hold_is_refused(variance: float, weight: float, words: str) -> None:
    own = (np.array([1.0, one], np.float32) for one in (variance, weight))
    operator = replace(operator_of(np.random.default_rng(2), 2), **dict(zip(("variance", "weight"), own, strict=True)))
    with pytest.raises(CompileError, match=words):
        operator.quantize([Affine(0.05, 0)], Affine(0.1, 0))


def test_a_channel_without_weight_yields_its_bias() -> None:
    operator = replace(operator_of(np.random.default_rng(2), 2), weight=np.zeros(2, np.float32))
    q = torch.randint(-128, 128, (1, 4, 4, 2), generator=torch.Generator().manual_seed(0))
    found = in_integers(operator, q, Affine(0.05, 0), Affine(0.05, 0))
    expected = np.rint(operator.bias / 0.05)
    assert (found == torch.from_numpy(expected)).all()


def test_sums_that_could_overflow_are_refused() -> None:
    made = operator_of(np.random.default_rng(3), 1).quantize([Affine(0.05, 0)], Affine(0.1, 0))
    assert made.call([(256, 256, 1)], (256, 256, 1)).kernel == "lab_sample_norm"
    with pytest.raises(CompileError, match="over 65792 pixels; at most 65536"):
        made.call([(257, 256, 1)], (257, 256, 1))


# ---- in a network ----


class Leaning(nn.Module):
    """A norm that leans on its sample, as one operator."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in zip(SOURCE, (0.1, 0.7, 1.3, 0.2), strict=True):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        source = [self.get_buffer(name) for name in SOURCE]
        made: torch.Tensor = sample_norm(x, *source, 0.9, 0.9, 1e-5)
        return made


def network(norm: nn.Module | None = None) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3, 2, 1, bias=False), norm or Leaning(6), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False)]
        return nn.Sequential(*layers, nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@needs_host_compiler
def test_a_network_keeps_the_norm_in_place_folds_the_others_and_is_its_integers_to_the_bit(tmp_path: Path) -> None:
    x = torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    compiled, graph = compile_with_reference(network(), x[:1], calibration=x, name="leaning")
    assert [one.operator for one in compiled.layers][:3] == ["conv2d", "sample_norm", "conv2d"]
    fused, _ = compile_with_reference(network(nn.BatchNorm2d(6)), x[:1], calibration=x, name="fused")
    assert compiled.arena_bytes == fused.arena_bytes, "it works where the convolution has written"
    shifted = (x * 3 - 1).permute(0, 2, 3, 1).contiguous().numpy()
    samples = compiled.input.quantize(shifted)
    found = HostModel(compiled, tmp_path, flags=("-O2", *TRAP_UNDEFINED)).run(samples)
    np.testing.assert_array_equal(found, graph.run_integer(samples))
    plain = compiled.input.dequantize(samples)
    expected = [network()(torch.from_numpy(one[None]).permute(0, 3, 1, 2)) for one in plain]
    np.testing.assert_allclose(
        compiled.output.dequantize(graph.run_integer(samples)), torch.cat(expected).detach(), atol=0.2
    )


def test_one_operator_computes_what_its_parts_do_and_features_are_refused() -> None:
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    source = [torch.full((3,), value) for value in (0.2, 1.5, 1.1, -0.3)]
    named = dict(zip(SOURCE, source, strict=True))
    assert torch.equal(sample_norm(x, *source, 0.9, 0.9, 1e-5), normalised(x, **named, tau=0.9, balance=0.9, eps=1e-5))

    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = sample_norm(x, *source, 0.9, 0.9, 1e-5)
            return made

    with pytest.raises(CompileError, match="no space to take statistics over"):
        compile_with_reference(Flat(), torch.zeros(1, 3), calibration=torch.zeros(1, 3))
