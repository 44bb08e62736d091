"""A small BERT for sentence classification."""

from __future__ import annotations

import torch
from torch import nn

from lab.workloads.networks.attention import SelfAttention, feed_forward


class PostNormBlock(nn.Module):
    """Attention and feed-forward layer, each with its input added and a layer norm behind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.feed_forward = feed_forward(width, 4 * width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attention(x))
        y: torch.Tensor = self.norm2(x + self.feed_forward(x))
        return y


class Bert(nn.Module):
    """Token and position embeddings, transformer blocks, and a classifier on the first token through a tanh layer.

    Input (batch, length) int64 token numbers below ``vocabulary``.

    Args:
        vocabulary: number of tokens.
        length: tokens per sentence.
        width: elements per token, a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads per block.
        classes: number of logits.
    """

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, length, width))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(PostNormBlock(width, heads) for _ in range(depth)))
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.norm(self.tokens(tokens) + self.positions))
        y: torch.Tensor = self.classifier(torch.tanh(self.pooler(x[:, 0])))
        return y


def small_bert(vocabulary: int = 1000, length: int = 32, classes: int = 4) -> Bert:
    """BERT of two blocks of two heads and 128 elements per token.

    545,924 parameters and 13.124 M MACs for a vocabulary of 1,000, 32 tokens and 4 classes. Source: Devlin et al.,
    "BERT", 2018, at the size of BERT-Tiny (Turc et al., "Well-Read Students Learn Better", 2019), without segments.
    """
    return Bert(vocabulary, length, width=128, depth=2, heads=2, classes=classes)
