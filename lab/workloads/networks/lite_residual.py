"""Lite residual modules beside the blocks of a frozen network (TinyTL)."""

from __future__ import annotations

import copy
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

from lab.workloads.networks.blocks import InvertedBottleneck

GROUP_CHANNELS = 8
"""Channels of a group of the normalisation, which needs no batch."""


class Repeat(nn.Module):
    """Each value of a map twice along both sides: NCHW float32, (n, C, H, W) to (n, C, 2H, 2W).

    Written so that the compiler needs no operator of its own for it; equal to ``nn.Upsample(scale_factor=2)``.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples, channels, height, width = x.shape
        wide = x[:, :, :, None, :, None].expand(samples, channels, height, 2, width, 2)
        return wide.reshape(samples, channels, 2 * height, 2 * width)

    @staticmethod
    def to_size_of(branch: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """A branch of a map with an odd side, which halving rounds down: its last row and column once more."""
        if branch.shape[2] < like.shape[2]:
            branch = torch.cat([branch, branch[:, :, -1:]], 2)
        return torch.cat([branch, branch[..., -1:]], 3) if branch.shape[3] < like.shape[3] else branch


class Upsample(nn.Upsample):
    """The same as :class:`Repeat` as one operator, by which layers are listed; of odd sides the size alone agrees."""

    def __init__(self) -> None:
        super().__init__(scale_factor=2)

    @staticmethod
    def to_size_of(branch: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """As of :class:`Repeat`."""
        size = like.shape[2:]
        return branch if branch.shape[2:] == size else functional.interpolate(branch, size=tuple(size))


WayBack: TypeAlias = Repeat | Upsample
"""From half the resolution to the whole."""


def small_branch(
    inputs: int,
    outputs: int,
    *,
    groups: int,
    repeat: WayBack | None,
    kernel: int = 3,
    stride: int = 1,
    pool: int = 2,
    inner: int = 0,
) -> nn.Sequential:
    """Average pooling, a grouped convolution, group norm, ReLU, a 1×1 convolution, group norm whose scale begins at
    0, so that the branch yields nothing before training, and back to a larger map.

    Args:
        inputs: channels of the input.
        outputs: channels, a multiple of 8.
        groups, kernel, stride: of the grouped convolution.
        repeat: the way back; None for none.
        pool: side of the windows that are averaged.
        inner: channels of the convolution, a multiple of 8; 0 for the inputs', or the outputs' where those are fewer
            than a group.
    """
    inner = inner or (inputs if inputs >= GROUP_CHANNELS else outputs)
    branch = nn.Sequential()
    branch.add_module("pool", nn.AvgPool2d(pool))
    grouped = nn.Conv2d(inputs, inner, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    branch.add_module("grouped", grouped)
    branch.add_module("norm", nn.GroupNorm(inner // GROUP_CHANNELS, inner))
    branch.add_module("relu", nn.ReLU())
    branch.add_module("pointwise", nn.Conv2d(inner, outputs, 1, bias=False))
    last = nn.GroupNorm(outputs // GROUP_CHANNELS, outputs)
    nn.init.zeros_(last.weight)
    branch.add_module("last", last)
    if repeat is not None:
        branch.add_module("repeat", repeat)
    return branch


class LiteResidual(nn.Module):
    """A block's own output and a small branch's: at half the resolution, grouped, not widened.

    A :func:`small_branch` in two groups. Source: Cai et al., "TinyTL", 2020, section 3.2; theirs interpolates
    bilinearly, this repeats.

    Args:
        block: the frozen block.
        inputs, outputs: its channels, multiples of 8.
        strided: whether it halves the map itself; then the branch needs no way back.
        repeat: takes the branch back to the block's resolution.
    """

    def __init__(
        self, block: InvertedBottleneck, inputs: int, outputs: int, *, strided: bool, repeat: WayBack
    ) -> None:
        super().__init__()
        self.block, self.to_size_of = block, repeat.to_size_of
        self.lite = small_branch(inputs, outputs, groups=2, repeat=None if strided else repeat)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return y + self.to_size_of(self.lite(x), y)


def with_lite_residuals(network: nn.Module, *, repeat: type[WayBack] = Repeat) -> nn.Module:
    """A copy of a network whose blocks have a lite residual each; at first it yields what the network yields.

    Args:
        network: has inverted bottlenecks as children; in evaluation mode, batch norm folded or not.
        repeat: what takes a branch back to its block's resolution; made without arguments.
    """
    grown = copy.deepcopy(network)
    for name, block in list(grown.named_children()):
        if isinstance(block, InvertedBottleneck):
            convolutions = [one for one in block.modules() if isinstance(one, nn.Conv2d)]
            strided = any(one.stride[0] > 1 for one in convolutions)
            wider = LiteResidual(
                block, convolutions[0].in_channels, convolutions[-1].out_channels, strided=strided, repeat=repeat()
            )
            setattr(grown, name, wider)
    return grown.eval()
