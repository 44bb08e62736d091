"""Self-attention and the feed-forward layer of transformers, in plain products and softmax."""

from __future__ import annotations

import torch
from torch import nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width).

    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2. Numbers are those of
    :class:`torch.nn.MultiheadAttention` with the same weights.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        split = self.query_key_value(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        weights = torch.softmax(query @ key.transpose(-2, -1) * self.scale, dim=-1)
        y: torch.Tensor = self.project((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
        return y


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    layers = nn.Sequential()
    layers.add_module("expand", nn.Linear(width, hidden))
    layers.add_module("gelu", nn.GELU())
    layers.add_module("project", nn.Linear(hidden, width))
    return layers
