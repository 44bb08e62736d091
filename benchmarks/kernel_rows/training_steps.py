"""Whole SGD steps of two fully connected networks at batch 1, as our compiler makes them: fp32, all parameters.

A step is forward pass, cross-entropy, backward pass and updates; the input gradient of the first layer is not needed
and not computed. Reference figures are instructions of such steps on mps2-an386 under QEMU 7.2, measured for this
project: AIfES, and C and assembly written by hand for the one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab.compiler.model import CompiledModel
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training
from lab.devices.base import RegionCount
from lab.events import Job
from lab.training import BACKWARD, FORWARD, UPDATE, training_job

BOARD = "m4f"


@dataclass(frozen=True)
class Step:
    """An SGD step of a network with one hidden layer and ReLU.

    Attributes:
        sizes: inputs, hidden units, classes.
        fused_c: instructions of C by hand that updates at once; the ceiling.
        assembly: the same with inner loops in assembly.
        aifes: instructions of the public library.
    """

    sizes: tuple[int, int, int]
    fused_c: int
    assembly: int
    aifes: int

    @property
    def name(self) -> str:
        """The sizes."""
        return "MLP " + "-".join(map(str, self.sizes))

    def model(self) -> CompiledModel:
        """Compiled for training with plain SGD."""
        inputs, hidden, classes = self.sizes
        torch.manual_seed(1)
        network = torch.nn.Sequential(
            torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes)
        )
        return compile_training(
            network,
            torch.randn(1, inputs),
            loss=torch.nn.functional.cross_entropy,
            train=lambda _name, _parameter: True,
            optimizer=Sgd(),
            name=f"mlp_{inputs}",
        ).compiled

    def job(self, steps: int = 1) -> Job:
        """Training on ordinary samples."""
        generator = np.random.default_rng(2)
        samples = generator.standard_normal((steps, self.sizes[0])).astype(np.float32)
        return training_job(samples, generator.integers(0, self.sizes[2], steps).astype(np.int32), learning_rate=0.01)


STEPS = (
    Step((64, 32, 10), 20_025, 11_502, 282_817),
    Step((640, 128, 10), 596_938, 266_897, 9_534_817),
)


def instructions(counts: Sequence[RegionCount]) -> int:
    """Of all parts of the steps counted; what the runner does between them is not part of one."""
    return sum(count.instructions for count in counts if count.region in (FORWARD, BACKWARD, UPDATE))
