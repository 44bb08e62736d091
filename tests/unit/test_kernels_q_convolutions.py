"""int8 training kernels: gradients against PyTorch's autograd, updates weight by weight after the documented rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.convolutions import Convolution, check_within, convolutions, normal, slices, weight_gradient_in_order
from helpers.int8_grid import Grid, grid, xorshift32
from helpers.training_kernels import Field, Float, Int8, Int32, Kernels, State
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings(max_examples=60, deadline=None)
UPDATES = settings(max_examples=50, deadline=None)
SEEDS = st.integers(0, 2**31)
Slice = tuple[int, int, int, int]
WHOLE = (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("kernels"))


def pointwise(size: tuple[int, int], inputs: int, outputs: int) -> Convolution:
    return Convolution(1, size, inputs, outputs, 1, *WHOLE, False)


def quantized_input(layer: Convolution, seed: int) -> Int8:
    return np.random.default_rng(seed).integers(-128, 128, layer.input_shape, dtype=np.int8)


def centred(layer: Grid, x: Int8) -> Float:
    """Inputs without their scale, as every kernel takes them."""
    return (x.astype(np.int32) - layer.input_zero_point).astype(np.float32)


def selection(layer: Convolution, chosen: Slice) -> tuple[tuple[slice, ...], dict[str, Field]]:
    """Of the physical weights, and as descriptors name it."""
    first, count, first_output, output_count = chosen
    fields: dict[str, Field] = {"first_channel": first, "channel_count": count}
    if layer.depthwise:
        return (slice(None), slice(None), slice(first, first + count)), fields
    rows = slice(first_output, first_output + output_count)
    fields |= {"first_output": first_output, "output_count": output_count}
    return (rows, slice(None), slice(None), slice(first, first + count // layer.groups)), fields


def check_state(state: State, seed: int) -> None:
    """A kernel that rounds takes one step of the generator and changes nothing else."""
    assert (state.learning_rate, state.step, state.random) == (np.float32(0.05), 4, xorshift32(seed))


@EXAMPLES
@given(shape=convolutions(), seed=SEEDS)
def test_input_gradients_are_those_of_real_weights(kernels: Kernels, shape: Convolution, seed: int) -> None:
    layer, gradient = grid(shape, seed), normal(np.random.default_rng(seed), *shape.output_shape)
    found = np.full(shape.input_shape, np.nan, np.float32)
    fields = shape.nested(weight_scale=layer.weight_scale)
    kernels.call(f"lab_q_{shape.name}_input_gradient", fields, gradient, layer.stored(), found)
    x = np.zeros(shape.input_shape, np.float32)
    check_within(found, shape.references(x, layer.real_weight(), gradient)[1],
                 shape.error_bounds(x, layer.real_weight(), gradient)[1])  # fmt: skip


def weight_gradient(kernels: Kernels, layer: Grid, x: Int8, gradient: Float, chosen: Slice) -> Float:
    """By the kernel, in physical order."""
    selected, fields = selection(layer.layer, chosen)
    if not layer.layer.depthwise:
        del fields["first_channel"]
    found = np.full(layer.weight[selected].shape, np.nan, np.float32)
    kernels.call(f"lab_q_{layer.layer.name}_weight_gradient", layer.layer.nested(**fields, **layer.input_fields()),
                 sliced(x, chosen), gradient, found)  # fmt: skip
    return found


def sliced(x: Int8, chosen: Slice) -> Int8:
    return np.ascontiguousarray(x[..., chosen[0] : chosen[0] + chosen[1]])


@EXAMPLES
@given(data=st.data(), shape=convolutions(), seed=SEEDS)
def test_weight_gradients_are_those_of_real_inputs(
    kernels: Kernels, data: st.DataObject, shape: Convolution, seed: int
) -> None:
    layer, x = grid(shape, seed), quantized_input(shape, seed + 1)
    gradient, chosen = normal(np.random.default_rng(seed), *shape.output_shape), data.draw(slices(shape))
    found, selected = weight_gradient(kernels, layer, x, gradient, chosen), selection(shape, chosen)[0]
    real, weight = centred(layer, x).astype(np.float64) * layer.input_scale, layer.real_weight()
    check_within(found, shape.references(real, weight, gradient)[2][selected],
                 shape.error_bounds(real, weight, gradient)[2][selected])  # fmt: skip
    in_order = weight_gradient_in_order(shape, centred(layer, x), gradient)[selected] * np.float32(layer.input_scale)
    np.testing.assert_array_equal(found, in_order)


@pytest.mark.parametrize("depthwise", [False, True])
def test_images_wider_than_a_panel_are_summed_in_the_documented_order(kernels: Kernels, depthwise: bool) -> None:
    shape = Convolution(2, (3, 150), 5, 5, 5 if depthwise else 1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), depthwise)
    layer, x = grid(shape, 6), quantized_input(shape, 7)
    gradient = normal(np.random.default_rng(8), *shape.output_shape)
    found = weight_gradient(kernels, layer, x, gradient, (0, 5, 0, 5))
    in_order = weight_gradient_in_order(shape, centred(layer, x), gradient) * np.float32(layer.input_scale)
    np.testing.assert_array_equal(found, in_order)


def update(kernels: Kernels, layer: Grid, x: Int8, gradient: Float, chosen: Slice, rate_scale: float, seed: int
           ) -> tuple[Int8 | Int32, Int32]:  # fmt: skip
    """Weights, as they lie in memory, and bias after the fused kernel."""
    state = State(0.05, 4, seed)
    stored, bias = layer.stored(), layer.bias.copy()
    fields = layer.layer.nested(
        weight_scale=layer.weight_scale, bias_offset=layer.bias_offset, rate_scale=rate_scale,
        **selection(layer.layer, chosen)[1], **layer.input_fields(),
    )  # fmt: skip
    kernels.call(
        f"lab_q_{layer.layer.name}_weight_sgd", fields, sliced(x, chosen), gradient, stored, bias, state=state
    )
    check_state(state, seed)
    return stored, bias


def check_update(layer: Grid, found: tuple[Int8 | Int32, Int32], expected: tuple[Int8, Int32]) -> None:
    weight, bias = expected
    np.testing.assert_array_equal(found[0], replace(layer, weight=weight).stored())
    np.testing.assert_array_equal(found[1], bias)


@pytest.mark.parametrize("chosen", [(0, 12, 0, 10), (4, 8, 2, 8), (4, 7, 1, 9), (2, 8, 0, 10)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_whole_tiles_and_what_is_left_over_follow_the_rule(
    kernels: Kernels, chosen: Slice, kernel: tuple[int, int]
) -> None:
    """Slices that begin within tiles of four outputs and four neighbouring inputs, and at their edges."""
    shape = Convolution(2, (4, 5), 12, 10, 1, kernel, (1, 1), (1, 1), ((0, 0), (0, 0)), False)
    layer, x = grid(shape, 2), quantized_input(shape, 3)
    gradient = normal(np.random.default_rng(4), *shape.output_shape)
    selected = selection(shape, chosen)[0]
    sums = weight_gradient_in_order(shape, centred(layer, x), gradient)[selected]
    found = update(kernels, layer, x, gradient, chosen, 1.0, 5)
    check_update(layer, found, layer.updated(sums, selected, np.float32(0.05), layer.input_scale, xorshift32(5)))


@UPDATES
@given(data=st.data(), shape=convolutions(), seed=st.integers(1, 2**31), rate_scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_fused_updates_follow_the_rule_weight_by_weight(
    kernels: Kernels, data: st.DataObject, shape: Convolution, seed: int, rate_scale: float
) -> None:
    """Exactly, what is folded into the bias included; outside of the slice nothing changes, to the bit."""
    layer, x = grid(shape, seed), quantized_input(shape, seed + 1)
    gradient, chosen = normal(np.random.default_rng(seed), *shape.output_shape), data.draw(slices(shape))
    found, selected = update(kernels, layer, x, gradient, chosen, rate_scale, seed), selection(shape, chosen)[0]
    sums = weight_gradient_in_order(shape, centred(layer, x), gradient)[selected]
    rate = np.float32(0.05) * np.float32(rate_scale)
    check_update(layer, found, layer.updated(sums, selected, rate, layer.input_scale, xorshift32(seed)))


@UPDATES
@given(data=st.data(), shape=convolutions(), seed=st.integers(1, 2**31), size=st.sampled_from([1e-3, 1.0, 1e3]))
def test_updates_by_stored_gradients_follow_the_same_rule(
    kernels: Kernels, data: st.DataObject, shape: Convolution, seed: int, size: float
) -> None:
    layer, chosen, state = grid(shape, seed), data.draw(slices(shape)), State(0.05, 4, seed)
    selected, fields = selection(shape, chosen)
    gradient = normal(np.random.default_rng(seed), *layer.weight[selected].shape) * np.float32(size)
    stored, bias = layer.stored(), layer.bias.copy()
    described = shape.nested(
        weight_scale=layer.weight_scale, bias_offset=layer.bias_offset, rate_scale=1.0, **fields
    )
    kernels.call(f"lab_q_{shape.name}_sgd", described, stored, gradient, bias, state=state)
    check_state(state, seed)
    expected = layer.updated(gradient, selected, np.float32(0.05), 1.0, xorshift32(seed))
    check_update(layer, (stored, bias), expected)


@pytest.mark.parametrize("inputs", [3, 8])
def test_steps_beyond_the_range_saturate_and_undefined_ones_change_nothing(kernels: Kernels, inputs: int) -> None:
    shape = pointwise((1, 1), inputs, 6)
    layer = replace(grid(shape, 3), input_scale=1.0, input_zero_point=0, weight_scale=np.full(6, 1.0, np.float32))
    layer = replace(layer, weight=np.full(shape.weight_shape, 20, np.int8))
    gradient = np.array([1e30, -1e30, np.inf, -np.inf, np.nan, 0.0], np.float32).reshape(shape.output_shape)
    x = np.ones(shape.input_shape, np.int8)
    stored, bias = update(kernels, layer, x, gradient, (0, inputs, 0, 6), 1.0, 9)
    # 20 - 128 levels; 20 + 128 is beyond the end.
    expected = np.repeat([[-108, 127, -108, 127, 20, 20]], inputs, axis=0).T.astype(np.int8)
    check_update(layer, (stored, bias), (
        expected.reshape(shape.weight_shape),
        (layer.bias - 128 * (expected.astype(np.int32).sum(1) - 20 * inputs)).astype(np.int32),
    ))  # fmt: skip


@pytest.mark.parametrize("step", [0.4, -0.03, 0.0007])
@pytest.mark.parametrize("depthwise", [False, True])
def test_rounding_is_unbiased_and_independent(kernels: Kernels, step: float, depthwise: bool) -> None:
    """Steps below one level move their part of the weights, under many keys; neighbours are rounded independently."""
    count, keys = 64, 150
    shape = Convolution(1, (1, 1), count, count, count if depthwise else 1, *WHOLE, depthwise)
    layer = replace(grid(shape, 4), input_scale=1.0, input_zero_point=0, weight_scale=np.ones(count, np.float32))
    layer = replace(layer, weight=np.zeros(shape.weight_shape, np.int8), bias=np.zeros(count, np.int32))
    gradient = np.full(shape.output_shape, -step / np.float32(0.05), np.float32)
    moves = np.empty((keys, layer.weight.size))
    for key in range(keys):
        stored, _ = update(kernels, layer, np.ones(shape.input_shape, np.int8), gradient, (0, count, 0, count), 1.0,
                           1 + 7919 * key)  # fmt: skip
        moves[key] = layer.weights_in(stored).reshape(-1)
    probability = abs(step)
    spread = np.sqrt(probability * (1 - probability))
    assert set(np.unique(moves)) <= {0.0, float(np.sign(step))}
    assert abs(moves.mean() - step) < 5 * spread / np.sqrt(moves.size)
    neighbours = ((moves[:, 1:] - step) * (moves[:, :-1] - step)).mean()
    assert abs(neighbours) < 5 * spread**2 / np.sqrt(moves.size)
    successors = ((moves[1:] - step) * (moves[:-1] - step)).mean()
    assert abs(successors) < 5 * spread**2 / np.sqrt(moves.size)
