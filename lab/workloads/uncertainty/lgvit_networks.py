"""A vision transformer in parts with LGViT's heads behind them (S099). Imports torch.

Xu et al., "LGViT: Dynamic Early Exiting for Accelerating Vision Transformer", 2023, with the sizes and the order of
heads that the authors published. A head mixes the patches among each other, adds their mean to the class token and is
linear behind that. Heads of early parts see neighbours (local perception: convolutions over the grid of patches), those
of late parts see few patches of the whole image (global aggregation: self-attention).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from lab.workloads.networks.attention import SelfAttention
from lab.workloads.networks.vit import PreNormBlock

Kind: TypeAlias = Literal["spatial", "pointwise", "every", "every-2nd", "every-3rd", "plain"]
"""How a head mixes patches: by convolutions of 1×1, 3×3 (each channel its own) and 1×1, or by two of 1×1; by attention
among every, every second or every third patch in both directions; or not at all."""
STRIDES = {"every": 1, "every-2nd": 2, "every-3rd": 3}
Exits: TypeAlias = tuple[tuple[int, Kind], ...]
"""Behind which block each exit is, counted from 1, and how its head mixes."""


class Backbone(Protocol):
    """Sizes of a transformer with exits, which makes its modules.

    Attributes:
        exits: the last block's is none of them.
        depth: number of blocks.
    """

    @property
    def exits(self) -> Exits: ...

    @property
    def depth(self) -> int: ...

    def parts(self) -> list[nn.Sequential]:
        """Blocks from exit to exit, untrained."""

    def exit_heads(self, exits: Exits, classes: int) -> list[nn.Module]:
        """A head for each of ``exits``, and the end."""

    def end(self, classes: int) -> nn.Module:
        """The network's own end, whose last layer is ``classifier``."""


def plain(exits: Exits) -> Exits:
    """The same exits with heads that are linear alone."""
    return tuple((block, "plain") for block, _ in exits)


def part_lengths(backbone: Backbone) -> list[int]:
    """How many blocks each part has."""
    ends = [*(block for block, _ in backbone.exits), backbone.depth]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Transformer:
    """Sizes of a transformer with exits.

    Attributes:
        channels, image: of the input, (channels, image, image).
        patch: pixels along a side, of which ``image`` is a multiple.
        width: elements of a token, a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads, of the blocks and of the heads that have attention.
        exits: the last block's is none of them.
        epsilon: of the layer norms.
    """

    channels: int
    image: int
    patch: int
    width: int
    depth: int
    heads: int
    exits: Exits
    epsilon: float = 1e-5

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image // self.patch

    def parts(self) -> list[nn.Sequential]:
        """Each yields tokens (n, 1 + grid², width), the class token first."""
        made = [
            nn.Sequential(*(PreNormBlock(self.width, self.heads) for _ in range(length)))
            for length in part_lengths(self)
        ]
        for one in nn.Sequential(*made).modules():
            if isinstance(one, nn.LayerNorm):
                one.eps = self.epsilon
        return [nn.Sequential(Embedding(self), *made[0]), *made[1:]]

    def exit_heads(self, exits: Exits, classes: int) -> list[nn.Module]:
        """A head for each of ``exits``, and the end."""
        made = (ExitHead(mixer(kind, self.width, self.heads, self.grid), self.width, classes) for _, kind in exits)
        return [*made, self.end(classes)]

    def end(self, classes: int) -> nn.Module:
        """A layer norm and a linear layer of the class token."""
        return End(self.width, classes, self.epsilon)


class Embedding(nn.Module):
    """Patches as tokens behind a class token, with learned positions (Dosovitskiy et al. 2021)."""

    def __init__(self, sizes: Transformer) -> None:
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, sizes.width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + sizes.grid**2, sizes.width))
        self.patches = nn.Conv2d(sizes.channels, sizes.width, sizes.patch, stride=sizes.patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.positions


class End(nn.Module):
    """The network's own end: a layer norm and a linear layer of the class token."""

    def __init__(self, width: int, classes: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, epsilon)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.classifier(self.norm(tokens[:, 0]))
        return y


class ExitHead(nn.Module):
    """An exit: (n, tokens, width) to logits (n, classes).

    Attributes:
        compares: its features are as wide as those of the last block and of every other head, from which it may learn.
    """

    compares: ClassVar[bool] = True

    def __init__(self, mix: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.mix = mix
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decide(tokens, self.features(tokens))

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        """The patches as mixed, (n, as many as are left, width)."""
        y: torch.Tensor = self.mix(tokens[:, 1:])
        return y

    def decide(self, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Logits of tokens and their features."""
        y: torch.Tensor = self.classifier(features.mean(1) + tokens[:, 0])
        return y


def mixer(kind: Kind, width: int, heads: int, grid: int) -> nn.Module:
    """What a head does with patches (n, grid², width)."""
    if kind == "plain":
        return nn.Identity()
    if kind in STRIDES:
        return GlobalAggregation(width, heads, grid, STRIDES[kind])
    return LocalPerception(width, grid, spatial=kind == "spatial")


class LocalPerception(nn.Module):
    """Convolutions over the grid of patches, with their input added.

    The authors have batch norm behind GELU; here it is in front of it, where it is folded into the convolution.
    """

    def __init__(self, width: int, grid: int, *, spatial: bool) -> None:
        super().__init__()
        self.grid = grid
        middle = [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.GELU()]
        self.convolutions = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.GELU(),
            *(middle if spatial else []),
            nn.Conv2d(width, width, 1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.convolutions(on_grid(patches, self.grid)).flatten(2).transpose(1, 2)
        return y + patches


class GlobalAggregation(nn.Module):
    """Self-attention among every ``stride``-th patch of every ``stride``-th row."""

    def __init__(self, width: int, heads: int, grid: int, stride: int) -> None:
        super().__init__()
        self.grid, self.stride = grid, stride
        self.attention = SelfAttention(width, heads)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.attention(thinned(patches, self.grid, self.stride))
        return y


def on_grid(patches: torch.Tensor, grid: int) -> torch.Tensor:
    """Patches (n, grid², width) as a map (n, width, grid, grid)."""
    return patches.transpose(1, 2).reshape(len(patches), -1, grid, grid)


def thinned(patches: torch.Tensor, grid: int, stride: int) -> torch.Tensor:
    """Every ``stride``-th patch in both directions, the first included; as a pool of 1×1, which devices have."""
    if stride == 1:
        return patches
    return functional.avg_pool2d(on_grid(patches, grid), 1, stride).flatten(2).transpose(1, 2)
