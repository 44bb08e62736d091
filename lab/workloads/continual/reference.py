"""The device's steps in PyTorch: what its classifier is compared with, and how its learning rate is chosen.

Imports torch. Gradients are autograd's. Several deployments are learnt side by side as replicas, each with a learning
rate of its own; a device is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from lab.compiler.operations.int8_training import random_step
from lab.compiler.program import TrainingState
from lab.workloads.continual.attentive_units import Attention, Parameters, attend
from lab.workloads.continual.learner_plan import Plan


@dataclass(frozen=True)
class Stream:
    """What is learnt, by replica.

    Attributes:
        fresh: float32 (replicas, steps, shots, elements): latents as they are extracted.
        kept: the same as the store yields them.
        labels: int64 (steps, shots).
        stored: bool (steps, shots): whether the store has had room.
    """

    fresh: torch.Tensor
    kept: torch.Tensor
    labels: torch.Tensor
    stored: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Learned:
    """What came of it.

    Attributes:
        losses: float32 (steps, replicas): mean of a step's samples before any of them is learnt.
        weights: float32 (steps, replicas, classes, elements): after each step, or after the last alone.
        biases: float32 (steps, replicas, classes).
        units: attentive units after the last step, with replicas: those of the paper are 268 MB.
        attention: what they are; None where there are none.
        answers: float32 (steps, replicas, n, classes): logits of what was asked after each step; None for nothing.
    """

    losses: torch.Tensor
    weights: torch.Tensor
    biases: torch.Tensor
    units: Parameters
    attention: Attention | None = None
    answers: torch.Tensor | None = None

    def told(self, questions: torch.Tensor) -> torch.Tensor:
        """Logits (replicas, n, classes) of questions (replicas, n, elements) in the end."""
        features = questions
        if self.attention is not None:
            features = attend(self.units, questions, self.attention.active)
        return torch.einsum("rnd,rcd->rnc", features, self.weights[-1]) + self.biases[-1][:, None]


class Classifiers:
    """Linear classifiers side by side, which begin at zero, behind attentive units where there are any.

    Args:
        replicas, classes, elements: sizes.
        rates: float32 (replicas,).
        attention: units that stand before them; None for nothing.
    """

    def __init__(
        self, replicas: int, classes: int, elements: int, rates: torch.Tensor, attention: Attention | None = None
    ) -> None:
        width = elements if attention is None else attention.width
        self.weight = torch.zeros(replicas, classes, width, requires_grad=True)
        self.bias = torch.zeros(replicas, classes, requires_grad=True)
        self.units = {} if attention is None else attention.replicas(replicas)
        self._active = 0 if attention is None else attention.active
        self._rates = rates

    def logits(self, latents: torch.Tensor) -> torch.Tensor:
        """(replicas, n, classes) of (replicas, n, elements)."""
        features = attend(self.units, latents, self._active) if self.units else latents
        return torch.bmm(features, self.weight.transpose(1, 2)) + self.bias[:, None]

    def losses(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of each replica, (replicas,)."""
        told = self.logits(latents)
        each = functional.cross_entropy(told.flatten(0, 1), labels.repeat(len(told)), reduction="none")
        return each.reshape(len(told), -1).mean(1)

    def descend(self, latents: torch.Tensor, labels: torch.Tensor) -> None:
        """A step of plain gradient descent on one batch: no replica's loss depends on another's classifier."""
        loss = self.losses(latents, labels).sum()
        learnt = [self.weight, self.bias, *self.units.values()]
        gradients = torch.autograd.grad(loss, learnt)
        with torch.no_grad():
            for one, gradient in zip(learnt, gradients, strict=True):
                one -= self._rates.reshape(-1, *[1] * (one.dim() - 1)) * gradient


def learn(
    stream: Stream,
    plan: Plan,
    rates: torch.Tensor,
    seed: int,
    epochs: int = 1,
    attention: Attention | None = None,
    only_last: bool = False,
    asked: torch.Tensor | None = None,
) -> Learned:
    """All steps, in order.

    Args:
        stream: what is learnt.
        plan: of the device.
        rates: float32 (replicas,).
        seed: first state of the generator that shuffles what is rehearsed.
        epochs: passes over the stream.
        attention: what stands before the classifier; None for nothing.
        only_last: whether classifiers are kept after the last step alone.
        asked: questions, float32 (replicas, n, elements), that are answered after each step; None for none.
    """
    replicas, steps, _, elements = stream.fresh.shape
    heads = Classifiers(replicas, plan.classes, elements, rates, attention)
    state = TrainingState(0.0, 0, seed)
    seen: list[tuple[int, int]] = []
    losses, weights, biases, answers = [], [], [], []
    for number in range(steps * epochs):
        step = number % steps
        with torch.no_grad():
            losses.append(heads.losses(stream.fresh[:, step], stream.labels[step]))
        _inner_loop(heads, stream, step, plan)
        if plan.rehearses:
            seen = _outer_loop(heads, stream, step, plan, seen, state)
        with torch.no_grad():
            if asked is not None:
                answers.append(heads.logits(asked))
        if only_last and number < steps * epochs - 1:
            continue
        weights.append(heads.weight.detach().clone())
        biases.append(heads.bias.detach().clone())
    units = {name: one.detach() for name, one in heads.units.items()}
    told = torch.stack(answers) if answers else None
    return Learned(torch.stack(losses), torch.stack(weights), torch.stack(biases), units, attention, told)


def _inner_loop(heads: Classifiers, stream: Stream, step: int, plan: Plan) -> None:
    """The new samples one by one; or the mean of each class so far, and what its nearest neighbour needs."""
    if plan.rehearsal == "means":
        with torch.no_grad():
            so_far, labels = stream.fresh[:, : step + 1].flatten(1, 2), stream.labels[: step + 1].flatten()
            for label in sorted(set(labels.tolist())):
                mean = so_far[:, labels == label].mean(1)
                heads.weight[:, label] = mean
                heads.bias[:, label] = -mean.square().sum(1) / 2
        return
    for shot in range(stream.fresh.shape[2]):
        heads.descend(stream.fresh[:, step, shot : shot + 1], stream.labels[step, shot : shot + 1])


def _outer_loop(
    heads: Classifiers, stream: Stream, step: int, plan: Plan, seen: list[tuple[int, int]], state: TrainingState
) -> list[tuple[int, int]]:
    """What the store holds and the new samples, in batches; yields what the store holds afterwards."""
    new = [(step, shot) for shot in range(stream.fresh.shape[2])]
    stored = [stream.kept[:, a, b] for a, b in seen]
    latents = torch.stack([*stored, *(stream.fresh[:, a, b] for a, b in new)], 1)
    labels = torch.stack([stream.labels[a, b] for a, b in (*seen, *new)])
    for _ in range(plan.epochs):
        order = torch.tensor(shuffled(len(labels), state))
        for at in range(0, len(labels), plan.batch):
            some = order[at : at + plan.batch]
            heads.descend(latents[:, some], labels[some])
    return [*seen, *(one for one in new if stream.stored[one])]


def shuffled(count: int, state: TrainingState) -> list[int]:
    """Fisher and Yates, from the last place down, by the runtime's generator."""
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        other = random_step(state) % (place + 1)
        order[place], order[other] = order[other], order[place]
    return order
