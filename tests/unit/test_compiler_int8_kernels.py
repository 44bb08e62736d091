"""Kernels int8 training brought: tables, products, max pooling with places, padding with zero points."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kernel_runner import check_kernel, run_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler import compile_with_reference
from lab.compiler.host import TRAP_UNDEFINED, HostModel, build_shared_library
from lab.compiler.operations.copy import StridedExtend, StridedWrite
from lab.compiler.operations.int8 import Int8InPlace, Int8MaxPoolPlaces, TableGradient
from lab.compiler.operations.pool import Windows
from lab.compiler.operations.unary import Gelu, Hardswish, HardswishGradient, Sigmoid, SigmoidGradient, Tanh, Unary
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.max_pool2d import QuantizedMaxPool2d
from lab.compiler.operators.multiply import Multiply
from lab.compiler.operators.table import QuantizedTable, table_of
from lab.compiler.quantized import Affine
from lab.errors import CompileError
from lab.runtime_files import RUNTIME

EXAMPLES = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**31)
AFFINES = st.builds(Affine, st.floats(2.0**-9, 0.5), st.integers(-128, 127))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("table") / "table.so"
    build_shared_library([RUNTIME / "lab_table.c"], output, flags=["-O2", *TRAP_UNDEFINED])
    return ctypes.CDLL(str(output))


class TableStruct(ctypes.Structure):
    """``lab_table_t`` and ``lab_table_gradient_t``."""

    _fields_ = (("values", ctypes.c_void_p), ("size", ctypes.c_int32))


FUNCTIONS: dict[Unary, np.ufunc] = {
    Hardswish(): np.frompyfunc(lambda x: x * min(max(x + 3, 0), 6) / 6, 1, 1),
    Sigmoid(): np.frompyfunc(lambda x: 1 / (1 + math.exp(-x)), 1, 1),
    Tanh(): np.frompyfunc(math.tanh, 1, 1),
    Gelu(): np.frompyfunc(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2, 1, 1),
}


@given(function=st.sampled_from(list(FUNCTIONS)), source=AFFINES, output=AFFINES)
@EXAMPLES
def test_table_holds_the_nearest_int8(
    library: ctypes.CDLL, function: Unary, source: Affine, output: Affine
) -> None:
    """All 256 inputs through the kernel, in place, against the function of Python's mathematics."""
    quantized = table_of(function).quantize([source], output)
    assert isinstance(quantized, QuantizedTable)
    inputs = np.arange(-128, 128, dtype=np.int8)
    found = inputs.copy()
    layer = TableStruct(quantized.table.ctypes.data, 256)
    library.lab_table(ctypes.byref(layer), ctypes.c_void_p(found.ctypes.data), ctypes.c_void_p(found.ctypes.data))
    reals = (inputs.astype(np.float64) - source.zero_point) * source.scale
    wanted = FUNCTIONS[function](reals).astype(np.float64) / output.scale + output.zero_point
    assert np.abs(found - np.clip(wanted, -128, 127)).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(quantized.run([torch.from_numpy(inputs).long()]), found)


@given(seed=SEEDS, affine=AFFINES, size=st.integers(1, 70))
@EXAMPLES
def test_gradient_through_a_table(library: ctypes.CDLL, seed: int, affine: Affine, size: int) -> None:
    """Kernel and reference to the bit; autograd in float64 within the rounding of a slope and a product."""
    rng = np.random.default_rng(seed)
    value = rng.integers(-128, 128, size).astype(np.int8)
    gradient = rng.normal(size=size).astype(np.float32)
    for operation in (TableGradient(HardswishGradient(), affine), TableGradient(SigmoidGradient(), affine)):
        slopes = operation.slopes.numpy().copy()
        found = gradient.copy()
        pointers = [ctypes.c_void_p(one.ctypes.data) for one in (found, value, found)]
        library.lab_table_gradient(ctypes.byref(TableStruct(slopes.ctypes.data, size)), *pointers)
        (expected,) = operation.run([torch.from_numpy(gradient), torch.from_numpy(value)])
        np.testing.assert_array_equal(found, expected)
        real = torch.from_numpy((value.astype(np.float64) - affine.zero_point) * affine.scale).requires_grad_()
        if isinstance(operation.function, HardswishGradient):
            outer = torch.from_numpy(gradient.astype(np.float64))
            (slopes_of_pytorch,) = torch.autograd.grad(nn.functional.hardswish(real), real, outer)
            # At the corners themselves either side is right.
            corner = (real.detach().abs() - 3).abs() < 1e-9
            wanted = slopes_of_pytorch.masked_fill(corner, 0).numpy()
            np.testing.assert_allclose(np.where(corner, 0, found), wanted, rtol=1e-6, atol=1e-7)
        else:
            y = real.detach().numpy()
            np.testing.assert_allclose(found, gradient * y * (1 - y), rtol=1e-5, atol=1e-6)


@given(
    seed=SEEDS,
    size=st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    levels=st.sampled_from([2, 256]),
)
@EXAMPLES
def test_max_pool_finds_the_first_maximum(
    seed: int, size: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], levels: int
) -> None:
    """Against PyTorch's own indices; two levels make most windows hold equal maxima."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    rows, columns = (
        (length + 2 * pad - taps) // step + 1
        for length, pad, taps, step in zip(size[:2], padding, kernel, stride, strict=True)
    )
    if rows < 1 or columns < 1:
        return
    windows = Windows(1, size, (rows, columns, size[2]), kernel, stride, padding)
    window = Window(kernel, stride, padding[0], padding[0], padding[1], padding[1])
    operation = Int8MaxPoolPlaces(QuantizedMaxPool2d(window), windows)
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randint(levels, (1, *size), generator=generator) - levels // 2).to(torch.int8)
    y, places = run_kernel(operation, [x], operation.run([x]))
    image = x.permute(0, 3, 1, 2).float()
    wanted, indices = nn.functional.max_pool2d(image, kernel, stride, padding, return_indices=True)
    torch.testing.assert_close(y.permute(0, 3, 1, 2).float(), wanted, rtol=0, atol=0)
    row = torch.arange(rows)[:, None] * stride[0] - padding[0] + places.permute(0, 3, 1, 2).long() // kernel[1]
    column = torch.arange(columns) * stride[1] - padding[1] + places.permute(0, 3, 1, 2).long() % kernel[1]
    assert torch.equal(row * size[1] + column, indices)
    assert torch.equal(operation.run([x])[1], places)


@given(
    seed=SEEDS,
    periods=st.sampled_from([(24, 24), (24, 4), (6, 24), (24, 1)]),
    affines=st.tuples(AFFINES, AFFINES),
    steps=st.floats(0.3, 300.0),
)
@EXAMPLES
def test_product_of_real_values(
    seed: int, periods: tuple[int, int], affines: tuple[Affine, Affine], steps: float
) -> None:
    """The product of real values within two roundings: half a step, and half a step of what is shifted away."""
    output = Affine(affines[0].scale * affines[1].scale * steps, -3)
    layer = Multiply().quantize(affines, output)
    operation = Int8InPlace(layer, ((periods[0],), (periods[1],)), (24,))
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randint(-128, 128, (size,), generator=generator).to(torch.int8) for size in periods]
    found = run_kernel(operation, factors, [torch.zeros(24, dtype=torch.int8)])[0].double()
    assert torch.equal(operation.run(factors)[0].double().reshape(-1), found)
    over = 0 if periods[0] == 24 else 1
    again = run_kernel(operation, factors, [torch.zeros(24, dtype=torch.int8)], over=over)[0].double()
    assert torch.equal(again, found)
    first, second = (
        (x.double() - one.zero_point).repeat(24 // len(x)) for x, one in zip(factors, affines, strict=True)
    )
    wanted = (first * second / steps + output.zero_point).clamp(-128, 127)
    assert float((found - wanted).abs().max()) <= 0.5 + min(0.5, 1 / steps) + 1e-6


@given(
    seed=SEEDS,
    size=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    sides=st.tuples(*[st.integers(0, 2)] * 4),
    zero_point=st.integers(-128, 127),
)
@EXAMPLES
def test_padding_is_the_zero_point(
    seed: int, size: tuple[int, int, int], sides: tuple[int, int, int, int], zero_point: int
) -> None:
    left, right, top, bottom = sides
    total = (1, size[0] + top + bottom, size[1] + left + right, size[2])
    row = total[2] * total[3]
    write = StridedWrite((1, *size), total, (total[1] * row, row, total[3], 1), top * row + left * total[3], zero_point)
    x = torch.randint(-128, 128, (1, *size), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    (found,) = check_kernel(write, [x])
    expected = nn.functional.pad(x, (0, 0, left, right, top, bottom), value=zero_point)
    assert torch.equal(found, expected)


def test_an_extension_leaves_the_first_part() -> None:
    """int8 parts of a concatenation on the channels."""
    first = torch.arange(6, dtype=torch.int8).reshape(1, 3, 2)
    second = -torch.arange(1, 4, dtype=torch.int8).reshape(1, 3, 1)
    (half,) = StridedWrite((1, 3, 2), (1, 3, 3), (9, 3, 1), 0, 7).run([first])
    assert half[..., 2].eq(7).all()
    operation = StridedExtend((1, 3, 1), (1, 3, 3), (9, 3, 1), 2)
    assert torch.equal(operation.run([second, half])[0], torch.cat((first, second), 2))


@pytest.mark.parametrize(
    "layer",
    [nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.SiLU(), nn.GELU(), nn.LeakyReLU(0.2)],
    ids=lambda layer: type(layer).__name__,
)
def test_inference_of_functions(layer: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Captured for inference too: C equals the integers, which stay near the float network."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data = torch.randn(16, 1, 6, 6)
    compiled, graph = compile_with_reference(module, data[:1], calibration=data)
    samples = compiled.input.quantize(data.permute(0, 2, 3, 1).contiguous().numpy())
    found = HostModel(compiled, tmp_path_factory.mktemp("model")).run(samples)
    integers = graph.run_integer(samples)
    np.testing.assert_array_equal(found, integers)
    with torch.no_grad():
        expected = module(data).numpy()
    error = np.abs(compiled.output.dequantize(integers) - expected)
    assert error.mean() < 0.02 * (expected.max() - expected.min())


class Excitation(nn.Module):
    """A feature map by one number per channel, and by another feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        gated = torch.sigmoid(self.gate(nn.functional.adaptive_avg_pool2d(x, 1))) * x
        y: torch.Tensor = self.last(gated * x).mean((2, 3))
        return y


def test_inference_of_products(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, data = Excitation(), torch.randn(16, 1, 6, 6)
    compiled, graph = compile_with_reference(module, data[:1], calibration=data)
    samples = compiled.input.quantize(data.permute(0, 2, 3, 1).contiguous().numpy())
    integers = graph.run_integer(samples)
    np.testing.assert_array_equal(HostModel(compiled, tmp_path).run(samples), integers)
    with torch.no_grad():
        expected = module(data).numpy()
    error = np.abs(compiled.output.dequantize(integers) - expected)
    assert error.mean() < 0.02 * (expected.max() - expected.min())


def test_products_that_are_repeated_in_another_way_are_refused() -> None:
    class Rows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x) * nn.functional.avg_pool2d(x, (1, 4))

    with pytest.raises(CompileError, match=r"aten\.mul.* \(4, 1, 2\) and \(4, 4, 2\) \(NHWC\) differ"):
        compile_with_reference(Rows(), torch.randn(1, 2, 4, 4), calibration=torch.randn(4, 2, 4, 4))
