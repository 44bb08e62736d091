"""What rehearsal makes of each step of a training: which samples come and which are drawn, by the device's numbers.

A device and its host reckon this alike from the number of a step alone, so that the host can send the samples whose
logits the device has kept. No torch in here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.compiler.random_numbers import random_at


@dataclass(frozen=True)
class Turns:
    """Steps in groups: ``batch`` new samples, then so many draws from the buffer for each of ``draws``.

    What is kept is a uniform sample of all that came (Vitter 1985, algorithm R), each as often as it came.

    Attributes:
        slots: of the buffer; 0: nothing is kept or drawn.
        batch: new samples of a group.
        draws: draws that follow each new sample.
        seed: key of the random numbers.
    """

    slots: int
    batch: int
    draws: int
    seed: int

    @property
    def group(self) -> int:
        """Steps of a group."""
        return self.batch * (1 + self.turns)

    @property
    def turns(self) -> int:
        """Draws that follow each new sample."""
        return self.draws if self.slots else 0

    def draw_of(self, step: int) -> int:
        """0 for a step with a new sample, else which of the draws it is; steps count from 1."""
        return (step - 1) % self.group // self.batch

    def slot(self, step: int) -> int:
        """Where a new sample is kept, ``slots`` or more for nowhere; or which slot is drawn."""
        number, place = divmod(step - 1, self.group)
        drawn = int(random_at(self.seed, np.array([step], np.uint32))[0])
        if self.draw_of(step):
            return drawn % min((number + 1) * self.batch, self.slots)
        seen = number * self.batch + place
        return seen if seen < self.slots else drawn % (seen + 1)
