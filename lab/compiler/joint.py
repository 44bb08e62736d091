"""PyTorch's joint forward-backward export: one aten graph that computes loss, output and the gradients asked for.

Operators stay whole (``convolution_backward``, ``native_layer_norm_backward``): nothing is decomposed but attention,
which PyTorch writes as matrix products and a softmax.
"""

from __future__ import annotations

import copy
import difflib
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch.export import ExportedProgram
from torch.export.exported_program import _decompose_exported_program
from torch.fx import Node as FxNode
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab.compiler.capture import EXPORT_ERRORS, place_of, place_of_error, placeholder_tensors
from lab.compiler.graph import Source
from lab.compiler.program import DType
from lab.errors import CompileError

DTYPES: Mapping[torch.dtype, DType] = {
    torch.float32: "float32",
    torch.int64: "int32",
    torch.int32: "int32",
    torch.bool: "float32",
}
"""How a PyTorch type is kept; masks are floats of 0 and 1."""
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
PREFIX = "module."


@dataclass(frozen=True)
class JointGraph:
    """The exported graph and what its nodes are.

    Attributes:
        nodes: calls in execution order, forward before backward.
        forward_count: how many of ``nodes`` belong to forward and loss.
        places: forward call to its place in the user's module, and whether a layer of torch.nn names it.
        parameters: placeholder to (name in the user's module, tensor).
        sample, target: placeholders of the user's inputs; no target without a loss.
        output, loss: the nodes that yield them; no loss for inference.
        gradients: name of a trained parameter to the node that yields its gradient.
    """

    nodes: tuple[FxNode, ...]
    forward_count: int
    places: Mapping[FxNode, tuple[Source, bool]]
    parameters: Mapping[FxNode, tuple[str, torch.Tensor]]
    sample: FxNode
    target: FxNode | None
    output: FxNode
    loss: FxNode | None
    gradients: Mapping[str, FxNode]


class Penalised(NamedTuple):
    """What a module may return that has a term of its own in the loss.

    Attributes:
        output: what inference yields, and what the loss is given.
        penalty: a scalar, or what makes it of the target; added to the loss, and not computed by inference.
    """

    output: torch.Tensor
    penalty: torch.Tensor | Callable[[torch.Tensor], torch.Tensor]

    def of(self, target: torch.Tensor) -> torch.Tensor:
        """The penalty at a target, a scalar."""
        return self.penalty(target) if callable(self.penalty) else self.penalty


class _WithLoss(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, sample: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the output without gradient."""
        made = self.module(sample)
        output = _one_tensor(made)
        loss = self.loss(output, target)
        return (loss + made.of(target) if isinstance(made, Penalised) else loss), output.detach()


class _Inference(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """The output."""
        return _one_tensor(self.module(sample))


def _one_tensor(output: object) -> torch.Tensor:
    if isinstance(output, Penalised):
        return output.output
    if isinstance(output, torch.Tensor):
        return output
    raise CompileError(f"the model returns a {type(output).__name__}", hint="return one tensor")


def export_inference(module: torch.nn.Module, example: torch.Tensor) -> JointGraph:
    """Export the forward graph alone, in evaluation mode.

    Raises:
        CompileError: what torch.export cannot capture.
    """
    wrapped = _Inference(copy.deepcopy(module)).eval()
    program = _decomposed(_export(wrapped, (example,), module))
    parameters = _parameters(program)
    calls = _calls(program)
    (sample,) = _inputs(program, parameters)
    (output,) = _returned(program)
    return JointGraph(
        calls, len(calls), {call: _place(call) for call in calls}, parameters, sample, None, output, None, {}
    )


def export_training(
    module: torch.nn.Module, example: torch.Tensor, target: torch.Tensor, loss: Loss, trained: Sequence[str]
) -> JointGraph:
    """Export forward, loss and the backward graph that the ``trained`` parameters need.

    Freezing is done before the export, so that PyTorch prunes what no gradient needs. Layers are in evaluation mode:
    batch norm keeps its statistics, dropout does nothing.

    Raises:
        CompileError: what torch.export cannot capture, a loss that is no scalar or does not depend on a parameter.
    """
    wrapped = _WithLoss(copy.deepcopy(module), loss).eval()
    for name, parameter in wrapped.module.named_parameters():
        parameter.requires_grad_(name in trained)
    forward = _export(wrapped, (example, target), module)
    _check_types(forward)
    try:
        joint = _decomposed(forward, joint_loss_index=0)
    except EXPORT_ERRORS as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"PyTorch cannot differentiate {type(module).__name__} with this loss: {first[0]}",
            hint="the loss must be one scalar that depends on the trained parameters",
        ) from error
    calls = _calls(joint)
    parameters = _parameters(joint)
    inputs = _inputs(joint, parameters)
    if len(inputs) != 2:
        raise CompileError(
            f"the model and its loss have {len(inputs)} inputs", hint="one sample tensor, and a loss(output, target)"
        )
    named = {node.name: node for node in joint.graph.nodes}
    signature = joint.graph_signature
    backward = signature.backward_signature
    if backward is None:
        raise CompileError("the export has no backward part", hint="train at least one parameter")
    gradients = {
        target_name.removeprefix(PREFIX): named[node_name]
        for node_name, target_name in backward.gradients_to_parameters.items()
    }
    loss_node = named[backward.loss_output]
    output = _undetached(
        next(node for node in _returned(joint) if node is not loss_node and node not in gradients.values())
    )
    forward_count = 1 + max(calls.index(loss_node), calls.index(output))
    places = _match_places(calls[:forward_count], _calls(_decomposed(forward)))
    return JointGraph(calls, forward_count, places, parameters, inputs[0], inputs[1], output, loss_node, gradients)


def _decomposed(program: ExportedProgram, joint_loss_index: int | None = None) -> ExportedProgram:
    """The program in the operators of the joint graph: composite ones are taken apart, no others.

    ``run_decompositions`` does the same, but first lists all operators there are, longer than most networks take.

    Args:
        program: the forward graph.
        joint_loss_index: which output to differentiate; none where ``None``.
    """
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        decomposed: ExportedProgram = _decompose_exported_program(
            program,
            cia_to_decomp={},
            python_decomp_table=_decompositions(),
            joint_loss_index=joint_loss_index,
            decompose_custom_triton_ops=False,
        )
    return decomposed


def _undetached(node: FxNode) -> FxNode:
    """What a detached node is the value of: PyTorch may detach the output behind the backward graph."""
    before = node.args[0] if str(node.target) == "aten.detach.default" else None
    return _undetached(before) if isinstance(before, FxNode) and before.op == "call_function" else node


def _decompositions() -> dict[torch._ops.OperatorBase, Callable[..., object]]:
    """PyTorch's own decompositions of operators that are a few others, forward and backward."""
    aten = torch.ops.aten
    table: dict[torch._ops.OperatorBase, Callable[..., object]] = torch._decomp.get_decompositions(
        [
            aten.channel_shuffle,
            aten.glu,
            aten.glu_backward,
            aten.linalg_vector_norm,
            aten.mv,
            aten.pixel_shuffle,
            aten.pixel_unshuffle,
            aten._prelu_kernel,
            aten._prelu_kernel_backward,
            aten.threshold,
        ]
    )
    return table


def _match_places(calls: Sequence[FxNode], known: Sequence[FxNode]) -> dict[FxNode, tuple[Source, bool]]:
    """Places of the joint graph's forward calls, which carry none, from the same calls of the forward export.

    The two agree but for the detaches autograd adds, for how a linear layer of rank 3 is flattened and for results that
    only backward reads; a call without a counterpart, and one that picks a result, is where the one before it is.
    """
    ours, theirs = ([call for call in some if not is_getitem(call)] for some in (calls, known))
    matcher = difflib.SequenceMatcher(None, list(map(_likeness, ours)), list(map(_likeness, theirs)), autojunk=False)
    places: dict[FxNode, tuple[Source, bool]] = {}
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            places[ours[block.a + offset]] = _place(theirs[block.b + offset])
    last: tuple[Source, bool] = (Source(""), False)
    for call in calls:
        last = places.setdefault(call, last)
    return places


def _likeness(call: FxNode) -> str:
    """What the same call has in both graphs: its operator and the parameters it reads."""
    return " ".join([str(call.target), *(one.name for one in call.all_input_nodes if one.op == "placeholder")])


def _export(wrapped: torch.nn.Module, inputs: tuple[torch.Tensor, ...], module: torch.nn.Module) -> ExportedProgram:
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.export.export(wrapped, inputs)
    except EXPORT_ERRORS as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        inner = wrapped.get_submodule("module")
        raise CompileError(
            f"torch.export cannot capture {type(module).__name__} at {place_of_error(error, inner)}: {first[0]}",
            hint="forward must be free of data-dependent control flow and run on the example; shapes must be fixed",
        ) from error


def _check_types(program: ExportedProgram) -> None:
    """Refuse results of types the device does not have, while their place is known: differentiating loses it."""
    for call in _calls(program):
        value = call.meta.get("val")
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, torch.Tensor) and one.dtype not in DTYPES:
                raise CompileError(
                    f"{call.target} at {_place(call)[0]}: its result is {one.dtype}, only torch.float32 is supported",
                    hint="use module.float()",
                )


def _calls(program: ExportedProgram) -> tuple[FxNode, ...]:
    return tuple(node for node in program.graph.nodes if node.op == "call_function")


def _place(call: FxNode) -> tuple[Source, bool]:
    source, leaf = place_of(call)
    path = source.module.removeprefix("module").removeprefix(".")
    if source.file == __file__:
        return Source(path), leaf
    return Source(path, source.file, source.line), leaf


def _parameters(program: ExportedProgram) -> dict[FxNode, tuple[str, torch.Tensor]]:
    targets = {spec.arg.name: str(spec.target) for spec in program.graph_signature.input_specs if spec.target}
    return {
        node: (targets[node.name].removeprefix(PREFIX), tensor)
        for node, tensor in placeholder_tensors(program).items()
    }


def _inputs(program: ExportedProgram, parameters: Mapping[FxNode, object]) -> list[FxNode]:
    return [node for node in program.graph.nodes if node.op == "placeholder" and node not in parameters]


def _returned(program: ExportedProgram) -> list[FxNode]:
    returned = next(node for node in program.graph.nodes if node.op == "output").args[0]
    items = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    return [item for item in items if isinstance(item, FxNode)]


def is_getitem(node: FxNode) -> bool:
    """Whether a call picks one of several results of another."""
    return node.target is operator.getitem
