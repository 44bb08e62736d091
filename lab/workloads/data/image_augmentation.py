"""Random changes to colour images that leave what they show as it is: each is mirrored or not, and moved a little.

K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2; with reflected borders in place of
black ones as BAFFLE's released code has it (repository FengHZ/BAFFLE, CIFAR-10 and CIFAR-100; it leaves MNIST alone).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BORDER = 4
"""Pixels that are added to each side, mirrored without the edge itself, before a window of the old size is cut out."""

FloatArray = npt.NDArray[np.float32]


def flipped_and_cropped(images: FloatArray, generator: np.random.Generator) -> FloatArray:
    """A changed copy of each image: mirrored left to right with probability one half, moved by up to four pixels.

    Args:
        images: float32 (n, channels, H, W), H and W above four.
        generator: the only source of chance.

    Returns:
        As ``images``.
    """
    sides = ((0, 0), (0, 0), (BORDER, BORDER), (BORDER, BORDER))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, sides, mode="reflect"), images.shape[2:], (2, 3))
    number, rows, columns = np.arange(len(images)), *generator.integers(0, 2 * BORDER + 1, (2, len(images)))
    moved = windows[number, :, rows, columns]
    mirrored = generator.random(len(images)) < 0.5
    moved[mirrored] = moved[mirrored][..., ::-1]
    return np.ascontiguousarray(moved, np.float32)
