"""What each layer of a network costs: elements, parameters and MACs, with who reads whose output.

One list serves all definitions of training memory and compute (:mod:`lab.compiler.memory_definitions`,
:mod:`lab.compiler.training_arena`). It imports torch only where a module is read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lab.errors import CompileError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node

Kind = Literal["conv", "linear", "norm", "clamp", "smooth", "pool", "add"]
"""``clamp`` is an activation whose backward needs one bit per element (ReLU, ReLU6); ``smooth`` one that needs its
input (sigmoid, h-swish, GELU)."""

INPUT = "<input>"
"""Name of the network's input in :attr:`LayerCost.inputs`; no module path is equal to it."""
KINDS: Mapping[str, Kind] = {
    "aten.conv1d.default": "conv",
    "aten.conv2d.default": "conv",
    "aten.linear.default": "linear",
    "aten.batch_norm.default": "norm",
    "aten.group_norm.default": "norm",
    "aten.layer_norm.default": "norm",
    "aten.relu.default": "clamp",
    "aten.relu6.default": "clamp",
    "aten.hardtanh.default": "clamp",
    "aten.sigmoid.default": "smooth",
    "aten.tanh.default": "smooth",
    "aten.hardswish.default": "smooth",
    "aten.gelu.default": "smooth",
    "aten.adaptive_avg_pool1d.default": "pool",
    "aten.adaptive_avg_pool2d.default": "pool",
    "aten.avg_pool2d.default": "pool",
    "aten.mean.dim": "pool",
    "aten.upsample_nearest2d.vec": "pool",
    "aten.add.Tensor": "add",
}
ALIASES = ("aten.flatten.using_ints", "aten.view.default", "aten.reshape.default", "aten.dropout.default")
"""Operators whose output is their input."""


@dataclass(frozen=True)
class LayerCost:
    """One layer, for one sample.

    Attributes:
        name: path of the module that holds the weights; for layers without any, the name of the operator in the export.
        kind: what the backward pass needs.
        inputs: names of the layers whose outputs this reads, or :data:`INPUT`.
        input_elements: elements of the first input.
        output_elements: elements of the output.
        input_channels: channels (features of a linear layer) of the first input.
        groups: groups of a convolution, 1 otherwise.
        weight_elements: elements of the weight, 0 where there is none.
        bias_elements: elements of the bias.
        macs: multiplications of the forward pass by weights of convolutions and linear layers.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    input_elements: int
    output_elements: int
    input_channels: int
    groups: int = 1
    weight_elements: int = 0
    bias_elements: int = 0
    macs: int = 0

    @property
    def is_weighted(self) -> bool:
        """Whether this is a convolution or a linear layer."""
        return self.kind in ("conv", "linear")

    @property
    def parameters(self) -> int:
        """Elements of weight and bias."""
        return self.weight_elements + self.bias_elements

    def kept_channels(self, ratio: float) -> int:
        """Input channels of an update of this share: rounded down; all in a grouped layer that is not depthwise."""
        if self.groups not in (1, self.input_channels) and ratio > 0:
            return self.input_channels
        return int(self.input_channels * ratio)

    def share(self, elements: int, ratio: float) -> int:
        """Of ``elements`` spread evenly over the input channels, those of the channels kept at ``ratio``."""
        return elements * self.kept_channels(ratio) // self.input_channels


def layer_list(module: torch.nn.Module, example: torch.Tensor) -> tuple[LayerCost, ...]:
    """The layers of ``module`` in forward order, read from ``torch.export`` in evaluation mode.

    Args:
        module: a network of convolutions, linear layers, norms, activations, average pooling and addition. Its mode is
            restored.
        example: one sample with its batch dimension of 1.

    Raises:
        CompileError: the batch is not 1, a weight is used by two layers, or an operator has no entry in :data:`KINDS`.
    """
    if example.shape[0] != 1:
        raise CompileError(
            f"the example has a batch of {example.shape[0]}", hint="costs are per sample: use a batch of 1"
        )
    program = export(module, example)
    paths = program.graph_signature.inputs_to_parameters
    weights = {node: paths[node.name] for node in program.graph.nodes if node.name in paths}
    producers: dict[Node, str] = {
        node: INPUT for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    }
    layers: list[LayerCost] = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if str(node.target) in ALIASES:
            producers[node] = producers[node.all_input_nodes[0]]
            continue
        layer = layer_cost(node, producers, weights)
        if any(layer.name == other.name for other in layers):
            raise CompileError(f"the weights of {layer.name!r} are used by two layers", hint="unshare them")
        producers[node] = layer.name
        layers.append(layer)
    return tuple(layers)


def export(module: torch.nn.Module, example: torch.Tensor) -> ExportedProgram:
    """Export in evaluation mode; the module's own mode is restored."""
    import torch

    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # PyTorch deprecates a call of its own inside export.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.export.export(module, (example,))
    finally:
        for child, mode in modes.items():
            child.training = mode


def layer_cost(node: Node, producers: Mapping[Node, str], weights: Mapping[Node, str]) -> LayerCost:
    """The cost of one operator."""
    kind = KINDS.get(str(node.target))
    if kind is None:
        raise CompileError(
            f"no memory definition covers operator {node.target} ({node.name})",
            hint=f"covered are {', '.join(sorted({*KINDS, *ALIASES}))}",
        )
    sources = [source for source in node.all_input_nodes if source in producers]
    parameters = [source for source in node.all_input_nodes if source in weights]
    source_shape, shape = shape_of(sources[0]), shape_of(node)
    channel_axis = 1 if kind == "conv" or len(source_shape) > 2 else -1
    weight = math.prod(shape_of(parameters[0])) if parameters else 0
    macs = math.prod(shape) * weight // shape_of(parameters[0])[0] if kind in ("conv", "linear") else 0
    return LayerCost(
        name=weights[parameters[0]].rpartition(".")[0] if parameters else node.name,
        kind=kind,
        inputs=tuple(producers[source] for source in sources),
        input_elements=math.prod(source_shape),
        output_elements=math.prod(shape),
        input_channels=source_shape[channel_axis],
        groups=source_shape[1] // shape_of(parameters[0])[1] if kind == "conv" else 1,
        weight_elements=weight,
        bias_elements=math.prod(shape_of(parameters[1])) if len(parameters) > 1 else 0,
        macs=macs,
    )


def shape_of(node: Node) -> Sequence[int]:
    """Static shape of a value of the export."""
    return tuple(int(size) for size in node.meta["val"].shape)


def weighted(layers: Sequence[LayerCost]) -> tuple[LayerCost, ...]:
    """Convolutions and linear layers in forward order; the last one is the classifier."""
    return tuple(layer for layer in layers if layer.is_weighted)
