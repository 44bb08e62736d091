"""MobileNetV2 at any width."""

from __future__ import annotations

from collections.abc import Iterator

from lab.workloads.networks.blocks import Bottleneck, BottleneckNet

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of the first block of each stage."""
STEM_CHANNELS = 32


def mobilenet_v2(width: float = 0.35, classes: int = 10) -> BottleneckNet:
    """MobileNetV2 for (3, 128, 128) images, 51 convolutions in 17 blocks, without the wide last convolution.

    245,578 parameters with batch norm folded and 16.648 M MACs at width 0.35 for 10 classes. Source: Sandler et al.,
    "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2. Like the variant trained in Lin et al.,
    "On-Device Training Under 256KB Memory", 2022, it ends at the last bottleneck.
    """
    return BottleneckNet((3, scaled(STEM_CHANNELS, width)), tuple(rows(width)), classes)


def rows(width: float) -> Iterator[Bottleneck]:
    """The table of bottlenecks at a width."""
    inputs = scaled(STEM_CHANNELS, width)
    for expansion, channels, blocks, stride in STAGES:
        outputs = scaled(channels, width)
        for number in range(blocks):
            yield Bottleneck(inputs * expansion, outputs, stride=stride if number == 0 else 1)
            inputs = outputs


def scaled(channels: int, width: float) -> int:
    """Channels at a width: the nearest multiple of 8, one more where that would lose over a tenth."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
