"""Depthwise-separable CNNs for spectrograms and other small inputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lab.workloads.networks.blocks import conv_norm


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
        self.add_module("stem", conv_norm(first, nn.ReLU()))
        for number, stride in enumerate(strides, start=1):
            depthwise = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
            pointwise = nn.Conv2d(channels, channels, 1, bias=False)
            block = nn.Sequential()
            block.add_module("depthwise", conv_norm(depthwise, nn.ReLU()))
            block.add_module("pointwise", conv_norm(pointwise, nn.ReLU()))
            self.add_module(f"block{number}", block)
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("dropout", nn.Dropout(dropout))
        self.add_module("classifier", nn.Linear(channels, classes))


def keyword_ds_cnn(classes: int = 12) -> DsCnn:
    """DS-CNN-S for keyword spotting on (1, 49, 10) MFCC features.

    22,604 parameters with batch norm folded and 2.657 M MACs for 12 classes. Source: Zhang et al. 2017, table 9 (DS-CNN
    S); the network of MLPerf Tiny's keyword spotting (Banbury et al., "MLPerf Tiny Benchmark", 2021). Padding is
    symmetric here, TensorFlow's "same" puts the odd row below.
    """
    return DsCnn(Stem((10, 4), (2, 2), (5, 1)), ((1, 1),) * 4, channels=64, classes=classes, dropout=0.2)
