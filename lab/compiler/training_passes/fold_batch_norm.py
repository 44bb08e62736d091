"""Folds batch norm into the convolution or linear layer before it, in the module, before it is exported.

In evaluation mode batch norm is ``y · gain + offset`` with constants: ``w' = w · gain``, ``b' = b · gain + offset``
(Jacob et al. 2018, section 3.2). Training the folded layer is another parametrisation of the same network. In float32
only layers that stay frozen are folded, so that training is PyTorch's of the module as it is; int8 needs all folded.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn
from torch.fx import Node as FxNode

from lab.compiler.joint import JointGraph, export_inference
from lab.compiler.square_root import square_root
from lab.errors import CompileError

NORM = "aten._native_batch_norm_legit_no_training.default"
LAYERS = ("aten.convolution.default", "aten.addmm.default", "aten.mm.default")


def fold_batch_norm(
    module: nn.Module, example: torch.Tensor, *, trained: Collection[str] = (), everything: bool = False
) -> nn.Module:
    """A copy of ``module`` in evaluation mode with batch norms folded.

    Args:
        module: network.
        example: one input.
        trained: parameters that keep their layers as they are, unless ``everything``.
        everything: fold all, for int8.

    Raises:
        CompileError: with ``everything``, a batch norm that follows no layer of its own.
    """
    folded = copy.deepcopy(module).eval()
    if not everything and not _frozen_norms(folded, trained):
        return folded
    joint = export_inference(folded, example)
    for node in joint.nodes:
        if str(node.target) != NORM:
            continue
        layer = _layer_before(joint, node)
        norm = _owner(joint, node.args[3])  # the running mean: scale and shift may be missing
        if layer is None or not norm:
            if everything:
                source = joint.places[node][0]
                raise CompileError(
                    f"batch norm at {source} cannot be folded: it does not follow a layer that is used once",
                    hint="put it right behind a convolution or linear layer, or use precision='float32'",
                )
            continue
        names = {f"{layer}.weight", f"{layer}.bias", f"{norm}.weight", f"{norm}.bias"}
        if everything or not names.intersection(trained):
            _fold(folded, layer, norm)
    return folded


def _frozen_norms(module: nn.Module, trained: Collection[str]) -> list[str]:
    """Batch norms without a trained parameter. Where there are none, the module need not be exported."""
    norms = [name for name, child in module.named_modules() if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d))]
    return [name for name in norms if not {f"{name}.weight", f"{name}.bias"}.intersection(trained)]


def _layer_before(joint: JointGraph, norm: FxNode) -> str | None:
    """Module path of the convolution or linear layer that only feeds this batch norm."""
    before = norm.args[0]
    if not isinstance(before, FxNode) or str(before.target) not in LAYERS or len(before.users) != 1:
        return None
    for argument in before.all_input_nodes:
        weight = argument.args[0] if str(argument.target) == "aten.t.default" else argument
        name = _owner(joint, weight)
        if name is not None:
            return name
    return None


def _owner(joint: JointGraph, argument: object) -> str | None:
    """Module path of the owner of a parameter."""
    if not isinstance(argument, FxNode) or argument not in joint.parameters:
        return None
    return joint.parameters[argument][0].rpartition(".")[0]


def _fold(module: nn.Module, layer_name: str, norm_name: str) -> None:
    layer, norm = module.get_submodule(layer_name), module.get_submodule(norm_name)
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
        return
    if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) or norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        ones = torch.ones_like(norm.running_mean)
        gain = (norm.weight if norm.weight is not None else ones) / square_root(norm.running_var + norm.eps)
        offset = (norm.bias if norm.bias is not None else 0 * ones) - norm.running_mean * gain
        bias = layer.bias if layer.bias is not None else torch.zeros_like(gain)
        layer.weight.mul_(gain.reshape(-1, *(1,) * (layer.weight.ndim - 1)))
        layer.bias = nn.Parameter(bias * gain + offset)
    parent, _, leaf = norm_name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, nn.Identity())
