"""Networks that more than one workload uses. Imports torch: import it only where a network is built."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Stem:
    """The first convolution of a :class:`DsCnn`; (height, width) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


class DsCnn(nn.Sequential):
    """Depthwise-separable CNN for small inputs.

    Structure after DS-CNN (Y. Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", arXiv:1711.07128,
    section 4.3): a full convolution, blocks of a 3×3 depthwise and a 1×1 convolution, average over the map, one linear
    layer; batch norm and ReLU after each convolution. Input NCHW float32 with one channel, output the logits.

    Args:
        stem: the first convolution.
        strides: stride of the depthwise convolution of each block, (height, width).
        channels: channels of every layer.
        classes: number of logits.
        dropout: share of features dropped before the linear layer in training.
    """

    def __init__(
        self, stem: Stem, strides: tuple[tuple[int, int], ...], channels: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        first = nn.Conv2d(1, channels, stem.kernel, stem.stride, stem.padding, bias=False)
        self.add_module("stem", _normalised(first))
        for number, stride in enumerate(strides, start=1):
            depthwise = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
            pointwise = nn.Conv2d(channels, channels, 1, bias=False)
            block = nn.Sequential()
            block.add_module("depthwise", _normalised(depthwise))
            block.add_module("pointwise", _normalised(pointwise))
            self.add_module(f"block{number}", block)
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("dropout", nn.Dropout(dropout))
        self.add_module("classifier", nn.Linear(channels, classes))


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    stage = nn.Sequential()
    stage.add_module("conv", convolution)
    stage.add_module("norm", nn.BatchNorm2d(convolution.out_channels))
    stage.add_module("relu", nn.ReLU())
    return stage


def logits(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What ``network`` yields in evaluation mode without gradients; its mode is restored."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        result: torch.Tensor = network(inputs)
    network.train(was_training)
    return result
