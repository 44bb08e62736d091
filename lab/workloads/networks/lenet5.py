"""LeNet-5 for written digits."""

from __future__ import annotations

from torch import nn


def lenet5(classes: int = 10) -> nn.Sequential:
    """LeNet-5 for grey images (n, 1, 32, 32): convolutions of 6, 16 and 120 kernels of 5×5, 84 units, a classifier.

    61,706 parameters and 416,520 multiply-accumulates for 10 classes. Source: Y. LeCun et al., "Gradient-Based Learning
    Applied to Document Recognition", 1998, section II.B, with ReLU, max pools, all maps read by the second convolution
    and a linear classifier, as it is trained since.
    """
    network, stem = nn.Sequential(), nn.Sequential()
    stem.add_module("conv", nn.Conv2d(1, 6, 5))
    stem.add_module("relu", nn.ReLU())
    network.add_module("stem", stem)
    network.add_module("halved", nn.MaxPool2d(2))
    network.add_module("second", nn.Conv2d(6, 16, 5))
    network.add_module("second_relu", nn.ReLU())
    network.add_module("halved_again", nn.MaxPool2d(2))
    network.add_module("third", nn.Conv2d(16, 120, 5))
    network.add_module("third_relu", nn.ReLU())
    network.add_module("flatten", nn.Flatten())
    network.add_module("units", nn.Linear(120, 84))
    network.add_module("units_relu", nn.ReLU())
    network.add_module("classifier", nn.Linear(84, classes))
    return network
