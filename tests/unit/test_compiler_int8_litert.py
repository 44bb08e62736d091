"""The int8 forward pass of a training program, layer by layer, against LiteRT's reference kernels on the same numbers.

A linear layer is compared with a 1×1 convolution: LiteRT's own FULLY_CONNECTED rounds a float64 product once, which is
another number in one case of a few hundred (:mod:`lab.compiler.operators.fully_connected`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert import interpreter as litert
from helpers.int8_training import compile_int8, settled
from helpers.tflite_builder import Operator, Tensor, write
from torch import nn
from torch.nn import functional

from lab.compiler.graph import Shape, to_nhwc
from lab.compiler.operations.int8 import Int8Layer, Int8MaxPoolPlaces
from lab.compiler.operations.int8_training import WeightedInt8
from lab.compiler.operators.add import QuantizedAdd
from lab.compiler.operators.avg_pool2d import QuantizedAvgPool2d
from lab.compiler.operators.depthwise_conv2d import QuantizedDepthwiseConv2d
from lab.compiler.operators.general_conv2d import as_image
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import QuantizedLinear
from lab.compiler.operators.max_pool2d import QuantizedMaxPool2d
from lab.compiler.program import Program, Step
from lab.compiler.quantized import Affine, QuantizedOperator

Values: TypeAlias = Mapping[str, torch.Tensor]
RELU, RELU6 = 1, 3


class Net(nn.Module):
    """Layers LiteRT has too, in sizes with "same" padding on every side alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.point = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)
        self.gate, self.bend = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1)
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 2)
        x = functional.relu(x + self.point(functional.relu6(self.depthwise(x))))
        x = functional.avg_pool2d(x, 2)
        x = torch.cat((torch.sigmoid(self.gate(x)), torch.tanh(self.bend(x))), 1)
        y: torch.Tensor = self.head(functional.relu(self.hidden(x.mean((2, 3)))))
        return y


def activation(name: str, shape: tuple[int, ...], affine: Affine) -> Tensor:
    return Tensor(name, [1, *shape], scales=[affine.scale], zero_points=[affine.zero_point])


def convolution(step: Step, program: Program, values: Values) -> tuple[list[Tensor], Operator]:
    """A layer with weights as an operator with its tensors: input, weights, bias, output."""
    operation = step.operation
    assert isinstance(operation, WeightedInt8)
    weights, storage = operation.layer.weights, operation.storage
    plain = storage.load(values[step.inputs[1]].numpy())
    bias = storage.unfold(plain, values[step.inputs[2]].numpy())
    grid = program.tensors[step.inputs[1]].grid
    assert grid is not None
    scales = [float(scale) for scale in grid.scales]
    bias_scales = [weights.input.scale * scale for scale in scales]
    depthwise = isinstance(operation.layer, QuantizedDepthwiseConv2d)
    shaped = plain.transpose(1, 2, 0)[None] if depthwise else plain
    if isinstance(operation.layer, QuantizedLinear):
        shaped = plain[:, None, None]
    tensors = [
        activation("x", as_image(operation.input_shape), weights.input),
        Tensor("w", shaped.shape, "int8", scales, [0] * len(scales), 3 if depthwise else 0, shaped),
        Tensor("b", bias.shape, "int32", bias_scales, [0] * len(scales), 0, bias),
        activation("y", as_image(operation.output_shape), weights.output),
    ]
    fused = fused_of(weights.output, weights.minimum, weights.maximum)
    window = Window((1, 1), (1, 1)) if isinstance(operation.layer, QuantizedLinear) else operation.layer.window
    options = {**window_options(window), "DilationHFactor": 1, "DilationWFactor": 1}
    options["FusedActivationFunction"] = fused
    if depthwise:
        return tensors, Operator("DEPTHWISE_CONV_2D", [0, 1, 2], [3], {**options, "DepthMultiplier": 1})
    return tensors, Operator("CONV_2D", [0, 1, 2], [3], options)


def window_options(window: Window) -> dict[str, float]:
    """Strides and padding; 0 is "same"."""
    return {"StrideH": window.stride[0], "StrideW": window.stride[1], "Padding": 0 if window.padded else 1}


def fused_of(output: Affine, minimum: int, maximum: int) -> int:
    """TFLite's number of the fused activation."""
    if minimum == -128 and output.zero_point != -128:
        return 0
    return RELU6 if maximum == output.zero_point + round(6 / output.scale) and maximum < 127 else RELU


def plain_layer(step: Step, program: Program) -> tuple[list[Tensor], Operator] | None:
    """A layer without weights as an operator with its tensors: inputs, output."""
    operation = step.operation
    affines = [program.tensors[name].affine for name in (*step.inputs, step.outputs[0])]
    known = [one for one in affines if one is not None]
    if not isinstance(operation, (Int8Layer, Int8MaxPoolPlaces)):
        return None
    layer: QuantizedOperator = operation.layer
    shapes: tuple[Shape, ...] = (
        (operation.windows.input, operation.windows.output)
        if isinstance(operation, Int8MaxPoolPlaces)
        else (*operation.input_shapes, operation.output_shape)
    )
    pairs = enumerate(zip(shapes, known, strict=True))
    tensors = [activation(str(number), shape, affine) for number, (shape, affine) in pairs]
    sources, last = list(range(len(tensors) - 1)), len(tensors) - 1
    if isinstance(layer, QuantizedAdd):
        fused = fused_of(known[-1], *layer.bounds)
        return tensors, Operator("ADD", sources, [last], {"FusedActivationFunction": fused})
    if isinstance(layer, (QuantizedMaxPool2d, QuantizedAvgPool2d)):
        window = layer.window
        options = {**window_options(window), "FilterHeight": window.kernel[0], "FilterWidth": window.kernel[1]}
        code = "MAX_POOL_2D" if isinstance(layer, QuantizedMaxPool2d) else "AVERAGE_POOL_2D"
        return tensors, Operator(code, sources, [last], {**options, "FusedActivationFunction": 0})
    code = {"sigmoid": "LOGISTIC", "tanh": "TANH"}.get(step.name, "")
    return (tensors, Operator(code, sources, [last])) if code else None


def run_litert(tensors: list[Tensor], operator: Operator, inputs: list[npt.NDArray[np.int8]]) -> npt.NDArray[np.int8]:
    """The operator alone."""
    sources = [number for number in operator.inputs if tensors[number].value is None]
    interpreter = litert.Interpreter(
        model_content=write(tensors, [operator], sources, operator.outputs),
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value.reshape(detail["shape"]))
    interpreter.invoke()
    result: npt.NDArray[np.int8] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def test_every_layer_equals_litert() -> None:
    torch.manual_seed(2)
    data = torch.randn(16, 3, 12, 12)
    model = compile_int8(settled(Net(), data), data)
    program, memory = model.inference, model.program.initial_memory()
    seen: Counter[str] = Counter()
    for sample in model.compiled.input.quantize(to_nhwc(data[:6]).numpy()):
        values = program.run(torch.from_numpy(sample[None]), None, memory)
        for step in program.steps:
            weighted = isinstance(step.operation, WeightedInt8)
            made = convolution(step, program, values) if weighted else plain_layer(step, program)
            if made is None:
                continue
            tensors, operator = made
            inputs = [values[name].numpy() for name in step.inputs if program.tensors[name].affine is not None]
            theirs = run_litert(tensors, operator, inputs)
            ours = values[step.outputs[0]].numpy().reshape(theirs.shape)
            np.testing.assert_array_equal(ours, theirs, err_msg=step.name)
            seen[operator.code] += 1
    layers = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 1, "MAX_POOL_2D": 1, "AVERAGE_POOL_2D": 2}
    assert seen == {code: 6 * count for code, count in {**layers, "ADD": 1, "LOGISTIC": 1, "TANH": 1}.items()}
