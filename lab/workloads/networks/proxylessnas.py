"""ProxylessNAS at width 0.3."""

from __future__ import annotations

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


def proxylessnas_w03(classes: int = 10) -> BottleneckNet:
    """ProxylessNAS-0.3 for (3, 128, 128) images, 60 convolutions in 20 blocks, without the wide last convolution.

    327,202 parameters with batch norm folded and 18.621 M MACs for 10 classes. Source: Cai et al., "ProxylessNAS:
    Direct Neural Architecture Search on Target Task and Hardware", 2019; the layer table is that of the models trained
    in Lin et al., "On-Device Training Under 256KB Memory", 2022 (repository mit-han-lab/tiny-training).
    """
    return BottleneckNet((3, 16), ROWS, classes)
