"""Rep-Net: a network, and a much smaller one beside it that exchanges feature maps with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lab.workloads.networks.lite_residual import Repeat, WayBack, small_branch


@dataclass(frozen=True)
class Connector:
    """A module of the side network, and where it is connected.

    Attributes:
        place: part of the backbone behind which the module's output is added: what begins a stage.
        inputs, outputs: channels of what it reads and yields.
        repeated: whether its map is brought to twice the size: where the part does not halve its own.
        kernel, stride, groups, pool, inner: as of :func:`lab.workloads.networks.lite_residual.small_branch`.
    """

    place: str
    inputs: int
    outputs: int
    repeated: bool = False
    kernel: int = 5
    stride: int = 1
    groups: int = 2
    pool: int = 2
    inner: int = 0


DIGITS_MB = (
    Connector("stem", 1, 16, repeated=True, stride=2, groups=1),
    Connector("block2", 16, 32, kernel=3),
    Connector("block4", 32, 48, repeated=True, kernel=3),
)
"""Of DigitsMB: behind the first part, and behind those that begin a wider stage."""
PROXYLESSNAS_MOBILE = (
    Connector("block2", 3, 32, repeated=True, groups=1, pool=8, inner=8),
    Connector("block4", 32, 40),
    Connector("block8", 40, 80),
    Connector("block12", 80, 96, repeated=True),
    Connector("block16", 96, 192, kernel=3),
    Connector("block20", 192, 320, repeated=True, kernel=3),
)
"""Of ProxylessNAS-Mobile: where the paper's has them (repository ASU-ESIC-FAN-Lab/RepNet), with its channels, kernels
and groups; the smaller kernels are on maps of 7×7."""


class RepNet(nn.Module):
    """A backbone and small modules that exchange features with it.

    The first module reads the image, each other one the backbone's map at the beginning of a stage, in which the output
    of the module before it is contained. What a module yields is added to the backbone's map behind that stage's first
    block, and from there goes through the frozen rest. Modules begin as nothing. Source: Yang, Rakin and Fan,
    "Rep-Net: Efficient On-Device Learning via Feature Reprogramming", CVPR 2022, section 3, connected as in its
    repository (``ProgramNet`` in repnet/model/reprogram.py); theirs normalises by batch and interpolates, this
    normalises by groups, which suits a batch of one, and repeats values. NCHW float32.

    Args:
        backbone: in evaluation mode, batch norm folded or not; its parts keep their names.
        connectors: in the order of the backbone's parts, each with the channels of the one before it.
        repeat: what takes a module's map back to the backbone's resolution; made without arguments.
    """

    def __init__(self, backbone: nn.Module, connectors: Sequence[Connector], repeat: type[WayBack]) -> None:
        super().__init__()
        for name, part in copy.deepcopy(backbone).named_children():
            self.add_module(name, part)
        self.rep = nn.ModuleDict({one.place: _module(one, repeat) for one in connectors})
        self.to_size_of = repeat.to_size_of

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image, first = x, True
        for name, part in self.named_children():
            if name in self.rep:
                added = self.rep[name](image if first else x)
                x, first = part(x), False
                x = x + self.to_size_of(added, x)
            elif name != "rep":
                x = part(x)
        return x


def _module(one: Connector, repeat: type[WayBack]) -> nn.Sequential:
    return small_branch(
        one.inputs, one.outputs, groups=one.groups, repeat=repeat() if one.repeated else None, kernel=one.kernel,
        stride=one.stride, pool=one.pool, inner=one.inner,
    )  # fmt: skip


def with_rep_net(
    network: nn.Module, connectors: Sequence[Connector] = DIGITS_MB, *, repeat: type[WayBack] = Repeat
) -> RepNet:
    """A copy of a network with its reprogramming network; at first it yields what the network yields.

    Args:
        network: in evaluation mode.
        connectors, repeat: as of :class:`RepNet`; ``Upsample`` of ``lite_residual`` where layers are listed.
    """
    return RepNet(network, connectors, repeat).eval()
