"""A Swin transformer in parts with LGViT's heads behind them (S099). Imports torch.

Exits and heads are where the authors have them in Swin-B, whose blocks yield maps and no class token: a head mixes the
patches, and is a layer norm, their mean and a linear layer behind that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from lab.workloads.networks.swin import PatchMaps, PatchMerging, SwinBlock
from lab.workloads.uncertainty.lgvit_networks import ExitHead, Exits, mixer, part_lengths

HEADS = 8
"""Attention heads of an exit's head, whatever its width."""


@dataclass(frozen=True)
class WindowTransformer:
    """Sizes of a Swin transformer with exits.

    Attributes:
        channels, image: of the input, (channels, image, image).
        patch: pixels along a side.
        width: channels of the first stage; each has twice those of the one before.
        depths, heads: of each stage, blocks and attention heads.
        window: patches along a side; every second block's are moved by half of that.
        exits: behind which block, counted over all stages; the last block's is none of them.
    """

    channels: int
    image: int
    patch: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    exits: Exits

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    def stage(self, block: int) -> int:
        """Of a block, which is counted from 1."""
        return next(number for number in range(len(self.depths)) if block <= sum(self.depths[: number + 1]))

    def wide(self, stage: int) -> int:
        """Channels."""
        return self.width << stage

    def grid(self, stage: int) -> int:
        """Patches along a side."""
        return self.image // self.patch >> stage

    def parts(self) -> list[nn.Sequential]:
        """Each yields maps (n, grid, grid, width) of its last block's stage."""
        blocks = [list(self._block(number)) for number in range(1, self.depth + 1)]
        begin, made = 0, []
        for length in part_lengths(self):
            made.append(nn.Sequential(*(one for block in blocks[begin : begin + length] for one in block)))
            begin += length
        return made

    def _block(self, number: int) -> Iterator[nn.Module]:
        """A block, behind what begins its stage."""
        stage = self.stage(number)
        place = number - 1 - sum(self.depths[:stage])
        if number == 1:
            yield PatchMaps(self.channels, self.patch, self.width)
        elif place == 0:
            yield PatchMerging(self.wide(stage - 1))
        by = place % 2 * (self.window // 2)
        yield SwinBlock(self.wide(stage), self.heads[stage], self.grid(stage), self.window, by)

    def exit_heads(self, exits: Exits, classes: int) -> list[nn.Module]:
        """A head for each of ``exits``, and the end."""
        made: list[nn.Module] = []
        for block, kind in exits:
            stage = self.stage(block)
            width = self.wide(stage)
            made.append(MapHead(mixer(kind, width, HEADS, self.grid(stage)), width, classes))
        return [*made, self.end(classes)]

    def end(self, classes: int) -> nn.Module:
        """A layer norm, the mean over patches and a linear layer."""
        return MapEnd(self.wide(len(self.depths) - 1), classes)


class MapEnd(nn.Module):
    """The network's own end: maps (n, grid, grid, width) to logits (n, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.classifier(self.norm(maps).flatten(1, 2).mean(1))
        return y


class MapHead(ExitHead):
    """An exit: maps (n, grid, grid, width) to logits (n, classes)."""

    compares: ClassVar[bool] = False

    def __init__(self, mix: nn.Module, width: int, classes: int) -> None:
        super().__init__(mix, width, classes)
        self.norm = nn.LayerNorm(width)

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        """The patches as mixed, (n, as many as are left, width)."""
        y: torch.Tensor = self.mix(tokens.flatten(1, 2))
        return y

    def decide(self, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Logits of features alone."""
        y: torch.Tensor = self.classifier(self.norm(features).mean(1))
        return y
