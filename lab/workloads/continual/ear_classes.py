"""Classes that EAR's source lacks: they come with the later domains. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lab.errors import ConfigError
from lab.workloads import cache as cached
from lab.workloads.data import digits
from lab.workloads.fitting import fit, seeded
from lab.workloads.networks import digits_mb, folded
from lab.workloads.training.turned_digits import PRETRAINING, SEED, SOURCES, Data, IntArray

FEWEST = 2
"""Classes that the source must know."""


def known_classes(classes: int, new: int) -> int:
    """How many classes the source knows, of those that there are; the last ``new`` come later.

    Raises:
        ConfigError: too few.
    """
    if classes - new < FEWEST:
        raise ConfigError(f"ear: new={new} of {classes} classes", hint=f"at most {classes - FEWEST}")
    return classes - new


def owners(new: int, domains: int) -> tuple[int, ...]:
    """The domain, by its number, that each new class comes with: dealt to the later ones in turn."""
    return tuple(1 + number % (domains - 1) for number in range(new))


def dealt(domains: Mapping[str, Data], classes: int, new: int, shots: int, evaluated: int) -> dict[str, Data]:
    """Domains without images of what they do not have: the classes of the source, and those that come with each.

    Args:
        domains: images of all classes in each, the source first.
        classes, new: how many there are, and how many the source lacks.
        shots, evaluated: images that each domain must have to learn from and to be asked.

    Raises:
        ConfigError: a domain has fewer, or the source too few classes.
    """
    known, comes = known_classes(classes, new), owners(new, len(domains))
    found = {}
    for number, (name, data) in enumerate(domains.items()):
        has = [*range(known), *(known + place for place, owner in enumerate(comes) if owner == number)]
        kept = replace(data, training=_of(data, data.training, has), held_out=_of(data, data.held_out, has))
        if len(kept.training) < shots or len(kept.held_out) < evaluated:
            raise ConfigError(
                f"ear: with new={new} '{name}' has {len(kept.training)} images to learn from and {len(kept.held_out)} "
                f"to be asked; {shots} and {evaluated} are asked for",
                hint="fewer shots=, or evaluated=",
            )
        found[name] = kept
    return found


def _of(data: Data, chosen: IntArray, classes: list[int]) -> IntArray:
    return chosen[np.isin(data.labels.numpy()[chosen], classes)]


def pretrained_on(source: Data, classes: int, cache: Path) -> nn.Sequential:
    """DigitsMB that has seen the images of a source alone, batch norm folded, with outputs for its classes; cached."""
    parts = {"classes": str(classes), "plan": json.dumps(asdict(PRETRAINING)), "torch": version("torch"),
             "data": digits.digest(digits.find()), "image": str(source.upright.shape[-1])}  # fmt: skip

    def produce() -> cached.Entry:
        with seeded(SEED):
            made = digits_mb(classes)
            images, labels = source.upright[source.training], source.labels[source.training]
            fit(made, images, labels, PRETRAINING, SEED, f"ear: pre-training on {len(images)} images")
        return cached.Entry("", {name: value.numpy() for name, value in made.state_dict().items()})

    entry = cached.obtain(cache / "workloads", "ear-digits-mb", cached.key(parts, [Path(__file__), *SOURCES]), produce)
    made = digits_mb(classes)
    made.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in entry.arrays.items()})
    ready = folded(made)
    if not isinstance(ready, nn.Sequential):
        raise TypeError("the pre-trained network is no sequence of parts")
    return ready


def widened(network: nn.Sequential, new: int) -> nn.Sequential:
    """The network with outputs for classes that it does not know, which begin at zero; the others stay."""
    *parts, (last, layer) = network.named_children()
    if not isinstance(layer, nn.Linear):
        raise TypeError("the last part is no linear layer")
    wide = nn.Linear(layer.in_features, layer.out_features + new)
    with torch.no_grad():
        for own, known in ((wide.weight, layer.weight), (wide.bias, layer.bias)):
            own.zero_()
            own[: layer.out_features] = known
    made = nn.Sequential()
    for name, part in (*parts, (last, wide)):
        made.add_module(name, part)
    return made.eval()
