"""``.onnx`` to the int8 graph: QDQ int8 with the file's quantisation, float32 by quantisation after training.

In QDQ form a layer computes in real numbers between DequantizeLinear and QuantizeLinear; the lab computes the same sums
in integers. Linear layers round once; convolutions and sums round twice, as TFLite's do, so a result may lie one step
beside the nearest one where it is almost as near. Activations are NCHW in the file and NHWC here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lab.compiler.graph import Clamp, Float32Array, Operator, Shape, Source
from lab.compiler.importers.assembly import (
    MAXIMUM_OPERATORS,
    Assembly,
    LayerNumbers,
    Refusal,
    check_affine,
    check_shape,
    float_conv2d,
    quantized_conv2d,
    quantized_fully_connected,
    quantized_linear,
    quantized_rescale,
    refuse_all,
)
from lab.compiler.importers.onnx_file import Array, GraphData, NodeData, read_graph
from lab.compiler.model import FloatArray
from lab.compiler.operators.add import Add
from lab.compiler.operators.avg_pool2d import AvgPool2d, QuantizedAvgPool2d
from lab.compiler.operators.batch_norm import BatchNorm
from lab.compiler.operators.clamp import Activation, QuantizedActivation
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.general_conv2d import GeneralConv2d, Lattice
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import Linear
from lab.compiler.operators.max_pool2d import MaxPool2d, QuantizedMaxPool2d
from lab.compiler.operators.pad import Pad, QuantizedPad
from lab.compiler.operators.reshape import Permutation, QuantizedReshape, Reshape
from lab.compiler.operators.softmax import OUTPUT, QuantizedSoftmax, Softmax
from lab.compiler.quantized import Affine, QuantizedGraph, QuantizedOperator
from lab.errors import CompileError

NO_CLAMP = Clamp(-math.inf, math.inf)
INT32_LIMIT = 1 << 31


def import_onnx(data: bytes, path: str, calibration: FloatArray | None) -> QuantizedGraph:
    """Import a file; see :func:`lab.compiler.importers.import_model`."""
    graph = read_graph(data, path)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise CompileError(f"{path} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; one each is read")
    work = start(graph, path)
    refusals: dict[str, str] = {}
    for node in graph.nodes:
        reader = READERS.get(node.code)
        try:
            if reader is None:
                raise Refusal("not supported")
            if not node.inputs or not node.outputs:
                raise Refusal("it has no input or no output")
            work.claim(node.outputs[0])
            reader(Step(work, node))
        except (Refusal, CompileError) as error:
            # What reads the result of a node refused before it is not at fault.
            if not work.refused.intersection(node.inputs) or reader is None:
                refusals[place(node)] = str(error)
            work.refused.update(filter(None, node.outputs))
    refuse_all(path, refusals, list(READERS))
    return finish(work, path, calibration)


@dataclass(frozen=True)
class Weights:
    """A constant behind DequantizeLinear: integers, scales (one or one per index of ``axis``)."""

    values: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float64]
    axis: int

    def real(self) -> npt.NDArray[np.float64]:
        """Dequantised."""
        column = [1] * self.values.ndim
        if len(self.scales) > 1:
            column[self.axis] = -1
        return self.values * self.scales.reshape(column)


@dataclass(frozen=True)
class Pending:
    """A real-valued result that waits for the QuantizeLinear behind it.

    Attributes:
        name, source, inputs: of the node to come.
        operator: its float form.
        integer: its int8 form for an output quantisation and a clamp.
        affine: the output quantisation where the operator prescribes it.
        clamp: activation merged so far.
        order: see :attr:`Work.orders`.
    """

    name: str
    source: Source
    inputs: tuple[str, ...]
    operator: Operator
    integer: Callable[[Affine, Clamp], QuantizedOperator]
    affine: Affine | None = None
    clamp: Clamp = NO_CLAMP
    order: Permutation | None = None

    def float_operator(self) -> Operator:
        """The float form with the clamp."""
        if self.clamp == NO_CLAMP or not isinstance(self.operator, CLAMPING):
            return self.operator
        return replace(self.operator, activation=self.clamp)


CLAMPING = (Conv2d, DepthwiseConv2d, GeneralConv2d, Linear, Add)


@dataclass
class Work:
    """An import under way.

    Attributes:
        graph: the file.
        assembly: the graph so far.
        input: name of the input value.
        constants: weights behind DequantizeLinear, by value name.
        pending: real-valued results, by value name.
        orders: flattened values whose memory keeps NHWC order: file index i is memory index ``order[i]``.
        refused: values of refused nodes.
        written: names taken by the input, by constants and by results.
    """

    graph: GraphData
    assembly: Assembly
    input: str
    constants: dict[str, Weights] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    orders: dict[str, Permutation] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def claim(self, output: str) -> None:
        """Refuse a result of a name that is taken: ONNX writes every value once."""
        if output in self.written:
            raise Refusal(f"its output '{output}' is written twice")
        self.written.add(output)

    def emit(self, pending: Pending, output: str, affine: Affine | None) -> str:
        """Append a waiting node; ``affine`` is ``None`` in a float file."""
        if len(self.assembly.nodes) >= MAXIMUM_OPERATORS:
            raise Refusal(f"more than {MAXIMUM_OPERATORS} layers")
        if any(node.name == pending.name for node in self.assembly.nodes):
            raise Refusal(f"the result of {pending.source} is used in two forms; quantise it once")
        integer = None if affine is None else pending.integer(affine, pending.clamp)
        operator, inputs = pending.float_operator(), pending.inputs
        made = self.assembly.add(pending.name, pending.source, operator, integer, inputs, output, affine)
        if pending.order is not None:
            self.orders[made] = pending.order
        return made


def start(graph: GraphData, path: str) -> Work:
    """The graph with its input, quantised where the file holds any QuantizeLinear."""
    name, shape = next(iter(graph.inputs.items()))
    quantized = any(node.code == "QuantizeLinear" for node in graph.nodes)
    assembly = Assembly(quantized)
    if len(shape) not in (2, 4) or shape[0] not in (0, 1):
        raise CompileError(f"{path}: input '{name}' has shape {shape}; (1, C, H, W) or (1, features) is read")
    ours = shape[1:] if len(shape) == 2 else (shape[2], shape[3], shape[1])
    try:
        check_shape(ours)
    except Refusal as error:
        raise CompileError(f"{path}: input '{name}': {error}") from error
    assembly.shapes[name] = ours
    return Work(graph, assembly, name, written={name, *graph.constants})


def finish(work: Work, path: str, calibration: FloatArray | None) -> QuantizedGraph:
    """The int8 graph."""
    name = work.graph.outputs[0]
    if name in work.pending:
        raise CompileError(
            f"{path}: the output '{name}' is computed in float32; the lab runs int8",
            hint="quantise the output as well: QuantizeLinear and DequantizeLinear behind the last layer",
        )
    if work.assembly.quantized and work.input not in work.assembly.quantization:
        raise CompileError(f"{path}: the input '{work.input}' is not quantised", hint="put QuantizeLinear behind it")
    try:
        output = work.assembly.resolve(name)
    except Refusal as error:
        raise CompileError(f"{path}: the output '{name}' is not computed") from error
    if output in work.orders:
        raise CompileError(
            f"{path}: the output '{name}' is a flattened image", hint="end with a linear layer, or pool first"
        )
    return work.assembly.finish(path, output, calibration, work.input)


def place(node: NodeData) -> str:
    """Where a node stands, for messages."""
    return f"node {node.index}, {node.code} '{node.name}', output {', '.join(map(repr, node.outputs)) or 'none'}"


@dataclass(frozen=True)
class Step:
    """One node under import."""

    work: Work
    node: NodeData

    @property
    def quantized(self) -> bool:
        """Whether int8 nodes are built."""
        return self.work.assembly.quantized

    @property
    def source(self) -> Source:
        """Its place in the file."""
        return Source(place(self.node))

    @property
    def output(self) -> str:
        """Name of its first result."""
        return self.node.outputs[0]

    def name(self, kind: str) -> str:
        """Name of its layer."""
        return f"{kind}_{self.node.index}"

    def has(self, index: int) -> bool:
        """Whether an input is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] != ""

    def value(self, index: int = 0) -> str:
        """Name of the activation at an input; in a quantised file it must be int8 by now."""
        if not self.has(index):
            raise Refusal(f"input {index} is missing")
        name = self.node.inputs[index]
        if name in self.work.graph.constants or name in self.work.constants:
            raise Refusal(f"input {index} ('{name}') is a constant; an activation is needed")
        if name in self.work.pending:
            raise Refusal(f"it reads '{name}', which is float32 in a quantised file: QuantizeLinear is missing")
        value = self.work.assembly.resolve(name)
        if self.quantized and value not in self.work.assembly.quantization:
            raise Refusal(f"it reads '{name}', which is float32 in a quantised file: QuantizeLinear is missing")
        return value

    def ordered(self, index: int = 0) -> str:
        """Like :meth:`value`; refuses a flattened image, whose elements lie in another order in memory."""
        value = self.value(index)
        if value in self.work.orders:
            raise Refusal("it reads a flattened image; only linear layers and activations may")
        return value

    def shape(self, index: int = 0) -> Shape:
        """NHWC shape of the activation at an input."""
        return self.work.assembly.shapes[self.value(index)]

    def image(self, index: int = 0) -> Shape:
        """The same, which must be (H, W, C)."""
        shape = self.shape(index)
        if len(shape) != 3:
            raise Refusal(f"its input has shape {shape} (NHWC without batch); an image is needed")
        return shape

    def affine(self, index: int = 0) -> Affine:
        """Quantisation of the activation at an input."""
        return self.work.assembly.quantization[self.value(index)]

    def plain(self, index: int) -> Array:
        """A constant as it is in the file."""
        name = self.node.inputs[index] if self.has(index) else ""
        if name not in self.work.graph.constants:
            raise Refusal(f"input {index} ('{name}') must be a constant of the file")
        found = self.work.graph.constants[name]
        if found.dtype.kind not in "fiu":
            raise Refusal(f"input {index} ('{name}') is of type {found.dtype}; numbers are read")
        return found

    def integers(self, index: int) -> list[int]:
        """A constant list of integers; one longer than any that is supported is cut off."""
        found = self.plain(index).reshape(-1)[:9]
        if found.dtype.kind not in "iu":
            raise Refusal(f"input {index} is of type {found.dtype}; integers are needed")
        return [int(value) for value in found.tolist()]

    def real(self, index: int) -> npt.NDArray[np.float64]:
        """A constant as real numbers, plain or behind DequantizeLinear."""
        name = self.node.inputs[index] if self.has(index) else ""
        array = self.work.constants[name].real() if name in self.work.constants else self.plain(index)
        if not np.isfinite(array.astype(np.float64)).all() or array.size == 0:
            raise Refusal(f"input {index} ('{name}') of shape {array.shape} is empty or holds NaN or infinite values")
        return array.astype(np.float64)

    def weights(self, index: int) -> Weights:
        """An int8 constant behind DequantizeLinear."""
        name = self.node.inputs[index] if self.has(index) else ""
        if name not in self.work.constants:
            raise Refusal(f"weights '{name}' must be int8 constants behind DequantizeLinear")
        found = self.work.constants[name]
        if not found.values.size or found.values.min() < -128 or found.values.max() > 127:
            raise Refusal(f"weights '{name}' are empty or no int8")
        return found

    def done(
        self,
        kind: str,
        operator: Operator,
        integer: Callable[[Affine, Clamp], QuantizedOperator],
        inputs: Sequence[str],
        *,
        affine: Affine | None = None,
        order: Permutation | None = None,
    ) -> None:
        """The node's result: at once where its quantisation is known or none is needed, else when it is quantised."""
        pending = Pending(self.name(kind), self.source, tuple(inputs), operator, integer, affine, NO_CLAMP, order)
        if not self.quantized:
            self.work.emit(pending, self.output, None)
        elif affine is not None:
            self.work.emit(pending, self.output, affine)
        else:
            self.work.pending[self.output] = pending


def affine_of(step: Step) -> tuple[float, int, bool]:
    """Scale, zero point and whether it is uint8, of a per-tensor QuantizeLinear or DequantizeLinear."""
    scale = step.plain(1)
    zero = step.plain(2) if step.has(2) else np.zeros(1, np.uint8)
    if scale.size != 1 or zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
        raise Refusal(f"activations need one scale and one int8 or uint8 zero point; found {scale.size}, {zero.dtype}")
    return float(scale.reshape(-1)[0].astype(np.float32)), int(zero.reshape(-1)[0]), zero.dtype == np.uint8


def int8_affine(step: Step) -> Affine:
    """The same as int8: uint8 values are taken 128 lower."""
    scale, zero, unsigned = affine_of(step)
    return check_affine(scale, zero - 128 if unsigned else zero)


def read_quantize_linear(step: Step) -> None:
    """QuantizeLinear of the input, of a waiting result, or of what has another quantisation already."""
    affine, name, work = int8_affine(step), step.node.inputs[0], step.work
    if name == work.input and work.input not in work.assembly.quantization:
        work.assembly.quantization[name] = affine
        work.assembly.aliases[step.output] = name
        return
    if name == work.input:
        if work.assembly.quantization[name] != affine:
            raise Refusal("the model's input is quantised in two ways; one is supported")
        work.assembly.aliases[step.output] = name
        return
    if name in work.pending:
        work.emit(work.pending[name], step.output, affine)
        return
    value = step.value()
    source = step.affine()
    if source == affine:
        work.assembly.aliases[step.output] = value
        return

    def integer(target: Affine, clamp: Clamp) -> QuantizedOperator:
        return quantized_rescale(source, target, source.scale / target.scale, target.bounds(clamp))

    step.done("rescale", Activation(NO_CLAMP), integer, [value], affine=affine, order=work.orders.get(value))


def read_dequantize_linear(step: Step) -> None:
    """DequantizeLinear of a constant, or of an activation, which stays what it is."""
    name = step.node.inputs[0]
    if name not in step.work.graph.constants:
        if name == step.work.input and name not in step.work.assembly.quantization:
            step.work.assembly.quantization[name] = int8_affine(step)
        if int8_affine(step) != step.affine():
            raise Refusal("its scale and zero point are not those of the QuantizeLinear before it")
        step.work.assembly.aliases[step.output] = step.value()
        return
    values, scales = step.plain(0), step.plain(1).astype(np.float64).reshape(-1)
    zeros = step.plain(2).astype(np.int64).reshape(-1) if step.has(2) else np.zeros(1, np.int64)
    if values.dtype not in (np.int8, np.uint8, np.int32):
        raise Refusal(f"a constant of {values.dtype}; int8, uint8 and int32 are read")
    axis = step.node.integer("axis", 1)
    axis = axis + values.ndim if axis < 0 else axis
    offset = 128 if values.dtype == np.uint8 else 0
    if (zeros != offset).any() or not ((scales > 0) & np.isfinite(scales)).all():
        raise Refusal("constants need positive scales and zero points of 0 (uint8: 128)")
    if len(scales) != 1 and (not 0 <= axis < values.ndim or values.shape[axis] != len(scales)):
        raise Refusal(f"{len(scales)} scales along axis {axis} of shape {values.shape}")
    step.work.constants[step.output] = Weights(values.astype(np.int64) - offset, scales, axis)


def window_of(step: Step, kernel: tuple[int, int], dilation: tuple[int, int]) -> Window:
    """Stride and padding of the attributes."""
    strides = step.node.integers("strides", (1, 1))
    pads = step.node.integers("pads", (0, 0, 0, 0))
    mode = step.node.text("auto_pad", "NOTSET")
    numbers = (*strides, *kernel, *dilation)
    if len(strides) != 2 or len(pads) != 4 or min(numbers) < 1 or max(*numbers, *pads) > 1 << 15 or min(pads) < 0:
        raise Refusal(f"kernel {kernel}, strides {strides}, pads {pads} and dilation {dilation} are not supported")
    if step.node.integer("ceil_mode", 0):
        raise Refusal("ceil_mode is not supported")
    top, left, bottom, right = pads if mode == "NOTSET" else (0, 0, 0, 0)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        more = []
        for axis, size in enumerate(step.image()[:2]):
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            more.append(max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0))
        odd = 0 if mode == "SAME_UPPER" else 1
        top, left = ((total + odd) // 2 for total in more)
        bottom, right = more[0] - top, more[1] - left
    elif mode not in ("NOTSET", "VALID"):
        raise Refusal(f"auto_pad {mode} is not supported")
    return Window(kernel, (strides[0], strides[1]), top, bottom, left, right)


def read_conv(step: Step) -> None:
    """Conv: weights (O, I / groups, H, W), bias optional."""
    value, channels = step.ordered(), step.image()[2]
    real = step.real(1)
    groups = step.node.integer("group", 1)
    if real.ndim != 4 or groups < 1 or real.shape[1] * groups != channels or real.shape[0] % groups:
        raise Refusal(f"weights of shape {real.shape} with {groups} groups do not fit {channels} input channels")
    outputs = real.shape[0]
    dilations = step.node.integers("dilations", (1, 1))
    if len(dilations) != 2:
        raise Refusal(f"dilations {dilations} are not supported")
    dilation = (dilations[0], dilations[1])
    lattice = Lattice(window_of(step, (real.shape[2], real.shape[3]), dilation), dilation, groups)
    bias = step.real(2).reshape(-1) if step.has(2) else np.zeros(outputs)
    if bias.shape != (outputs,):
        raise Refusal(f"its bias has {bias.size} values for {outputs} outputs")
    weight: Float32Array = np.ascontiguousarray(real.transpose(0, 2, 3, 1).astype(np.float32))
    operator = float_conv2d(weight, bias.astype(np.float32), lattice, channels)
    if min(operator.output_shape([step.image()])) < 1:
        raise Refusal(f"its window is larger than its input {step.image()}")

    def integer(target: Affine, clamp: Clamp) -> QuantizedOperator:
        found = step.weights(1)
        values = np.ascontiguousarray(found.values.transpose(0, 2, 3, 1).astype(np.int8))
        return quantized_conv2d(numbers_of(step, found, values, 0, bias, target, clamp), lattice, channels)

    step.done("conv2d", operator, integer, [value])


def numbers_of(
    step: Step,
    found: Weights,
    values: npt.NDArray[np.int8],
    axis: int,
    bias: npt.NDArray[np.float64],
    target: Affine,
    clamp: Clamp,
) -> LayerNumbers:
    """A weighted layer's numbers; ``axis`` of the file's weights holds the output channels."""
    outputs = len(values)
    if len(found.scales) > 1 and (found.axis != axis or len(found.scales) != outputs):
        raise Refusal(f"scales along axis {found.axis} of the weights; one per output channel (axis {axis}) is read")
    source = step.affine()
    scales = np.broadcast_to(found.scales, outputs).copy()
    rounded = np.rint(bias / (scales * source.scale))
    if np.abs(rounded).max() >= INT32_LIMIT:
        raise Refusal("its bias does not fit int32")
    return LayerNumbers(
        weight=values,
        bias=rounded.astype(np.int32),
        weight_scales=scales,
        multipliers=[source.scale * float(scale) / target.scale for scale in scales],
        input=source,
        output=target,
        bounds=target.bounds(clamp),
    )


def linear(step: Step, transposed: bool, bias: npt.NDArray[np.float64] | None, kind: str = "linear") -> None:
    """A linear layer; ``transposed``: weights (O, I) instead of (I, O)."""
    value = step.value()
    shape = step.work.assembly.shapes[value]
    real = step.real(1)
    real = real if transposed else real.T
    if real.ndim != 2 or shape != (real.shape[1],):
        raise Refusal(f"weights of shape {step.real(1).shape} do not fit an input of shape {shape} (without batch)")
    order = step.work.orders.get(value)
    columns = np.arange(real.shape[1]) if order is None else np.argsort(order)
    offset = np.zeros(real.shape[0]) if bias is None else np.broadcast_to(bias.reshape(-1), real.shape[0])
    weight: Float32Array = np.ascontiguousarray(real[:, columns].astype(np.float32))

    def integer(target: Affine, clamp: Clamp) -> QuantizedOperator:
        found = step.weights(1)
        values = found.values if transposed else found.values.T
        ours = np.ascontiguousarray(values[:, columns].astype(np.int8))
        numbers = numbers_of(step, found, ours, 0 if transposed else 1, offset, target, clamp)
        try:
            return quantized_fully_connected(numbers)
        except Refusal:
            return quantized_linear(numbers)

    step.done(kind, Linear(weight, offset.astype(np.float32)), integer, [value])


def read_gemm(step: Step) -> None:
    """Gemm with alpha and beta of 1."""
    if step.node.number("alpha", 1.0) != 1.0 or step.node.number("beta", 1.0) != 1.0 or step.node.integer("transA", 0):
        raise Refusal("alpha, beta or transA other than the default are not supported")
    bias = step.real(2) if step.has(2) else None
    outputs = step.real(1).shape[0 if step.node.integer("transB", 0) else -1]
    if bias is not None and bias.size not in (1, outputs):
        raise Refusal(f"its bias has {bias.size} values for {outputs} outputs")
    linear(step, bool(step.node.integer("transB", 0)), bias)


def read_matmul(step: Step) -> None:
    """MatMul of an activation with constant weights."""
    linear(step, False, None)


def read_add(step: Step) -> None:
    """Add of two activations of one shape."""
    first, second = step.ordered(0), step.ordered(1)
    shapes = step.shape(0), step.shape(1)
    if shapes[0] != shapes[1]:
        raise Refusal(f"shapes {shapes[0]} and {shapes[1]} (NHWC) differ; broadcasting is not supported")

    def integer(target: Affine, clamp: Clamp) -> QuantizedOperator:
        try:
            return Add(clamp).quantize([step.affine(0), step.affine(1)], target)
        except ValueError as error:
            raise Refusal(f"its scales are too far apart: {error}") from error

    step.done("add", Add(), integer, [first, second])


def clamp_step(step: Step, clamp: Clamp) -> None:
    """An activation: merged into the waiting layer before it, or a layer of its own."""
    before = step.work.pending.get(step.node.inputs[0])
    if before is not None:
        step.work.pending[step.output] = replace(before, clamp=before.clamp.then(clamp))
        return
    value = step.value()

    def integer(target: Affine, _: Clamp) -> QuantizedOperator:
        return QuantizedActivation(*target.bounds(clamp))

    affine = step.work.assembly.quantization.get(value)
    step.done("clamp", Activation(clamp), integer, [value], affine=affine, order=step.work.orders.get(value))


def read_relu(step: Step) -> None:
    """Relu."""
    clamp_step(step, Clamp(0.0, math.inf))


def read_clip(step: Step) -> None:
    """Clip: bounds as inputs, before opset 11 as attributes."""
    low = float(step.real(1).reshape(-1)[0]) if step.has(1) else step.node.number("min", -math.inf)
    high = float(step.real(2).reshape(-1)[0]) if step.has(2) else step.node.number("max", math.inf)
    if not low <= high or low == math.inf or high == -math.inf:
        raise Refusal(f"bounds {low} and {high}")
    clamp_step(step, Clamp(low, high))


def pool(step: Step, kind: str, operator: Operator, integer: Callable[[Affine, Clamp], QuantizedOperator]) -> None:
    """A pool; keeps the quantisation of its input."""
    value = step.ordered()
    if min(operator.output_shape([step.image()])) < 1:
        raise Refusal(f"its window is larger than its input {step.image()}")
    step.done(kind, operator, integer, [value], affine=step.work.assembly.quantization.get(value))


def kernel_of(step: Step) -> tuple[int, int]:
    """``kernel_shape`` of a pool."""
    kernel = step.node.integers("kernel_shape", ())
    if len(kernel) != 2 or any(size != 1 for size in step.node.integers("dilations", (1, 1))):
        raise Refusal(f"kernel_shape {kernel}: two dimensions without dilation are supported")
    return kernel[0], kernel[1]


def average(step: Step, window: Window, count_padding: bool) -> None:
    """Append an average pool."""
    pool(
        step,
        "avg_pool2d",
        AvgPool2d(window, count_padding),
        lambda affine, _: QuantizedAvgPool2d(window, count_padding, affine.zero_point),
    )


def read_average_pool(step: Step) -> None:
    """AveragePool."""
    average(step, window_of(step, kernel_of(step), (1, 1)), bool(step.node.integer("count_include_pad", 0)))


def read_global_average_pool(step: Step) -> None:
    """GlobalAveragePool."""
    height, width, _ = step.image()
    average(step, Window((height, width), (height, width)), False)


def read_max_pool(step: Step) -> None:
    """MaxPool."""
    window = window_of(step, kernel_of(step), (1, 1))
    pool(step, "max_pool2d", MaxPool2d(window), lambda *_: QuantizedMaxPool2d(window))


def read_flatten(step: Step) -> None:
    """Flatten to (1, features)."""
    if step.node.integer("axis", 1) != 1:
        raise Refusal("axis other than 1 is not supported")
    flatten(step)


def read_reshape(step: Step) -> None:
    """Reshape to (1, features)."""
    target = step.integers(1)
    total = math.prod(step.shape())
    if len(target) != 2 or target[0] not in (0, 1, -1) or target[1] not in (-1, total) or target == [-1, -1]:
        raise Refusal(f"to shape {target}; only (1, {total}) is supported")
    flatten(step)


def flatten(step: Step) -> None:
    """The image as features, in place: its NHWC order is remembered, and linear layers permute their columns."""
    value = step.value()
    shape = step.shape()
    if len(shape) == 1:
        step.work.assembly.aliases[step.output] = value
        return
    flat = (math.prod(shape),)
    order = Reshape(flat).permutation(shape)
    moved = None if np.array_equal(order, np.arange(flat[0])) else order
    affine = step.work.assembly.quantization.get(value)
    step.done("reshape", Reshape(flat, True), lambda *_: QuantizedReshape(flat), [value], affine=affine, order=moved)


def read_softmax(step: Step) -> None:
    """Softmax over the features."""
    value, shape = step.ordered(), step.shape()
    if len(shape) != 1 or step.node.integer("axis", -1) not in (-1, 1) or shape[0] >= 4096:
        raise Refusal(
            f"over axis {step.node.number('axis', -1)} of shape {shape} (NHWC); up to 4095 features are supported"
        )

    def integer(*_: object) -> QuantizedOperator:
        return QuantizedSoftmax.of(1.0, step.affine().scale)

    step.done("softmax", Softmax(), integer, [value], affine=OUTPUT if step.quantized else None)


def read_pad(step: Step) -> None:
    """Pad with zeros around height and width."""
    value = step.ordered()
    step.image()
    sides = step.integers(1) if step.has(1) else []
    sides = sides or list(step.node.integers("pads", ()))
    filling = float(step.real(2).reshape(-1)[0]) if step.has(2) else step.node.number("value", 0.0)
    outer = len(sides) == 8 and not any((sides[0], sides[1], sides[4], sides[5]))
    if step.node.text("mode", "constant") != "constant" or filling != 0.0 or step.has(3) or not outer:
        raise Refusal(f"pads {sides} with {filling}: only zeros around height and width are supported")
    if min(sides) < 0 or max(sides) > 1 << 12:
        raise Refusal(f"pads {sides}: 0 to {1 << 12} are supported")
    pad = Pad(top=sides[2], bottom=sides[6], left=sides[3], right=sides[7])
    affine = step.work.assembly.quantization.get(value)
    step.done("pad", pad, lambda a, _: QuantizedPad(pad, a.zero_point), [value], affine=affine)


def read_batch_normalization(step: Step) -> None:
    """BatchNormalization with running statistics, in a float file; a pass folds it."""
    if step.quantized:
        raise Refusal("in a quantised file it must be folded into the layer before it")
    value, channels = step.ordered(), step.shape()[-1]
    gain, offset, mean, variance = (step.real(index).reshape(-1) for index in range(1, 5))
    if {gain.size, offset.size, mean.size, variance.size} != {channels} or variance.min() < 0:
        raise Refusal(f"its statistics do not fit {channels} channels")
    scale = gain / np.sqrt(variance + step.node.number("epsilon", 1e-5))
    norm = BatchNorm(scale.astype(np.float32), (offset - mean * scale).astype(np.float32))
    step.done("batch_norm", norm, no_integer, [value])


def no_integer(*_: object) -> QuantizedOperator:
    """The int8 form of what has none."""
    raise Refusal("it has no int8 form")


def read_identity(step: Step) -> None:
    """Identity, and Dropout at inference."""
    name = step.node.inputs[0]
    if name in step.work.pending:
        step.work.pending[step.output] = step.work.pending[name]
    elif name == step.work.input and step.quantized and name not in step.work.assembly.quantization:
        raise Refusal("of the model's float32 input")
    else:
        step.work.assembly.aliases[step.output] = step.value()


READERS: dict[str, Callable[[Step], None]] = {
    "Add": read_add,
    "AveragePool": read_average_pool,
    "BatchNormalization": read_batch_normalization,
    "Clip": read_clip,
    "Conv": read_conv,
    "DequantizeLinear": read_dequantize_linear,
    "Dropout": read_identity,
    "Flatten": read_flatten,
    "Gemm": read_gemm,
    "GlobalAveragePool": read_global_average_pool,
    "Identity": read_identity,
    "MatMul": read_matmul,
    "MaxPool": read_max_pool,
    "Pad": read_pad,
    "QuantizeLinear": read_quantize_linear,
    "Relu": read_relu,
    "Reshape": read_reshape,
    "Softmax": read_softmax,
}
