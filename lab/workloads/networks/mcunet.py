"""MCUNet-5fps: the network found for 5 frames per second on an STM32F746 with 320 kB of SRAM."""

from __future__ import annotations

from lab.workloads.networks.blocks import Bottleneck, BottleneckNet

ROWS = (
    Bottleneck(16, 8),
    Bottleneck(32, 16, stride=2),
    Bottleneck(48, 16),
    Bottleneck(48, 24, kernel=7, stride=2),
    Bottleneck(120, 24),
    Bottleneck(120, 40, stride=2),
    Bottleneck(160, 40, kernel=7),
    Bottleneck(160, 48, kernel=5),
    Bottleneck(144, 48),
    Bottleneck(192, 48),
    Bottleneck(240, 96, kernel=7, stride=2),
    Bottleneck(384, 96, kernel=5),
    Bottleneck(384, 96, kernel=5),
    Bottleneck(576, 160),
)


def mcunet_5fps(classes: int = 10) -> BottleneckNet:
    """MCUNet-5fps for (3, 128, 128) images, 42 convolutions in 14 blocks.

    470,834 parameters with batch norm folded and 22.455 M MACs for 10 classes. Source: Lin et al., "MCUNet: Tiny Deep
    Learning on IoT Devices", 2020; the layer table is that of the models trained in Lin et al., "On-Device Training
    Under 256KB Memory", 2022 (repository mit-han-lab/tiny-training).
    """
    return BottleneckNet((3, 16), ROWS, classes)
