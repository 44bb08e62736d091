"""What is done with any network: its logits, and batch norm folded away."""

from __future__ import annotations

import copy
import io
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


def logits(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What ``network`` yields in evaluation mode without gradients; its mode is restored."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        result: torch.Tensor = network(inputs)
    network.train(was_training)
    return result


def exported(network: nn.Module, example: torch.Tensor) -> bytes:
    """``network`` in evaluation mode as ``torch.export`` saves it, for inputs of ``example``'s very shape."""
    archive = io.BytesIO()
    torch.export.save(torch.export.export(copy.deepcopy(network).eval(), (example,)), archive)
    return archive.getvalue()


def folded(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose convolutions have taken in the batch norm right behind them, as biases.

    This is what a device trains at batch size one, where batch statistics mean nothing. Yields what ``network`` yields
    in evaluation mode, within float rounding.
    """
    result = copy.deepcopy(network).eval()
    for parent in list(result.modules()):
        if isinstance(parent, nn.Sequential):
            fold_pairs(parent)
    return result


def fold_pairs(parent: nn.Sequential) -> None:
    """Fold each batch norm that follows a convolution in ``parent``, which loses the norm."""
    for (name, convolution), (behind, norm) in pairwise(list(parent.named_children())):
        if isinstance(convolution, nn.Conv1d | nn.Conv2d) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(convolution, norm)
            # PyTorch makes the bias it adds untrainable.
            fused.requires_grad_(convolution.weight.requires_grad)
            setattr(parent, name, fused)
            delattr(parent, behind)
