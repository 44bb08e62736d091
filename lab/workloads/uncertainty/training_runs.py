"""How the networks of these workloads are trained. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from lab.workloads.fitting import Plan, fit
from lab.workloads.networks.evaluation import logits
from lab.workloads.uncertainty.evidence import evidential_loss
from lab.workloads.uncertainty.networks import Converter, EvidenceExits, Logits, SoftmaxExits
from lab.workloads.uncertainty.scenes import SEED, Task

CHUNK = 4096
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def tensors(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Training images and labels."""
    images, labels = task.training()
    return torch.from_numpy(images), torch.from_numpy(labels)


def in_chunks(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What a network yields for many inputs, a part of them at a time: feature maps of all at once take gigabytes."""
    return torch.cat([logits(network, some) for some in torch.split(inputs, CHUNK)])


def train_plain(network: nn.Module, task: Task, plan: Plan, seed: int) -> None:
    """Train a network with one end by cross-entropy."""
    images, labels = tensors(task)
    fit(network, images, labels, plan, seed, f"uncertainty: training on {len(images)} images")


def train_cascade(network: EvidenceExits, task: Task, plan: Plan) -> None:
    """Train part by part, each with its own head and optimiser, on what the trained parts before it yield.

    Source: UR2M, section V, "cascade" training.
    """
    features, labels = tensors(task)
    for number, (part, head) in enumerate(zip(network.parts, network.heads, strict=True)):
        title = f"ur2m: training part {number + 1} on {len(labels)} images"
        fit(nn.Sequential(part, head), features, labels, plan, SEED, title, evidential_loss)
        features = in_chunks(part, features)


def train_exits(network: SoftmaxExits, task: Task, plan: Plan) -> None:
    """Train all exits together by the sum of their cross-entropies, as BranchyNet does."""
    images, labels = tensors(task)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.stack([functional.cross_entropy(one, targets) for one in logits.unbind(1)]).sum()

    fit(Logits(network), images, labels, plan, SEED, f"early-exit: training on {len(images)} images", loss)


def first_shares(network: SoftmaxExits, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Softmax of the first exit for images (n, channels, height, width): (n, classes)."""
    logits = in_chunks(Logits(network).eval(), torch.from_numpy(images))[:, 0]
    return torch.softmax(logits.double(), 1).numpy()


def train_converter(
    network: Converter, exits: SoftmaxExits, task: Task, plan: Plan, loss: Loss
) -> None:
    """Train the autoencoder to turn each image into an easy one of its class: one that the first exit is sure of.

    Source: CBNet (S039): a loss of pixels against an easy image of the same class, drawn once per image.
    """
    images, labels = tensors(task)
    shares = torch.softmax(in_chunks(Logits(exits).eval(), images)[:, 0], 1)
    confidence = shares.gather(1, labels[:, None])[:, 0]
    generator = torch.Generator().manual_seed(SEED)
    wanted = torch.empty(len(images), dtype=torch.int64)
    for label in range(task.classes):
        own = (labels == label).nonzero()[:, 0]
        easiest = own[confidence[own].argsort(descending=True)[: max(1, len(own) // 4)]]
        wanted[own] = easiest[torch.randint(len(easiest), (len(own),), generator=generator)]
    targets = images[wanted].clamp(0, 1)
    fit(network, images, targets, plan, SEED, "early-exit: training the autoencoder", loss)
