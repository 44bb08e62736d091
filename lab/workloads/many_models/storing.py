"""How networks become small: trained, coded, and tuned around what the codes lose. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from lab.workloads.fitting import Plan, fit
from lab.workloads.many_models.coding import ByteArray, Codebook, Coder, Layer, book_of
from lab.workloads.many_models.networks import ManyHeads
from lab.workloads.many_models.tasks import SEED, Part, Task
from lab.workloads.networks.evaluation import logits


@dataclass(frozen=True)
class Coded:
    """A layer as it is stored.

    Attributes:
        layer: with the weights that a device decodes.
        book: name of its codebook.
        numbers: of its groups.
    """

    layer: Layer
    book: str
    numbers: ByteArray


@dataclass(frozen=True)
class Stored:
    """A network that is partly coded.

    Attributes:
        network: folded, with the weights as they are decoded.
        coded: by name of the layer.
        tuned: layers that were trained again and stay int8, in the order in which they were taken; none without tuning.
    """

    network: nn.Module
    coded: Mapping[str, Coded]
    tuned: tuple[str, ...]


def train_all(networks: Sequence[nn.Module], tasks: Sequence[Task], plan: Plan) -> None:
    """Train each network on its own task, by cross-entropy."""
    for network, task in zip(networks, tasks, strict=True):
        samples, labels = (torch.from_numpy(one) for one in (task.training.samples, task.training.labels))
        fit(network, samples, labels, plan, SEED, f"many models: training {task.name} on {len(labels)} samples")


def train_heads(network: ManyHeads, tasks: Sequence[Task], plan: Plan) -> None:
    """Train one network with a head for each task on all of them at once."""
    parts = [one.training for one in tasks]
    longest = max(one.samples[0].size for one in parts)
    rows = np.zeros((sum(map(len, parts)), 1 + longest), np.float32)
    begin = 0
    for number, part in enumerate(parts):
        own = rows[begin : begin + len(part)]
        own[:, 0] = number
        own[:, 1 : 1 + part.samples[0].size] = part.samples.reshape(len(part), -1)
        begin += len(part)
    labels = torch.from_numpy(np.concatenate([one.labels for one in parts]))
    fit(network, torch.from_numpy(rows), labels, plan, SEED, f"many models: one network on {len(labels)} samples")


def accuracy(network: nn.Module, part: Part) -> float:
    """Share of the samples whose class it tells."""
    told = logits(network, torch.from_numpy(part.samples)).argmax(1).numpy()
    return float(np.mean(told == part.labels))


def layers_of(network: nn.Module, name: str) -> dict[str, Layer]:
    """The weights of every convolution and linear layer in int8, by the name of the layer, in the network's order.

    Convolutions of groups or with dilation, whose kernels read other memory, are none.

    Args:
        network: folded.
        name: of the network.
    """
    found: dict[str, Layer] = {}
    for place, module in network.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and _is_dense(module)):
            real = _in_order(module).numpy().astype(np.float64)
            scales = np.maximum(np.abs(real).reshape(len(real), -1).max(1) / 127, np.finfo(np.float32).tiny)
            rounded = np.rint(real / scales[:, None, None, None]).astype(np.int8)
            found[place] = Layer(name, place, rounded, scales)
    return found


def _is_dense(module: nn.Conv2d) -> bool:
    return module.groups == 1 and set(module.dilation) == {1}


def ends_of(network: nn.Module) -> tuple[str, str]:
    """The names of the first and the last layer of a network, which are not coded."""
    names = list(layers_of(network, ""))
    return names[0], names[-1]


def _in_order(module: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """Weights (outputs, height, width, inputs)."""
    weight = module.weight.detach()
    return weight[:, None, None] if weight.ndim == 2 else weight.permute(0, 2, 3, 1)


def code(
    network: nn.Module,
    task: Task,
    coder: Coder,
    books: Mapping[str, Codebook],
    tuning: Plan | None,
    allowed_drop: float,
) -> Stored:
    """Code a network, and train some layers again so that it is as accurate as before.

    Source: YONO, algorithm 1. The first and the last layer are trained again with all others decoded and frozen; as
    long as the network is worse than before by more than ``allowed_drop``, the coded layer whose weights are off most,
    by squared error per weight, is trained as well. Codebooks never change, and what is frozen keeps its numbers.

    Args:
        network: folded and trained.
        task: its validation samples judge.
        coder, books: how weights are coded.
        tuning: how layers are trained again; None codes every layer that can be, and trains nothing.
        allowed_drop: in accuracy.
    """
    layers = layers_of(network, task.name)
    ends = ends_of(network)
    kept = set() if tuning is None else set(ends)
    coded = {
        name: _coded(layer, coder, books) for name, layer in layers.items() if layer.codable and name not in kept
    }
    made = copy.deepcopy(network)
    for one in coded.values():
        _write(made, one.layer)
    if tuning is None:
        return Stored(made.eval(), coded, ())
    tuned = list(dict.fromkeys(ends))
    wanted = accuracy(network, task.validation) - allowed_drop
    while True:
        _fit_only(made, tuned, task, tuning)
        if accuracy(made, task.validation) >= wanted or not coded:
            break
        worst = max(coded, key=lambda name: _error(layers[name], coded[name].layer))
        del coded[worst]
        _write(made, layers[worst])
        tuned.append(worst)
    return Stored(made.eval(), coded, tuple(tuned))


def _coded(layer: Layer, coder: Coder, books: Mapping[str, Codebook]) -> Coded:
    name = book_of(coder, layer)
    numbers = books[name].numbers(layer)
    return Coded(books[name].decoded(layer, numbers), name, numbers)


def _error(layer: Layer, decoded: Layer) -> float:
    """Mean squared error of a weight."""
    return float(np.mean((layer.real - decoded.real) ** 2))


def _write(network: nn.Module, layer: Layer) -> None:
    """Give a network's layer these weights."""
    module = cast("nn.Conv2d | nn.Linear", network.get_submodule(layer.name))
    with torch.no_grad():
        _in_order(module).copy_(torch.from_numpy(layer.real))


def _fit_only(network: nn.Module, names: Sequence[str], task: Task, plan: Plan) -> None:
    """Train these layers; all others keep their parameters."""
    for place, parameter in network.named_parameters():
        parameter.requires_grad_(place.rpartition(".")[0] in names)
    samples, labels = torch.from_numpy(task.training.samples), torch.from_numpy(task.training.labels)
    fit(network, samples, labels, plan, SEED, f"many models: tuning {len(names)} layers of {task.name}")
