"""Kernels on emulated cores against PyTorch integers: random shapes, many calls in one boot of a core."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.toolchain import counting_plugin, machine_of, needs_qemu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.compiler.graph import Clamp, Operator, Shape
from lab.compiler.operations.matmul import MatMul
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.fully_connected import QuantizedFullyConnected
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.layer_norm import LayerNorm
from lab.compiler.operators.linear import Linear
from lab.compiler.operators.product import Product
from lab.compiler.operators.softmax import QuantizedSoftmax
from lab.compiler.quantized import Affine, QuantizedOperator
from lab.emulators.kernel_calls import KernelArguments, KernelCore, KernelResult

pytestmark = needs_qemu

KERNELS = (
    "lab_pointwise_conv2d",
    "lab_conv2d",
    "lab_depthwise_conv2d",
    "lab_linear",
    "lab_fully_connected",
    "lab_layer_norm",
    "lab_matmul",
    "lab_softmax",
)
CORES = {
    "m4f": ("mps2-an386", None),
    "m7": ("mps2-an500", None),
    "m55": ("mps3-an547", ("-mcpu=cortex-m55", "-mfloat-abi=hard", "-mthumb")),
    "m55-without-helium": ("mps3-an547", ("-mcpu=cortex-m55+nomve", "-mfloat-abi=hard", "-mthumb")),
    "m3": ("mps2-an386", ("-mcpu=cortex-m3", "-mthumb")),
}
ACTIVATIONS = (None, Clamp(0.0, math.inf), Clamp(0.0, 6.0), Clamp(-1.0, 1.0))


@dataclass(frozen=True)
class Case:
    """An int8 operator and its input."""

    operator: QuantizedOperator
    values: npt.NDArray[np.int8]
    misaligned: int = 0

    def expected(self) -> npt.NDArray[np.int8]:
        batch = torch.from_numpy(self.values.astype(np.int64))[None]
        return self.operator.run([batch])[0].numpy().astype(np.int8).reshape(-1)

    def arguments(self) -> KernelArguments:
        shape: Shape = self.values.shape
        batch = torch.from_numpy(self.values.astype(np.int64))[None]
        output: Shape = tuple(self.operator.run([batch]).shape[1:])
        call = self.operator.call([shape], output)
        return KernelArguments(
            call.kernel,
            {constant.name: constant.values for constant in call.constants},
            dict(call.fields),
            [self.values],
            math.prod(output),
            self.operator.scratch_bytes([shape], output) if call.takes_scratch else None,
            "lab_dense" if call.kernel == "lab_linear" else "",
            self.misaligned,
        )


@pytest.fixture(scope="module", params=list(CORES))
def core(request: pytest.FixtureRequest) -> Iterator[KernelCore]:
    board, flags = CORES[request.param]
    with KernelCore(machine_of(board), board, KERNELS, counting_plugin(), flags) as running:
        yield running


def run(core: KernelCore, cases: list[Case]) -> list[KernelResult]:
    """Run the cases; every output must be exact."""
    results = core.run([case.arguments() for case in cases])
    for case, result in zip(cases, results, strict=True):
        np.testing.assert_array_equal(result.output, case.expected(), err_msg=repr(case.values.shape))
    return results


def quantized(operator: Operator, rng: np.random.Generator) -> QuantizedOperator:
    """Random quantisations; one in four has an output as fine as its accumulator allows (shifts of 0), one in eight
    one so coarse that shifts pass what the fast path takes."""
    source = Affine(float(rng.uniform(0.005, 0.1)), int(rng.integers(-128, 128)))
    finest = operator.minimum_output_scale([source])
    factor = {0: 1.0, 1: 1.0, 2: 2.0**24}.get(int(rng.integers(8)), float(rng.uniform(2.5, 300.0)))
    return operator.quantize([source], Affine(finest * factor, int(rng.integers(-128, 128))))


def random_input(rng: np.random.Generator, shape: Shape) -> npt.NDArray[np.int8]:
    """Random, or all at an extreme."""
    fill = int(rng.integers(8))
    if fill < 2:
        return np.full(shape, (-128, 127)[fill], np.int8)
    return rng.integers(-128, 128, shape, dtype=np.int8)


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Dense or depthwise, any kernel, stride and padding."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kernel = draw(st.one_of(st.sampled_from([(1, 1), (3, 3)]), st.tuples(st.integers(1, 7), st.integers(1, 5))))
    pads = [draw(st.integers(0, kernel[i // 2])) for i in range(4)] if draw(st.booleans()) else [0, 0, 0, 0]
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (3, 2)]))
    height = draw(st.integers(max(1, kernel[0] - pads[0] - pads[1]), 11))
    width = draw(st.integers(max(1, kernel[1] - pads[2] - pads[3]), 11))
    window = Window(kernel, stride, *pads)
    channels = draw(st.one_of(st.integers(1, 9), st.sampled_from([12, 16, 24, 32])))
    activation = draw(st.sampled_from(ACTIVATIONS))
    if draw(st.booleans()):
        weight = rng.normal(size=(channels, *kernel)).astype(np.float32)
        operator: Operator = DepthwiseConv2d(weight, rng.normal(size=channels).astype(np.float32), window, activation)
    else:
        outputs = draw(st.integers(1, 12))
        weight = rng.normal(size=(outputs, *kernel, channels)).astype(np.float32)
        operator = Conv2d(weight, rng.normal(size=outputs).astype(np.float32), window, activation)
    values = random_input(rng, (height, width, channels))
    return Case(quantized(operator, rng), values, draw(st.integers(0, 3)))


@st.composite
def linears(draw: st.DrawFn) -> Case:
    """Fully connected layers with either rounding."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    inputs, outputs = draw(st.integers(1, 90)), draw(st.integers(1, 9))
    values = random_input(rng, (inputs,))
    if draw(st.booleans()):
        weight = rng.normal(size=(outputs, inputs)).astype(np.float32)
        linear = Linear(weight, rng.normal(size=outputs).astype(np.float32), draw(st.sampled_from(ACTIVATIONS)))
        return Case(quantized(linear, rng), values, draw(st.integers(0, 3)))
    weights = rng.integers(-128, 128, (outputs, inputs), dtype=np.int8)
    reach = 255 * np.abs(weights.astype(np.int64)).sum(axis=1).max()
    limit = int(2**31 - 1 - reach)  # biases up to where the sums reach the end of int32
    once = QuantizedFullyConnected(
        weights,
        rng.integers(-limit, limit, outputs).astype(np.int32),
        rng.integers(0, 2**31, outputs).astype(np.int32),
        rng.integers(1, 63, outputs).astype(np.uint8),
        Affine(0.1, int(rng.integers(-128, 128))),
        Affine(0.1, int(rng.integers(-128, 128))),
        (-100, 120),
    )
    return Case(once, values, draw(st.integers(0, 3)))


BATCHES = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@given(cases=st.lists(convolutions(), min_size=8, max_size=24))
@BATCHES
def test_convolutions_are_exact(core: KernelCore, cases: list[Case]) -> None:
    run(core, cases)


@given(cases=st.lists(linears(), min_size=8, max_size=24))
@BATCHES
def test_linear_layers_are_exact(core: KernelCore, cases: list[Case]) -> None:
    run(core, cases)


def test_attention_is_the_same_integers_on_every_core(core: KernelCore) -> None:
    """Layer norm, both products, and softmax with and without its table."""
    rng = np.random.default_rng(5)
    weight, bias = rng.normal(size=(2, 20)).astype(np.float32)
    norm = LayerNorm(weight, bias, 1e-5).quantize([Affine(0.03, 3)], Affine(0.04, 5))
    softmax = QuantizedSoftmax.of(1.0, 0.05)
    run(core, [Case(norm, random_input(rng, (7, 20))), *(Case(softmax, random_input(rng, (n, 9))) for n in (3, 40))])
    for transpose in (False, True):
        sizes = MatMul(transpose, not transpose, 2, 5, 7, 6)
        product = Product(sizes).quantize([Affine(0.03, 3), Affine(0.02, -9)], Affine(0.02, 5))
        a, b = (rng.integers(-128, 128, (2, 6, count), dtype=np.int8) for count in (5, 7))
        call = product.call([(60,), (84,)], (2, 5, 7))
        (found,) = core.run([KernelArguments(call.kernel, {}, dict(call.fields), [a, b], 70)])
        expected = product.run([torch.from_numpy(one.astype(np.int64)) for one in (a, b)])
        np.testing.assert_array_equal(found.output, expected.numpy().astype(np.int8).reshape(-1))
