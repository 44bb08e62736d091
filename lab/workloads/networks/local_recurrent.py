"""Recurrent layers that read images row by row, whose states may learn by targets of their own; and a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from lab.compiler.joint import Penalised
from lab.workloads.networks.gru import GruCell
from lab.workloads.networks.local_mlp import Rule

CellName: TypeAlias = Literal["rnn", "gru"]
SPREAD = 4.0
"""Standard deviation of what the tangent makes a state's targets of: most of them are near −1 or 1, the ends of what a
state reaches. With 1 the states of different digits lie so near to each other that the classifier learns slowly."""


class RnnCell(nn.Module):
    """Plain recurrent layer of two linear ones; numbers are those of :class:`torch.nn.RNNCell` without its second bias.

    Source: Elman, "Finding Structure in Time", 1990, with a hyperbolic tangent.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(features, hidden)
        self.hidden = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(batch, features) and (batch, hidden) to the next (batch, hidden)."""
        return torch.tanh(self.input(x) + self.hidden(state))


def state_targets(states: int, classes: int, width: int, seed: int) -> torch.Tensor:
    """What each state is to be for each class, float32 (states, classes, width), in −1 … 1: fixed.

    The stream is apart from that of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.tanh(SPREAD * torch.randn((states, classes, width), generator=generator))


class LocalRecurrent(nn.Module):
    """Recurrent layers over the rows of images (n, C, H, W), and a classifier of the last one's last state.

    By backpropagation one loss at the end goes back through all rows. With ``projection`` each layer's state behind
    each row has a target of its own, a fixed random one for the label, and takes the state before it and that of the
    layer below detached; half the squared distances from them, their mean over the rows, are a layer's loss. Source:
    the recurrent networks of tpSGD; targets for each row and their mean are this lab's reading of its abstract.

    Args:
        cell: plain, or gated.
        depth: layers.
        rows, features: of an image; values of a row with all channels.
        width, classes: sizes.
        rule: ``backprop`` or ``projection``.
        seed: of the targets.
    """

    def __init__(
        self, cell: CellName, depth: int, rows: int, features: int, width: int, classes: int, rule: Rule, seed: int
    ) -> None:
        super().__init__()
        self.rule, self.rows, self.width = rule, rows, width
        kind = RnnCell if cell == "rnn" else GruCell
        self.hidden = nn.ModuleList([kind(width if number else features, width) for number in range(depth)])
        for layer in self.hidden:
            for name in ("input", "hidden"):
                weight = layer.get_parameter(f"{name}.weight")
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            nn.init.zeros_(layer.get_parameter("input.bias"))
        self.classifier = nn.Linear(width, classes)
        if rule == "projection":
            for number, targets in enumerate(state_targets(rows * depth, classes, width, seed)):
                self.register_buffer(f"projection{number}", targets)

    def forward(self, images: torch.Tensor) -> torch.Tensor | Penalised:
        """Logits (n, classes), with the losses of the recurrent layers where the rule is local."""
        states = list(self._states(images))
        if self.rule == "backprop":
            logits: torch.Tensor = self.classifier(states[-1])
            return logits
        return Penalised(self.classifier(states[-1].detach()), lambda labels: self._distances(states, labels))

    def losses(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[torch.Tensor]:
        """What a step of training descends under the local rule, one scalar after another.

        Each is computed when it is asked for: parameters may change in between, by the one before.
        """
        state = images
        for number, state in enumerate(self._states(images)):
            yield self._distance(number, state, labels)
        yield functional.cross_entropy(self.classifier(state.detach()), labels)

    def _states(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Of each row the states of all layers, the first one first."""
        states = [images.new_zeros(len(images), self.width) for _ in self.hidden]
        for row in range(self.rows):
            x = images[:, :, row].flatten(1)
            for number, layer in enumerate(self.hidden):
                state = layer(x, states[number])
                yield state
                x = states[number] = state if self.rule == "backprop" else state.detach()

    def _distances(self, states: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        distances = [self._distance(number, state, labels) for number, state in enumerate(states)]
        return sum(distances[1:], distances[0])

    def _distance(self, number: int, state: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = functional.embedding(labels, self.get_buffer(f"projection{number}"))
        return 0.5 / self.rows * functional.mse_loss(state, target, reduction="sum")
