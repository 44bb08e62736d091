"""int8 training kernels on vectors: biases, int8 to real values, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.convolutions import normal
from helpers.int8_grid import random_bits, xorshift32
from helpers.training_kernels import Float, Int8, Int32, Kernels, State
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings(max_examples=80, deadline=None)
SEEDS = st.integers(1, 2**31)
LIMIT = 1 << 29


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("kernels"))


def update_bias(kernels: Kernels, gradient: Float, bias: Int32, scale: Float, state: State) -> Int32:
    """By the kernel; gradient is (rows, channels)."""
    found = bias.copy()
    rows, channels = gradient.shape
    fields = {"rows": rows, "channels": channels, "bias_scale": scale, "rate_scale": 2.0, "limit": LIMIT}
    kernels.call("lab_q_bias_sgd", fields, gradient, found, state=state)
    return found


def bias_after(gradient: Float, bias: Int32, scale: Float, key: int) -> Int32:
    """After the kernel's header, channel by channel."""
    expected = []
    for channel, column in enumerate(gradient.T):
        total = np.float32(0)
        for value in column:
            total = np.float32(total + value)
        with np.errstate(over="ignore"):
            step = np.float32(total * np.float32(np.float32(0.05) * np.float32(2.0) / scale[channel]))
        drawn = np.float32(random_bits(key, channel) * 2.0**-24)
        whole = int(np.floor(np.clip(np.float32(step + drawn), -(2.0**30), 2.0**30)))
        expected.append(int(np.clip(int(bias[channel]) - whole, -LIMIT, LIMIT)))
    return np.array(expected, np.int32)


@EXAMPLES
@given(seed=SEEDS, rows=st.integers(1, 40), channels=st.integers(1, 20), size=st.sampled_from([1e-3, 1.0, 1e5, 1e12]))
def test_biases_follow_the_rule(kernels: Kernels, seed: int, rows: int, channels: int, size: float) -> None:
    generator = np.random.default_rng(seed)
    gradient = normal(generator, rows, channels) * np.float32(size)
    bias = generator.integers(-LIMIT, LIMIT + 1, channels).astype(np.int32)
    scale = generator.uniform(1e-4, 0.1, channels).astype(np.float32)
    state = State(0.05, 4, seed)
    found = update_bias(kernels, gradient, bias, scale, state)
    np.testing.assert_array_equal(found, bias_after(gradient, bias, scale, xorshift32(seed)))
    assert (state.learning_rate, state.step, state.random) == (np.float32(0.05), 4, xorshift32(seed))


def test_a_bias_moves_as_under_sgd_in_the_mean(kernels: Kernels) -> None:
    """The mean over many keys is that of torch.optim.SGD on the real bias."""
    generator = np.random.default_rng(2)
    gradient, scale = normal(generator, 5, 12), np.full(12, 0.07, np.float32)
    bias = generator.integers(-50, 50, 12).astype(np.int32)
    found = np.mean(
        [update_bias(kernels, gradient, bias, scale, State(0.05, 1, 1 + 31 * key)) for key in range(2000)], axis=0
    )
    parameter = torch.nn.Parameter(torch.tensor(bias * scale.astype(np.float64)))
    parameter.grad = torch.tensor(gradient.astype(np.float64).sum(0))
    torch.optim.SGD([parameter], lr=0.1).step()
    # A number that is rounded up or down has a variance of at most 1/4.
    assert np.abs(found - parameter.detach().numpy() / scale).max() < 5 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(("gradient", "end"), [(1e30, -LIMIT), (-np.inf, LIMIT), (np.inf, -LIMIT)])
def test_a_bias_stays_within_its_limit(kernels: Kernels, gradient: float, end: int) -> None:
    found = update_bias(
        kernels, np.full((1, 1), gradient, np.float32), np.zeros(1, np.int32), np.ones(1, np.float32), State(1.0, 1, 3)
    )
    assert found.tolist() == [end]


@EXAMPLES
@given(seed=SEEDS, count=st.integers(1, 100), zero_point=st.integers(-128, 127))
def test_integers_become_real_values(kernels: Kernels, seed: int, count: int, zero_point: int) -> None:
    generator = np.random.default_rng(seed)
    values: Int8 = generator.integers(-128, 128, count, dtype=np.int8)
    scale = np.float32(generator.uniform(1e-4, 10.0))
    found = np.full(count, np.nan, np.float32)
    kernels.call("lab_dequantize", {"count": count, "zero_point": zero_point, "scale": float(scale)}, values, found)
    # One product of exact numbers, rounded once.
    expected = ((values.astype(np.float64) - zero_point) * np.float64(scale)).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


@EXAMPLES
@given(seed=SEEDS, count=st.integers(1, 100), zero_point=st.integers(-128, 127), size=st.sampled_from([1.0, 1e3, 1e30]))
def test_real_values_become_integers(kernels: Kernels, seed: int, count: int, zero_point: int, size: float) -> None:
    """Halves go to the even neighbour: scales are powers of two, so that there are some."""
    generator = np.random.default_rng(seed)
    scale = 2.0 ** int(generator.integers(-8, 4))
    values = (generator.integers(-600, 600, count) * 0.25 * scale * size).astype(np.float32)
    found = np.zeros(count, np.int8)
    kernels.call("lab_quantize", {"count": count, "zero_point": zero_point, "scale": scale}, values, found)
    expected = np.clip(np.rint(values.astype(np.float64) / scale) + zero_point, -128, 127)
    np.testing.assert_array_equal(found, expected)


def test_what_is_no_number_saturates(kernels: Kernels) -> None:
    found = np.zeros(3, np.int8)
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    kernels.call("lab_quantize", {"count": 3, "zero_point": 5, "scale": 0.5}, values, found)
    assert found.tolist() == [-128, 127, -128]
