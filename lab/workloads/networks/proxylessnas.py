"""ProxylessNAS at width 0.3, and ProxylessNAS-Mobile."""

from __future__ import annotations

from torch import nn

from lab.workloads.networks.blocks import Bottleneck, BottleneckNet

ROWS = (
    Bottleneck(16, 8),
    Bottleneck(24, 16, kernel=5, stride=2),
    Bottleneck(48, 16),
    Bottleneck(48, 16, kernel=7, stride=2),
    Bottleneck(48, 16),
    *(Bottleneck(48, 16, kernel=5),) * 2,
    Bottleneck(96, 24, kernel=7, stride=2),
    *(Bottleneck(72, 24, kernel=5),) * 3,
    Bottleneck(144, 32, kernel=5),
    *(Bottleneck(96, 32, kernel=5),) * 3,
    Bottleneck(192, 64, kernel=7, stride=2),
    Bottleneck(384, 64, kernel=7),
    *(Bottleneck(192, 64, kernel=7),) * 2,
    Bottleneck(384, 96, kernel=7),
)

MOBILE_ROWS = (
    Bottleneck(32, 16),
    Bottleneck(48, 32, kernel=5, stride=2),
    Bottleneck(96, 32),
    Bottleneck(96, 40, kernel=7, stride=2),
    Bottleneck(120, 40),
    *(Bottleneck(120, 40, kernel=5),) * 2,
    Bottleneck(240, 80, kernel=7, stride=2),
    *(Bottleneck(240, 80, kernel=5),) * 3,
    Bottleneck(480, 96, kernel=5),
    *(Bottleneck(288, 96, kernel=5),) * 3,
    Bottleneck(576, 192, kernel=7, stride=2),
    Bottleneck(1152, 192, kernel=7),
    *(Bottleneck(576, 192, kernel=7),) * 2,
    Bottleneck(1152, 320, kernel=7),
)
MOBILE_MIXED = 1280
MOBILE_EPSILON = 1e-3
"""Of its batch norms: the published weights are trained with it."""


def proxylessnas_w03(classes: int = 10) -> BottleneckNet:
    """ProxylessNAS-0.3 for (3, 128, 128) images, 60 convolutions in 20 blocks, without the wide last convolution.

    327,202 parameters with batch norm folded and 18.621 M MACs for 10 classes. Source: Cai et al., "ProxylessNAS:
    Direct Neural Architecture Search on Target Task and Hardware", 2019; the layer table is that of the models trained
    in Lin et al., "On-Device Training Under 256KB Memory", 2022 (repository mit-han-lab/tiny-training).
    """
    return BottleneckNet((3, 16), ROWS, classes)


def proxylessnas_mobile(classes: int = 1000) -> BottleneckNet:
    """ProxylessNAS-Mobile for (3, 224, 224) images, 61 convolutions in 20 blocks and in front of the average.

    4,080,512 parameters and 320.4 M MACs for 1000 classes. Blocks in which the search has chosen nothing are left out:
    they have no weights. Source: Cai et al., "ProxylessNAS: Direct Neural Architecture Search on Target Task and
    Hardware", 2019, and the layer table of the published checkpoint "proxyless_mobile".
    """
    network = BottleneckNet((3, 32), MOBILE_ROWS, classes, mixed=MOBILE_MIXED)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = MOBILE_EPSILON
    return network
