"""Rehearsal with stored logits: Buzzega et al. 2020, "Dark Experience for General Continual Learning" (DER++).

The loss of a step group is the cross entropy of new samples, α times the squared distance of drawn samples' logits from
those that were stored when these came, and β times the cross entropy of others that are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall
from lab.compiler.replay import Turns

DRAWS = 2
"""One for its logits, one for its label."""


@dataclass(frozen=True)
class Replay:
    """How logits are rehearsed.

    Attributes:
        slots: samples whose logits are kept.
        batch: new samples of a group of steps.
        distil, rehearse: α and β.
        seed: of the random numbers.
        rows: samples of a step, one or ``batch``.
    """

    slots: int
    batch: int
    distil: float
    rehearse: float
    seed: int
    rows: int = 1

    @property
    def turns(self) -> Turns:
        """What each step does."""
        return Turns(self.slots, self.batch, DRAWS, self.seed)


@dataclass(frozen=True)
class ReplayGradient(Update):
    """Gradient of the step's share of the loss by the logits; keeps logits of what is new.

    Inputs: gradient of the cross entropy, logits, both of a step's samples, and logits that are kept (slots, classes).
    Outputs: what is kept, and the gradient.
    """

    kind: ClassVar[str] = "replay"
    replay: Replay
    classes: int

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        gradient, logits, kept = (present(one) for one in inputs)
        gradient, logits, kept = gradient.clone(), logits.reshape(gradient.shape), kept.clone()
        turns, rows = self.replay.turns, self.replay.rows
        ours = gradient.view(rows, -1)
        for row, own in enumerate(logits.reshape(rows, -1)):
            number = (state.step - 1) * rows + row + 1
            draw, slot = turns.draw_of(number), turns.slot(number)
            if draw == 0 and slot < len(kept):
                kept[slot] = own
            elif draw == 1:
                ours[row] = self.distil * (own - kept[slot])
            elif draw:
                ours[row] *= self.replay.rehearse
        return kept, gradient

    @property
    def distil(self) -> float:
        """What a distance from a stored logit is multiplied by: of α times the mean square of all of a step's."""
        return 2 * self.replay.distil / self.classes / self.replay.rows

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        replay = self.replay
        fields = (
            ("classes", self.classes),
            ("rows", replay.rows),
            ("slots", replay.slots),
            ("batch", replay.batch),
            ("seed", replay.seed),
            ("distil", self.distil),
            ("rehearse", replay.rehearse),
        )
        return KernelCall("lab_f32_replay", (), fields, takes_state=True)


@dataclass(frozen=True)
class Commit(Update):
    """A parameter takes its next values after every group of steps; inputs: the next values, the parameter.

    Attributes:
        steps: of a group.
    """

    kind: ClassVar[str] = "commit"
    steps: int

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        coming, now = (present(one) for one in inputs)
        return (coming.clone() if state.step % self.steps == 0 else now,)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("count", outputs[0].elements), ("steps", self.steps))
        return KernelCall("lab_f32_commit", (), fields, takes_state=True)
