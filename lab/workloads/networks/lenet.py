"""LeNet as BAFFLE trains it: two 5×5 convolutions and a classifier of the means of their maps."""

from __future__ import annotations

from torch import nn

WIDENED = 4
"""The second convolution has so many times the channels of the first."""
GROUP_CHANNELS = 16


def lenet(inputs: int, classes: int = 10, channels: int = 16) -> nn.Sequential:
    """LeNet for images (n, ``inputs``, 32, 32), with group norm that learns nothing, hard swish and max pooling.

    With 16 channels and 10 classes 27,530 parameters and 7.78 M multiply-accumulates on colour images, 26,730 and
    6.96 M on grey ones. Source: Feng et al., "Does Federated Learning Really Need Backpropagation?" (repository
    FengHZ/BAFFLE): groups of 16 channels, two at least.
    """
    network = nn.Sequential()
    for name, read, made in (("first", inputs, channels), ("second", channels, WIDENED * channels)):
        network.add_module(name, nn.Conv2d(read, made, 5, padding=2))
        network.add_module(f"{name}_norm", nn.GroupNorm(max(2, made // GROUP_CHANNELS), made, affine=False))
        network.add_module(f"{name}_swish", nn.Hardswish())
        if name == "first":
            network.add_module("halved", nn.MaxPool2d(2))
    network.add_module("mean", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Linear(WIDENED * channels, classes))
    return network
