"""DigitsMB: the smallest network with MobileNetV2's structure, for training on the device itself."""

from __future__ import annotations

from lab.workloads.networks.blocks import Bottleneck, BottleneckNet

ROWS = (Bottleneck(48, 16), Bottleneck(64, 32, stride=2), Bottleneck(96, 32), Bottleneck(128, 48))


def digits_mb(classes: int = 10) -> BottleneckNet:
    """DigitsMB for one-channel square images; 16, 32, 48 and 64 pixels are in use.

    25,466 parameters with batch norm folded; 0.538, 2.149, 4.835 and 8.594 M MACs at 16, 32, 48 and 64 pixels. Source:
    this lab.
    """
    return BottleneckNet((1, 16), ROWS, classes)
