"""Training without a backward pass: passes with perturbed variables, and an update by what these did to the loss.

A perturbation moves every element by plus or minus sigma and is made again from a key whenever it is needed
(``firmware/runtime/lab_perturbation.h``). Source: Feng et al., "Does Federated Learning Really Need Backpropagation?"
(BAFFLE), where perturbations are Gaussian; signs have the same second moments, which is all that the estimate asks for
to first order, and are exact in integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.operations.copy import present
from lab.compiler.operations.int8_training import random_step, random_words
from lab.compiler.program import Program, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall
from lab.errors import CompileError

WORD = 32
"""Elements whose signs are the bits of one random number."""


@dataclass(frozen=True)
class Perturbation:
    """How the loss is probed in each step.

    Attributes:
        passes: perturbations of a step.
        sigma: how far each element is moved.

    Raises:
        CompileError: a value out of range.
    """

    passes: int
    sigma: float

    def __post_init__(self) -> None:
        if self.passes < 1 or not (0.0 < self.sigma < math.inf):
            raise CompileError(
                f"{self.passes} passes with perturbations of {self.sigma}",
                hint="at least 1 pass, and a finite sigma above 0",
            )

    def words(self, counts: Sequence[int]) -> int:
        """Random numbers of one perturbation of variables of so many elements."""
        return sum(-(-count // WORD) for count in counts)

    def signs(self, key: int, number: int, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
        """Those of perturbation ``number``, float32 in the shapes of the variables."""
        words = self.words([math.prod(shape) for shape in shapes])
        numbers = random_words(key, np.arange(number * words, (number + 1) * words, dtype=np.uint32))
        bits = np.unpackbits(numbers.astype("<u4").view(np.uint8), bitorder="little")
        made, first = list[torch.Tensor](), 0
        for shape in shapes:
            count = math.prod(shape)
            made.append(torch.from_numpy(2.0 * bits[first : first + count].astype(np.float32) - 1.0).reshape(shape))
            first += -(-count // WORD) * WORD
        return made

    def fields(self, inputs: Sequence[Tensor | None], first: int) -> tuple[tuple[str, int | float], ...]:
        """Of the kernels' descriptors; variables are the inputs from ``first`` on."""
        counts = [one.elements for one in inputs[first:] if one is not None]
        return (
            ("perturbation.part_count", len(counts)),
            ("perturbation.words", self.words(counts)),
            ("perturbation.passes", self.passes),
            ("perturbation.sigma", self.sigma),
        )


@dataclass(frozen=True)
class PerturbedPasses(Update):
    """The losses with each perturbation: inputs sample, target and variables; outputs losses (passes,) and variables.

    The variables come back but for the rounding of adding and subtracting sigma. The key is the next number of the
    training state.

    Attributes:
        perturbation: how many, and how far.
        forward: the steps up to the loss; its parameters are the variables, in this order.
        holds_key: whether the key is the training state's number itself, the same in every step.
    """

    kind: ClassVar[str] = "perturbed_passes"
    perturbation: Perturbation
    forward: Program = field(repr=False, compare=False)
    holds_key: bool = False

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        sample, target, *variables = [present(one) for one in inputs]
        names = [one.name for one in self.forward.of_kind("parameter")]
        key = state.random if self.holds_key else random_step(state)
        sigma, losses = self.perturbation.sigma, list[torch.Tensor]()
        for number in range(self.perturbation.passes):
            signs = self.perturbation.signs(key, number, [one.shape for one in variables])
            moved = [one + sigma * sign for one, sign in zip(variables, signs, strict=True)]
            values = self.forward.run(sample, target, dict(zip(names, moved, strict=True)))
            losses.append(values[self.forward.loss].reshape(1))
            variables = [one - sigma * sign for one, sign in zip(moved, signs, strict=True)]
        return (torch.cat(losses), *variables)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (*self.perturbation.fields(inputs, 2), ("holds_key", int(self.holds_key)))
        return KernelCall(
            "lab_f32_perturbed_passes", (), fields, takes_state=True, runs_forward=True,
            tables=(("perturbation.parts", tuple(range(2, len(inputs)))),),
        )  # fmt: skip

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        forward = self.forward
        each = sum(one.operation.macs(forward.inputs_of(one), forward.outputs_of(one)) for one in forward.steps)
        return self.perturbation.passes * each


@dataclass(frozen=True)
class SteinUpdate(Update):
    """``w -= rate · mean over passes of (losses − loss) / sigma · signs``; inputs losses, loss and variables.

    The key is the training state's number, which :class:`PerturbedPasses` left there.

    Attributes:
        perturbation: as there.
    """

    kind: ClassVar[str] = "stein_update"
    perturbation: Perturbation

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        losses, loss, *variables = [present(one) for one in inputs]
        factor = state.learning_rate / (self.perturbation.passes * self.perturbation.sigma)
        moves = [torch.zeros_like(one) for one in variables]
        for number, step in enumerate(factor * (losses - loss.reshape(1))):
            signs = self.perturbation.signs(state.random, number, [one.shape for one in variables])
            moves = [move + step * sign for move, sign in zip(moves, signs, strict=True)]
        return tuple(one - move for one, move in zip(variables, moves, strict=True))

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall(
            "lab_f32_stein_update", (), self.perturbation.fields(inputs, 2), takes_state=True,
            tables=(("perturbation.parts", tuple(range(2, len(inputs)))),),
        )  # fmt: skip

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.perturbation.passes * sum(one.elements for one in outputs)


@dataclass(frozen=True)
class LossDifferences(Update):
    """``differences += rate · (losses − loss)``: what a client of a federation uploads; inputs losses, loss, state.

    Attributes:
        passes: how many.
    """

    kind: ClassVar[str] = "loss_differences"
    passes: int

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        losses, loss, differences = (present(one) for one in inputs)
        return (differences + state.learning_rate * (losses - loss.reshape(1)),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_loss_differences", (), (("passes", self.passes),), takes_state=True)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.passes
