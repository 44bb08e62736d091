"""A small vision transformer."""

from __future__ import annotations

import torch
from torch import nn

from lab.workloads.networks.attention import SelfAttention, feed_forward


class PreNormBlock(nn.Module):
    """Attention and feed-forward layer, each behind a layer norm and with its input added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = feed_forward(width, 4 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.feed_forward(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """Patches as tokens, learned positions, transformer blocks, mean over the tokens, linear layer.

    Args:
        image: pixels per side of the (3, image, image) input, a multiple of ``patch``.
        patch: pixels per side of a patch.
        width: elements per token, a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads per block.
        classes: number of logits.
    """

    def __init__(self, image: int, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2, width))
        self.blocks = nn.Sequential(*(PreNormBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        y: torch.Tensor = self.classifier(self.norm(self.blocks(tokens)).mean(dim=1))
        return y


def small_vit(classes: int = 10) -> VisionTransformer:
    """Vision transformer for (3, 32, 32) images: 64 tokens of 64 elements, 4 blocks of 4 heads.

    207,946 parameters and 14.877 M MACs. Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, with the
    mean in place of a class token (Zhai et al., "Scaling Vision Transformers", 2022).
    """
    return VisionTransformer(image=32, patch=4, width=64, depth=4, heads=4, classes=classes)
