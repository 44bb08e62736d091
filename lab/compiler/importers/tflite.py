"""``.tflite`` to the int8 graph, with the file's own quantisation.

Source of the arithmetic: TensorFlow Lite's reference kernels (``BUILTIN_REF`` of LiteRT); what they compute in float32
and what in float64 is followed, since it decides the last bit of a multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lab.compiler.graph import Clamp, Float32Array, Operator, Shape, Source
from lab.compiler.importers.assembly import (
    Assembly,
    LayerNumbers,
    Refusal,
    check_affine,
    check_shape,
    float_conv2d,
    quantized_conv2d,
    quantized_fully_connected,
    quantized_rescale,
    refuse_all,
)
from lab.compiler.importers.tflite_file import ModelData, OperatorData, TensorData, read_model
from lab.compiler.model import FloatArray
from lab.compiler.operators.add import Add
from lab.compiler.operators.avg_pool2d import AvgPool2d, QuantizedAvgPool2d
from lab.compiler.operators.clamp import Activation, QuantizedActivation
from lab.compiler.operators.general_conv2d import Lattice
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import Linear
from lab.compiler.operators.max_pool2d import MaxPool2d, QuantizedMaxPool2d
from lab.compiler.operators.pad import Pad, QuantizedPad
from lab.compiler.operators.reshape import QuantizedReshape, Reshape
from lab.compiler.operators.softmax import OUTPUT, QuantizedSoftmax, Softmax
from lab.compiler.quantized import Affine, QuantizedGraph, QuantizedOperator
from lab.errors import CompileError

SAME = 0
CLAMPS = {0: None, 1: Clamp(0.0, math.inf), 2: Clamp(-1.0, 1.0), 3: Clamp(0.0, 6.0)}
"""``ActivationFunctionType`` of the schema: NONE, RELU, RELU_N1_TO_1, RELU6."""
NO_CLAMP = Clamp(-math.inf, math.inf)


def import_tflite(data: bytes, path: str, calibration: FloatArray | None) -> QuantizedGraph:
    """Import a file; see :func:`lab.compiler.importers.import_model`."""
    model = read_model(data, path)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CompileError(f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one each is read")
    importer = Importer.start(model, path)
    refusals: dict[str, str] = {}
    for operator in model.operators:
        reader = READERS.get(operator.code)
        try:
            if reader is None:
                raise Refusal("not supported")
            reader(importer.step(operator))
        except (Refusal, CompileError) as error:
            refusals[place(model, operator)] = str(error)
    refuse_all(path, refusals, list(READERS))
    try:
        output = importer.assembly.resolve(value_name(model.outputs[0]))
    except Refusal as error:
        raise CompileError(f"{path}: the model's output is not computed: {error}") from error
    return importer.assembly.finish(path, output, calibration, importer.input)


def value_name(tensor: int) -> str:
    """Our name of a tensor's value; the name in the file need not be unique."""
    return f"tensor {tensor}"


def place(model: ModelData, operator: OperatorData) -> str:
    """Where an operator stands, for messages."""
    outputs = ", ".join(f"'{model.tensors[tensor].name}'" for tensor in operator.outputs)
    return f"operator {operator.index}, {operator.code}, output {outputs or 'none'}"


def without_batch(tensor: TensorData) -> Shape:
    """Shape without the batch of 1."""
    if len(tensor.shape) < 2 or tensor.shape[0] != 1:
        raise Refusal(f"tensor '{tensor.name}' has shape {tensor.shape}; the first dimension must be a batch of 1")
    check_shape(tensor.shape[1:])
    return tensor.shape[1:]


def affine_of(tensor: TensorData) -> Affine:
    """Per-tensor int8 quantisation of an activation."""
    if tensor.dtype != "int8" or len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
        raise Refusal(f"'{tensor.name}' is {tensor.dtype} with {len(tensor.scales)} scales; int8 with one is read")
    return check_affine(float(tensor.scales[0]), int(tensor.zero_points[0]))


@dataclass(frozen=True)
class Importer:
    """An import under way: the file, the graph so far and the name of its input value."""

    model: ModelData
    assembly: Assembly
    input: str

    @staticmethod
    def start(model: ModelData, path: str) -> Importer:
        """The graph with its input. A QUANTIZE right behind a float input belongs to the host: the input is int8."""
        tensor = model.tensors[model.inputs[0]]
        readers = [operator for operator in model.operators if tensor.index in operator.inputs]
        inner = tensor
        if tensor.dtype == "float32" and [operator.code for operator in readers] == ["QUANTIZE"]:
            inner = model.tensors[readers[0].outputs[0]]
        assembly = Assembly(quantized=inner.dtype != "float32")
        name = value_name(inner.index)
        try:
            assembly.shapes[name] = without_batch(tensor)
            if assembly.quantized:
                assembly.quantization[name] = affine_of(inner)
        except Refusal as error:
            raise CompileError(f"{path}: the model's input cannot be imported: {error}") from error
        if inner is not tensor:
            assembly.aliases[value_name(tensor.index)] = name
        return Importer(model, assembly, name)

    def step(self, operator: OperatorData) -> Step:
        """One operator under import."""
        if not operator.inputs or len(operator.outputs) != 1:
            raise Refusal(f"{len(operator.inputs)} inputs and {len(operator.outputs)} outputs")
        return Step(self.model, self.assembly, operator)


@dataclass(frozen=True)
class Step:
    """One operator under import: the file, the graph so far and the operator."""

    model: ModelData
    assembly: Assembly
    operator: OperatorData

    @property
    def source(self) -> Source:
        """Its place in the file."""
        return Source(place(self.model, self.operator))

    @property
    def quantized(self) -> bool:
        """Whether int8 nodes are built."""
        return self.assembly.quantized

    def name(self, kind: str) -> str:
        """Name of its layer."""
        return f"{kind}_{self.operator.index}"

    def option(self, name: str) -> int:
        """An integer option."""
        return int(self.operator.options[name])

    def value(self, index: int) -> str:
        """Name of the value at an input."""
        if index >= len(self.operator.inputs) or self.operator.inputs[index] < 0:
            raise Refusal(f"input {index} is missing")
        return self.assembly.resolve(value_name(self.operator.inputs[index]))

    def shape(self, index: int) -> Shape:
        """Shape of the value at an input."""
        return self.assembly.shapes[self.value(index)]

    def image(self, index: int) -> Shape:
        """Shape of the value at an input, which must be (H, W, C)."""
        shape = self.shape(index)
        if len(shape) != 3:
            raise Refusal(f"its input has shape {shape} without batch; (height, width, channels) is needed")
        return shape

    def input_affine(self, index: int) -> Affine:
        """Quantisation of the value at an input."""
        return self.assembly.quantization[self.value(index)]

    @property
    def output(self) -> TensorData:
        """The output's tensor."""
        return self.model.tensors[self.operator.outputs[0]]

    def constant(self, index: int, dtypes: Sequence[str], rank: int) -> TensorData:
        """A constant input of one of the types."""
        if index >= len(self.operator.inputs) or self.operator.inputs[index] < 0:
            raise Refusal(f"input {index} is missing")
        tensor = self.model.tensors[self.operator.inputs[index]]
        if tensor.constant is None:
            raise Refusal(f"input {index} ('{tensor.name}') must be a constant of the file, it has no data")
        if tensor.dtype not in dtypes or len(tensor.shape) != rank or 0 in tensor.shape:
            wanted = " or ".join(dtypes)
            raise Refusal(f"'{tensor.name}' is {tensor.dtype} {tensor.shape}; {wanted} of rank {rank} is read")
        return tensor

    def window(self, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Window:
        """Stride and padding of the options; the odd pixel of SAME goes to the bottom and to the right."""
        stride = (self.option("StrideH"), self.option("StrideW"))
        if min(*stride, *dilation, *kernel) < 1 or max(*stride, *dilation, *kernel) > 1 << 15:
            raise Refusal(f"kernel {kernel}, stride {stride} and dilation {dilation} are not supported")
        height, width, _ = self.image(0)
        pads = [0, 0]
        if self.option("Padding") == SAME:
            for axis, size in enumerate((height, width)):
                reach = (kernel[axis] - 1) * dilation[axis] + 1
                pads[axis] = max((-(-size // stride[axis]) - 1) * stride[axis] + reach - size, 0)
        rows, columns = pads
        return Window(kernel, stride, rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)

    def activation(self) -> Clamp | None:
        """The fused activation."""
        number = self.option("FusedActivationFunction")
        if number not in CLAMPS:
            raise Refusal(f"fused activation {number} is not supported; NONE, RELU, RELU6 and RELU_N1_TO_1 are")
        return CLAMPS[number]

    def add(
        self, kind: str, operator: Operator, integer: Callable[[Affine], QuantizedOperator], inputs: Sequence[str]
    ) -> None:
        """Append the node that writes the output; checks its shape against the file's."""
        self.add_as(kind, operator, integer, inputs, value_name(self.output.index))

    def add_as(
        self,
        kind: str,
        operator: Operator,
        integer: Callable[[Affine], QuantizedOperator],
        inputs: Sequence[str],
        output: str,
    ) -> str:
        """:meth:`add` with another name of the output value; returns it."""
        expected = without_batch(self.output)
        found = operator.output_shape([self.assembly.shapes[value] for value in inputs])
        if found != expected:
            raise Refusal(f"its output has shape {found} by its inputs and {expected} in the file (without batch)")
        affine = affine_of(self.output) if self.quantized else None
        made = integer(affine) if affine is not None else None
        return self.assembly.add(self.name(kind), self.source, operator, made, inputs, output, affine)


def clamp_bounds(affine: Affine, clamp: Clamp | None) -> tuple[int, int]:
    """``CalculateActivationRangeQuantized``: computed in float32, rounded half away from zero."""
    low, high = -128, 127
    if clamp is not None and clamp.low > -math.inf:
        low = max(low, affine.zero_point + rounded(np.float32(clamp.low) / np.float32(affine.scale)))
    if clamp is not None and clamp.high < math.inf:
        high = min(high, affine.zero_point + rounded(np.float32(clamp.high) / np.float32(affine.scale)))
    if low > high:
        raise Refusal(f"its activation leaves no value of scale {affine.scale!r}, zero point {affine.zero_point}")
    return low, high


def rounded(x: np.float32) -> int:
    """Half away from zero; what is beyond int8 stays beyond."""
    return int(math.copysign(math.floor(min(abs(float(x)), 1e6) + 0.5), float(x)))


def real_constant(tensor: TensorData) -> Float32Array:
    """A float32 constant of a float file; int8 weights of a hybrid one are dequantised."""
    if tensor.constant is None or not np.isfinite(tensor.constant.astype(np.float64)).all():
        raise Refusal(f"'{tensor.name}' holds NaN or infinite values")
    if tensor.dtype == "float32":
        return tensor.constant.astype(np.float32)
    scales = weight_scales(tensor, tensor.axis if tensor.axis < len(tensor.shape) else 0)
    column = [1] * len(tensor.shape)
    column[tensor.axis if len(tensor.scales) > 1 else 0] = -1
    spread = scales if len(tensor.scales) > 1 else scales[:1]
    return (tensor.constant.astype(np.float64) * spread.reshape(column)).astype(np.float32)


def weight_scales(tensor: TensorData, axis: int) -> npt.NDArray[np.float64]:
    """One scale per output channel; weights must be symmetric."""
    channels = tensor.shape[axis]
    if len(tensor.scales) not in (1, channels) or (len(tensor.scales) > 1 and tensor.axis != axis):
        raise Refusal(
            f"'{tensor.name}' has {len(tensor.scales)} scales along axis {tensor.axis}; 1 or {channels} along axis "
            f"{axis} are read"
        )
    if tensor.zero_points.any() or not ((tensor.scales > 0) & np.isfinite(tensor.scales)).all():
        raise Refusal(f"'{tensor.name}' needs positive scales and zero points of 0")
    return np.broadcast_to(tensor.scales.astype(np.float64), channels).copy()


def bias_of(step: Step, channels: int) -> npt.NDArray[np.int32]:
    """The int32 bias, zeros where it is left out."""
    if len(step.operator.inputs) < 3 or step.operator.inputs[2] < 0:
        return np.zeros(channels, np.int32)
    tensor = step.constant(2, ["int32"], 1)
    if tensor.shape != (channels,) or tensor.constant is None:
        raise Refusal(f"its bias has shape {tensor.shape}; ({channels},) is needed")
    return tensor.constant.astype(np.int32)


def real_bias_of(step: Step, channels: int) -> Float32Array:
    """The float32 bias, zeros where it is left out."""
    if len(step.operator.inputs) < 3 or step.operator.inputs[2] < 0:
        return np.zeros(channels, np.float32)
    tensor = step.constant(2, ["float32"], 1)
    if tensor.shape != (channels,):
        raise Refusal(f"its bias has shape {tensor.shape}; ({channels},) is needed")
    return real_constant(tensor)


def read_conv_2d(step: Step) -> None:
    """CONV_2D: weights (O, H, W, I / groups)."""
    weight = step.constant(1, ["int8"] if step.quantized else ["float32", "int8"], 4)
    channels = step.image(0)[2]
    if channels % weight.shape[3] or weight.shape[0] % (channels // weight.shape[3]):
        raise Refusal(f"weights of shape {weight.shape} do not fit {channels} input channels")
    convolution(step, "conv2d", weight, (0, 1, 2, 3), 0, channels // weight.shape[3])


def read_depthwise_conv_2d(step: Step) -> None:
    """DEPTHWISE_CONV_2D: weights (1, H, W, O)."""
    weight = step.constant(1, ["int8"] if step.quantized else ["float32", "int8"], 4)
    channels = step.image(0)[2]
    if weight.shape[0] != 1 or weight.shape[3] % channels:
        raise Refusal(f"weights of shape {weight.shape} do not fit {channels} input channels")
    convolution(step, "depthwise_conv2d", weight, (3, 1, 2, 0), 3, channels)


def convolution(
    step: Step, kind: str, tensor: TensorData, order: tuple[int, int, int, int], axis: int, groups: int
) -> None:
    """Append a convolution; ``order`` brings the weights to (O, H, W, I / groups), ``axis`` holds their scales."""
    dilation = (step.option("DilationHFactor"), step.option("DilationWFactor"))
    lattice = Lattice(step.window((tensor.shape[1], tensor.shape[2]), dilation), dilation, groups)
    outputs, channels, activation = tensor.shape[axis], step.image(0)[2], step.activation()
    if not step.quantized:
        weight = np.ascontiguousarray(real_constant(tensor).transpose(order))
        plain = float_conv2d(weight, real_bias_of(step, outputs), lattice, channels)
        step.add(kind, replace(plain, activation=activation), no_integer, [step.value(0)])
        return
    scales = weight_scales(tensor, axis)
    source, target = step.input_affine(0), affine_of(step.output)
    numbers = LayerNumbers(
        weight=np.ascontiguousarray(int8_constant(tensor).transpose(order)),
        bias=bias_of(step, outputs),
        weight_scales=scales,
        multipliers=[source.scale * float(scale) / target.scale for scale in scales],
        input=source,
        output=target,
        bounds=clamp_bounds(target, activation),
    )
    operator = float_conv2d(numbers.real_weight(), numbers.real_bias(), lattice, channels)
    integer = quantized_conv2d(numbers, lattice, channels)
    step.add(kind, replace(operator, activation=activation), lambda _: integer, [step.value(0)])


def no_integer(_: Affine) -> QuantizedOperator:
    """The int8 form of an operator in a float file."""
    raise Refusal("it is float32 in a model with int8 input")


def int8_constant(tensor: TensorData) -> npt.NDArray[np.int8]:
    """An int8 constant."""
    if tensor.constant is None:
        raise Refusal(f"'{tensor.name}' has no data")
    return tensor.constant.astype(np.int8)


def read_fully_connected(step: Step) -> None:
    """FULLY_CONNECTED: weights (O, I); inputs of any rank are flattened."""
    if step.option("WeightsFormat") != 0:
        raise Refusal("shuffled weights are not supported")
    tensor = step.constant(1, ["int8"] if step.quantized else ["float32", "int8"], 2)
    outputs, inputs = tensor.shape
    if math.prod(step.shape(0)) != inputs:
        raise Refusal(f"weights of shape {tensor.shape} do not fit an input of shape {step.shape(0)} (without batch)")
    flat = step.assembly.flatten(step.name("linear"), step.source, step.value(0))
    activation = step.activation()
    if not step.quantized:
        operator = Linear(real_constant(tensor), real_bias_of(step, outputs), activation)
        step.add("linear", operator, no_integer, [flat])
        return
    scales = weight_scales(tensor, 0)
    source, target = step.input_affine(0), affine_of(step.output)
    numbers = LayerNumbers(
        weight=int8_constant(tensor),
        bias=bias_of(step, outputs),
        weight_scales=scales,
        multipliers=[source.scale * float(scale) / target.scale for scale in scales],
        input=source,
        output=target,
        bounds=clamp_bounds(target, activation),
    )
    integer = quantized_fully_connected(numbers)
    step.add("linear", Linear(numbers.real_weight(), numbers.real_bias(), activation), lambda _: integer, [flat])


def read_average_pool_2d(step: Step) -> None:
    """AVERAGE_POOL_2D: padding does not count."""
    window = step.window((step.option("FilterHeight"), step.option("FilterWidth")))
    pool(step, "avg_pool2d", AvgPool2d(window, False), lambda a: QuantizedAvgPool2d(window, False, a.zero_point))


def read_max_pool_2d(step: Step) -> None:
    """MAX_POOL_2D."""
    window = step.window((step.option("FilterHeight"), step.option("FilterWidth")))
    pool(step, "max_pool2d", MaxPool2d(window), lambda _: QuantizedMaxPool2d(window))


def pool(step: Step, kind: str, operator: Operator, integer: Callable[[Affine], QuantizedOperator]) -> None:
    """Append a pool and its activation, if it has one."""
    same_quantization(step)
    activation = step.activation()
    if activation is None:
        step.add(kind, operator, integer, [step.value(0)])
        return
    pooled = step.add_as(kind, operator, integer, [step.value(0)], f"{step.name(kind)}.pooled")
    clamp_layer(step, f"{kind}_clamp", activation, pooled)


def clamp_layer(step: Step, kind: str, clamp: Clamp, value: str) -> None:
    """Append a clamp that keeps the quantisation."""
    step.add(kind, Activation(clamp), lambda affine: QuantizedActivation(*clamp_bounds(affine, clamp)), [value])


def same_quantization(step: Step) -> None:
    """Refuse an output whose quantisation differs from the input's, where TFLite has no arithmetic for that."""
    if step.quantized and step.input_affine(0) != affine_of(step.output):
        raise Refusal("input and output must have the same scale and zero point")


def read_add(step: Step) -> None:
    """ADD of two activations of one shape."""
    first, second = step.value(0), step.value(1)
    if step.assembly.shapes[first] != step.assembly.shapes[second]:
        raise Refusal(
            f"shapes {step.assembly.shapes[first]} and {step.assembly.shapes[second]} (without batch) differ; "
            "broadcasting is not supported"
        )
    activation = step.activation()

    def integer(affine: Affine) -> QuantizedOperator:
        try:
            made = Add().quantize([step.input_affine(0), step.input_affine(1)], affine)
        except ValueError as error:
            raise Refusal(f"its scales do not fit TFLite's ADD: {error}") from error
        return replace(made, bounds=clamp_bounds(affine, activation))

    step.add("add", Add(activation), integer, [first, second])


def read_softmax(step: Step) -> None:
    """SOFTMAX over the last dimension."""
    beta = float(step.operator.options["Beta"])
    if not 0.0 < beta < math.inf:
        raise Refusal(f"beta {beta!r} is not supported")
    if step.shape(0)[-1] >= 4096:
        raise Refusal(f"{step.shape(0)[-1]} classes; at most 4095 are supported")

    def integer(affine: Affine) -> QuantizedOperator:
        if affine != OUTPUT:
            raise Refusal(f"an int8 softmax has scale 1/256 and zero point -128, the file has {affine}")
        return QuantizedSoftmax.of(beta, step.input_affine(0).scale)

    step.add("softmax", Softmax(beta), integer, [step.value(0)])


def read_reshape(step: Step) -> None:
    """RESHAPE, SQUEEZE and EXPAND_DIMS: the same memory under another shape."""
    same_quantization(step)
    shape = without_batch(step.output)
    if math.prod(shape) != math.prod(step.shape(0)):
        raise Refusal(f"it makes {shape} of {step.shape(0)} (without batch)")
    step.add("reshape", Reshape(shape, memory_order=True), lambda _: QuantizedReshape(shape), [step.value(0)])


def read_pad(step: Step) -> None:
    """PAD with zeros around height and width."""
    same_quantization(step)
    step.image(0)
    table = step.constant(1, ["int32", "int64"], 2)
    if table.shape != (4, 2) or table.constant is None:
        raise Refusal(f"a table of paddings of shape {table.shape}; (4, 2) is read")
    sides = [[int(side) for side in row] for row in table.constant.tolist()]
    if sides[0] != [0, 0] or sides[3] != [0, 0] or min(map(min, sides)) < 0 or max(map(max, sides)) > 1 << 12:
        raise Refusal(f"paddings {sides}; only height and width are padded, by 0 to {1 << 12}")
    pad = Pad(*sides[1], *sides[2])
    step.add("pad", pad, lambda affine: QuantizedPad(pad, affine.zero_point), [step.value(0)])


def read_relu(step: Step) -> None:
    """RELU, RELU6 and RELU_N1_TO_1 as operators: a rescale and a clamp."""
    clamp = {"RELU": CLAMPS[1], "RELU6": CLAMPS[3], "RELU_N1_TO_1": CLAMPS[2]}[step.operator.code] or NO_CLAMP
    if not step.quantized or step.input_affine(0) == affine_of(step.output):
        clamp_layer(step, "clamp", clamp, step.value(0))
        return
    source = step.input_affine(0)

    def integer(affine: Affine) -> QuantizedOperator:
        # TFLite divides the scales in float32 here.
        real = float(np.float32(source.scale) / np.float32(affine.scale))
        return quantized_rescale(source, affine, real, clamp_bounds(affine, clamp))

    step.add("rescale", Activation(clamp), integer, [step.value(0)])


def read_quantize(step: Step) -> None:
    """QUANTIZE: of the model's float input nothing (the host does it), of int8 a rescale."""
    value = step.value(0)
    if not step.quantized:
        raise Refusal("int8 inside a float32 model is not supported")
    if value == value_name(step.output.index):
        return
    source = step.assembly.quantization[value]

    def integer(affine: Affine) -> QuantizedOperator:
        return quantized_rescale(source, affine, source.scale / affine.scale, (-128, 127))

    step.add("rescale", Activation(NO_CLAMP), integer, [value])


def read_dequantize(step: Step) -> None:
    """DEQUANTIZE of the model's output: the host does it."""
    if not step.quantized or step.output.index not in step.model.outputs:
        raise Refusal("only the model's output may be dequantised")
    step.assembly.aliases[value_name(step.output.index)] = step.value(0)


Reader = Callable[[Step], None]
READERS: dict[str, Reader] = {
    "ADD": read_add,
    "AVERAGE_POOL_2D": read_average_pool_2d,
    "CONV_2D": read_conv_2d,
    "DEPTHWISE_CONV_2D": read_depthwise_conv_2d,
    "DEQUANTIZE": read_dequantize,
    "EXPAND_DIMS": read_reshape,
    "FULLY_CONNECTED": read_fully_connected,
    "MAX_POOL_2D": read_max_pool_2d,
    "PAD": read_pad,
    "QUANTIZE": read_quantize,
    "RELU": read_relu,
    "RELU6": read_relu,
    "RELU_N1_TO_1": read_relu,
    "RESHAPE": read_reshape,
    "SOFTMAX": read_softmax,
    "SQUEEZE": read_reshape,
}
