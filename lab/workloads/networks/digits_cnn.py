"""A small convolutional network whose norms learn nothing: few weights for what it computes."""

from __future__ import annotations

from torch import nn

GROUPS = 2


def digits_cnn(channels: int, classes: int) -> nn.Sequential:
    """Two 3×3 convolutions, the second one with stride 2, and a classifier, for images (n, 1, 8, 8).

    With 8 channels and 10 classes 1,954 parameters and 15,104 multiply-accumulates. Behind each convolution are group
    norm of two groups, without parameters, and hard swish, as Feng et al., "Does Federated Learning Really Need
    Backpropagation?", advise for training by forward passes; statistics of a batch would change from pass to pass.
    """
    network = nn.Sequential()
    network.add_module("first", nn.Conv2d(1, channels, 3, padding=1))
    network.add_module("first_norm", nn.GroupNorm(GROUPS, channels, affine=False))
    network.add_module("first_swish", nn.Hardswish())
    network.add_module("second", nn.Conv2d(channels, channels, 3, stride=2, padding=1))
    network.add_module("second_norm", nn.GroupNorm(GROUPS, channels, affine=False))
    network.add_module("second_swish", nn.Hardswish())
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Linear(16 * channels, classes))
    for convolution in (network.get_submodule("first"), network.get_submodule("second")):
        nn.init.kaiming_normal_(convolution.get_parameter("weight"), nonlinearity="relu")
        nn.init.zeros_(convolution.get_parameter("bias"))
    return network
