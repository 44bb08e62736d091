"""The networks of the papers, in parts with a head each. Imports torch."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import nn

from lab.workloads.networks.blocks import conv2d, conv_norm
from lab.workloads.uncertainty.networks import Backbone

LENET_EXITS, THIRDS = 2, 3
POOLED = (2, 3)
"""Of maps of 10×51: low and high, and begin, middle and end of a word; the paper's own is not in our reference."""
POOLED_BEATS = (5, 2)
"""Of beats in ten rows, where time goes along the rows first."""


def _halved() -> list[nn.Module]:
    """ReLU, then a max pool that keeps the odd row and column: zeros beside them change nothing behind a ReLU."""
    return [nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2)]


def _halved_even() -> list[nn.Module]:
    return [nn.ReLU(), nn.MaxPool2d(2)]


def _lenet_parts() -> list[nn.Sequential]:
    return [
        nn.Sequential(nn.Conv2d(1, 5, 5, padding=3)),
        nn.Sequential(
            *_halved_even(), nn.Conv2d(5, 10, 5, padding=3), *_halved(), nn.Conv2d(10, 20, 5, padding=3), *_halved()
        ),
    ]  # fmt: skip


def _lenet_head(number: int, outputs: int) -> nn.Sequential:
    if number == 0:
        return nn.Sequential(
            *_halved_even(), nn.Conv2d(5, 10, 3, padding=1), *_halved(), nn.Flatten(), nn.Linear(640, outputs)
        )
    return nn.Sequential(nn.Flatten(), nn.Linear(720, 84), nn.Linear(84, outputs))


def branchy_lenet() -> Backbone:
    """BranchyNet's LeNet for images (n, 1, 28, 28), with a branch behind its first convolution.

    Teerapittayanon, McDanel and Kung, "BranchyNet", 2016, B-LeNet, with the sizes of the authors' implementation: three
    convolutions of 5, 10 and 20 channels, 84 units; in the branch a convolution of ten. A light network of two
    convolutions and one linear layer, the branch with what is in front of it, is what CBNet runs behind its
    autoencoder.
    """
    return Backbone(_lenet_parts, _lenet_head, LENET_EXITS)


def _block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(conv2d(inputs, width, 1), nn.ReLU6()),
        conv_norm(conv2d(width, width, 3, groups=width), nn.ReLU6()),
        conv_norm(conv2d(width, width, 1), nn.ReLU6()),
    )


def _thirds(width: int, blocks: int) -> list[nn.Sequential]:
    made = [_block(width if number else 1, width) for number in range(blocks)]
    return [nn.Sequential(*[made[number] for number in part]) for part in np.array_split(np.arange(blocks), THIRDS)]


def _pooled(width: int, pooled: tuple[int, int], _: int, outputs: int) -> nn.Sequential:
    rows, columns = pooled
    return nn.Sequential(nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(width * rows * columns, outputs))


def depthwise_thirds(width: int, blocks: int, pooled: tuple[int, int] = POOLED) -> Backbone:
    """UR2M's backbone: identical blocks of 1×1, depthwise 3×3 and 1×1 convolutions in three thirds, for one channel.

    Kwon et al., "UR2M", 2024, sections V and VI: heads are an adaptive average pool and one linear layer; its
    search goes through 32 to 512 channels and 3 to 7 blocks.

    Args:
        width: channels.
        blocks: all together.
        pooled: rows and columns that the average of a head leaves.
    """
    return Backbone(partial(_thirds, width, blocks), partial(_pooled, width, pooled), THIRDS)
