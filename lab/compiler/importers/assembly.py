"""What the importers share: the graph under construction, limits, and int8 layers from a file's own numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.arithmetic import rescale, split_multiplier
from lab.compiler.graph import Float32Array, Graph, Node, Operator, Shape, Source
from lab.compiler.model import FloatArray
from lab.compiler.operators.conv2d import Conv2d, QuantizedConv2d
from lab.compiler.operators.depthwise_conv2d import MAXIMUM_TAPS, DepthwiseConv2d, QuantizedDepthwiseConv2d
from lab.compiler.operators.fully_connected import QuantizedFullyConnected, exact_multiplier
from lab.compiler.operators.general_conv2d import GeneralConv2d, Lattice, QuantizedGeneralConv2d
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import QuantizedLinear
from lab.compiler.operators.rescale import QuantizedRescale
from lab.compiler.operators.reshape import QuantizedReshape, Reshape
from lab.compiler.operators.weights import ACCUMULATOR_LIMIT, QuantizedWeights
from lab.compiler.passes import lower
from lab.compiler.quantize import quantize
from lab.compiler.quantized import Affine, QuantizedGraph, QuantizedNode, QuantizedOperator
from lab.errors import CompileError

MAXIMUM_OPERATORS = 512
MAXIMUM_TENSOR_BYTES = 16 << 20
MAXIMUM_CONSTANT_BYTES = 32 << 20
MAXIMUM_MACS = 1 << 34
INT32_LIMIT = 1 << 31


class Refusal(Exception):
    """Why one operator of a file cannot be imported; gathered into one CompileError for the whole file."""


@dataclass
class Assembly:
    """A graph under construction, in float and, for a quantised file, in int8 node for node.

    Attributes:
        quantized: whether int8 nodes are built.
        shapes: value name to shape, NHWC without batch.
        quantization: value name to its affine quantisation; empty for a float file.
        aliases: value name to the value it is (operators that do nothing).
    """

    quantized: bool
    shapes: dict[str, Shape] = field(default_factory=dict)
    quantization: dict[str, Affine] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    integer_nodes: list[QuantizedNode] = field(default_factory=list)

    def resolve(self, value: str) -> str:
        """The value behind aliases.

        Raises:
            Refusal: nothing computes it: the file's operators are not in order, or form a cycle.
        """
        value = self.aliases.get(value, value)
        if value not in self.shapes:
            raise Refusal(f"it reads '{value}', which nothing before it computes")
        return value

    def add(
        self,
        name: str,
        source: Source,
        operator: Operator,
        integer: QuantizedOperator | None,
        inputs: Sequence[str],
        output: str,
        affine: Affine | None,
    ) -> str:
        """Append a node.

        Raises:
            Refusal: the output has been written before, or does not fit the limits.
        """
        if output in self.shapes or output in self.aliases:
            raise Refusal(f"its output '{output}' is written twice")
        shape = operator.output_shape([self.shapes[value] for value in inputs])
        check_shape(shape)
        self.shapes[output] = shape
        self.nodes.append(Node(name, operator, tuple(inputs), output, source))
        if self.quantized:
            if integer is None or affine is None:
                raise Refusal("it has no int8 form")
            macs = integer.macs([self.shapes[value] for value in inputs], shape)
            if macs > MAXIMUM_MACS:
                raise Refusal(f"it takes {macs} multiply-accumulates; at most {MAXIMUM_MACS} are allowed")
            self.quantization[output] = affine
            self.integer_nodes.append(QuantizedNode(name, integer, tuple(inputs), output, source))
        return output

    def flatten(self, name: str, source: Source, value: str) -> str:
        """The value as ``(F,)``."""
        shape = self.shapes[value]
        if len(shape) == 1:
            return value
        flat = (math.prod(shape),)
        operator = Reshape(flat, memory_order=True)
        return self.add(
            f"{name}.flatten", source, operator, QuantizedReshape(flat), [value], f"{name}.flat", self.affine(value)
        )

    def affine(self, value: str) -> Affine | None:
        """Quantisation of a value; ``None`` in a float file."""
        return self.quantization.get(value)

    def finish(self, source: str, output: str, calibration: FloatArray | None, input: str) -> QuantizedGraph:
        """The int8 graph: the file's own, or the float graph after the usual passes and quantisation.

        Raises:
            CompileError: a float file without calibration data, or data of another shape.
        """
        graph = Graph(input, output, dict(self.shapes), tuple(self.nodes))
        if self.quantized:
            alive = needed_nodes(self.integer_nodes, output)
            nodes = tuple(node for node in self.integer_nodes if node.name in alive)
            graph = Graph(input, output, graph.shapes, tuple(node for node in self.nodes if node.name in alive))
            return QuantizedGraph(input, output, graph.shapes, self.quantization, nodes, graph)
        if calibration is None:
            raise CompileError(
                f"{source} computes in float32; the lab runs int8",
                hint="quantise the file to full int8 (int8 activations and weights), or give calibration inputs of "
                f"NHWC shape (n, {', '.join(map(str, graph.shapes[input]))}) and the lab does it: calibration= in "
                "Python, --variant calibration=FILE.npy on the command line",
            )
        return quantize(lower(graph), torch.from_numpy(np.ascontiguousarray(calibration, dtype=np.float32)))


def needed_nodes(nodes: Sequence[QuantizedNode], output: str) -> set[str]:
    """Names of the nodes that reach the output."""
    needed, names = {output}, set()
    for node in reversed(nodes):
        if node.output in needed:
            needed.update(node.inputs)
            names.add(node.name)
    return names


def check_shape(shape: Sequence[int]) -> None:
    """Refuse shapes no device holds, before anything of their size is made."""
    if not 1 <= len(shape) <= 3 or min(shape) < 1 or math.prod(shape) > MAXIMUM_TENSOR_BYTES:
        raise Refusal(
            f"shape {tuple(shape)} (without batch) is not supported: 1 to 3 dimensions of at least 1, together at most "
            f"{MAXIMUM_TENSOR_BYTES} elements"
        )


def check_affine(scale: float, zero_point: int) -> Affine:
    """A quantisation read from a file."""
    if not (0.0 < scale < math.inf) or not -128 <= zero_point <= 127:
        raise Refusal(f"quantisation with scale {scale!r} and zero point {zero_point} is not int8's")
    return Affine(scale, zero_point)


@dataclass(frozen=True)
class LayerNumbers:
    """A weighted layer in the numbers of a file.

    Attributes:
        weight: int8, (O, H, W, I / groups), for a linear layer (O, I).
        bias: int32 (O,), scale ``s_input · s_weight``, without zero points folded in.
        weight_scales: one per output channel.
        multipliers: real requantisation multiplier per output channel.
        input, output: quantisations.
        bounds: clamp of the output.
    """

    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    weight_scales: npt.NDArray[np.float64]
    multipliers: Sequence[float]
    input: Affine
    output: Affine
    bounds: tuple[int, int]

    def real_weight(self) -> Float32Array:
        """Dequantised weights."""
        column = self.weight_scales.reshape(-1, *([1] * (self.weight.ndim - 1)))
        return (self.weight * column).astype(np.float32)

    def real_bias(self) -> Float32Array:
        """Dequantised bias."""
        return (self.bias * self.weight_scales * self.input.scale).astype(np.float32)

    def split(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
        """Q31 multipliers and shifts."""
        try:
            pairs = [split_multiplier(real) for real in self.multipliers]
        except ValueError as error:
            raise Refusal(str(error)) from error
        return np.array([pair[0] for pair in pairs], np.int32), np.array([pair[1] for pair in pairs], np.int8)

    def reaches(self) -> npt.NDArray[np.int64]:
        """Largest magnitude that the sums of each output can take.

        Raises:
            Refusal: it does not fit int32.
        """
        sums = 255 * np.abs(self.weight.astype(np.int64)).reshape(len(self.weight), -1).sum(axis=1)
        reaches: npt.NDArray[np.int64] = sums + np.abs(self.bias.astype(np.int64))
        if int(reaches.max()) >= INT32_LIMIT:
            raise Refusal(f"sums can reach {int(reaches.max())} and overflow int32")
        return reaches

    def fast(self) -> QuantizedWeights | None:
        """For the fast kernels; ``None`` where a multiplier is one or more, or sums come near to int32's end."""
        multiplier, shift = self.split()
        weight, bias = self.weight.copy(), self.bias.copy()
        for channel in np.flatnonzero(self.reaches() >= ACCUMULATOR_LIMIT).tolist():
            # A dead channel of the float model: no weights, and a bias that the converter cut off at ±2^30.
            value = self.constant_value(channel)
            if value is None:
                return None
            weight[channel], bias[channel], multiplier[channel], shift[channel] = 0, value, INT32_LIMIT - 1, 0
        if int(shift.min()) < 0:
            return None
        return QuantizedWeights(weight, bias, multiplier, shift.astype(np.uint8), self.input, self.output, *self.bounds)

    def constant_value(self, channel: int) -> int | None:
        """What a channel yields before the zero point is added, if that is the same for all inputs."""
        multiplier, shift = self.split()
        swing = 255 * int(np.abs(self.weight[channel].astype(np.int64)).sum())
        ends = torch.tensor([int(self.bias[channel]) - swing, int(self.bias[channel]) + swing])
        scaled = rescale(ends, torch.tensor(int(multiplier[channel])), torch.tensor(int(shift[channel])))
        zero = self.output.zero_point
        low, high = ((scaled + zero).clamp(*self.bounds) - zero).tolist()
        return int(low) if low == high else None

    def general(self, lattice: Lattice) -> QuantizedGeneralConv2d:
        """For the kernel that takes everything."""
        self.reaches()
        multiplier, shift = self.split()
        weight = self.weight if self.weight.ndim == 4 else self.weight[:, None, None, :]
        return QuantizedGeneralConv2d(
            weight, self.bias, multiplier, shift, lattice, self.input, self.output, self.bounds
        )


def quantized_linear(numbers: LayerNumbers) -> QuantizedOperator:
    """The int8 operator of a fully connected layer that rounds twice, as convolutions do."""
    fast = numbers.fast()
    return numbers.general(Lattice(Window((1, 1), (1, 1)))) if fast is None else QuantizedLinear(fast)


def quantized_fully_connected(numbers: LayerNumbers) -> QuantizedOperator:
    """The int8 operator of a fully connected layer that rounds once, as LiteRT's does.

    Raises:
        Refusal: no 31-bit multiplier reproduces the float64 product.
    """
    zero = numbers.output.zero_point
    values = (numbers.bounds[0] - zero, numbers.bounds[1] - zero)
    reaches = numbers.reaches().tolist()
    try:
        if len(set(numbers.multipliers)) == 1:
            pairs = [exact_multiplier(numbers.multipliers[0], values, max(reaches))] * len(reaches)
        else:
            each = zip(numbers.multipliers, reaches, strict=True)
            pairs = [exact_multiplier(real, values, reach) for real, reach in each]
    except ValueError as error:
        raise Refusal(str(error)) from error
    multiplier = np.array([pair[0] for pair in pairs], np.int32)
    shift = np.array([pair[1] for pair in pairs], np.uint8)
    return QuantizedFullyConnected(
        numbers.weight, numbers.bias, multiplier, shift, numbers.input, numbers.output, numbers.bounds
    )


def quantized_rescale(source: Affine, target: Affine, real: float, bounds: tuple[int, int]) -> QuantizedRescale:
    """A change of quantisation.

    Raises:
        Refusal: the scales are too far apart.
    """
    try:
        split_multiplier(real)
    except ValueError as error:
        raise Refusal(str(error)) from error
    return QuantizedRescale(source, target, real, bounds)


def is_depthwise(weight_shape: Sequence[int], lattice: Lattice, channels: int) -> bool:
    """Whether the depthwise kernel takes it: one filter per channel, no dilation."""
    taps = weight_shape[1] * weight_shape[2]
    return (
        lattice.groups == channels == weight_shape[0]
        and lattice.dilation == (1, 1)
        and taps <= MAXIMUM_TAPS
        # With one channel both kernels would do; the dense one is faster.
        and channels > 1
    )


def quantized_conv2d(numbers: LayerNumbers, lattice: Lattice, channels: int) -> QuantizedOperator:
    """The int8 operator of a convolution over ``channels`` input channels."""
    fast = numbers.fast()
    if fast is not None and is_depthwise(numbers.weight.shape, lattice, channels):
        weight = np.ascontiguousarray(numbers.weight[..., 0])
        depthwise = QuantizedWeights(
            weight, fast.bias, fast.multiplier, fast.shift, fast.input, fast.output, fast.minimum, fast.maximum
        )
        return QuantizedDepthwiseConv2d(depthwise, lattice.window)
    if fast is not None and lattice.groups == 1 and lattice.dilation == (1, 1):
        return QuantizedConv2d(fast, lattice.window)
    return numbers.general(lattice)


def float_conv2d(
    weight: Float32Array, bias: Float32Array, lattice: Lattice, channels: int
) -> Conv2d | DepthwiseConv2d | GeneralConv2d:
    """The float operator of a convolution over ``channels`` input channels; weights (O, H, W, I / groups)."""
    if is_depthwise(weight.shape, lattice, channels):
        return DepthwiseConv2d(np.ascontiguousarray(weight[..., 0]), bias, lattice.window)
    if lattice.groups == 1 and lattice.dilation == (1, 1):
        return Conv2d(weight, bias, lattice.window)
    return GeneralConv2d(weight, bias, lattice)


def refuse_all(path: str, refusals: Mapping[str, str], supported: Sequence[str]) -> None:
    """Raise one error with everything that was refused, place by place; nothing where nothing was."""
    if not refusals:
        return
    lines = "\n".join(f"  {place}: {why}" for place, why in refusals.items())
    raise CompileError(
        f"{path} cannot be imported; {len(refusals)} operator{'s' if len(refusals) > 1 else ''} refused:\n{lines}",
        hint=f"supported operators: {', '.join(sorted(supported))}",
    )
