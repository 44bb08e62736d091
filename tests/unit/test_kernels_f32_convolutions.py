"""fp32 convolution kernels of training against PyTorch's autograd, and bit for bit in the documented order."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from helpers.convolutions import (
    UNIT,
    Convolution,
    check_within,
    convolutions,
    normal,
    padded,
    slices,
    weight_gradient_in_order,
    window,
)
from helpers.training_kernels import Field, Float, Kernels, State
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("kernels"))


def tensors(layer: Convolution, seed: int) -> tuple[Float, Float, Float]:
    """Input, weights, gradient of the output."""
    generator = np.random.default_rng(seed)
    return (
        normal(generator, *layer.input_shape),
        normal(generator, *layer.weight_shape),
        normal(generator, *layer.output_shape),
    )


def unset(*shape: int) -> Float:
    return np.full(shape, np.nan, np.float32)


@EXAMPLES
@given(layer=convolutions(), seed=SEEDS, has_bias=st.booleans(), minimum=st.sampled_from([-math.inf, 0.0]),
       maximum=st.sampled_from([math.inf, 6.0]))  # fmt: skip
def test_forward(
    kernels: Kernels, layer: Convolution, seed: int, has_bias: bool, minimum: float, maximum: float
) -> None:
    x, weight, gradient = tensors(layer, seed)
    bias = normal(np.random.default_rng(seed + 1), layer.outputs) if has_bias else None
    output = unset(*layer.output_shape)
    kernels.call(f"lab_f32_{layer.name}", layer.fields(minimum, maximum), x, weight, bias, output)
    expected, bound = layer.references(x, weight, gradient)[0], layer.error_bounds(x, weight, gradient)[0]
    if bias is not None:
        expected, bound = expected + bias, bound + 4 * UNIT * np.abs(bias) * math.prod(layer.kernel)
    check_within(output, np.clip(expected, minimum, maximum), bound)


@EXAMPLES
@given(layer=convolutions(), seed=SEEDS)
def test_gradients(kernels: Kernels, layer: Convolution, seed: int) -> None:
    x, weight, gradient = tensors(layer, seed)
    by_input, by_weight = unset(*layer.input_shape), unset(*layer.weight_shape)
    kernels.call(f"lab_f32_{layer.name}_input_gradient", layer.fields(), gradient, weight, by_input)
    kernels.call(f"lab_f32_{layer.name}_weight_gradient", layer.fields(), x, gradient, by_weight)
    expected, bounds = layer.references(x, weight, gradient), layer.error_bounds(x, weight, gradient)
    check_within(by_input, expected[1], bounds[1])
    check_within(by_weight, expected[2], bounds[2])


def forward_in_order(layer: Convolution, x: Float, weight: Float, bias: Float) -> Float:
    """Kernel rows, kernel columns, input channels, one product at a time."""
    shifted = padded(layer, x)
    total = np.zeros(layer.output_shape, np.float32)
    if layer.depthwise:
        total = total + bias
    share, own = layer.inputs // layer.groups, layer.outputs // layer.groups
    for tap in product(range(layer.kernel[0]), range(layer.kernel[1])):
        values = window(layer, shifted, tap)
        if layer.depthwise:
            total = total + values * weight[tap]
            continue
        for channel in range(share):
            # Output o takes channel `channel` of its group.
            source = values[..., [(o // own) * share + channel for o in range(layer.outputs)]]
            total = total + source * weight[:, tap[0], tap[1], channel]
    return total if layer.depthwise else total + bias


@EXAMPLES
@given(layer=convolutions(), seed=SEEDS)
def test_the_forward_pass_sums_in_the_documented_order(kernels: Kernels, layer: Convolution, seed: int) -> None:
    x, weight, _ = tensors(layer, seed)
    bias = normal(np.random.default_rng(seed + 1), layer.outputs)
    output = unset(*layer.output_shape)
    kernels.call(f"lab_f32_{layer.name}", layer.fields(), x, weight, bias, output)
    np.testing.assert_array_equal(output, forward_in_order(layer, x, weight, bias))


@settings(max_examples=25, deadline=None)
@given(layer=convolutions(), seed=SEEDS)
def test_weight_gradients_sum_in_the_documented_order(kernels: Kernels, layer: Convolution, seed: int) -> None:
    x, _, gradient = tensors(layer, seed)
    by_weight = unset(*layer.weight_shape)
    kernels.call(f"lab_f32_{layer.name}_weight_gradient", layer.fields(), x, gradient, by_weight)
    np.testing.assert_array_equal(by_weight, weight_gradient_in_order(layer, x, gradient))


@settings(max_examples=30, deadline=None)
@given(layer=convolutions(), seed=SEEDS)
def test_input_gradients_sum_in_the_documented_order(kernels: Kernels, layer: Convolution, seed: int) -> None:
    """Kernel rows, kernel columns, output channels, one product at a time, scattered into the padded input."""
    _, weight, gradient = tensors(layer, seed)
    by_input = unset(*layer.input_shape)
    kernels.call(f"lab_f32_{layer.name}_input_gradient", layer.fields(), gradient, weight, by_input)
    (top, bottom), (left, right) = layer.padding
    height, width = layer.size
    total = np.zeros((layer.batch, height + top + bottom, width + left + right, layer.inputs), np.float32)
    share, own = layer.inputs // layer.groups, layer.outputs // layer.groups
    for tap in product(range(layer.kernel[0]), range(layer.kernel[1])):
        met = window(layer, total, tap)
        for output in range(1 if layer.depthwise else own):
            if layer.depthwise:
                met += gradient * weight[tap]
                continue
            of_group = [group * own + output for group in range(layer.groups)]
            filters = weight[of_group, tap[0], tap[1]].reshape(-1)
            met += np.repeat(gradient[..., of_group], share, axis=-1) * filters
    np.testing.assert_array_equal(by_input, total[:, top : top + height, left : left + width])


@EXAMPLES
@given(data=st.data(), layer=convolutions(), seed=SEEDS, weight_decay=st.sampled_from([0.0, 0.01]))
def test_weight_updates_are_those_of_sgd(
    kernels: Kernels, data: st.DataObject, layer: Convolution, seed: int, weight_decay: float
) -> None:
    """A slice moves as under torch.optim.SGD; all other weights stay as they are, to the bit."""
    x, weight, gradient = tensors(layer, seed)
    first, count, first_output, output_count = data.draw(slices(layer))
    fields: dict[str, Field] = {"first_channel": first, "channel_count": count}
    chosen: tuple[slice, ...]
    if layer.depthwise:
        chosen = (slice(None), slice(None), slice(first, first + count))
    else:
        fields |= {"first_output": first_output, "output_count": output_count}
        rows = slice(first_output, first_output + output_count)
        chosen = (rows, slice(None), slice(None), slice(first, first + count // layer.groups))
    described = layer.nested(weight_decay=weight_decay, rate_scale=2.0, **fields)
    updated = weight.copy()
    inputs = np.ascontiguousarray(x[..., first : first + count])
    kernels.call(
        f"lab_f32_{layer.name}_weight_sgd", described, inputs, gradient, updated, state=State(0.05, 1, 1)
    )
    parameter = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64))
    parameter.grad = torch.tensor(layer.references(x, weight, gradient)[2])
    torch.optim.SGD([parameter], lr=0.1, weight_decay=weight_decay).step()
    expected, bound = parameter.detach().numpy(), 0.11 * layer.error_bounds(x, weight, gradient)[2] + 4e-7
    check_within(updated[chosen], expected[chosen], bound[chosen] + 1e-6 * np.abs(expected[chosen] - weight[chosen]))
    frozen = np.ones(weight.shape, bool)
    frozen[chosen] = False
    np.testing.assert_array_equal(updated[frozen].view(np.int32), weight[frozen].view(np.int32))


def test_a_limit_keeps_what_is_no_number(kernels: Kernels) -> None:
    """An infinite or undefined loss must be seen, so clamps let NaN through and gradients keep infinities."""
    layer = Convolution(1, (2, 2), 4, 4, 1, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), False)
    x, weight, gradient = tensors(layer, 5)
    x[0, 0, 0, 1] = np.nan
    output, by_input = unset(*layer.output_shape), unset(*layer.input_shape)
    kernels.call("lab_f32_conv2d", layer.fields(0.0, 6.0), x, weight, None, output)
    assert np.isnan(output[0, 0, 0]).all()
    assert not np.isnan(output[0, 1]).any()
    gradient[0, 1, 1] = np.inf
    kernels.call("lab_f32_conv2d_input_gradient", layer.fields(), gradient, np.abs(weight), by_input)
    assert np.isposinf(by_input[0, 1, 1]).all()


@EXAMPLES
@given(rows=st.integers(1, 40), channels=st.integers(1, 40), seed=SEEDS)
def test_bias_gradients_and_updates(kernels: Kernels, rows: int, channels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gradient, bias, total = normal(generator, rows, channels), normal(generator, channels), unset(channels)
    kernels.call("lab_f32_channel_sum", {"rows": rows, "channels": channels}, gradient, total)
    in_order = np.zeros(channels, np.float32)
    for row in gradient:
        in_order = in_order + row
    np.testing.assert_array_equal(total, in_order)
    before = bias.copy()
    fields: dict[str, Field] = {"rows": rows, "channels": channels, "weight_decay": 0.1, "rate_scale": 0.5}
    kernels.call("lab_f32_channel_sum_sgd", fields, gradient, bias, state=State(0.2, 1, 1))
    expected = before - 0.1 * (gradient.sum(0, dtype=np.float64) + 0.1 * before)
    check_within(bias, expected, 0.1 * rows * UNIT * np.abs(gradient).sum(0) + 1e-6)
