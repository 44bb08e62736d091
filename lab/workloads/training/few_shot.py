"""Few-shot learning by class means in PyTorch: the network, its meta-training, and what a device must come to.

The method is that of prototypical networks (Snell et al. 2017) with the cosine as Kwon et al. 2024, "TinyTrain",
equation 1, have it. Imports torch: import it only where a network is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from lab import progress
from lab.workloads.data.omniglot import Characters, Episode, episode
from lab.workloads.networks import folded
from lab.workloads.training.tinytrain_arms import SEED, MetaPlan, Part, Variant

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

SHARPNESS = 10.0
"""Logits are so many cosines."""
SMALLEST = 1e-8
"""Added to squared lengths: class means start at zero."""


class PrototypeNet(nn.Module):
    """Cosines between the features of an image and the class means, times ``SHARPNESS``.

    Args:
        backbone: image (n, channels, H, W) to features (n, depth).
        prototypes: float32 (ways, depth), the class means to start from.
    """

    def __init__(self, backbone: nn.Module, prototypes: torch.Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.prototypes = nn.Parameter(prototypes.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cosines(self.backbone(x), self.prototypes)


def cosines(features: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Logits (n, ways) of features (n, depth) by class means (ways, depth)."""
    unit = means * torch.rsqrt((means * means).sum(1, keepdim=True) + SMALLEST)
    length = torch.rsqrt((features * features).sum(1, keepdim=True) + SMALLEST)
    return functional.linear(features, unit) * (SHARPNESS * length)


def convolutions(network: nn.Module) -> list[str]:
    """Names of the convolutions, in forward order."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]


def images(pixels: FloatArray) -> torch.Tensor:
    """(n, channels, H, W), −1 … 1, of pixels of one channel (n, H, W) or of several, 0 … 1."""
    whole = torch.from_numpy(pixels)
    return (whole[:, None] if whole.dim() == 3 else whole) * 2 - 1


def draw(classes: Characters, variant: Variant, number: int) -> Episode:
    """Task ``number`` of these classes.

    Raises:
        ConfigError: a task of this size cannot be drawn.
    """
    generator = np.random.default_rng((SEED, number))
    return episode(classes, variant.ways, variant.shots, variant.queries, generator)


def meta_train(network: nn.Sequential, classes: Characters, plan: MetaPlan, seed: int) -> nn.Sequential:
    """A backbone trained on episodes, batch norm folded; run it under :func:`lab.workloads.fitting.seeded`.

    Args:
        network: changed in place.
        classes: to draw episodes of; of all, where they are fewer than the plan's ways.
        plan: of the training.
        seed: of the episodes.
    """
    generator = np.random.default_rng(seed)
    ways = min(plan.ways, len(classes))
    optimizer = torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=plan.episodes)
    network.train()
    with progress.step(f"tinytrain: meta-training on {plan.episodes} episodes", quiet_below_s=2.0) as step:
        for number in range(plan.episodes):
            task = episode(classes, ways, plan.shots, plan.queries, generator)
            features = network(torch.cat([images(task.support), images(task.queries)]))
            border = len(task.support)
            means = features[:border].reshape(plan.shots, ways, -1).mean(0)
            loss = functional.cross_entropy(cosines(features[border:], means), torch.from_numpy(task.query_labels))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step.update(number + 1, plan.episodes, f"loss {float(loss.detach()):.3f}")
    made = folded(network.eval())
    if not isinstance(made, nn.Sequential):
        raise TypeError("folding changed the kind of the network")
    return made


def class_means(network: nn.Module, samples: torch.Tensor, labels: IntArray, ways: int) -> torch.Tensor:
    """Means of each class's features, (ways, depth)."""
    with torch.no_grad():
        features = network(samples)
    return torch.stack([features[torch.from_numpy(labels == way)].mean(0) for way in range(ways)])


def fisher(
    network: PrototypeNet, samples: torch.Tensor, labels: IntArray, layers: Sequence[str]
) -> dict[str, FloatArray]:
    """Fisher information of output channels, sample by sample (TinyTrain, equation 2), by the names of ``layers``.

    Args:
        network: with the class means.
        samples: (n, channels, H, W).
        labels: (n,).
        layers: convolutions of ``network.backbone``.
    """
    kept: dict[str, torch.Tensor] = {}
    sums = {name: torch.zeros(0) for name in layers}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, given: object, output: torch.Tensor) -> None:
            output.retain_grad()
            kept[name] = output

        return network.backbone.get_submodule(name).register_forward_hook(hook)

    hooks = [keep(name) for name in layers]
    for sample, label in zip(samples, torch.from_numpy(labels), strict=True):
        functional.cross_entropy(network(sample[None]), label[None]).backward()  # type: ignore[no-untyped-call]
        for name in layers:
            activation, gradient = kept[name], kept[name].grad
            if gradient is None:
                raise ValueError(f"'{name}' has no gradient")
            part = (activation * gradient).sum((0, 2, 3)).square().detach() / (2 * len(samples))
            sums[name] = part if len(sums[name]) == 0 else sums[name] + part
    for one in hooks:
        one.remove()
    return {name: value.numpy() for name, value in sums.items()}


def mask(part: Part, parameter: torch.Tensor) -> torch.Tensor:
    """1 where a parameter is trained. A depthwise weight has its channels first."""
    ones = torch.ones_like(parameter)
    for axis, chosen in ((0, part.outputs), (1, part.inputs)):
        if chosen is not None:
            some = torch.zeros(parameter.shape[axis])
            some[list(chosen)] = 1
            ones = ones * some.reshape([-1 if at == axis else 1 for at in range(parameter.dim())])
    return ones


def adapt(
    network: PrototypeNet,
    parts: Mapping[str, Part],
    samples: torch.Tensor,
    labels: IntArray,
    *,
    epochs: int,
    rate: float,
    gain: float,
    after_epoch: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train ``parts`` by Adam, a sample a step, the class means following the features; the loss of each step."""
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in parts)
    masks = {name: mask(part, parameters[name]) for name, part in parts.items()}
    optimizer = torch.optim.Adam([parameters[name] for name in parts], rate, fused=True)
    targets = torch.from_numpy(labels)
    losses = []
    for _ in range(epochs):
        for index in range(len(samples)):
            features = network.backbone(samples[index : index + 1])
            loss = functional.cross_entropy(cosines(features, network.prototypes), targets[index : index + 1])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for name, kept in masks.items():
                gradient = parameters[name].grad
                if gradient is not None:
                    gradient *= kept
            optimizer.step()
            with torch.no_grad():
                mean = network.prototypes[targets[index]]
                mean += gain * (features[0].detach() - mean)
            losses.append(float(loss.detach()))
        after_epoch()
    return losses


def accuracy(network: nn.Module, samples: torch.Tensor, labels: IntArray) -> float:
    """Share of the samples that are told right."""
    with torch.no_grad():
        return float((network(samples).argmax(1).numpy() == labels).mean())
