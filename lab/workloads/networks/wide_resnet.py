"""Wide residual networks for 32×32 colour images."""

from __future__ import annotations

import torch
from torch import nn

from lab.workloads.networks.blocks import conv2d
from lab.workloads.networks.lenet import GROUP_CHANNELS


class PreactivatedBlock(nn.Module):
    """Batch norm, ReLU and a 3×3 convolution, twice; the input goes around, through a 1×1 convolution where channels
    change, which then takes what the first ReLU yields.

    Source: Zagoruyko and Komodakis, "Wide Residual Networks", 2016, figure 1(c) and table 1. Tensors are in the order
    of the checkpoints that the authors of AugMix publish.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first_norm, self.first_relu = nn.BatchNorm2d(inputs), nn.ReLU()
        self.first_conv = conv2d(inputs, outputs, 3, stride)
        self.second_norm, self.second_relu = nn.BatchNorm2d(outputs), nn.ReLU()
        self.second_conv = conv2d(outputs, outputs, 3)
        self.shortcut = conv2d(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.first_relu(self.first_norm(x))
        y: torch.Tensor = self.second_conv(self.second_relu(self.second_norm(self.first_conv(activated))))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Sequential):
    """A 3×3 convolution, three stages of blocks that halve the map and widen, batch norm, average, linear layer.

    Args:
        depth: layers: six a block of every stage, and four.
        width: how many times as wide as a residual network, whose first stage has 16 channels.
        classes: number of logits.

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, depth: int, width: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"a wide residual network has 6n + 4 layers, not {depth}")
        self.add_module("stem", conv2d(3, 16, 3))
        inputs = 16
        for stage in range(3):
            for block in range(blocks):
                outputs, stride = 16 * width << stage, 2 if stage and not block else 1
                self.add_module(f"stage{stage + 1}_block{block + 1}", PreactivatedBlock(inputs, outputs, stride))
                inputs = outputs
        self.add_module("norm", nn.BatchNorm2d(inputs))
        self.add_module("relu", nn.ReLU())
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("classifier", nn.Linear(inputs, classes))


def wide_resnet_10_2(classes: int) -> WideResNet:
    """Ten layers, twice as wide, group norm that learns nothing and hard swish; 302,778 parameters with 10 classes.

    Source: Feng et al., "Does Federated Learning Really Need Backpropagation?" (repository FengHZ/BAFFLE), norms as in
    :func:`lab.workloads.networks.lenet.lenet`: statistics of a batch may not change from pass to pass.
    """
    network = WideResNet(10, 2, classes)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                width = child.num_features
                setattr(parent, name, nn.GroupNorm(max(2, width // GROUP_CHANNELS), width, affine=False))
            elif isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Hardswish())
    return network
