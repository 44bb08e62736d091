"""Networks of the user's own: ``networks/NAME.pt2`` of ``LAB_DATA``, written by ``torch.export.save``. Imports torch.

The file is read as data (:mod:`lab.workloads.networks.own_file`) and built anew from modules and operators that the
compiler knows; nothing that it brings is run. Convolutions and linear layers become modules, so that a workload finds
their weights and can train them; batch norm behind a convolution is folded into it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from lab.compiler.capture import capture
from lab.compiler.operators.registry import CAPTURES, supported
from lab.errors import CompileError, ConfigError
from lab.workloads.networks.own_file import (
    MOST_ELEMENTS,
    OWN_NETWORKS,
    Argument,
    Called,
    Float32Array,
    Program,
    Unreadable,
    Value,
    find,
)

RESHAPES = ("aten.view.default", "aten.reshape.default")
LOWERED = ("aten.convolution.default", "aten._native_batch_norm_legit_no_training.default")
"""What run_decompositions() makes of layers, whose weights are then no module's."""


@dataclass(frozen=True)
class Own:
    """A user's network.

    Attributes:
        network: in evaluation mode, of modules ``layer0``, ``layer1`` … in the order of the calls; yields logits.
        input_shape: of a sample, without the batch.
        outputs: how many logits there are.
    """

    network: nn.Module
    input_shape: tuple[int, ...]
    outputs: int


def load(name: str) -> Own:
    """The network in ``networks/NAME.pt2``.

    Raises:
        ConfigError: ``LAB_DATA`` has no such file, it is none of ``torch.export.save``, holds more than calls and plain
            tensors (a pickle), has operators that the compiler does not know, several inputs or outputs, or another
            batch than one.
    """
    program, _ = find(name)
    try:
        network = _Builder(program).network()
        outputs = _outputs(network, program)
        capture(network, torch.zeros(program.input_shape))
    except (Unreadable, CompileError) as error:
        raise OWN_NETWORKS.refused(f"networks/{name}.pt2 cannot be used: {error}") from error
    return Own(network, program.input_shape[1:], outputs)


def matching(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network in ``networks/NAME.pt2``, for data of a task.

    Args:
        name: of the file.
        shape: of a sample.
        classes: that it must tell.

    Raises:
        ConfigError: as :func:`load`; it takes another shape, or tells another number of classes.
    """
    own = load(name)
    if own.input_shape != shape:
        raise ConfigError(
            f"networks/{name}.pt2 takes a sample of the shape {own.input_shape}; the data's is {shape}",
            hint="export it with an example of that shape behind a batch of one",
        )
    if own.outputs != classes:
        raise ConfigError(
            f"networks/{name}.pt2 yields {own.outputs} values a sample; the data have {classes} classes",
            hint="its last layer must yield a logit for each class",
        )
    return own.network


class _Builder:
    """Builds a program's network, with names of our own throughout."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._values: dict[str, fx.Node] = {program.input: self._graph.placeholder("sample")}
        self._layers = 0

    def network(self) -> nn.Module:
        for call in self._program.calls:
            self._values[call.output] = self._call(call)
        self._graph.output(self._value(self._program.output))
        made = fx.GraphModule(self._root, self._graph)
        _fold(made)
        return made.eval()

    def _call(self, call: Called) -> fx.Node:
        tensors = self._program.tensors
        if call.target in LOWERED:
            raise Unreadable(f"{call.target} has its weights as arguments: export without run_decompositions()")
        found = re.fullmatch(r"aten\.(\w+)\.(\w+)", call.target)
        if found is None or call.target not in CAPTURES:
            raise Unreadable(f"the compiler has no operator {call.target}; it has {supported()}")
        if found[1] in ("conv2d", "linear", "batch_norm"):
            arguments = _by_name(call)
            make = {"conv2d": _convolution, "linear": _linear, "batch_norm": _norm}[found[1]]
            name = f"layer{self._layers}"
            self._layers += 1
            self._root.add_module(name, make(arguments, tensors))
            return self._graph.call_module(name, (self._node(arguments.get("input")),))
        positional, named = call.positional, call.named
        if call.target in RESHAPES:
            # Of a batch of one: others have the same sizes behind it.
            positional, named = (positional[0], (-1, *call.shape[1:])), {}
        target = getattr(getattr(torch.ops.aten, found[1]), found[2])
        arguments_ = tuple(self._argument(one) for one in positional)
        return self._graph.call_function(target, arguments_, {key: self._argument(one) for key, one in named.items()})

    def _argument(self, argument: Argument) -> fx.node.Argument:
        if isinstance(argument, Value):
            return self._value(argument.name)
        if isinstance(argument, tuple):
            return [self._argument(one) for one in argument]
        return argument  # type: ignore[return-value]

    def _node(self, argument: Argument) -> fx.Node:
        if not isinstance(argument, Value):
            raise Unreadable("a layer's input is no tensor")
        return self._value(argument.name)

    def _value(self, name: str) -> fx.Node:
        if name in self._program.tensors:
            raise Unreadable(f"its tensor '{name}' stands outside of convolutions, linear layers and batch norms")
        if name not in self._values:
            raise Unreadable(f"it reads '{name}', which nothing before it computes")
        return self._values[name]


ORDER: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "linear": ("input", "weight", "bias"),
    "batch_norm": ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
}
"""Arguments of the operators with weights, in their order."""


def _by_name(call: Called) -> dict[str, Argument]:
    return {**dict(zip(ORDER[call.target.split(".")[1]], call.positional, strict=False)), **call.named}


def _tensor(arguments: Mapping[str, Argument], name: str, tensors: Mapping[str, Float32Array]) -> torch.Tensor | None:
    argument = arguments.get(name)
    if argument is None:
        return None
    if not isinstance(argument, Value) or argument.name not in tensors:
        raise Unreadable(f"the {name} of a layer is computed by the network; a parameter is read")
    return torch.from_numpy(np.array(tensors[argument.name]))


def _weight(arguments: Mapping[str, Argument], tensors: Mapping[str, Float32Array], rank: int) -> torch.Tensor:
    found = _tensor(arguments, "weight", tensors)
    if found is None or found.ndim != rank:
        raise Unreadable(f"a layer's weight is no tensor of rank {rank}")
    return found


def _integers(arguments: Mapping[str, Argument], name: str, default: int) -> tuple[int, int]:
    value = arguments.get(name, default)
    items = list(value) if isinstance(value, tuple) else [value]
    if len(items) not in (1, 2) or not all(isinstance(one, int) and 0 <= one <= MOST_ELEMENTS for one in items):
        raise Unreadable(f"{name}={value!r} of a convolution is not one or two whole numbers")
    whole = [one for one in items if isinstance(one, int)]
    return whole[0], whole[-1]


def _filled(module: nn.Module, values: Mapping[str, torch.Tensor | None]) -> None:
    for name, value in values.items():
        held = getattr(module, name)
        if value is None or held.shape != value.shape:
            raise Unreadable(f"a layer's {name} does not have the shape {tuple(held.shape)}")
        with torch.no_grad():
            held.copy_(value)


def _convolution(arguments: Mapping[str, Argument], tensors: Mapping[str, Float32Array]) -> nn.Module:
    weight, bias = _weight(arguments, tensors, 4), _tensor(arguments, "bias", tensors)
    groups = _integers(arguments, "groups", 1)[0]
    outputs, inputs, *kernel = weight.shape
    word = arguments.get("padding", 0)
    padding = word if word in ("same", "valid") else _integers(arguments, "padding", 0)
    try:
        made = nn.Conv2d(
            inputs * groups, outputs, (kernel[0], kernel[1]), _integers(arguments, "stride", 1),
            padding,
            _integers(arguments, "dilation", 1), groups, bias is not None,
        )  # fmt: skip
    except ValueError as error:
        raise Unreadable(f"a convolution cannot be: {error}") from error
    _filled(made, {"weight": weight, **({} if bias is None else {"bias": bias})})
    return made


def _linear(arguments: Mapping[str, Argument], tensors: Mapping[str, Float32Array]) -> nn.Module:
    weight, bias = _weight(arguments, tensors, 2), _tensor(arguments, "bias", tensors)
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    _filled(made, {"weight": weight, **({} if bias is None else {"bias": bias})})
    return made


def _norm(arguments: Mapping[str, Argument], tensors: Mapping[str, Float32Array]) -> nn.Module:
    if arguments.get("training") is not False:
        raise Unreadable("its batch norm is training: export network.eval()")
    eps = arguments.get("eps", 1e-5)
    weight = _weight(arguments, tensors, 1)
    made = nn.BatchNorm2d(len(weight), eps if isinstance(eps, float) else 1e-5)
    names = ("bias", "running_mean", "running_var")
    _filled(made, {"weight": weight, **{name: _tensor(arguments, name, tensors) for name in names}})
    return made


def _fold(network: fx.GraphModule) -> None:
    """Fold each batch norm into the convolution right behind which it stands, if nothing else reads that."""
    for node in network.graph.nodes:
        before = node.args[0] if node.op == "call_module" else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        first, norm = network.get_submodule(str(before.target)), network.get_submodule(str(node.target))
        if isinstance(first, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(first.eval(), norm.eval())
            fused.requires_grad_(True)
            network.set_submodule(str(before.target), fused)
            node.replace_all_uses_with(before)
            network.graph.erase_node(node)
            network.delete_submodule(str(node.target))
    network.recompile()


class _Sizes(fx.Interpreter):
    """Runs a network without memory, and refuses values that are too large."""

    def run_node(self, n: fx.Node) -> object:
        found = super().run_node(n)
        if isinstance(found, torch.Tensor) and found.numel() > MOST_ELEMENTS:
            raise Unreadable(f"it computes {found.numel()} values at once; at most {MOST_ELEMENTS} are allowed")
        return found


def _outputs(network: nn.Module, program: Program) -> int:
    """How many logits a sample has, found without computing anything."""
    if program.input_shape[0] != 1 or len(program.input_shape) not in (2, 4):
        raise Unreadable(
            f"its input has the shape {program.input_shape}; (1, channels, height, width) or (1, features) is read: "
            "export it with an example of one sample"
        )
    if not isinstance(network, fx.GraphModule):
        raise TypeError("a network is built as a graph")
    several = torch.zeros((2, *program.input_shape[1:]), device="meta")
    try:
        found = _Sizes(copy.deepcopy(network).to("meta")).run(several)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"its calls do not fit together: {str(error).splitlines()[0]}") from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 2:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else found
        raise Unreadable(f"of a batch of two it yields {shape}; (2, classes) is needed")
    return int(found.shape[1])
