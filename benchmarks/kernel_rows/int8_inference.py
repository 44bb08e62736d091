"""int8 inference: every shape with public figures, with a random zero point and no activation, exactly requantised."""

from __future__ import annotations

import numpy as np

from kernel_rows import Row
from lab.compiler.graph import Operator, Shape
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import Linear
from lab.compiler.quantized import Affine, QuantizedOperator
from lab.emulators.kernel_calls import KernelArguments

BOARD = "m4f"
KERNELS = ("lab_pointwise_conv2d", "lab_depthwise_conv2d", "lab_conv2d", "lab_linear")

# Input shape, output channels, kernel, stride; CMSIS-NN, TinyEngine with integer and with float requantisation,
# attainable.
_POINTWISE: tuple[tuple[Shape, int, float, float, float, float], ...] = (
    ((25, 5, 64), 64, 2.09, 2.28, 1.97, 0.98),
    ((12, 12, 96), 96, 1.87, 2.03, 1.82, 0.92),
    ((6, 6, 128), 256, 1.83, 1.90, 1.75, 0.90),
    ((12, 12, 48), 96, 2.29, 2.18, 1.72, 0.98),
    ((12, 12, 16), 96, 3.99, 4.02, 2.99, 1.24),
)
_DEPTHWISE: tuple[tuple[Shape, float, float, float, float], ...] = (
    ((12, 12, 96), 8.46, 9.05, 6.76, 2.31),
    ((25, 5, 64), 8.33, 9.89, 7.53, 2.88),
    ((48, 48, 16), 9.29, 8.46, 6.17, 2.13),
)
_CONV: tuple[tuple[Shape, int, int, float, float, float | None, float | None], ...] = (
    ((96, 96, 3), 16, 2, 4.82, 2.82, 1.98, None),
    ((16, 16, 32), 32, 1, 1.93, 2.19, None, 0.91),
    ((32, 32, 16), 16, 1, 2.33, 2.46, None, 1.00),
    ((8, 8, 64), 64, 1, 1.76, 2.06, None, 0.87),
)


def quantized(operator: Operator, generator: np.random.Generator) -> QuantizedOperator:
    """The int8 operator with ordinary scales: about 3 standard deviations of the output in its range."""
    source = Affine(0.05, int(generator.integers(-20, 20)))
    weight: np.ndarray = operator.weight  # type: ignore[attr-defined]
    deviation = float(np.sqrt(weight[0].size)) * 0.05 * 64
    return operator.quantize([source], Affine(6 * deviation / 255, int(generator.integers(-20, 20))))


def arguments(
    operator: QuantizedOperator, shape: Shape, output: Shape, generator: np.random.Generator
) -> KernelArguments:
    """The operator's kernel call on a random input."""
    call = operator.call([shape], output)
    return KernelArguments(
        call.kernel,
        {constant.name: constant.values for constant in call.constants},
        dict(call.fields),
        [generator.integers(-128, 128, shape, dtype=np.int8)],
        int(np.prod(output)),
        operator.scratch_bytes([shape], output) if call.takes_scratch else None,
        "lab_dense" if call.kernel == "lab_linear" else "",
    )


def row(name: str, operator: Operator, shape: Shape, references: dict[str, float], attainable: float | None) -> Row:
    """A row from a float operator."""
    generator = np.random.default_rng(1)
    lowered = quantized(operator, generator)
    output = operator.output_shape([shape])
    return Row(
        name, arguments(lowered, shape, output, generator), lowered.macs([shape], output), references, attainable
    )


def public(cmsis_nn: float, tinyengine: float, tinyengine_float: float | None) -> dict[str, float]:
    """The public figures of a row, those that exist."""
    figures = {"CMSIS-NN": cmsis_nn, "TinyEngine": tinyengine}
    return figures if tinyengine_float is None else {**figures, "TinyEngine fp": tinyengine_float}


def rows() -> list[Row]:
    """All rows."""
    generator = np.random.default_rng(2)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    found: list[Row] = []
    for shape, outputs, cmsis_nn, integer, floating, attainable in _POINTWISE:
        operator: Operator = Conv2d(normal(outputs, 1, 1, shape[2]), normal(outputs), Window((1, 1), (1, 1)))
        name = f"1x1 {'x'.join(map(str, shape))}->{outputs}"
        found.append(row(name, operator, shape, public(cmsis_nn, integer, floating), attainable))
    same = Window((3, 3), (1, 1), 1, 1, 1, 1)
    for shape, cmsis_nn, integer, floating, attainable in _DEPTHWISE:
        operator = DepthwiseConv2d(normal(shape[2], 3, 3), normal(shape[2]), same)
        name = f"depthwise 3x3 {'x'.join(map(str, shape))}"
        found.append(row(name, operator, shape, public(cmsis_nn, integer, floating), attainable))
    for shape, outputs, stride, cmsis_nn, integer, maybe_floating, maybe_attainable in _CONV:
        window = same if stride == 1 else Window((3, 3), (2, 2), 0, 1, 0, 1)
        operator = Conv2d(normal(outputs, 3, 3, shape[2]), normal(outputs), window)
        name = f"conv 3x3 stride {stride} {'x'.join(map(str, shape))}->{outputs}"
        found.append(row(name, operator, shape, public(cmsis_nn, integer, maybe_floating), maybe_attainable))
    operator = Linear(normal(128, 640), normal(128))
    found.append(row("fully connected 640->128", operator, (640,), public(1.95, 2.84, None), 1.22))
    return found
