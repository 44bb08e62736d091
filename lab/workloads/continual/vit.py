"""A small vision transformer as the extractor of a continual learner. Imports torch."""

from __future__ import annotations

import torch
from torch import nn

from lab.workloads.networks.vit import PreNormBlock

PATCHES = 6
"""Along a side, about."""
DEPTH, HEADS = 2, 2
LATENT_PER_WIDTH = 6
"""Elements of a latent for each of a token: a mean of tokens alone has too few values to tell many classes apart."""


class PatchFeatures(nn.Module):
    """Patches as tokens, learned positions, transformer blocks, mean over the tokens, a rectified linear layer.

    Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", with the mean in place of a class token (Zhai et al. 2022)
    and the hidden layer that its pre-training has in front of the classifier, here with a rectifier: a store of latents
    pays for what is not zero.

    Args:
        sample: (c, h, w) of the input, (n, c, h, w).
        width: elements of a token.
        latent: elements of the output, (n, latent), which is nowhere below zero.
        depth, heads: blocks, and attention heads of each.
        patch: pixels along a side of a patch, what is left over at the end is not seen; 0 as :func:`patch_side` has it.
    """

    def __init__(
        self,
        sample: tuple[int, int, int],
        width: int,
        latent: int,
        depth: int = DEPTH,
        heads: int = HEADS,
        patch: int = 0,
    ) -> None:
        super().__init__()
        channels, height, length = sample
        sides = (patch or patch_side(height), patch or patch_side(length))
        tokens = (height // sides[0]) * (length // sides[1])
        self.patches = nn.Conv2d(channels, width, sides, stride=sides)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(PreNormBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, latent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        y: torch.Tensor = self.widen(self.norm(self.blocks(tokens)).mean(dim=1)).relu()
        return y


def patch_side(side: int) -> int:
    """Pixels of a patch along a side: what divides it and comes nearest to a sixth of it, the smaller of equals; of a
    prime the whole pixels of a sixth, and what is left over at the end is not seen."""
    nearest = min((one for one in range(1, side + 1) if side % one == 0), key=lambda one: abs(one - side / PATCHES))
    return nearest if nearest > 1 else max(1, side // PATCHES)
