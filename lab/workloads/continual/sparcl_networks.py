"""SparCL's networks: a multi-layer perceptron for digits, and the paper's ResNet-18 for CIFAR-10. Imports torch.

The paper's network has batch norm, whose statistics are those of 32 images. Where a step has one, group norm stands in
its place, which needs no other (Wu and He, "Group Normalization", 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from lab.compiler.operations.block_sparse import BLOCK
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.operations.replay import Replay
from lab.compiler.training import TrainingModel, compile_training
from lab.compiler.training_passes.block_sparse import Blocks
from lab.compiler.training_passes.observe import ClassMeans
from lab.workloads.continual.sparcl_stream import SEED
from lab.workloads.data import cifar10, digits
from lab.workloads.fitting import seeded
from lab.workloads.networks import resnet18
from lab.workloads.training.few_shot import PrototypeNet

Size: TypeAlias = Literal["ci", "paper"]
Norm: TypeAlias = Literal["single", "batch"]
PIXELS = 64
NARROW = 64
"""Units of the second hidden layer."""
GROUP_CHANNELS = 16
"""Of a group norm, as its authors have them."""
SHAPES: Mapping[Size, tuple[int, ...]] = {"ci": (PIXELS,), "paper": (3, cifar10.SIDE, cifar10.SIDE)}
MEANS = "prototypes"


def perceptron(hidden: int, norm: Norm = "single") -> nn.Sequential:
    """64 inputs, two hidden layers, 10 classes; with batch norm in front of each ReLU where ``norm`` says so."""
    if norm == "batch":
        return nn.Sequential(
            nn.Linear(PIXELS, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, NARROW, bias=False), nn.BatchNorm1d(NARROW), nn.ReLU(),
            nn.Linear(NARROW, digits.CLASSES),
        )  # fmt: skip
    return nn.Sequential(
        nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, NARROW), nn.ReLU(), nn.Linear(NARROW, digits.CLASSES)
    )


def residual(width: int, norm: Norm = "single") -> nn.Module:
    """ResNet-18 for images (n, 3, 32, 32) of ten classes.

    Args:
        width: channels of the first stage; 64 is the paper's.
        norm: group norm, or the paper's batch norm.
    """
    return resnet18(width) if norm == "batch" else group_normed(resnet18(width))


def group_normed(network: nn.Module) -> nn.Module:
    """The network with its batch norms replaced, in place."""
    for name, part in list(network.named_children()):
        if isinstance(part, nn.BatchNorm2d):
            channels = part.num_features
            setattr(network, name, nn.GroupNorm(max(1, channels // GROUP_CHANNELS), channels))
        else:
            group_normed(part)
    return network


def _made(size: Size, hidden: int, norm: Norm) -> nn.Module:
    return perceptron(hidden, norm) if size == "ci" else residual(hidden, norm)


def sparse_layers(size: Size, hidden: int, norm: Norm = "single") -> dict[str, tuple[int, int]]:
    """Weights of which blocks are kept, their rows and the inputs that blocks are of: all but those of the last layer
    and of the images' three colours. Of a convolution each tap of each output is a row.
    """
    parts = _made(size, hidden, norm).named_modules()
    layers = [(name, part.weight) for name, part in parts if isinstance(part, LAYERS)]
    shapes = {f"{name}.weight": (one.numel() // one.shape[1], one.shape[1]) for name, one in layers[:-1]}
    return {name: shape for name, shape in shapes.items() if shape[1] % BLOCK == 0}


LAYERS = (nn.Linear, nn.Conv2d)
"""Of which blocks can be kept."""


def network(size: Size, hidden: int, blocks: Mapping[str, Blocks], norm: Norm = "single") -> nn.Module:
    """The network of a size, the same for each call. Weights of which blocks are kept begin larger, as with fewer
    inputs.

    Args:
        size, hidden, norm: as the workload's variant has them.
        blocks: of its weights.
    """
    with seeded(SEED):
        made = _made(size, hidden, norm)
    for name, chosen in blocks.items():
        weight = made.get_parameter(name)
        weight.data *= (weight.shape[1] / (BLOCK * chosen.kept)) ** 0.5
    return made


def compiled(
    size: Size, hidden: int, blocks: Mapping[str, Blocks], replay: Replay | None = None, group: int = 1,
    norm: Norm = "single", rows: int = 1,
) -> TrainingModel:  # fmt: skip
    """The program of a network that trains as a whole, dense but for ``blocks``.

    Args:
        size, hidden, blocks, norm: as of :func:`network`.
        replay: logits that the device stores and rehearses.
        group: steps whose gradients add up.
        rows: samples of a step.
    """
    return compile_training(
        network(size, hidden, blocks, norm), torch.zeros(rows, *SHAPES[size]), loss=functional.cross_entropy,
        train=lambda name, one: True, optimizer=Sgd(), name="sparcl", blocks=blocks, replay=replay, group=group,
        batch_norm=norm == "batch",
    )  # fmt: skip


def class_means(samples: int, classes: int, inputs: int) -> TrainingModel:
    """The program of a classifier by the cosine to the classes' mean images, which nothing descends."""
    module = PrototypeNet(nn.Identity(), torch.zeros(digits.CLASSES, inputs))
    return compile_training(
        module, torch.zeros(1, inputs), loss=functional.cross_entropy, train={}, optimizer=Sgd(), name="sparcl",
        means=ClassMeans(MEANS, 0.0, classes, samples),
    )  # fmt: skip
