"""Meta-training that goes on where it was cut off: at the paper's size it takes days. Imports torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Saved:
    """A file that holds the state of a training, written as a whole or not at all.

    Attributes:
        path: its place.
        every: steps from one writing to the next.
    """

    path: Path
    every: int = 100

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.is_file()

    def write(
        self,
        step: int,
        parameters: Sequence[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        generator: np.random.Generator,
    ) -> None:
        """Keep what the next step depends on, once ``step`` of them are done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}")
        state = {
            "step": step,
            "parameters": [one.detach() for one in parameters],
            "optimizer": optimizer.state_dict(),
            "generator": json.dumps(generator.bit_generator.state),
        }
        torch.save(state, unfinished)
        unfinished.replace(self.path)

    def read(
        self,
        parameters: Sequence[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        generator: np.random.Generator,
    ) -> int:
        """Put all back as it was; yields how many steps are done, none where nothing was kept."""
        if not self.begun:
            return 0
        state = torch.load(self.path, weights_only=True)
        with torch.no_grad():
            for one, kept in zip(parameters, state["parameters"], strict=True):
                one.copy_(kept)
        optimizer.load_state_dict(state["optimizer"])
        generator.bit_generator.state = json.loads(state["generator"])
        return int(state["step"])

    def done(self) -> None:
        """Nothing is left to go on with."""
        self.path.unlink(missing_ok=True)
