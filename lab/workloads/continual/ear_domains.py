"""EAR's domains: scikit-learn's digits seen in four ways, or a user's folders of images, one for each domain.

The second is the paper's size: a published encoder, whose weights the user has, and the domains of a benchmark such as
PACS. The encoder's last layer is new and learns the classes from the first domain. Imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lab.errors import ConfigError
from lab.workloads import cache as cached
from lab.workloads.continual.ear_classes import dealt, known_classes, owners, pretrained_on
from lab.workloads.data import digits, image_folder
from lab.workloads.fitting import Plan, fit, seeded
from lab.workloads.networks.weight_files import NETWORK_FILES
from lab.workloads.training import own_images
from lab.workloads.training.turned_digits import SEED, Data, IntArray, load, pretrained

DOMAINS = ("source", "inverted", "faint", "blurred")
"""The first is what the encoder knows."""
IMAGE = 16
AT_ONCE = 16
"""Images in a pass of a large encoder."""
SMALLEST = 1e-4
"""Added to a feature's deviation: one that is the same for all images says nothing."""


class Options(own_images.Options, Protocol):
    """What a variant has: ``data`` are the folders below ``images/``, joined by ``+``, the source first."""

    @property
    def shots(self) -> int: ...
    @property
    def new(self) -> int: ...


@dataclass(frozen=True)
class Known:
    """What every arm begins with.

    Attributes:
        domains: images of each by its name, the source first.
        network: knows the source, batch norm folded; its last part is linear, with an output for each
            class of the source.
        owners: domain, by its number, that each further class comes with, in their order.
        source, digest: name of the data, and SHA-256, hex, of these and of weights that were read.
    """

    domains: Mapping[str, Data]
    network: nn.Sequential
    source: str
    digest: str
    owners: tuple[int, ...] = ()


def in_domain(images: torch.Tensor, domain: str) -> torch.Tensor:
    """Images (n, 1, H, W), −1 … 1, as a domain of digits has them."""
    if domain == "inverted":
        return -images
    if domain == "faint":
        return 0.25 * images - 0.4
    if domain == "blurred":
        return functional.avg_pool2d(functional.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return images


def known_digits(variant: Options, cache: Path) -> Known:
    """Digits in :data:`DOMAINS` and DigitsMB pre-trained on the first, from the cache where it is there.

    Raises:
        ConfigError: as :func:`lab.workloads.continual.ear_classes.dealt`.
    """
    data = load(IMAGE)
    domains = {one: replace(data, upright=in_domain(data.upright, one)) for one in DOMAINS}
    if variant.new:
        domains = dealt(domains, digits.CLASSES, variant.new, variant.shots, variant.evaluated)
        network: nn.Module = pretrained_on(domains[DOMAINS[0]], digits.CLASSES - variant.new, cache)
    else:
        network = pretrained(IMAGE, data, cache)
    if not isinstance(network, nn.Sequential):
        raise TypeError("the pre-trained network is no sequence of parts")
    digest = digits.digest(digits.find())
    return Known(domains, network, digits.SOURCE, digest, owners(variant.new, len(domains)))


def own_domains(variant: Options) -> tuple[dict[str, Data], str]:
    """The user's folders, and a SHA-256, hex, of all images that were read.

    Raises:
        ConfigError: fewer than two folders, one that is not there or damaged, other classes than in the first, or too
            few images or classes.
    """
    names = variant.data.split("+")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"ear: data={variant.data} names no two domains",
            hint="data=photo+sketch: folders below images/ in LAB_DATA, the source first, the same classes in each",
        )
    classes = [image_folder.classes(name) for name in names]
    for name, found in zip(names, classes, strict=True):
        if found != classes[0]:
            raise image_folder.source(name).refused(f"images/{name} has other classes than images/{names[0]}")
    known = known_classes(len(classes[0]), variant.new)
    read: dict[str, Data] = {}
    digest = hashlib.sha256()
    for name in names:
        wanted = max(variant.samples, variant.shots) if name == names[0] else variant.shots
        # So many of each class are read that enough are left without those that come with other domains.
        learnt, asked = (-(-one * len(classes[0]) // known) for one in (wanted, variant.evaluated))
        own = own_images.read(_Of(variant.network, name, variant.image, learnt, asked))
        for part, images, least in (("train", own.training, variant.shots), ("test", own.asked, variant.evaluated)):
            if len(images) < least:
                raise ConfigError(
                    f"images/{name}/{part} has {len(images)} images; {least} are asked for",
                    hint="fewer shots=, or evaluated=",
                )
            digest.update(f"{name} {part} {images.digest}\n".encode())
        read[name] = own.data()
    return read, digest.hexdigest()


@dataclass(frozen=True)
class _Of:
    """One domain, as :mod:`lab.workloads.training.own_images` takes it."""

    network: str
    data: str
    image: int
    samples: int
    evaluated: int


def known_images(variant: Options, cache: Path) -> Known:
    """The user's domains and encoder, whose new classifier has learnt the source; that is cached.

    Raises:
        ConfigError: as :func:`own_domains`, :func:`lab.workloads.continual.ear_classes.dealt` and
            :func:`lab.workloads.networks.weight_files.load`.
    """
    domains, data = own_domains(variant)
    first = next(iter(domains))
    classes = len(image_folder.classes(first))
    if variant.new:
        domains = dealt(domains, classes, variant.new, variant.shots, variant.evaluated)
    network, weights = own_images.network(variant, classes - variant.new)
    if not isinstance(network, nn.Sequential):
        raise TypeError("the encoder is no sequence of parts")
    source = domains[first]
    chosen = source.chosen(variant.samples)
    parts = {"data": data, "weights": weights, "samples": str(len(chosen)), "torch": version("torch"),
             "new": str(variant.new)}  # fmt: skip

    def produce() -> cached.Entry:
        made = _fitted(split(network)[0], split(network)[1], source.upright[chosen], source.labels[chosen])
        return cached.Entry("", {"weight": made.weight.detach().numpy(), "bias": made.bias.detach().numpy()})

    entry = cached.obtain(cache / "workloads", "ear-classifier", cached.key(parts, [Path(__file__)]), produce)
    classifier = split(network)[1]
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(np.array(entry.arrays["weight"])))
        classifier.bias.copy_(torch.from_numpy(np.array(entry.arrays["bias"])))
    digest = hashlib.sha256(f"{data} {weights}".encode()).hexdigest()
    source_name = f"images of {variant.data}; {NETWORK_FILES.name}: {variant.network}"
    return Known(domains, network, source_name, digest, owners(variant.new, len(domains)))


def _fitted(encoder: nn.Module, classifier: nn.Linear, images: torch.Tensor, labels: torch.Tensor) -> nn.Linear:
    """The classifier by the encoder's features of the source, which are standardised meanwhile; the encoder stays."""
    with torch.no_grad():
        features = torch.cat([encoder(one) for one in torch.split(images, AT_ONCE)])
    mean, deviation = features.mean(0), features.std(0) + SMALLEST
    with seeded(SEED):
        plan = Plan(epochs=100, batch=min(32, len(labels)), learning_rate=0.01)
        title = f"ear: the classifier from {len(labels)} images"
        fit(classifier, (features - mean) / deviation, labels, plan, SEED, title)
    with torch.no_grad():
        classifier.weight /= deviation
        classifier.bias.copy_(classifier.bias - classifier.weight @ mean)
    return classifier.eval()


def split(network: nn.Sequential) -> tuple[nn.Sequential, nn.Linear]:
    """Encoder and classifier of a network whose last part is linear."""
    *parts, (_, classifier) = network.named_children()
    if not isinstance(classifier, nn.Linear):
        raise TypeError("the last part is no linear layer")
    made = nn.Sequential()
    for name, part in parts:
        made.add_module(name, part)
    return made, classifier


@dataclass(frozen=True)
class Material:
    """Images of all domains.

    Attributes:
        enrolled: (rounds · domains, C, H, W), one of each domain in turn.
        learnt, labels: the same images of each new domain, one domain after another, in every epoch.
        asked, answers, domains: held-out images, their classes and their domains.
    """

    enrolled: torch.Tensor
    learnt: torch.Tensor
    labels: IntArray
    asked: torch.Tensor
    answers: IntArray
    domains: IntArray


def material(domains: Mapping[str, Data], shots: int, epochs: int, evaluated: int) -> Material:
    """Draw ``shots`` images of each domain, and ``evaluated`` questions; of digits the same ones in each, unless
    domains have classes of their own.
    """
    drawn = [(one, one.chosen(shots), one.held_out[:evaluated]) for one in domains.values()]
    by_domain = torch.stack([data.upright[chosen] for data, chosen, _ in drawn])
    labels = [data.labels[chosen].numpy() for data, chosen, _ in drawn]
    order = [np.random.default_rng((SEED, epoch)).permutation(shots) for epoch in range(epochs)]
    passes = np.concatenate(order)
    return Material(
        enrolled=by_domain.transpose(0, 1).reshape(-1, *by_domain.shape[2:]),
        learnt=torch.cat([one[passes] for one in by_domain[1:]]),
        labels=np.concatenate([one[passes] for one in labels[1:]]),
        asked=torch.cat([data.upright[asked] for data, _, asked in drawn]),
        answers=np.concatenate([data.labels[asked].numpy() for data, _, asked in drawn]),
        domains=np.repeat(np.arange(len(drawn)), [len(asked) for *_, asked in drawn]),
    )
