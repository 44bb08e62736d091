"""Training: gradients and updates on the reference's shapes, and linear layers at batch 1; fp32, and int8 weights.

The public kernels have int8 weights and fp32 gradients; their updates neither round stochastically nor have a bias to
keep. The bounds of our int8 updates allow for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import numpy as np
import numpy.typing as npt

from kernel_rows import Row
from lab.compiler.operators.weights import pack_weights
from lab.emulators.kernel_calls import KernelArguments, Number

BOARD = "m4f"
KERNELS = (
    "lab_f32_matmul",
    "lab_f32_matmul_sgd",
    "lab_f32_conv2d",
    "lab_f32_conv2d_input_gradient",
    "lab_f32_conv2d_weight_gradient",
    "lab_f32_conv2d_weight_sgd",
    "lab_f32_depthwise_conv2d",
    "lab_f32_depthwise_conv2d_input_gradient",
    "lab_f32_depthwise_conv2d_weight_sgd",
    "lab_q_conv2d_input_gradient",
    "lab_q_conv2d_weight_sgd",
    "lab_q_depthwise_conv2d_input_gradient",
    "lab_q_depthwise_conv2d_weight_sgd",
)
QUANTIZED: Mapping[str, Number] = {"input_scale": 0.05, "input_zero_point": 3, "bias_offset": 131}
BOUND = 2.5  # instructions per multiply-accumulate of any fp32 backward kernel
UPDATE = 34.0  # more instructions per int8 weight, to round it stochastically and to keep what is folded into the bias
STATE = np.array([np.float32(0.01).view(np.uint32), 1, 1], dtype=np.uint32)
Array = npt.NDArray[np.generic]


class Random:
    """Tensors of a fixed seed."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(3)

    def floats(self, *shape: int) -> npt.NDArray[np.float32]:
        """Standard normal."""
        return self._generator.standard_normal(shape).astype(np.float32)

    def bytes(self, *shape: int) -> npt.NDArray[np.int8]:
        """All of int8 but its least number."""
        return self._generator.integers(-127, 128, shape, dtype=np.int8)


RANDOM = Random()


def convolution(size: int, inputs: int, outputs: int, kernel: int, groups: int = 1) -> dict[str, Number]:
    """Geometry of a square convolution that keeps the size."""
    pairs = {
        "kernel": kernel,
        "stride": 1,
        "dilation": 1,
    }
    made: dict[str, Number] = {"batch": 1, "groups": groups, "minimum": -math.inf, "maximum": math.inf}
    made |= {"pad_top": kernel // 2, "pad_left": kernel // 2, "input_channels": inputs, "output_channels": outputs}
    for (name, value), side in product(pairs.items(), ("height", "width")):
        made[f"{name}_{side}"] = value
    made |= {f"{end}_{side}": size for end, side in product(("input", "output"), ("height", "width"))}
    return made


def nested(layer: Mapping[str, Number], **more: Number) -> dict[str, Number]:
    """A descriptor that has the geometry as its field ``layer``."""
    return {**{f"layer.{name}": value for name, value in layer.items()}, **more}


def call(kernel: str, fields: Mapping[str, Number], inputs: list[Array | None], output: Array, *, state: bool = False,
         **arrays: Array) -> KernelArguments:  # fmt: skip
    """A kernel call; with ``state``, the output is updated."""
    before, size = (STATE, STATE.nbytes) if state else (None, None)
    return KernelArguments(
        kernel, arrays, fields, inputs, output.nbytes, size, output_before=output, scratch_before=before
    )


def pointwise_rows() -> list[Row]:
    """Pointwise convolutions; the public kernels have int8 weights, ours are measured with both."""
    rows: list[Row] = []
    layer = convolution(8, 48, 96, 1)
    gradient, size = RANDOM.floats(64, 96), RANDOM.floats(64, 48)
    scale = np.full(96, 0.02, dtype=np.float32)
    public = {"TinyEngine": 5.17, "bound": BOUND}
    macs = 64 * 96 * 48
    name = "1x1 input gradient 8x8x96->48"
    rows.append(Row(name, call(
        "lab_f32_conv2d_input_gradient", layer, [gradient, RANDOM.floats(96, 48)], size), macs, public))  # fmt: skip
    rows.append(Row(f"{name}, int8 weights", call(
        "lab_q_conv2d_input_gradient", nested(layer), [gradient, pack_weights(RANDOM.bytes(96, 48))], size,
        weight_scale=scale), macs, public))  # fmt: skip
    for side, inputs, figure in ((8, 48, 3.92), (4, 96, 4.53)):
        layer, pixels = convolution(side, inputs, 96, 1), side * side
        whole: dict[str, Number] = {"first_channel": 0, "channel_count": inputs, "first_output": 0}
        whole |= {"output_count": 96, "rate_scale": 1.0}
        gradient, public, macs = RANDOM.floats(pixels, 96), {"TinyEngine": figure, "bound": BOUND}, pixels * inputs * 96
        name = f"1x1 weight gradient + update {side}x{side}x{inputs}->96"
        rows.append(Row(name, call(
            "lab_f32_conv2d_weight_sgd", nested(layer, weight_decay=0.0, **whole),
            [RANDOM.floats(pixels, inputs), gradient], RANDOM.floats(96, inputs), state=True), macs,
            public))  # fmt: skip
        rows.append(Row(f"{name}, int8 input and weights", call(
            "lab_q_conv2d_weight_sgd", nested(layer, **QUANTIZED, **whole),
            [RANDOM.bytes(pixels, inputs), gradient, pack_weights(RANDOM.bytes(96, inputs))], np.zeros(96, np.int32),
            state=True, weight_scale=scale), macs,
            {"TinyEngine": figure, "bound": BOUND + UPDATE / pixels}))  # fmt: skip
    return rows


def depthwise_rows() -> list[Row]:
    """Depthwise 3×3 convolutions, 8×8×48; multiply-accumulates with those in the padding."""
    layer, macs, bound = convolution(8, 48, 48, 3, 48), 64 * 48 * 9, {"bound": BOUND}
    public = {"TinyEngine": 4.09, **bound}
    maps, weights, scale = RANDOM.floats(64, 48), RANDOM.floats(9, 48), np.full(48, 0.02, dtype=np.float32)
    whole: dict[str, Number] = {"first_channel": 0, "channel_count": 48, "rate_scale": 1.0}
    return [
        Row("depthwise 3x3 8x8x48 forward", call(
            "lab_f32_depthwise_conv2d", layer, [maps, weights, None], maps), macs, bound),
        Row("depthwise 3x3 8x8x48 input gradient", call(
            "lab_f32_depthwise_conv2d_input_gradient", layer, [maps, weights], maps), macs, public),
        Row("depthwise 3x3 8x8x48 input gradient, int8 weights", call(
            "lab_q_depthwise_conv2d_input_gradient", nested(layer), [maps, RANDOM.bytes(9, 48)], maps,
            weight_scale=scale), macs, public),
        Row("depthwise 3x3 8x8x48 weight gradient + update", call(
            "lab_f32_depthwise_conv2d_weight_sgd", nested(layer, weight_decay=0.0, **whole), [maps, maps], weights,
            state=True), macs, bound),
        Row("depthwise 3x3 8x8x48 weight gradient + update, int8", call(
            "lab_q_depthwise_conv2d_weight_sgd", nested(layer, **QUANTIZED, **whole),
            [RANDOM.bytes(64, 48), maps, RANDOM.bytes(9, 48)], np.zeros(48, np.int32), state=True, weight_scale=scale),
            macs, {"bound": BOUND + UPDATE / 64}),
    ]  # fmt: skip


def convolution_rows() -> list[Row]:
    """Full 3×3 convolutions; multiply-accumulates with those in the padding."""
    rows: list[Row] = []
    for size, inputs, outputs in ((8, 16, 32), (8, 64, 64)):
        layer, macs, bound = convolution(size, inputs, outputs, 3), size**2 * inputs * outputs * 9, {"bound": BOUND}
        name = f"conv 3x3 {size}x{size}x{inputs}->{outputs}"
        maps, gradient = RANDOM.floats(size**2, inputs), RANDOM.floats(size**2, outputs)
        weights = RANDOM.floats(outputs, 9 * inputs)
        rows += [
            Row(f"{name} forward", call("lab_f32_conv2d", layer, [maps, weights, None], gradient), macs, bound),
            Row(f"{name} input gradient", call(
                "lab_f32_conv2d_input_gradient", layer, [gradient, weights], maps), macs, bound),
            Row(f"{name} weight gradient", call(
                "lab_f32_conv2d_weight_gradient", layer, [maps, gradient], weights), macs, bound),
        ]  # fmt: skip
    return rows


def linear(inputs: int, outputs: int, what: str) -> Row:
    """A linear layer at batch 1: forward, its input gradient, or its weights' update."""
    fields: dict[str, Number] = {"transpose_a": 0, "minimum": -math.inf, "maximum": math.inf, "batch": 1, "rows": 1}
    weights, before, after = RANDOM.floats(outputs, inputs), RANDOM.floats(inputs), RANDOM.floats(outputs)
    if what == "forward":
        fields |= {"columns": outputs, "depth": inputs, "transpose_b": 1}
        made = call("lab_f32_matmul", fields, [before, weights, after], after)
    elif what == "input gradient":
        fields |= {"columns": inputs, "depth": outputs, "transpose_b": 0}
        made = call("lab_f32_matmul", fields, [after, weights, None], before)
    else:
        updated: dict[str, Number] = {"rows": outputs, "columns": inputs, "depth": 1, "transpose_a": 1,
                                      "transpose_b": 0, "weight_decay": 0.0, "rate_scale": 1.0}  # fmt: skip
        made = call("lab_f32_matmul_sgd", updated, [after, before], weights, state=True)
    references = {"TinyEngine": 23.0, "bound": BOUND} if (inputs, what) == (160, "update") else {"bound": BOUND}
    return Row(f"linear {inputs}->{outputs} {what}", made, inputs * outputs, references)


def product_rows() -> list[Row]:
    """Matrix products and linear layers."""
    fields: dict[str, Number] = {"batch": 1, "rows": 64, "columns": 96, "depth": 48, "transpose_a": 0, "transpose_b": 0,
                                 "minimum": -math.inf, "maximum": math.inf}  # fmt: skip
    rows = [Row("matrix product 64x48x96", call(
        "lab_f32_matmul", fields, [RANDOM.floats(64, 48), RANDOM.floats(48, 96), None], RANDOM.floats(64, 96)),
        64 * 96 * 48, {"naive C": 6.17}, 1.33)]  # fmt: skip
    rows.append(linear(160, 10, "update"))
    for inputs, outputs in ((64, 32), (640, 128)):
        rows += [linear(inputs, outputs, "forward"), linear(inputs, outputs, "update")]
    return rows


def rows() -> list[Row]:
    """All rows."""
    return [*pointwise_rows(), *depthwise_rows(), *convolution_rows(), *product_rows()]
