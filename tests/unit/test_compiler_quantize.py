"""Post-training quantisation: ranges, weights, and what int8 cannot hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler import compile_with_reference
from lab.compiler.calibrate import BINS, Histogram, affine_of_range, best_affine, squared_error
from lab.compiler.graph import Clamp
from lab.compiler.operators.weights import (
    fake_quantize_weights,
    minimum_output_scale,
    quantize_weights,
    round_weights,
)
from lab.compiler.quantized import Affine
from lab.errors import CompileError


def weights_of(seed: int, outputs: int = 4, inputs: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.01, 3.0, (outputs, 1))
    return (rng.normal(size=(outputs, inputs)) * spread).astype(np.float32), rng.normal(size=outputs).astype(np.float32)


@given(low=st.floats(-10, 0), high=st.floats(0.01, 10))
def test_range_is_covered_and_zero_is_exact(low: float, high: float) -> None:
    affine = affine_of_range(low, high)
    assert -128 <= affine.zero_point <= 127
    lowest, highest = affine.scale * (-128 - affine.zero_point), affine.scale * (127 - affine.zero_point)
    assert lowest <= low + affine.scale / 2 + 1e-9
    assert highest >= high - affine.scale / 2 - 1e-9


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_best_range_is_no_worse_than_min_max(seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(3, 4000)
    counts, edges = np.histogram(values, BINS)
    histogram = Histogram(float(edges[0]), float(edges[-1]), counts.astype(np.float64))
    chosen, plain = best_affine(histogram, 0.0), affine_of_range(float(edges[0]), float(edges[-1]))
    ones = np.ones_like(values)
    assert squared_error(values, ones, chosen) <= squared_error(values, ones, plain) * 1.02
    assert chosen.scale <= plain.scale


def test_outliers_are_clipped() -> None:
    """One value at 15 among 100,000 of a unit normal is not worth a coarser grid for all the others."""
    values = np.append(np.random.default_rng(0).normal(size=100_000), 15.0)
    counts, edges = np.histogram(values, BINS)
    histogram = Histogram(float(edges[0]), float(edges[-1]), counts.astype(np.float64))
    assert best_affine(histogram, 0.0).scale < 0.9 * affine_of_range(float(edges[0]), 15.0).scale


@given(seed=st.integers(0, 1000), scale=st.floats(0.001, 0.5))
@settings(max_examples=30, deadline=None)
def test_weights_are_within_half_a_step_per_channel(seed: int, scale: float) -> None:
    weight, bias = weights_of(seed)
    rounded, rounded_bias, scales = round_weights(weight, bias, Affine(scale, 3))
    assert np.abs(rounded).max() <= 127
    assert (np.abs(weight - rounded * scales[:, None]) <= scales[:, None] / 2 + 1e-9).all()
    assert (np.abs(bias - rounded_bias * scales * scale) <= scales * scale / 2 + 1e-9).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_rounding_equals_pytorch_fake_quantisation(seed: int) -> None:
    weight, bias = weights_of(seed)
    source = Affine(0.02, -5)
    rounded, _, scales = round_weights(weight, bias, source)
    fake, _ = fake_quantize_weights(weight, bias, source)
    # PyTorch divides in float32, so a value on a tie may go the other way.
    assert np.abs(fake / scales[:, None] - rounded).max() < 1 + 1e-3
    assert np.mean(np.abs(fake / scales[:, None] - rounded) > 0.5) < 0.05


def test_zero_channel_and_large_bias_are_representable() -> None:
    weight = np.array([[0.0, 0.0], [1e-9, 0.0], [1.0, -1.0]], dtype=np.float32)
    bias = np.array([0.0, 5.0, 0.5], dtype=np.float32)
    source = Affine(0.05, 0)
    output = Affine(max(0.05, minimum_output_scale(weight, bias, source)), 0)
    quantised = quantize_weights(weight, bias, None, source, output)
    result = quantised.finish(torch.zeros(1, 3, dtype=torch.int64))
    np.testing.assert_array_equal(result, [[0, 100, 10]])
    assert (quantised.multiplier >= 0).all()


def test_accumulators_that_could_overflow_are_refused() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(40_000, 2)
            nn.init.constant_(self.fc.weight, 1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.fc(x)
            return y

    with pytest.raises(CompileError, match=r"'fc' at 'fc' .*40000 weights per output"):
        compile_with_reference(Long(), torch.zeros(1, 40_000), calibration=torch.randn(2, 40_000))


def test_depthwise_kernel_too_large_is_refused() -> None:
    with pytest.raises(CompileError, match="9×9"):
        compile_with_reference(
            nn.Conv2d(2, 2, 9, groups=2), torch.zeros(1, 2, 9, 9), calibration=torch.randn(2, 2, 9, 9)
        )


@pytest.mark.parametrize(
    ("clamp", "bounds"),
    [
        (None, (-128, 127)),
        (Clamp(0.0, float("inf")), (10, 127)),
        (Clamp(0.0, 6.0), (10, 70)),
        (Clamp(-100.0, 100.0), (-128, 127)),
        (Clamp(-float("inf"), -1.0), (-128, 0)),
    ],
)
def test_bounds_of_a_clamp(clamp: Clamp | None, bounds: tuple[int, int]) -> None:
    assert Affine(0.1, 10).bounds(clamp) == bounds


CALIBRATIONS = [
    (torch.zeros(0, 3), "calibration data of NHWC shape"),
    (torch.zeros(4, 5), "calibration data of NHWC shape"),
    (torch.zeros(4, 3, dtype=torch.float64), "torch.float64"),
    (torch.full((4, 3), float("nan")), "NaN or infinite"),
    (torch.full((4, 3), 3e38), "infinite or NaN values on the calibration data: 'linear'"),
]


@pytest.mark.parametrize(("calibration", "message"), CALIBRATIONS)
def test_bad_calibration_is_refused(calibration: torch.Tensor, message: str) -> None:
    module = nn.Linear(3, 2)
    nn.init.constant_(module.weight, 5.0)
    with pytest.raises(CompileError, match=message):
        compile_with_reference(module, torch.zeros(1, 3), calibration=calibration)


def test_pools_and_activations_keep_their_scale() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1))
    _, graph = compile_with_reference(module, torch.zeros(1, 1, 10, 10), calibration=torch.randn(16, 1, 10, 10))
    affines = [graph.quantization[node.output] for node in graph.nodes]
    assert affines[0] == affines[1] == affines[2] == affines[3] != affines[4]


def test_constant_zero_calibration_still_compiles() -> None:
    """Zero-width ranges: every value is representable, nothing divides by zero."""
    compiled, graph = compile_with_reference(
        nn.Linear(3, 2, bias=False), torch.zeros(1, 3), calibration=torch.zeros(4, 3)
    )
    output = graph.run_integer(compiled.input.quantize(np.zeros((1, 3), dtype=np.float32)))
    np.testing.assert_allclose(compiled.output.dequantize(output), 0.0, atol=compiled.output.scale)
