"""EcoTTA's network: meta networks beside the frozen parts of the source network. Imports torch.

Song et al., "EcoTTA: memory-efficient continual test-time adaptation via self-distilled regularization" (CVPR 2023,
arXiv:2303.01904), section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from lab.compiler.joint import Penalised
from lab.workloads.fitting import Plan, fit

PARTS = 4
LAYERS_OF_A_BLOCK = 3
"""Convolution, batch norm, ReLU."""
WARM_UP = Plan(epochs=10, batch=64, learning_rate=4e-3, label_smoothing=0.0)
"""Epochs and batch are the paper's; it warms up by SGD, here the optimiser is that of the source network."""
PROBED = 32
"""Pixels of the side of a map by which a part shows its stride."""
DISTILLATION = 0.25
"""λ, the weight of the regularisation."""
MOMENTUM = 0.9


class MetaPart(nn.Module):
    """A frozen part of the source network and its meta network.

    Yields ``norm(frozen(x)) + block(x)``: batch norm of the part's output, and beside the part a convolution of the
    same stride with batch norm and ReLU. Both batch norms take the statistics of the batch.

    Args:
        frozen: layers of the source network.
        inputs, outputs: channels.
        stride: of the part as a whole.
    """

    def __init__(self, frozen: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.norm = nn.BatchNorm2d(outputs, track_running_stats=False)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv_norm = nn.BatchNorm2d(outputs, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The part's own output and the two networks' together, each (n, outputs, H, W)."""
        own = self.frozen(x)
        return own, self.norm(own) + functional.relu(self.conv_norm(self.conv(x)))


class MetaNetwork(nn.Module):
    """The source network in :data:`PARTS` frozen parts, each with a meta network."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        layers, ends = list(copy.deepcopy(network)), part_ends(network)
        self.eval()
        self.parts = nn.ModuleList(
            _meta_part(layers[begin:end]) for begin, end in zip((0, *ends[:-1]), ends, strict=True)
        )
        self.tail = nn.Sequential(*layers[ends[-1] :])
        self.eval()

    def forward(self, x: torch.Tensor) -> Penalised:
        """Logits (n, 10), and λ times how far each part's output is from that of the part alone, mean |difference|."""
        apart = x.new_zeros(())
        for part in self.parts:
            own, x = part(x)
            off = x - own.detach()
            # |off| by two ReLUs: backward then needs two bits of each value and not the difference itself.
            apart = apart + (functional.relu(off) + functional.relu(-off)).mean()
        return Penalised(self.tail(x), DISTILLATION * apart)


def part_ends(network: nn.Sequential) -> tuple[int, ...]:
    """How many layers of the network come before the end of each of its :data:`PARTS` parts.

    A network of single convolutions is cut evenly. One of residual blocks ends a part with each stage; where there are
    fewer stages than parts the first stage is two, since shallow parts are to be the smaller ones (EcoTTA, section 3.1:
    3, 3, 6 and 6 blocks of WideResNet-40).

    Raises:
        ValueError: neither makes so many parts.
    """
    names = [name for name, _ in network.named_children()]
    stages = [name.partition("_block")[0] for name in names]
    lasts = [place + 1 for place, one in enumerate(stages) if one.startswith("stage") and stages[place + 1] != one]
    if not lasts:
        each = sum(isinstance(one, nn.Conv2d) for one in network) // PARTS * LAYERS_OF_A_BLOCK
        return tuple(range(each, PARTS * each + 1, each))
    first = stages.count("stage1")
    if len(lasts) == PARTS - 1 and first > 1:
        lasts.insert(0, lasts[0] - first + first // 2)
    if len(lasts) != PARTS:
        raise ValueError(f"{len(lasts)} stages, the first of {first} blocks, do not make {PARTS} parts")
    return tuple(lasts)


@torch.no_grad()
def _meta_part(layers: Sequence[nn.Module]) -> MetaPart:
    frozen = nn.Sequential(*layers).eval()
    inputs = next(one.in_channels for one in frozen.modules() if isinstance(one, nn.Conv2d))
    made = frozen(torch.zeros(1, inputs, PROBED, PROBED))
    return MetaPart(frozen, inputs, made.shape[1], PROBED // made.shape[2])


def meta_names(network: MetaNetwork) -> list[str]:
    """Parameters of the meta networks: all that changes."""
    return [name for name, _ in network.named_parameters() if ".frozen." not in name and not name.startswith("tail.")]


def warm_up(network: MetaNetwork, images: torch.Tensor, labels: torch.Tensor, seed: int, epochs: int) -> None:
    """Teach the meta networks the source task on clean images by cross-entropy, before anything is deployed.

    Call inside :func:`lab.workloads.fitting.seeded`.
    """
    names = meta_names(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    title = f"adaptation: warming the meta networks up on {len(images)} images"
    fit(_Logits(network), images, labels, replace(WARM_UP, epochs=epochs), seed, title)


class _Logits(nn.Module):
    """The network without its penalty, and in evaluation mode whatever is asked for: what is frozen stays as it is."""

    def __init__(self, network: MetaNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        made: Penalised = self.network(x)
        return made.output

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)
