"""Training kernels on emulated cores: gradients within what float32 allows, int8 updates exactly as on the host.

Updates are compared where every sum is exact, whether the core contracts multiply and add or not: with gradients that
are small multiples of a power of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers.convolutions import Convolution, Double, check_within, convolutions, normal
from helpers.int8_grid import Grid, grid, xorshift32
from helpers.toolchain import counting_plugin, machine_of, needs_qemu
from helpers.training_kernels import Array, Field, Float, Int8
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.emulators.kernel_calls import KernelArguments, KernelCore

pytestmark = needs_qemu

KINDS = ("conv2d", "depthwise_conv2d")
KERNELS = tuple(
    f"lab_{family}_{kind}{what}"
    for kind in KINDS
    for family, what in (
        ("f32", ""), ("f32", "_input_gradient"), ("f32", "_weight_gradient"), ("q", "_input_gradient"),
        ("q", "_weight_gradient"), ("q", "_weight_sgd"),
    )
)  # fmt: skip
CORES = {
    "m4f": ("mps2-an386", None),
    "m7": ("mps2-an500", None),
    "m55": ("mps3-an547", ("-mcpu=cortex-m55", "-mfloat-abi=hard", "-mthumb")),
    "m3": ("mps2-an386", ("-mcpu=cortex-m3", "-mthumb")),
}
BATCHES = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                                         HealthCheck.too_slow])  # fmt: skip
# Whole tiles of four outputs and four neighbouring inputs, and what is left over of them.
TILES = [
    (Convolution(1, (4, 3), 8, 8, 1, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), False), 11),
    (Convolution(2, (5, 6), 12, 10, 1, (3, 3), (2, 1), (1, 1), ((1, 1), (1, 1)), False), 12),
    (Convolution(1, (9, 9), 36, 36, 36, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), True), 13),
]
CASES = st.lists(st.tuples(convolutions(), st.integers(1, 2**31)), min_size=8, max_size=8).map(
    lambda drawn: drawn + TILES
)
RATE = np.float32(0.05)


@pytest.fixture(scope="module", params=list(CORES))
def core(request: pytest.FixtureRequest) -> Iterator[KernelCore]:
    board, flags = CORES[request.param]
    with KernelCore(machine_of(board), board, KERNELS, counting_plugin(), flags) as running:
        yield running


def call(kernel: str, fields: Mapping[str, Field], inputs: list[Array | None], output: Array,
         state: bytes = b"") -> KernelArguments:  # fmt: skip
    """A call; what `output` holds is there before it."""
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    numbers = {name: value for name, value in fields.items() if not isinstance(value, np.ndarray)}
    scratch = np.frombuffer(state, np.uint32) if state else None
    return KernelArguments(kernel, arrays, numbers, inputs, output.nbytes, len(state) or None, output_before=output,
                           scratch_before=scratch)  # fmt: skip


@dataclass(frozen=True)
class Gradients:
    """A layer in fp32 and on the int8 grid, with what its kernels must find."""

    layer: Grid
    x: Int8
    gradient: Float

    @classmethod
    def drawn(cls, shape: Convolution, seed: int) -> Gradients:
        generator = np.random.default_rng(seed)
        x = generator.integers(-128, 128, shape.input_shape, dtype=np.int8)
        return cls(grid(shape, seed), x, normal(generator, *shape.output_shape))

    @property
    def real_input(self) -> Double:
        return (self.x.astype(np.float64) - self.layer.input_zero_point) * self.layer.input_scale

    def calls(self) -> list[KernelArguments]:
        shape, layer = self.layer.layer, self.layer
        x, weight = self.real_input.astype(np.float32), layer.real_weight().astype(np.float32)
        whole: dict[str, Field] = {"channel_count": shape.inputs}
        whole |= {"first_channel": 0} if shape.depthwise else {"first_output": 0, "output_count": shape.outputs}
        empty = {size: np.full(size, np.nan, np.float32) for size in
                 (shape.input_shape, shape.weight_shape, shape.output_shape)}  # fmt: skip
        by_input, by_weight, forward = (empty[size] for size in
                                        (shape.input_shape, shape.weight_shape, shape.output_shape))  # fmt: skip
        return [
            call(f"lab_f32_{shape.name}", shape.fields(), [x, weight, None], forward),
            call(f"lab_f32_{shape.name}_input_gradient", shape.fields(), [self.gradient, weight], by_input),
            call(f"lab_f32_{shape.name}_weight_gradient", shape.fields(), [x, self.gradient], by_weight),
            call(f"lab_q_{shape.name}_input_gradient", shape.nested(weight_scale=layer.weight_scale),
                 [self.gradient, layer.stored()], by_input),
            call(f"lab_q_{shape.name}_weight_gradient", shape.nested(**whole, **layer.input_fields()),
                 [self.x, self.gradient], by_weight),
        ]  # fmt: skip

    def expected(self) -> list[tuple[Double, Double]]:
        """Values and bounds in the order of the calls."""
        arguments = (self.real_input, self.layer.real_weight(), self.gradient)
        pairs = list(zip(self.layer.layer.references(*arguments), self.layer.layer.error_bounds(*arguments),
                         strict=True))  # fmt: skip
        # The fp32 kernels' operands were rounded to float32 first.
        rounded = [(value, 2 * bound) for value, bound in pairs]
        return [*rounded, pairs[1], pairs[2]]


@BATCHES
@given(cases=CASES)
def test_gradients_are_within_what_float32_allows(core: KernelCore, cases: list[tuple[Convolution, int]]) -> None:
    drawn = [Gradients.drawn(*case) for case in cases]
    results = iter(core.run([one for case in drawn for one in case.calls()]))
    for case in drawn:
        for value, bound in case.expected():
            found = next(results).output.view(np.float32).reshape(value.shape)
            check_within(found, value, bound)


@BATCHES
@given(cases=CASES, gain=st.sampled_from([0.0, 0.125, 64.0]))
def test_int8_updates_are_those_of_the_host(
    core: KernelCore, cases: list[tuple[Convolution, int]], gain: float
) -> None:
    """Weights and bias bit for bit after the documented rule, which tests/unit checks the host's kernels against."""
    layers = [grid(*case) for case in cases]
    calls, expected = [], []
    for layer, (shape, seed) in zip(layers, cases, strict=True):
        generator = np.random.default_rng(seed)
        x = generator.integers(-128, 128, shape.input_shape, dtype=np.int8)
        gradient = (generator.integers(-4, 5, shape.output_shape) * gain).astype(np.float32)
        slices: dict[str, Field] = {"first_channel": 0, "channel_count": shape.inputs}
        slices |= {} if shape.depthwise else {"first_output": 0, "output_count": shape.outputs}
        fields = shape.nested(weight_scale=layer.weight_scale, bias_offset=layer.bias_offset, rate_scale=1.0,
                              **slices, **layer.input_fields())  # fmt: skip
        state = RATE.tobytes() + np.array([1, seed], np.uint32).tobytes()
        calls.append(call(f"lab_q_{shape.name}_weight_sgd", fields, [x, gradient, layer.stored()], layer.bias, state))
        centred = x.astype(np.float64) - layer.input_zero_point
        sums = shape.references(centred, layer.real_weight(), gradient)[2].astype(np.float32)
        everything = (slice(None),) * layer.weight.ndim
        expected.append(layer.updated(sums, everything, RATE, layer.input_scale, xorshift32(seed)))
    for layer, result, (weight, bias) in zip(layers, core.run(calls), expected, strict=True):
        np.testing.assert_array_equal(result.inputs[2], replace(layer, weight=weight).stored())
        np.testing.assert_array_equal(result.output.view(np.int32), bias)
