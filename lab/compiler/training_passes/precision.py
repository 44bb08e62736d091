"""int8 forward, float32 gradients: the numbers of the program change here, on purpose and nowhere else.

Every layer up to the classifier (a linear layer behind all other layers with weights) is quantised after calibration,
per output channel with TFLite's requantisation. The classifier, what follows it and the loss stay in float32; without
such a classifier the output is int8. Functions of one value become tables; parts of a concatenation are brought to one
scale; padding is the zero point. Inference has attention besides: linear layers of several rows, products of two
activations, softmax, layer norm, and constants among the activations.

Backward reads the int8 activations and weights (Lin et al. 2022, "On-Device Training Under 256KB Memory", section 2.1).
The gradient of a clamp passes where the int8 value lies strictly inside the clamp's bounds, saturation of the grid
included. Everywhere else rounding, requantisation and saturation pass gradients unchanged (straight-through); scales
and zero points get none. The slope of a function is that at the int8 value; the gradient of a maximum goes to the first
of equal int8 values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.calibrate import Histogram, Observer, best_affine, collect
from lab.compiler.graph import Clamp, Operator, Shape
from lab.compiler.operations.conv2d import (
    Conv2d,
    Conv2dInputGradient,
    Conv2dWeightGradient,
    linear_geometry,
    whole,
)
from lab.compiler.operations.copy import Reshape, StridedCopy, StridedExtend, StridedWrite
from lab.compiler.operations.elementwise import Binary
from lab.compiler.operations.int8 import Int8InPlace, Int8Layer, Int8MaxPoolPlaces, TableGradient
from lab.compiler.operations.int8_training import (
    Dequantize,
    Int8InputGradient,
    Int8WeightGradient,
    WeightedInt8,
    WeightedLayer,
)
from lab.compiler.operations.mask import MaskByValue
from lab.compiler.operations.matmul import UNBOUNDED, MatMul
from lab.compiler.operations.pool import MaxPool2dPlaces
from lab.compiler.operations.unary import Affine as AffineFunction
from lab.compiler.operations.unary import ClampGradient, ClampValues, UnaryGradient
from lab.compiler.operators.conv2d import QuantizedConv2d
from lab.compiler.operators.depthwise_conv2d import QuantizedDepthwiseConv2d
from lab.compiler.operators.linear import QuantizedLinear
from lab.compiler.operators.max_pool2d import QuantizedMaxPool2d
from lab.compiler.operators.table import Table
from lab.compiler.operators.weights import weight_scales
from lab.compiler.program import Operation, Program, Step, Tensor
from lab.compiler.quantized import Affine
from lab.compiler.storage import Grid, Storage
from lab.compiler.training_passes.int8_layers import ClampedSum, int8_constant, plain_layer, scales_alone
from lab.compiler.training_passes.int8_weights import float_layer, geometry_of
from lab.compiler.updates import scale_tensor
from lab.errors import CompileError

SAME = AffineFunction(1.0, 0.0)


@dataclass
class _Int8:
    """The program under conversion.

    Attributes:
        program: in float32.
        seen: what calibration saw of every forward tensor.
        tensors, steps: of the result.
        affine: quantisation of every tensor that is int8 now.
        stored: name of a weight to how it lies in memory.
        layers: name of a weight to its layer.
        bounds: int8 tensor to the bounds of the clamp it went through.
    """

    program: Program
    seen: Mapping[str, Histogram]
    tensors: dict[str, Tensor]
    steps: list[Step] = field(default_factory=list)
    affine: dict[str, Affine] = field(default_factory=dict)
    stored: dict[str, Storage] = field(default_factory=dict)
    layers: dict[str, WeightedLayer] = field(default_factory=dict)
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)


def to_int8(program: Program, calibration: Sequence[torch.Tensor]) -> Program:
    """Quantise the layers before the classifier.

    Args:
        program: batch 1, batch norm folded, activations fused, without updates.
        calibration: inputs of one sample each, in physical order.

    Raises:
        CompileError: a layer that has no int8 form, with its place; another batch than 1.
    """
    sample = program.of_kind("input")[0]
    if sample.shape[0] != 1 or sample.dtype != "float32":
        raise CompileError(
            f"precision int8 trains on batches of one float32 sample, the example is {sample.dtype} {sample.shape}",
            hint="give an example with batch 1",
        )
    program = _clamps_into_sums(program)
    work = _Int8(program, _observe(program, calibration), dict(program.tensors))
    work.affine[sample.name] = best_affine(work.seen[sample.name], 0.0)
    work.tensors[sample.name] = replace(sample, dtype="int8", affine=work.affine[sample.name])
    layers = _layers(program)
    for step in program.steps:
        reads_int8 = any(name in work.affine for name in step.inputs)
        begins = isinstance(step.operation, StridedWrite) and program.tensors[step.inputs[0]].kind == "constant"
        if isinstance(step.operation, (Reshape, StridedCopy)) and reads_int8:
            _set_int8(work, step.outputs[0], work.affine[step.inputs[0]])
            work.steps.append(step)
        elif step.name in layers and (reads_int8 or begins):
            _quantize(work, step)
        else:
            _keep(work, step)
    _check_gradients(work)
    return replace(program, tensors=work.tensors).with_steps(work.steps)


def _observe(program: Program, calibration: Sequence[torch.Tensor]) -> dict[str, Histogram]:
    forward = [step for step in program.steps if step.phase == "forward"]
    bare = replace(program, steps=tuple(forward), gradients={})
    target = program.of_kind("target")
    names = {name: f"'{step.name}' at {step.source}" for step in forward for name in step.outputs}

    def run(see: Observer) -> None:
        for sample in calibration:
            see(program.of_kind("input")[0].name, sample)
            kind = torch.int32 if program.classes else torch.float32
            label = torch.zeros(target[0].shape, dtype=kind) if target else None
            bare.run(sample, label, bare.initial_memory(), observe=lambda name, x: see(name, x.float()))

    return collect(run, names)


def _layers(program: Program) -> set[str]:
    """Names of the forward steps the output needs, without a linear classifier and what follows it.

    A network with exits has several classifiers: linear layers behind which no other layer has weights.
    """
    forward = [step for step in program.steps if step.phase == "forward"]
    needed, wanted = [], {program.output}
    for step in reversed(forward):
        if wanted.intersection(step.outputs):
            needed.append(step)
            wanted.update(step.inputs)
    read_by_weights: set[str] = set()
    behind: set[str] = set()
    for step in needed:
        before_weights = not read_by_weights.isdisjoint(step.outputs)
        if isinstance(step.operation, MatMul) and not before_weights:
            behind.update(step.outputs)
        if isinstance(step.operation, (Conv2d, MatMul)) or before_weights:
            read_by_weights.update(step.inputs)
    for step in reversed(needed):
        if behind.intersection(step.inputs):
            behind.update(step.outputs)
    return {step.name for step in needed if not behind.intersection(step.outputs)}


def _check_gradients(work: _Int8) -> None:
    """Every int8 weight that is trained has a gradient its update can take."""
    producers = {name: step for step in work.steps for name in step.outputs}
    for name, gradient in work.program.gradients.items():
        if name in work.stored and not isinstance(producers[gradient].operation, Int8WeightGradient):
            step = producers[gradient]
            raise CompileError(
                f"the gradient of '{name}' ('{step.name}' at {step.source}) has no int8 form",
                hint="use precision='float32', or read the weight in one layer only",
            )


def _clamps_into_sums(program: Program) -> Program:
    """A clamp right behind a residual sum becomes part of it: the value before it is not quantised."""
    merged: dict[str, Step] = {}
    quantised = _layers(program)
    for step in program.steps:
        if not isinstance(step.operation, ClampValues) or step.name not in quantised:
            continue
        before = program.producer(step.inputs[0])
        readers = [one for one in program.consumers(step.inputs[0]) if one is not step]
        sums = before is not None and isinstance(before.operation, Binary) and before.operation.function == "sum"
        if before is not None and sums and all(isinstance(one.operation, ClampGradient) for one in readers):
            merged[before.name] = step
    steps: list[Step] = []
    renamed = {program_step.inputs[0]: program_step.outputs[0] for program_step in merged.values()}
    for step in program.steps:
        clamp = merged.get(step.name)
        if clamp is not None and isinstance(clamp.operation, ClampValues):
            limits = Clamp(clamp.operation.low, clamp.operation.high)
            steps.append(replace(step, operation=ClampedSum("sum", activation=limits), outputs=clamp.outputs))
        elif step not in merged.values():
            steps.append(replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs)))
    return program.with_steps(steps)


def _quantize(work: _Int8, step: Step) -> None:
    """Append the int8 form of a forward step."""
    operation = step.operation
    computed = isinstance(operation, MatMul) and step.inputs[1] in work.affine and not work.program.loss
    if isinstance(operation, (Conv2d, MatMul)) and not computed:
        _quantize_weighted(work, step, operation)
    elif isinstance(operation, StridedWrite):
        _quantize_write(work, step, operation)
    elif scales_alone(work.program, step):
        _scale(work, step)
    else:
        _quantize_plain(work, step)


def _scale(work: _Int8, step: Step) -> None:
    """A product with a positive number: the same bytes on another grid."""
    source, output = work.affine[step.inputs[0]], step.outputs[0]
    factor = step.operation.scale if isinstance(step.operation, AffineFunction) else 1.0
    work.steps.append(replace(step, operation=Reshape(work.tensors[output].shape)))
    _set_int8(work, output, Affine(source.scale * factor, source.zero_point))


def _quantize_plain(work: _Int8, step: Step) -> None:
    """A layer that reads activations alone."""
    plain = plain_layer(work.program, step)
    if plain is None:
        raise CompileError(
            f"'{step.name}' ({step.operation.label}) at {step.source} has no int8 form",
            hint="use precision='float32'; int8 takes convolutions, linear layers, sums, products, concatenations, "
            "pools, padding and functions of one value",
        )
    operator, output = plain.operator, step.outputs[0]
    read = tuple(_as_int8(work, name, step) for name in step.inputs[: len(plain.inputs)])
    sources = [work.affine[name] for name in read]
    affine = _output_affine(work, operator, sources, output)
    try:
        quantized = operator.quantize(sources, affine)
    except CompileError as error:
        raise CompileError(f"'{step.name}' at {step.source}: {error.message}", hint=error.hint) from error
    if plain.clamp is not None:
        work.bounds[output] = affine.bounds(plain.clamp)
    made: Operation
    if isinstance(step.operation, MaxPool2dPlaces) and isinstance(quantized, QuantizedMaxPool2d):
        made = Int8MaxPoolPlaces(quantized, step.operation.windows)
    else:
        made = (Int8InPlace if quantized.in_place else Int8Layer)(quantized, plain.inputs, plain.output)
    outputs = step.outputs[:1] if isinstance(made, Int8Layer) else step.outputs
    work.steps.append(replace(step, operation=made, inputs=read, outputs=outputs))
    _set_int8(work, output, affine)


def _output_affine(work: _Int8, operator: Operator, sources: Sequence[Affine], output: str) -> Affine:
    if operator.keeps_scale:
        return sources[0]
    if operator.output_quantization is not None:
        return Affine(*operator.output_quantization)
    return best_affine(work.seen[output], operator.minimum_output_scale(sources))


def _quantize_write(work: _Int8, step: Step, operation: StridedWrite) -> None:
    """Padding keeps its scale; the parts of a concatenation are brought to the scale of the whole."""
    output, whole_output = step.outputs[0], _written_last(work.program, step.outputs[0])
    if isinstance(operation, StridedExtend):
        affine = _affine_of(work, step.inputs[1], step)
    elif whole_output == output:
        affine = _affine_of(work, step.inputs[0], step)
    else:
        affine = best_affine(work.seen[whole_output], 0.0)
    inputs = (_as_int8(work, step.inputs[0], step, affine), *step.inputs[1:])
    source = work.affine[inputs[0]]
    if source != affine:
        part = work.tensors[inputs[0]]
        rescaled = f"{step.name}.rescale"
        layer = Table(SAME).quantize([source], affine)
        shape = (part.elements,)
        work.tensors[rescaled] = replace(part, name=rescaled, kind="activation", affine=affine)
        work.steps.append(
            Step(rescaled, Int8InPlace(layer, (shape,), shape), inputs[:1], (rescaled,), "forward", step.source)
        )
        inputs = (rescaled, *inputs[1:])
    work.steps.append(replace(step, operation=replace(operation, fill=affine.zero_point), inputs=inputs))
    _set_int8(work, output, affine)


def _written_last(program: Program, name: str) -> str:
    """The concatenation a first part belongs to; the part itself where it is none."""
    for step in program.steps:
        if isinstance(step.operation, StridedExtend) and step.inputs[1] == name:
            name = step.outputs[0]
    return name


def _as_int8(work: _Int8, name: str, step: Step, affine: Affine | None = None) -> str:
    """The int8 tensor of an activation, or of a constant in the place of one, on its own grid or the given one."""
    made = None if name in work.affine else int8_constant(work.tensors[name], affine)
    if made is None:
        _affine_of(work, name, step)
        return name
    made = replace(made, name=f"{step.name}.{made.name}")
    work.tensors[made.name] = made
    _set_int8(work, made.name, made.affine or _affine_of(work, made.name, step))
    return made.name


def _affine_of(work: _Int8, name: str, step: Step) -> Affine:
    if name not in work.affine:
        raise CompileError(
            f"'{step.name}' at {step.source} reads '{name}', which is not computed from the sample",
            hint="use precision='float32'",
        )
    return work.affine[name]


def _set_int8(work: _Int8, name: str, affine: Affine) -> None:
    work.affine[name] = affine
    work.tensors[name] = replace(work.tensors[name], dtype="int8", affine=affine)


def _quantize_weighted(work: _Int8, step: Step, operation: Conv2d | MatMul) -> None:
    """A convolution or linear layer: its weights and bias become tensors of the int8 layer."""
    name = step.inputs[1]
    if name in work.stored:
        raise CompileError(
            f"'{step.name}' at {step.source} shares '{name}' with another layer",
            hint="int8 weights belong to one layer; give each its own, or use precision='float32'",
        )
    source = _affine_of(work, step.inputs[0], step)
    geometry = geometry_of(operation, step, rows=not work.program.loss)
    weight = _values(work, name, step)
    bias = _values(work, step.inputs[2], step) if step.inputs[2] else np.zeros(geometry.output[2], dtype=np.float32)
    layer = float_layer(operation, geometry, weight, bias)
    affine = best_affine(work.seen[step.outputs[0]], layer.minimum_output_scale([source]))
    quantized = layer.quantize([source], affine)
    if not isinstance(quantized, (QuantizedConv2d, QuantizedDepthwiseConv2d, QuantizedLinear)):
        raise CompileError(f"'{step.name}' at {step.source} has no int8 form", hint="use precision='float32'")
    weights = quantized.weights
    storage = Storage(weights.weight.shape, geometry.depthwise, source.zero_point)
    kinds = {key: work.program.tensors[key].kind for key in step.inputs[1:] if key}
    trained = "parameter" in kinds.values()
    bias_name = step.inputs[2] or f"{name}.bias"
    scales = weight_scales(layer.weight, layer.bias, source.scale).astype(np.float32)
    stored, folded = storage.store(weights.weight), storage.fold(weights.weight, weights.bias)
    bias_scales = (scales * np.float32(source.scale)).astype(np.float32)
    frozen = kinds[name] != "parameter"
    sums = weights.weight.astype(np.int64).reshape(len(scales), -1).sum(axis=1)
    weight_grid = Grid(storage, tuple(scales.tolist()))
    bias_grid = Grid(
        storage,
        tuple(bias_scales.tolist()),
        "" if frozen else name,
        tuple(int(one) for one in sums) if frozen else (),
    )
    work.tensors[name] = replace(
        work.program.tensors[name],
        shape=stored.shape,
        dtype="int8" if geometry.depthwise else "int32",
        value=stored,
        grid=weight_grid,
    )
    work.tensors[bias_name] = replace(
        work.tensors.get(bias_name, Tensor(bias_name, folded.shape, torch_shape=folded.shape)),
        shape=folded.shape,
        dtype="int32",
        kind="parameter" if trained else "constant",
        value=folded,
        grid=bias_grid,
    )
    scale = scale_tensor(work.tensors[name])
    work.tensors[scale.name] = scale
    work.stored[name], work.layers[name] = storage, quantized
    if operation.activation != UNBOUNDED:
        work.bounds[step.outputs[0]] = (weights.minimum, weights.maximum)
    shapes: tuple[Shape, Shape] = (geometry.input, geometry.output)
    if isinstance(quantized, QuantizedLinear):
        shapes = (geometry.input[2],), (geometry.output[2],)
    converted = WeightedInt8(quantized, storage, *shapes)
    work.steps.append(replace(step, operation=converted, inputs=(step.inputs[0], name, bias_name)))
    _set_int8(work, step.outputs[0], affine)


def _values(work: _Int8, name: str, step: Step) -> npt.NDArray[np.float32]:
    value = work.program.tensors[name].value
    if value is None:
        raise CompileError(
            f"'{step.name}' at {step.source}: weights that are computed have no int8 form",
            hint="use precision='float32'",
        )
    return value.astype(np.float32)


def _keep(work: _Int8, step: Step) -> None:
    """Append a step that stays in float32; what it reads of the int8 part is read in its own way."""
    gradient = _slope_reader(work, step) or _weight_reader(work, step) or _activation_reader(work, step)
    if gradient is not None:
        work.steps.append(gradient)
        return
    renamed = {name: _dequantized(work, name, step) for name in step.inputs if name in work.affine}
    work.steps.append(replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs)))


def _slope_reader(work: _Int8, step: Step) -> Step | None:
    """The gradient of a clamp or another function of one value, from the int8 value."""
    operation = step.operation
    if not isinstance(operation, UnaryGradient) or step.inputs[1] not in work.affine:
        return None
    value, affine = step.inputs[1], work.affine[step.inputs[1]]
    if isinstance(operation, ClampGradient):
        bounds = work.bounds.get(value, affine.bounds(Clamp(operation.low, operation.high)))
        return replace(step, operation=MaskByValue(*bounds))
    return replace(step, operation=TableGradient(operation, affine))


def _weight_reader(work: _Int8, step: Step) -> Step | None:
    """The gradient of a layer's input, through int8 weights."""
    operation = step.operation
    if isinstance(operation, Conv2dInputGradient) and step.inputs[1] in work.stored:
        geometry, gradient, weight = operation.geometry, step.inputs[0], step.inputs[1]
    elif isinstance(operation, MatMul) and step.phase == "backward" and step.inputs[1] in work.stored:
        geometry, gradient, weight = linear_geometry(operation.columns, operation.depth), step.inputs[0], step.inputs[1]
    else:
        return None
    read = Int8InputGradient(geometry, work.stored[weight])
    return replace(step, operation=read, inputs=(gradient, weight, f"{weight}.scale"))


def _activation_reader(work: _Int8, step: Step) -> Step | None:
    """The gradient of an int8 layer's weight, from the int8 input."""
    operation = step.operation
    trained = next((name for name, gradient in work.program.gradients.items() if gradient in step.outputs), "")
    if trained not in work.stored:
        return None
    if isinstance(operation, Conv2dWeightGradient) and step.inputs[0] in work.affine:
        geometry, x, gradient = operation.geometry, step.inputs[0], step.inputs[1]
    elif isinstance(operation, MatMul) and step.phase == "backward" and step.inputs[1] in work.affine:
        geometry, x, gradient = linear_geometry(operation.columns, operation.rows), step.inputs[1], step.inputs[0]
    else:
        return None
    made = Int8WeightGradient(geometry, whole(geometry), work.affine[x])
    return replace(step, operation=made, inputs=(x, gradient))


def _dequantized(work: _Int8, name: str, step: Step) -> str:
    """The float32 form of an int8 tensor, made where it is first needed."""
    made = f"{name}.real"
    if made not in work.tensors:
        work.tensors[made] = Tensor(made, work.tensors[name].shape)
        work.steps.append(
            Step(made, Dequantize(work.affine[name]), (name,), (made,), step.phase, step.source)
        )
    return made
