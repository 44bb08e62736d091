"""Every kernel against PyTorch integer arithmetic on random shapes, under the undefined-behaviour sanitizer."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.graph import Clamp, Operator, Shape
from lab.compiler.host import TRAP_UNDEFINED, WARNINGS, build_shared_library
from lab.compiler.operators.add import Add
from lab.compiler.operators.avg_pool2d import AvgPool2d
from lab.compiler.operators.clamp import Activation
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.fully_connected import QuantizedFullyConnected
from lab.compiler.operators.general_conv2d import Lattice, QuantizedGeneralConv2d
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import Linear
from lab.compiler.operators.max_pool2d import MaxPool2d
from lab.compiler.operators.pad import Pad
from lab.compiler.operators.rescale import QuantizedRescale
from lab.compiler.operators.sample_norm import QuantizedSampleNorm
from lab.compiler.operators.softmax import QuantizedSoftmax
from lab.compiler.quantized import Affine, QuantizedOperator
from lab.errors import CompileError
from lab.runtime_files import RUNTIME, all_sources

Int8 = npt.NDArray[np.int8]
GUARD = 32
EXAMPLES = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)
SIZES = st.integers(1, 9)
CHANNELS = st.integers(1, 11)
SMALL = st.integers(1, 4)
POINTER = re.compile(r"const \w+ \*(\w+);")
SCALARS = re.compile(r"int32_t ([\w, ]+);")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("kernels") / "kernels.so"
    build_shared_library(all_sources(), output, flags=["-O2", *TRAP_UNDEFINED])
    return ctypes.CDLL(str(output))


def descriptor_type(kernel: str) -> type[ctypes.Structure]:
    """The descriptor as declared in the kernel's header; all headers name pointers first, then int32 fields."""
    header = "lab_dense" if kernel == "lab_linear" else kernel
    text = (RUNTIME / f"{header}.h").read_text()
    body = text[text.index("typedef struct {") : text.index(f"}} {header}_t;")]
    pointers = [(name, ctypes.c_void_p) for name in POINTER.findall(body)]
    scalars = [(name, ctypes.c_int32) for group in SCALARS.findall(body) for name in group.split(", ")]
    return type(kernel, (ctypes.Structure,), {"_fields_": [*pointers, *scalars]})


def run_kernel(
    library: ctypes.CDLL, operator: QuantizedOperator, inputs: Sequence[Int8], *, in_place: bool = False
) -> Int8:
    """Call the operator's kernel in guarded memory on inputs without a batch dimension."""
    shapes: list[Shape] = [array.shape for array in inputs]
    output_shape = reference(operator, inputs).shape
    call = operator.call(shapes, output_shape)
    constants = {constant.name: np.ascontiguousarray(constant.values) for constant in call.constants}
    descriptor = descriptor_type(call.kernel)()
    declared = {field[0] for field in descriptor._fields_}
    assert declared == {*constants, *(name for name, _ in call.fields)}
    for name, values in constants.items():
        setattr(descriptor, name, values.ctypes.data)
    for name, value in call.fields:
        setattr(descriptor, name, value)
    buffers = [np.ascontiguousarray(array) for array in inputs]
    size = int(np.prod(output_shape))
    memory = np.full(size + 2 * GUARD, 77, dtype=np.int8)
    target = buffers[0].ctypes.data if in_place else memory.ctypes.data + GUARD
    arguments = [array.ctypes.data for array in buffers] + [target]
    scratch_bytes = operator.scratch_bytes(shapes, output_shape)
    scratch = np.full(scratch_bytes + 2 * GUARD, 55, dtype=np.int8)
    if call.takes_scratch:
        arguments.append(scratch.ctypes.data + GUARD if scratch_bytes else 0)
    getattr(library, call.kernel)(ctypes.byref(descriptor), *(ctypes.c_void_p(item) for item in arguments))
    assert (scratch[:GUARD] == 55).all()
    assert (scratch[GUARD + scratch_bytes :] == 55).all()
    assert (memory[:GUARD] == 77).all()
    assert (memory[GUARD + size :] == 77).all()
    if in_place:
        return buffers[0].reshape(output_shape)
    for kept, given_array in zip(buffers, inputs, strict=True):
        np.testing.assert_array_equal(kept, given_array)
    return memory[GUARD : GUARD + size].reshape(output_shape)


def reference(operator: QuantizedOperator, inputs: Sequence[Int8]) -> Int8:
    """PyTorch integers."""
    batch = [torch.from_numpy(array.astype(np.int64))[None] for array in inputs]
    return operator.run(batch)[0].numpy().astype(np.int8)


def check(library: ctypes.CDLL, operator: QuantizedOperator, *inputs: Int8) -> None:
    np.testing.assert_array_equal(run_kernel(library, operator, inputs), reference(operator, inputs))


def random_int8(generator: np.random.Generator, *shape: int) -> Int8:
    return generator.integers(-128, 128, shape, dtype=np.int8)


def random_affine(generator: np.random.Generator) -> Affine:
    return Affine(float(generator.uniform(0.005, 0.1)), int(generator.integers(-128, 128)))


def quantized(operator: Operator, generator: np.random.Generator, inputs: int = 1) -> QuantizedOperator:
    """The int8 operator with random quantisations; outputs saturate sometimes, not always."""
    sources = [random_affine(generator) for _ in range(inputs)]
    scale = max(operator.minimum_output_scale(sources), float(generator.uniform(0.01, 0.2)))
    output = sources[0] if operator.keeps_scale else Affine(scale, int(generator.integers(-128, 128)))
    return operator.quantize(sources, output)


def random_activation(generator: np.random.Generator) -> Clamp | None:
    return [None, Clamp(0.0, math.inf), Clamp(0.0, 6.0), Clamp(-1.0, 1.0)][generator.integers(4)]


@st.composite
def windows(draw: st.DrawFn, *, pool: bool = False) -> tuple[Window, int, int]:
    """A window and an input size (height, width) it fits into at least once."""
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    limit = (kernel[0] // 2, kernel[1] // 2) if pool else (kernel[0], kernel[1])
    rows, columns = draw(st.integers(0, limit[0])), draw(st.integers(0, limit[1]))
    bottom = rows if pool else draw(st.integers(0, limit[0]))
    right = columns if pool else draw(st.integers(0, limit[1]))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    height = draw(st.integers(max(1, kernel[0] - rows - bottom), 9))
    width = draw(st.integers(max(1, kernel[1] - columns - right), 9))
    return Window(kernel, stride, rows, bottom, columns, right), height, width


@given(window=windows(), channels=CHANNELS, outputs=CHANNELS, seed=SEEDS)
@EXAMPLES
def test_conv2d(
    library: ctypes.CDLL, window: tuple[Window, int, int], channels: int, outputs: int, seed: int
) -> None:
    shape, height, width = window
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(outputs, *shape.kernel, channels)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    operator = quantized(Conv2d(weight, bias, shape, random_activation(rng)), rng)
    check(library, operator, random_int8(rng, height, width, channels))


@given(
    size=st.tuples(SIZES, SIZES, CHANNELS),
    outputs=CHANNELS,
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=SEEDS,
)
@EXAMPLES
def test_pointwise_conv2d(
    library: ctypes.CDLL, size: tuple[int, int, int], outputs: int, stride: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(outputs, 1, 1, size[2])).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    operator = quantized(Conv2d(weight, bias, Window((1, 1), stride), random_activation(rng)), rng)
    assert operator.call([size], (1, 1, outputs)).kernel == "lab_pointwise_conv2d"
    check(library, operator, random_int8(rng, *size))


@given(window=windows(), channels=CHANNELS, seed=SEEDS)
@EXAMPLES
def test_depthwise_conv2d(library: ctypes.CDLL, window: tuple[Window, int, int], channels: int, seed: int) -> None:
    shape, height, width = window
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(channels, *shape.kernel)).astype(np.float32)
    bias = rng.normal(size=channels).astype(np.float32)
    operator = quantized(DepthwiseConv2d(weight, bias, shape, random_activation(rng)), rng)
    check(library, operator, random_int8(rng, height, width, channels))


@given(inputs=st.integers(1, 70), outputs=CHANNELS, seed=SEEDS)
@EXAMPLES
def test_linear(library: ctypes.CDLL, inputs: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(outputs, inputs)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    operator = quantized(Linear(weight, bias, random_activation(rng)), rng)
    check(library, operator, random_int8(rng, inputs))


@given(window=windows(pool=True), channels=CHANNELS, count_padding=st.booleans(), seed=SEEDS)
@EXAMPLES
def test_avg_pool2d(
    library: ctypes.CDLL, window: tuple[Window, int, int], channels: int, count_padding: bool, seed: int
) -> None:
    shape, height, width = window
    rng = np.random.default_rng(seed)
    check(
        library, quantized(AvgPool2d(shape, count_padding), rng), random_int8(rng, height, width, channels)
    )


@given(window=windows(pool=True), channels=CHANNELS, seed=SEEDS)
@EXAMPLES
def test_max_pool2d(library: ctypes.CDLL, window: tuple[Window, int, int], channels: int, seed: int) -> None:
    shape, height, width = window
    rng = np.random.default_rng(seed)
    check(library, quantized(MaxPool2d(shape), rng), random_int8(rng, height, width, channels))


@given(size=st.integers(1, 200), seed=SEEDS)
@EXAMPLES
def test_add(library: ctypes.CDLL, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    operator = quantized(Add(random_activation(rng)), rng, inputs=2)
    inputs = [random_int8(rng, size), random_int8(rng, size)]
    expected = reference(operator, inputs)
    np.testing.assert_array_equal(run_kernel(library, operator, inputs), expected)
    np.testing.assert_array_equal(run_kernel(library, operator, inputs, in_place=True), expected)


@given(first=st.floats(0.001, 1.0), second=st.floats(0.001, 1.0), output=st.floats(0.01, 2.0), seed=SEEDS)
@EXAMPLES
def test_add_is_within_one_step_of_real_addition(first: float, second: float, output: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    affines = (Affine(first, int(rng.integers(-128, 128))), Affine(second, int(rng.integers(-128, 128))))
    target = Affine(output, int(rng.integers(-128, 128)))
    a, b = random_int8(rng, 50), random_int8(rng, 50)
    real = (a.astype(float) - affines[0].zero_point) * first + (b.astype(float) - affines[1].zero_point) * second
    expected = np.clip(np.rint(real / output) + target.zero_point, -128, 127)
    assert np.abs(reference(Add().quantize(affines, target), [a, b]) - expected).max() <= 1


@given(size=st.integers(1, 200), seed=SEEDS)
@EXAMPLES
def test_clamp(library: ctypes.CDLL, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    operator = quantized(Activation(Clamp(float(rng.uniform(-1, 0)), float(rng.uniform(0, 2)))), rng)
    inputs = [random_int8(rng, size)]
    expected = reference(operator, inputs)
    np.testing.assert_array_equal(run_kernel(library, operator, inputs), expected)
    np.testing.assert_array_equal(run_kernel(library, operator, inputs, in_place=True), expected)


@given(size=st.tuples(SIZES, SIZES, CHANNELS), sides=st.tuples(*[st.integers(0, 3)] * 4), seed=SEEDS)
@EXAMPLES
def test_pad(
    library: ctypes.CDLL, size: tuple[int, int, int], sides: tuple[int, int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    check(library, quantized(Pad(*sides), rng), random_int8(rng, *size))


def test_extreme_values_do_not_overflow(library: ctypes.CDLL) -> None:
    """The longest sums the compiler lets through: all weights and inputs at their extremes."""
    weight = np.full((2, 8000), 1.0, dtype=np.float32)
    weight[1] = -1.0
    linear = Linear(weight, np.zeros(2, np.float32))
    for zero_point in (-128, 127):
        source = Affine(1.0, zero_point)
        operator = linear.quantize([source], Affine(linear.minimum_output_scale([source]), 0))
        for value in (-128, 127):
            check(library, operator, np.full(8000, value, dtype=np.int8))


COMPILERS = (
    ("arm-none-eabi-gcc", "-mcpu=cortex-m4"),
    ("arm-none-eabi-gcc", "-mcpu=cortex-m7"),
    ("arm-none-eabi-gcc", "-mcpu=cortex-m55+nomve"),
    ("arm-none-eabi-gcc", "-mcpu=cortex-m55 -mfloat-abi=hard"),
    ("clang-14", "-O2"),
)


@pytest.mark.parametrize(("compiler", "flag"), COMPILERS)
@pytest.mark.parametrize("source", all_sources(), ids=lambda path: path.stem)
def test_compiles_without_warnings(compiler: str, flag: str, source: Path, tmp_path: Path) -> None:
    assert shutil.which(compiler), f"{compiler} is needed for this test: apt-get install {compiler}"
    command = [compiler, *WARNINGS, "-O2", *flag.split(), "-c", str(source), "-o", str(tmp_path / "x.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@given(groups=SMALL, per_group=SMALL, outputs=SMALL, low=st.integers(-14, 3), seed=SEEDS)
@EXAMPLES
def test_general_conv2d(library: ctypes.CDLL, groups: int, per_group: int, outputs: int, low: int, seed: int) -> None:
    """Groups, dilation and multipliers on both sides of one."""
    rng = np.random.default_rng(seed)
    kernel, dilation, stride = ((int(a), int(b)) for a, b in rng.integers(1, 4, (3, 2)))
    window = Window(kernel, stride, *rng.integers(0, 3, 4).tolist())
    total = groups * outputs
    operator = QuantizedGeneralConv2d(
        weight=random_int8(rng, total, *kernel, per_group),
        bias=rng.integers(-(2**20), 2**20, total).astype(np.int32),
        multiplier=rng.integers(2**30, 2**31, total).astype(np.int32),
        shift=rng.integers(min(low, 17), 18, total).astype(np.int8),
        lattice=Lattice(window, dilation, groups),
        input=random_affine(rng),
        output=random_affine(rng),
        bounds=(-128, 127),
    )
    height, width = (int(size) for size in rng.integers(8, 11, 2))
    check(library, operator, random_int8(rng, height, width, groups * per_group))


@given(inputs=st.integers(1, 40), outputs=st.integers(1, 11), shift=st.integers(1, 62), seed=SEEDS)
@EXAMPLES
def test_fully_connected(library: ctypes.CDLL, inputs: int, outputs: int, shift: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    operator = QuantizedFullyConnected(
        weight=random_int8(rng, outputs, inputs),
        bias=rng.integers(-(2**20), 2**20, outputs).astype(np.int32),
        multiplier=rng.integers(0, 2**31, outputs).astype(np.int32),
        shift=np.full(outputs, shift, np.uint8),
        input=random_affine(rng),
        output=random_affine(rng),
        bounds=(-100, 120),
    )
    check(library, operator, random_int8(rng, inputs))


@given(real=st.floats(2.0**-20, 2.0**20), seed=SEEDS, in_place=st.booleans())
@EXAMPLES
def test_rescale(library: ctypes.CDLL, real: float, seed: int, in_place: bool) -> None:
    rng = np.random.default_rng(seed)
    operator = QuantizedRescale(random_affine(rng), random_affine(rng), real, (-128, 100))
    values = np.arange(-128, 128, dtype=np.int8)
    expected = reference(operator, [values])
    np.testing.assert_array_equal(run_kernel(library, operator, [values.copy()], in_place=in_place), expected)


@given(depth=st.integers(1, 300), scale=st.floats(1e-6, 100.0), seed=SEEDS, in_place=st.booleans())
@EXAMPLES
def test_softmax(library: ctypes.CDLL, depth: int, scale: float, seed: int, in_place: bool) -> None:
    """The kernel equals the fixed-point reference, and both the float softmax to about a step of 1/256."""
    rng = np.random.default_rng(seed)
    operator = QuantizedSoftmax.of(1.0, scale)
    values = random_int8(rng, 3, depth)
    found = run_kernel(library, operator, [values.copy()], in_place=in_place)
    np.testing.assert_array_equal(found, reference(operator, [values]))
    real = torch.softmax(torch.from_numpy(values.astype(np.float64) * scale), dim=-1).numpy()
    assert np.abs(found - np.clip(real * 256 - 128, -128, 127)).max() < 1.1


def test_softmax_of_a_scale_without_arithmetic_is_refused() -> None:
    with pytest.raises(CompileError, match="softmax of an input scale"):
        QuantizedSoftmax.of(1.0, 1e-9)


@given(height=SIZES, width=SIZES, channels=CHANNELS, spread=st.integers(0, 127), seed=SEEDS, in_place=st.booleans())
@EXAMPLES
def test_sample_norm(
    library: ctypes.CDLL, height: int, width: int, channels: int, spread: int, seed: int, in_place: bool
) -> None:
    """Any constants that the descriptor may hold, to the bit: those of a network leave most of their range alone."""
    rng = np.random.default_rng(seed)
    variance = (2.0 ** rng.uniform(0, 30, channels)).astype(np.int32)
    operator = QuantizedSampleNorm(
        mean=rng.integers(-(2**20), 2**20, channels).astype(np.int32),
        variance=variance,
        floor=np.minimum(variance + rng.integers(0, 2**20, channels), 2**30 - 1).astype(np.int32),
        distance=(2.0 ** rng.uniform(0, 30, channels)).astype(np.int32),
        multiplier=rng.integers(-(2**31) + 1, 2**31, channels).astype(np.int32),
        shift=rng.integers(0, 32, channels).astype(np.int8),
        offset=rng.integers(-(2**30), 2**30, channels).astype(np.int32),
        share=int(rng.integers(0, 2**31)),
        balance=int(rng.integers(0, 2**31)),
        bounds=(-100, 120),
    )
    centre = int(rng.integers(-128, 128))
    values = np.clip(centre + rng.integers(-spread, spread + 1, (height, width, channels)), -128, 127).astype(np.int8)
    found = run_kernel(library, operator, [values.copy()], in_place=in_place)
    np.testing.assert_array_equal(found, reference(operator, [values]))
