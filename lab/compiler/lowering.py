"""The joint aten graph to a :class:`Program`: layouts, names, constants.

Feature maps are kept in NHWC and permutations are not executed: a :class:`View` says how PyTorch's axes lie in the
dense tensor behind it, and only an operation that needs another order pays for a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from torch.fx import Node as FxNode

from lab.compiler.graph import Shape, Source
from lab.compiler.joint import DTYPES, JointGraph, is_getitem
from lab.compiler.operations.copy import StridedCopy, StridedWrite
from lab.compiler.operations.embedding import Embedding, EmbeddingGradient
from lab.compiler.operations.loss import NllLoss, NllLossGradient
from lab.compiler.operations.pool import MaxPool2dGradient
from lab.compiler.operations.unary import LabelEquals
from lab.compiler.program import DType, Operation, Phase, Program, Step, Tensor, Value
from lab.errors import CompileError

SAMPLE, TARGET = "<sample>", "<target>"
"""Names of the caller's tensors; no module path can be equal to them."""


@dataclass(frozen=True)
class View:
    """How a PyTorch tensor lies in a dense tensor of the program.

    Attributes:
        tensor: name of the dense tensor.
        shape: PyTorch's shape.
        strides: elements between neighbours along each of PyTorch's axes; together a permutation of the dense tensor.
    """

    tensor: str
    shape: Shape
    strides: Shape


@dataclass(frozen=True)
class Uniform:
    """A tensor whose elements all have one value known at compile time."""

    shape: Shape
    value: float


Lowered: TypeAlias = View | Uniform
Results: TypeAlias = Lowered | tuple[Lowered | None, ...]
KnownValue: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | None


def row_major(shape: Sequence[int]) -> Shape:
    """Strides of a dense tensor in its own order."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def permuted_strides(shape: Sequence[int], order: Sequence[int]) -> Shape:
    """Strides of PyTorch's axes in a dense tensor that holds them in ``order``."""
    dense = row_major([shape[axis] for axis in order])
    strides = [0] * len(shape)
    for place, axis in enumerate(order):
        strides[axis] = dense[place]
    return tuple(strides)


def channels_last(rank: int) -> tuple[int, ...]:
    """PyTorch's axes in the order of NHWC, for a tensor with channels at axis 1."""
    return (0, *range(2, rank), 1)


@dataclass
class Builder:
    """Collects tensors and steps.

    Attributes:
        joint: the graph that is lowered.
        trained: names of the trained parameters.
        results: what each call yields.
        known: values of the calls that depend on constants alone.
    """

    joint: JointGraph
    trained: frozenset[str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    results: dict[FxNode, Results] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    known: dict[FxNode, KnownValue] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        """``name``, or ``name_2`` … where it was given out before."""
        count = self.names.get(name, 0) + 1
        self.names[name] = count
        return name if count == 1 else self.unique(f"{name}_{count}")

    def constant(
        self, name: str, value: Value, dtype: DType = "float32"
    ) -> str:
        """A constant tensor of this value."""
        unique = self.unique(name)
        self.tensors[unique] = Tensor(unique, tuple(value.shape), dtype, "constant", np.ascontiguousarray(value))
        return unique

    def parameter(self, node: FxNode, order: Sequence[int]) -> View:
        """A parameter or buffer, stored with PyTorch's axes in ``order``; a trained one keeps its first order."""
        name, tensor = self.joint.parameters[node]
        shape = tuple(int(size) for size in tensor.shape)
        stored = name if name in self.trained or tuple(order) == tuple(range(len(shape))) else f"{name}{list(order)}"
        if stored in self.tensors:
            kept = self.tensors[stored]
            order = tuple(int(axis) for axis in np.argsort(kept.permutation)) if kept.permutation else order
            return View(stored, shape, permuted_strides(shape, order))
        dtype, array = _array(name, tensor)
        array = np.ascontiguousarray(array.transpose(order))
        self.names.setdefault(stored, 1)
        self.tensors[stored] = Tensor(
            stored,
            array.shape,
            dtype,
            "parameter" if name in self.trained else "constant",
            array,
            permutation=tuple(int(axis) for axis in np.argsort(order)),
            torch_shape=shape,
        )
        return View(stored, shape, permuted_strides(shape, order))

    def step(
        self,
        name: str,
        operation: Operation,
        inputs: Sequence[str],
        outputs: Sequence[tuple[Shape, DType]],
        phase: Phase,
        source: Source,
    ) -> list[str]:
        """Append a step; returns the names of its output tensors."""
        unique = self.unique(name)
        made: list[str] = []
        for index, (shape, dtype) in enumerate(outputs):
            tensor = unique if index == 0 else self.unique(f"{unique}.{index}")
            self.tensors[tensor] = Tensor(tensor, tuple(shape), dtype)
            made.append(tensor)
        self.steps.append(Step(unique, operation, tuple(inputs), tuple(made), phase, source))
        return made


def _array(name: str, value: torch.Tensor) -> tuple[DType, Value]:
    """A parameter, buffer or constant as the device keeps it. Buffers may be infinite: masks of attention are."""
    if value.dtype not in DTYPES:
        raise CompileError(f"'{name}' is {value.dtype}", hint="use module.float(); indices may be int64")
    if DTYPES[value.dtype] == "int32":
        limits = torch.iinfo(torch.int32)
        if value.numel() and not limits.min <= int(value.min()) <= int(value.max()) <= limits.max:
            raise CompileError(f"'{name}' holds numbers beyond 32 bits", hint="use smaller indices")
        return "int32", value.detach().cpu().numpy().astype(np.int32)
    is_fine = value.isfinite() if isinstance(value, torch.nn.Parameter) else ~value.isnan()
    if not bool(is_fine.all()):
        raise CompileError(f"'{name}' holds NaN or infinite values", hint="train again or load another checkpoint")
    return "float32", value.detach().cpu().numpy().astype(np.float32)


@dataclass(frozen=True)
class Call:
    """One aten call that is lowered.

    Attributes:
        node: the call.
        aten: name with overload.
        name: name for its steps: the user's module path, with what is computed where that is not its own forward.
        source: place in the user's module.
        phase: forward or backward.
        builder: receives tensors and steps.
    """

    node: FxNode
    aten: str
    name: str
    source: Source
    phase: Phase
    builder: Builder

    def refuse(self, why: str, hint: str = "") -> CompileError:
        """The error for a use of the operator that is not supported."""
        return CompileError(f"{self.aten} at {self.source}: {why}", hint=hint)

    def argument(self, index: int, name: str = "") -> object:
        """Positional or keyword argument; ``None`` where it was left out."""
        return self.node.args[index] if index < len(self.node.args) else self.node.kwargs.get(name)

    def lowered(self, index: int, name: str = "") -> Lowered:
        """The tensor passed as an argument."""
        return self.of(self.argument(index, name), name or str(index))

    def of(self, argument: object, what: str = "input") -> Lowered:
        """The tensor an exported node stands for."""
        if not isinstance(argument, FxNode):
            raise self.refuse(f"argument '{what}' is {argument!r}, not a tensor")
        if argument in self.builder.joint.parameters:
            rank = self.builder.joint.parameters[argument][1].ndim
            return self.builder.parameter(argument, tuple(range(rank)))
        found = self.builder.results[argument]
        if isinstance(found, tuple):
            raise self.refuse(f"argument '{what}' is a tuple of tensors")
        return found

    def given(self, index: int, name: str = "") -> bool:
        """Whether an optional argument was passed."""
        return self.argument(index, name) is not None

    def view(self, index: int, name: str = "") -> View:
        """The tensor passed as an argument; a uniform one becomes a constant."""
        return self.materialised(self.lowered(index, name))

    def materialised(self, lowered: Lowered) -> View:
        """A uniform tensor as a constant; others as they are."""
        if isinstance(lowered, View):
            return lowered
        value = np.full(lowered.shape, lowered.value, dtype=np.float32)
        return View(self.builder.constant(f"{self.name}.constant", value), lowered.shape, row_major(lowered.shape))

    def as_float(self, lowered: Lowered) -> Lowered:
        """Integers that are known at compile time, as PyTorch promotes them beside floats; others as they are."""
        if not isinstance(lowered, View):
            return lowered
        known = self.builder.tensors[lowered.tensor]
        if known.dtype != "int32" or known.value is None:
            return lowered
        array = known.value.astype(np.float32)
        return View(self.builder.constant(f"{known.name}.float", array), lowered.shape, lowered.strides)

    def weight(self, index: int, order: Sequence[int], name: str = "weight") -> View:
        """A parameter with PyTorch's axes stored in ``order``, or any other tensor brought into it."""
        argument = self.argument(index, name)
        if isinstance(argument, FxNode) and argument in self.builder.joint.parameters:
            view = self.builder.parameter(argument, order)
            if view.strides == permuted_strides(view.shape, order):
                return view
        return self.ordered(self.of(argument, name), order)

    def plain(self, index: int, name: str = "") -> str:
        """The argument as a dense tensor in PyTorch's own order."""
        view = self.view(index, name)
        return self.ordered(view, tuple(range(len(view.shape)))).tensor

    def nhwc(self, index: int, name: str = "") -> str:
        """The argument, channels at axis 1, as a dense tensor with channels last."""
        view = self.view(index, name)
        return self.ordered(view, channels_last(len(view.shape))).tensor

    def ordered(self, lowered: Lowered, order: Sequence[int]) -> View:
        """The tensor with PyTorch's axes lying in ``order``; copied only where they do not."""
        view = self.materialised(lowered)
        wanted = permuted_strides(view.shape, order)
        if all(size == 1 or has == wants for size, has, wants in zip(view.shape, view.strides, wanted, strict=True)):
            return View(view.tensor, view.shape, wanted)
        shape = tuple(view.shape[axis] for axis in order)
        strides = tuple(view.strides[axis] for axis in order)
        dtype = self.builder.tensors[view.tensor].dtype
        copy = StridedCopy(shape, strides, 0)
        (made,) = self.builder.step(
            f"{self.name}.copy", copy, [view.tensor], [(shape, dtype)], self.phase, self.source
        )
        return View(made, view.shape, wanted)

    def like(self, lowered: Lowered, other: View) -> str:
        """The tensor, of the shape of ``other``, in the memory order of ``other``."""
        order = sorted(range(len(other.shape)), key=lambda axis: (-other.strides[axis], axis))
        return self.ordered(lowered, order).tensor

    def number(self, index: int, name: str, default: float) -> float:
        """A plain number."""
        argument = self.argument(index, name)
        if argument is None:
            return default
        if isinstance(argument, (int, float)):
            return float(argument)
        raise self.refuse(f"argument '{name}' must be a number, found {argument!r}")

    def flag(self, index: int, name: str, default: bool) -> bool:
        """A plain boolean."""
        argument = self.argument(index, name)
        return default if argument is None else bool(argument)

    def integers(self, index: int, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """A list of integers; refuses symbolic (dynamic) ones."""
        argument = self.argument(index, name)
        if argument is None:
            return tuple(default)
        if isinstance(argument, int):
            return (argument,)
        if isinstance(argument, (list, tuple)) and all(isinstance(item, int) for item in argument):
            return tuple(item for item in argument if isinstance(item, int))
        raise self.refuse(f"argument '{name}' must be fixed integers, found {argument!r}", "use fixed shapes")

    def result_shape(self, index: int | None = None) -> Shape:
        """PyTorch's shape of the result, or of one of several."""
        value = self.node.meta["val"]
        chosen = value if index is None else value[index]
        return tuple(int(size) for size in chosen.shape)

    def emit(
        self, operation: Operation, inputs: Sequence[str], *outputs: Shape | tuple[Shape, DType], suffix: str = ""
    ) -> list[str]:
        """Append a step; outputs are physical shapes, float32 where no type is given. Returns the tensors' names."""
        typed = [_typed(output) for output in outputs]
        return self.builder.step(self.name + suffix, operation, inputs, typed, self.phase, self.source)

    def plain_view(self, tensor: str, shape: Shape) -> View:
        """A dense tensor in PyTorch's order."""
        return View(tensor, shape, row_major(shape))

    def nhwc_view(self, tensor: str, shape: Shape) -> View:
        """A dense channels-last tensor; ``shape`` is PyTorch's, with channels at axis 1."""
        return View(tensor, shape, permuted_strides(shape, channels_last(len(shape))))


def _typed(output: Shape | tuple[Shape, DType]) -> tuple[Shape, DType]:
    first = output[0]
    if isinstance(first, tuple):
        return first, output[1]  # type: ignore[return-value]
    return output, "float32"  # type: ignore[return-value]


Lowering: TypeAlias = Callable[[Call], Results]
LOWERINGS: dict[str, Lowering] = {}


def lowers(*aten: str) -> Callable[[Lowering], Lowering]:
    """Register the lowering of aten operators, named with their overload."""

    def register(function: Lowering) -> Lowering:
        for name in aten:
            LOWERINGS[name] = function
        return function

    return register


def supported() -> str:
    """The aten operators that can be lowered, for messages."""
    return ", ".join(sorted({name.removeprefix("aten.").split(".")[0] for name in LOWERINGS}))


def lower(joint: JointGraph) -> Program:
    """Lower forward and backward; updates are added by :mod:`lab.compiler.training`.

    Raises:
        CompileError: an operator, dtype or dynamic shape that is not supported, with its place in the user's module.
    """
    import lab.compiler.lowerings  # noqa: F401  registers them

    builder = Builder(joint, frozenset(joint.gradients))
    # A step may be called what a parameter is called: `mean` of the module `norm` and its buffer `norm.mean`.
    builder.names.update((name, 1) for name, _ in joint.parameters.values())
    builder.results[joint.sample] = _outside(builder, joint.sample, SAMPLE, "input")
    if joint.target is not None:
        builder.results[joint.target] = _outside(builder, joint.target, TARGET, "target")
    namer = _Namer(joint)
    for index, node in enumerate(joint.nodes):
        phase: Phase = "forward" if index < joint.forward_count else "backward"
        builder.results[node] = _lower_call(node, builder, namer, phase)
    output = builder.results[joint.output]
    if not isinstance(output, View) or not builder.steps:
        raise CompileError("the model computes nothing: its output is constant", hint="compile a module with layers")
    loss = builder.results[joint.loss] if joint.loss is not None else None
    finish = Call(joint.output, "output", "output", Source(""), "forward", builder)
    result = finish.ordered(output, tuple(range(len(output.shape)))).tensor
    builder.tensors[result] = replace(builder.tensors[result], shape=output.shape)
    gradients = {name: _gradient(builder, name, node) for name, node in joint.gradients.items()}
    return Program(
        builder.tensors,
        tuple(builder.steps),
        result,
        loss.tensor if isinstance(loss, View) else "",
        gradients,
        _classes(joint),
    )


def _gradient(builder: Builder, name: str, node: FxNode) -> str:
    """The gradient of a parameter, in the memory order of the parameter."""
    placeholder = next(one for one, (known, _) in builder.joint.parameters.items() if known == name)
    shape = builder.joint.parameters[placeholder][1].shape
    parameter = builder.parameter(placeholder, tuple(range(len(shape))))
    call = Call(node, "gradient", f"{name}.gradient", Source(name), "backward", builder)
    return call.like(call.of(node, "gradient"), parameter)


def _classes(joint: JointGraph) -> int:
    """Number of classes where the target is a label: size of the axis the loss picks from."""
    for node in joint.nodes[: joint.forward_count]:
        if str(node.target).startswith("aten.nll_loss") and isinstance(node.args[0], FxNode):
            return int(node.args[0].meta["val"].shape[1])
    return 0


def _outside(builder: Builder, node: FxNode, name: str, kind: str) -> View:
    """The sample, in NHWC, or the target."""
    value = node.meta["val"]
    shape = tuple(int(size) for size in value.shape)
    if value.dtype not in DTYPES:
        raise CompileError(f"the {kind} is {value.dtype}", hint="use float32, or int64 for labels and indices")
    order = channels_last(4) if len(shape) == 4 and kind == "input" else tuple(range(len(shape)))
    physical = tuple(shape[axis] for axis in order)
    builder.tensors[name] = Tensor(
        name, physical, DTYPES[value.dtype], "input" if kind == "input" else "target"
    )
    return View(name, shape, permuted_strides(shape, order))


def _lower_call(node: FxNode, builder: Builder, namer: _Namer, phase: Phase) -> Results:
    if is_getitem(node):
        several = builder.results[_node(node.args[0])]
        index = node.args[1]
        values = builder.known.get(_node(node.args[0]))
        if isinstance(values, tuple) and isinstance(index, int):
            builder.known[node] = values[index]
        if not isinstance(several, tuple) or not isinstance(index, int):
            raise CompileError(f"{node} picks from what is no tuple", hint="please report it")
        picked = several[index]
        # An output nobody computes (a gradient that was pruned) is read by nobody either.
        return picked if picked is not None else Uniform((), 0.0)
    aten = str(node.target)
    name, source = namer.name(node, phase)
    call = Call(node, aten, name, source, phase, builder)
    _check_result(call)
    function = LOWERINGS.get(aten)
    known = _known(node, builder)
    if known is not None and (function is None or not _is_rearranged(node, known)):
        return _constants(call, known)
    if function is None:
        raise CompileError(
            f"operator {aten} at {source} is not supported", hint=f"supported aten operators: {supported()}"
        )
    before = len(builder.steps)
    result = function(call)
    _check_integers(call, builder.steps[before:])
    return result


def _known(node: FxNode, builder: Builder) -> KnownValue:
    """What a call yields if it depends on constants alone; computed with PyTorch."""
    operator = node.target
    if not isinstance(operator, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in operator.tags:
        return None
    given: dict[FxNode, torch.Tensor] = {}
    for argument in node.all_input_nodes:
        value = builder.known.get(argument)
        if argument in builder.joint.parameters:
            name, tensor = builder.joint.parameters[argument]
            value = None if name in builder.trained else tensor.detach()
        if not isinstance(value, torch.Tensor):
            return None
        given[argument] = value
    arguments, named = torch.fx.node.map_arg((node.args, node.kwargs), lambda one: given[one])
    result = operator(*arguments, **named)
    builder.known[node] = tuple(result) if isinstance(result, list) else result
    return builder.known[node]


def _is_rearranged(node: FxNode, known: KnownValue) -> bool:
    """Whether a call yields all elements of its input in another shape or order: a view, which takes no memory."""
    first = node.all_input_nodes[0].meta["val"] if node.all_input_nodes else None
    if not isinstance(known, torch.Tensor) or not isinstance(first, torch.Tensor):
        return False
    return str(node.target) in REARRANGED and known.numel() == first.numel()


def _constants(call: Call, known: torch.Tensor | tuple[torch.Tensor, ...]) -> Results:
    """Known values as constants of the program."""
    if isinstance(known, tuple):
        return tuple(_constant(call, value) for value in known)
    return _constant(call, known)


def _constant(call: Call, value: torch.Tensor) -> Lowered:
    shape = tuple(value.shape)
    if value.dtype in (torch.float32, torch.bool) and value.numel() and bool((value == value.flatten()[0]).all()):
        return Uniform(shape, float(value.flatten()[0]))
    dtype, array = _array(call.name, value)
    tensor = call.builder.constant(f"{call.name}.constant", array, dtype)
    return View(tensor, tuple(array.shape), row_major(array.shape))


REARRANGED = (
    "aten.detach.default",
    "aten.alias.default",
    "aten.clone.default",
    "aten.permute.default",
    "aten.transpose.int",
    "aten.t.default",
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.unsqueeze.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
)
"""Operators that move no element."""
INTEGERS_ALLOWED = (
    StridedCopy,
    StridedWrite,
    LabelEquals,
    Embedding,
    EmbeddingGradient,
    NllLoss,
    NllLossGradient,
    MaxPool2dGradient,
)
"""Operations whose kernels read integers as such."""


def _check_integers(call: Call, steps: Sequence[Step]) -> None:
    """Refuse arithmetic with integers: kernels would take them for floats."""
    for step in steps:
        names = [name for name in step.inputs if name and call.builder.tensors[name].dtype == "int32"]
        if names and not isinstance(step.operation, INTEGERS_ALLOWED):
            raise call.refuse("computes with integers that are not known at compile time", "convert them outside")


def _node(argument: object) -> FxNode:
    if not isinstance(argument, FxNode):
        raise CompileError(f"{argument!r} is no exported call", hint="please report it")
    return argument


def _check_result(call: Call) -> None:
    value = call.node.meta.get("val")
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(one, torch.Tensor):
            continue
        if one.dtype not in DTYPES:
            raise call.refuse(f"its result is {one.dtype}, only torch.float32 is supported", "use module.float()")
        if not all(isinstance(size, int) for size in one.shape):
            raise call.refuse(f"its result has the dynamic shape {tuple(one.shape)}", "use fixed shapes")


class _Namer:
    """Names for steps. A backward call is named after the forward call whose values it reads."""

    def __init__(self, joint: JointGraph) -> None:
        self._joint = joint
        self._last: tuple[str, Source] = ("", Source(""))
        self._forward = set(joint.nodes[: joint.forward_count])

    def name(self, node: FxNode, phase: Phase) -> tuple[str, Source]:
        """Name of a call's steps and its place."""
        kind = str(node.target).removeprefix("aten.").removeprefix("lab.").split(".")[0].strip("_")
        if phase == "forward":
            source, leaf = self._joint.places[node]
            path = source.module
            return (path if leaf and path else ".".join(part for part in (path, kind) if part)), source
        self._last = self._anchor(node) or self._last
        path, source = self._last
        return ".".join(part for part in (path, kind) if part), source

    def _anchor(self, node: FxNode) -> tuple[str, Source] | None:
        base = str(node.target).removeprefix("aten.").split(".")[0].removesuffix("_backward")
        saved = [argument for argument in node.all_input_nodes if argument in self._forward or self._is_input(argument)]
        for argument in saved:
            for reader in argument.users:
                if reader in self._forward and base.strip("_") in str(reader.target):
                    return self._place(reader)
        for argument in node.all_input_nodes:
            if argument in self._joint.parameters:
                return self._parameter(argument)
        return self._place(saved[0]) if saved and saved[0] in self._forward else None

    def _is_input(self, node: FxNode) -> bool:
        return node in (self._joint.sample, self._joint.target)

    def _place(self, node: FxNode) -> tuple[str, Source]:
        source, _ = self._joint.places[node]
        return source.module, source

    def _parameter(self, node: FxNode) -> tuple[str, Source]:
        path = self._joint.parameters[node][0].rpartition(".")[0]
        for reader in node.users:
            if reader in self._forward:
                return path, self._joint.places[reader][0]
        return path, Source(path)
