"""Swin transformers: attention within windows of patches, which every second block moves.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021. Tensors are
registered in the order in which timm's checkpoints have them. Maps are (n, height, width, channels).
"""

from __future__ import annotations

import torch
from torch import nn

from lab.workloads.networks.attention import feed_forward

MASKED = -100.0
"""Added to what patches of another region of the image would have of attention."""


def windows(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Maps as windows (n · height/side · width/side, side², channels), rows of windows first."""
    n, height, width, channels = maps.shape
    cut = maps.view(n, height // side, side, width // side, side, channels)
    return cut.transpose(2, 3).reshape(-1, side**2, channels)


def joined(parts: torch.Tensor, side: int, height: int, width: int) -> torch.Tensor:
    """The maps of their windows."""
    cut = parts.view(-1, height // side, width // side, side, side, parts.shape[-1])
    return cut.transpose(2, 3).reshape(-1, height, width, parts.shape[-1])


def moved(maps: torch.Tensor, by: int) -> torch.Tensor:
    """Maps whose first ``by`` rows and columns have gone to the end: :func:`torch.roll`, in what devices have."""
    for axis, size in ((1, maps.shape[1]), (2, maps.shape[2])):
        maps = torch.cat([maps.narrow(axis, by, size - by), maps.narrow(axis, 0, by)], axis)
    return maps


def offsets(side: int) -> torch.Tensor:
    """Which entry of the bias table a pair of patches of a window has, int64 (side², side²) (section 3.2)."""
    rows, columns = torch.arange(side**2) // side, torch.arange(side**2) % side
    by_row, by_column = (one[:, None] - one[None, :] + side - 1 for one in (rows, columns))
    return by_row * (2 * side - 1) + by_column


def mask(height: int, width: int, side: int, by: int) -> torch.Tensor:
    """What keeps patches apart that only the move has brought together: (windows, 1, side², side²)."""
    regions = torch.zeros(1, height, width, 1)
    for number, row in enumerate((slice(-side), slice(-side, -by), slice(-by, None))):
        for place, column in enumerate((slice(-side), slice(-side, -by), slice(-by, None))):
            regions[:, row, column] = 3 * number + place
    own = windows(regions, side).flatten(1)
    return MASKED * (own[:, None, :, None] != own[:, None, None, :]).float()


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows (n, side², width), with a learned bias for each distance."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.table = nn.Parameter(0.02 * torch.randn((2 * side - 1) ** 2, heads))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.register_buffer("places", offsets(side), persistent=False)

    def forward(self, x: torch.Tensor, apart: torch.Tensor | None) -> torch.Tensor:
        n, patches, width = x.shape
        split = self.query_key_value(x).view(n, patches, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        scores = query @ key.transpose(-2, -1) * self.scale + self.bias()
        if apart is not None:
            scores = (scores.view(-1, len(apart), *scores.shape[1:]) + apart).view(scores.shape)
        weights = torch.softmax(scores, dim=-1)
        y: torch.Tensor = self.project((weights @ value).transpose(1, 2).reshape(n, patches, width))
        return y

    def bias(self) -> torch.Tensor:
        """(heads, side², side²)."""
        return self.table[self.get_buffer("places")].permute(2, 0, 1)


class SwinBlock(nn.Module):
    """Attention within windows, moved by ``by`` patches, and a feed-forward layer, each behind a layer norm.

    Args:
        width: channels.
        heads: of the attention.
        grid: patches along a side of the map.
        side: of a window; the whole map where that is no larger, which is then not moved.
        by: patches by which windows are moved.
    """

    def __init__(self, width: int, heads: int, grid: int, side: int, by: int) -> None:
        super().__init__()
        self.grid, self.side, self.by = grid, min(side, grid), by if side < grid else 0
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, self.side)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = feed_forward(width, 4 * width)
        apart = mask(grid, grid, self.side, self.by) if self.by else None
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.norm1(x)
        maps = moved(maps, self.by) if self.by else maps
        apart = self.get_buffer("apart") if self.by else None
        maps = joined(self.attention(windows(maps, self.side), apart), self.side, self.grid, self.grid)
        x = x + (moved(maps, self.grid - self.by) if self.by else maps)
        y: torch.Tensor = x + self.feed_forward(self.norm2(x))
        return y


class PatchMerging(nn.Module):
    """Four neighbours as one patch of twice the channels (section 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, height, width, channels = x.shape
        # Rows change first in the order of the four.
        four = x.view(n, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        y: torch.Tensor = self.reduction(self.norm(four.reshape(n, height // 2, width // 2, 4 * channels)))
        return y


class PatchMaps(nn.Module):
    """An image (n, channels, side, side) as normed patches (n, grid, grid, width)."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.patches(x).permute(0, 2, 3, 1))
        return y
