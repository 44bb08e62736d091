"""Convolutions of random geometry in the kernels' physical order, their float64 references and error bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from helpers.training_kernels import Field, Float
from hypothesis import strategies as st

Double = npt.NDArray[np.float64]
UNIT = 2.0**-24  # rounding unit of float32


@dataclass(frozen=True)
class Convolution:
    """Geometry; pairs are (height, width), padding is (before, after) per axis."""

    batch: int
    size: tuple[int, int]
    inputs: int
    outputs: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    depthwise: bool

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output; not positive where the kernel does not fit."""
        reach = [self.dilation[axis] * (self.kernel[axis] - 1) + 1 for axis in (0, 1)]
        sums = [self.size[axis] + sum(self.padding[axis]) - reach[axis] for axis in (0, 1)]
        return sums[0] // self.stride[0] + 1, sums[1] // self.stride[1] + 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """NHWC."""
        return (self.batch, *self.size, self.inputs)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """NHWC."""
        return (self.batch, *self.output_size, self.outputs)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(O, KH, KW, I / groups), depthwise (KH, KW, C)."""
        if self.depthwise:
            return (*self.kernel, self.inputs)
        return (self.outputs, *self.kernel, self.inputs // self.groups)

    @property
    def name(self) -> str:
        """Of the forward kernel, without its family."""
        return "depthwise_conv2d" if self.depthwise else "conv2d"

    def fields(self, minimum: float = -math.inf, maximum: float = math.inf) -> dict[str, Field]:
        """Of ``lab_f32_conv2d_t``."""
        pairs: Mapping[str, tuple[int, int]] = {
            "input": self.size,
            "output": self.output_size,
            "kernel": self.kernel,
            "stride": self.stride,
            "dilation": self.dilation,
        }
        fields: dict[str, Field] = {
            "batch": self.batch,
            "input_channels": self.inputs,
            "output_channels": self.outputs,
            "groups": self.groups,
            "pad_top": self.padding[0][0],
            "pad_left": self.padding[1][0],
            "minimum": minimum,
            "maximum": maximum,
        }
        for name, (height, width) in pairs.items():
            fields |= {f"{name}_height": height, f"{name}_width": width}
        return fields

    def nested(self, **more: Field) -> dict[str, Field]:
        """Of a descriptor with the geometry as its field ``layer``."""
        return {**{f"layer.{name}": value for name, value in self.fields().items()}, **more}

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """PyTorch's convolution of physical tensors."""
        filters = weight.permute(2, 0, 1)[:, None] if self.depthwise else weight.permute(0, 3, 1, 2)
        padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (*self.padding[1], *self.padding[0]))
        y = torch.nn.functional.conv2d(padded, filters, None, self.stride, 0, self.dilation, self.groups)
        return y.permute(0, 2, 3, 1)

    def references(self, x: Float | Double, weight: Float | Double, gradient: Float) -> tuple[Double, Double, Double]:
        """Output, input gradient and weight gradient in float64, by PyTorch's autograd."""
        inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        weights = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
        y = self.forward(inputs, weights)
        by_input, by_weight = torch.autograd.grad(y, (inputs, weights), torch.tensor(gradient, dtype=torch.float64))
        return y.detach().numpy(), by_input.numpy(), by_weight.numpy()

    def error_bounds(self, x: Float | Double, weight: Float | Double, gradient: Float) -> tuple[Double, Double, Double]:
        """What float32 sums in any order, contracted or not, can be off the three references.

        A sum of n products is off by at most n u / (1 - n u) times the sum of their magnitudes (Higham 2002, section
        3.1); three more operations are allowed for bias and the like.
        """
        magnitudes = self.references(np.abs(x), np.abs(weight), np.abs(gradient))
        taps = math.prod(self.kernel)
        inner, outer = (1, 1) if self.depthwise else (self.inputs // self.groups, self.outputs // self.groups)
        terms = (taps * inner, taps * outer, self.batch * math.prod(self.output_size))
        first, second, third = (
            1.01 * (count + 3) * UNIT * size for count, size in zip(terms, magnitudes, strict=True)
        )
        return first, second, third


def _pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw: st.DrawFn, depthwise: bool | None = None) -> Convolution:
    """Geometries with an output, pointwise ones among them."""
    alone = draw(st.booleans()) if depthwise is None else depthwise
    channels = draw(st.integers(1, 37)) if alone else 0
    groups = channels if alone else draw(st.integers(1, 3))
    inputs = channels if alone else groups * draw(st.integers(1, 9))
    outputs = channels if alone else groups * draw(st.integers(1, 9))
    pointwise = draw(st.sampled_from([False, False, True]))
    one = st.just((1, 1))
    none = st.just((0, 0))
    made = Convolution(
        draw(st.integers(1, 2)),
        draw(_pairs(1, 9)),
        inputs,
        outputs,
        groups,
        draw(one if pointwise else _pairs(1, 5)),
        draw(one if pointwise else _pairs(1, 3)),
        draw(one if pointwise else _pairs(1, 3)),
        (draw(none if pointwise else _pairs(0, 4)), draw(none if pointwise else _pairs(0, 4))),
        alone,
    )
    size = [
        max(made.size[axis], made.dilation[axis] * (made.kernel[axis] - 1) + 1 - sum(made.padding[axis]))
        for axis in (0, 1)
    ]
    return Convolution(**{**made.__dict__, "size": (size[0], size[1])})


def normal(generator: np.random.Generator, *shape: int) -> Float:
    """Standard normal float32."""
    return generator.standard_normal(shape).astype(np.float32)


def check_within(found: Float, expected: Double, bound: Double) -> None:
    """Every element is within its bound."""
    excess = np.abs(found - expected) - bound
    assert (excess <= 0).all(), f"off by up to {excess.max()} more than float32 allows"


def padded(layer: Convolution, x: Float) -> Float:
    """The input with its padding, and more zeros behind for windows that reach further."""
    (top, bottom), (left, right) = layer.padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def window(layer: Convolution, x: Float, tap: tuple[int, int]) -> Float:
    """What a tap meets at every output pixel, of the padded input."""
    height, width = layer.output_size
    y, at = (tap[axis] * layer.dilation[axis] for axis in (0, 1))
    return x[:, y :: layer.stride[0], at :: layer.stride[1]][:, :height, :width]


def weight_gradient_in_order(layer: Convolution, x: Float, gradient: Float) -> Float:
    """The float32 weight gradient: sums over batch, output rows, output columns, one product at a time."""
    shifted = padded(layer, x)
    share, own = layer.inputs // layer.groups, layer.outputs // layer.groups
    total = np.zeros(layer.weight_shape, np.float32)
    for tap in product(range(layer.kernel[0]), range(layer.kernel[1])):
        values = window(layer, shifted, tap)
        for at in np.ndindex(*layer.output_shape[:3]):
            if layer.depthwise:
                total[tap] = total[tap] + values[at] * gradient[at]
                continue
            groups = values[at].reshape(layer.groups, share)
            rows = gradient[at][:, None] * np.repeat(groups, own, axis=0)
            total[:, tap[0], tap[1]] = total[:, tap[0], tap[1]] + rows
    return total


@st.composite
def slices(draw: st.DrawFn, layer: Convolution) -> tuple[int, int, int, int]:
    """First input channel, their number, first output channel, their number; everything with groups."""
    if layer.groups > 1 and not layer.depthwise:
        return 0, layer.inputs, 0, layer.outputs
    first = draw(st.integers(0, layer.inputs - 1))
    count = draw(st.integers(1, layer.inputs - first))
    if layer.depthwise:
        return first, count, 0, 0
    first_output = draw(st.integers(0, layer.outputs - 1))
    return first, count, first_output, draw(st.integers(1, layer.outputs - first_output))
