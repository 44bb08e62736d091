"""The networks of these workloads: alike behind their first convolution. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from lab.workloads.many_models.tasks import OWN_FILE, Form, Kind, Task
from lab.workloads.networks.blocks import conv2d, conv_norm
from lab.workloads.networks.ds_cnn import keyword_ds_cnn
from lab.workloads.networks.lenet5 import lenet5
from lab.workloads.networks.own import matching
from lab.workloads.networks.resnet import resnet8

LAST_LAYER = "classifier"
PUBLISHED: Mapping[Kind, Callable[[int], nn.Sequential]] = {
    "lenet5": lenet5, "ds-cnn": keyword_ds_cnn, "resnet8": resnet8,
}  # fmt: skip
"""By the number of classes."""
ABSENT = -30.0
"""Logit of a class that a task does not have, where tasks of unlike many stand side by side."""


def stem(task: Task) -> nn.Sequential:
    """The first convolution: samples of a task to (16, 8, 8), or as its form says."""
    channels, first = task.training.samples.shape[1], task.form.widths[0]
    convolution = nn.Conv2d(channels, first, 3, task.stride, padding=1, bias=False)
    return conv_norm(convolution, nn.ReLU())


def trunk(form: Form) -> list[tuple[str, nn.Module]]:
    """What lies between: 3×3 and 1×1 convolutions in turn, and the pool. By default 28,160 weights, (16, 8, 8) to
    (64,); 142,560 of the paper's size.
    """
    first, middle, last = form.widths
    return [
        ("wide1", conv_norm(conv2d(first, middle, 3), nn.ReLU())),
        ("mix1", conv_norm(conv2d(middle, middle, 1), nn.ReLU())),
        ("wide2", conv_norm(conv2d(middle, last, 3, stride=2), nn.ReLU())),
        ("mix2", conv_norm(conv2d(last, last, 1), nn.ReLU())),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
    ]


def assembled(first: nn.Module, middle: Sequence[tuple[str, nn.Module]], classifier: nn.Module) -> nn.Sequential:
    """A network of these parts, which stay the caller's."""
    network = nn.Sequential()
    for name, module in (("stem", first), *middle, (LAST_LAYER, classifier)):
        network.add_module(name, module)
    return network


def network_of(task: Task) -> nn.Module:
    """The network of a task, which yields logits: untrained, or the user's own as its file has it.

    Raises:
        ConfigError: as :func:`lab.workloads.networks.own.matching`.
    """
    if task.network == "own":
        return matching(OWN_FILE.format(task.name), task.asked.samples.shape[1:], task.classes)
    if task.network != "alike":
        return PUBLISHED[task.network](task.classes)
    return assembled(stem(task), trunk(task.form), nn.Linear(task.form.widths[-1], task.classes))


class ManyHeads(nn.Module):
    """One network for all tasks: the trunk is shared, the first convolution and the classifier are each task's own.

    Takes rows of the number of the task and its sample, padded to the longest, and yields logits of as many classes as
    the largest task has: so that one batch may hold all tasks, as batch norm in the trunk must see them.

    Args:
        tasks: in the order of their numbers.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self._shapes = [one.training.samples.shape[1:] for one in tasks]
        self._classes = max(one.classes for one in tasks)
        self.stems = nn.ModuleList([stem(one) for one in tasks])
        self.trunk = nn.Sequential()
        for name, module in trunk(tasks[0].form):
            self.trunk.add_module(name, module)
        self.classifiers = nn.ModuleList([nn.Linear(one.form.widths[-1], one.classes) for one in tasks])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        places = [(rows[:, 0] == number).nonzero()[:, 0] for number in range(len(self._shapes))]
        maps = []
        for place, shape, first in zip(places, self._shapes, self.stems, strict=True):
            size = shape[0] * shape[1] * shape[2]
            maps.append(first(rows[place, 1 : 1 + size].reshape(-1, *shape)))
        features = self.trunk(torch.cat(maps))
        parts = features.split([len(one) for one in places])
        own = [last(part) for last, part in zip(self.classifiers, parts, strict=True)]
        told = [functional.pad(one, (0, self._classes - one.shape[1]), value=ABSENT) for one in own]
        return torch.cat(told)[torch.argsort(torch.cat(places))]

    def of(self, number: int) -> nn.Sequential:
        """The network of one task; trunks of all are the same."""
        return assembled(self.stems[number], list(self.trunk.named_children()), self.classifiers[number])
