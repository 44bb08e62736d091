"""Small random networks for checks of passes: a network, its training program before a pass, and steps of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn

from lab.compiler.graph import to_nhwc
from lab.compiler.joint import export_training
from lab.compiler.lowering import lower
from lab.compiler.operations.optimizer import Optimizer, Sgd
from lab.compiler.program import Program, TrainingState
from lab.compiler.training_passes import prune
from lab.compiler.updates import add_updates

CLASSES, SIZE, BATCH = 3, 6, 2
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Identity)


class Block(nn.Module):
    """Convolution, batch norm where wanted, activation, and a way around where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int, norm: bool, activation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.activation = ACTIVATIONS[activation]()
        self.around = inputs == outputs and kernel == 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's feature map."""
        y: torch.Tensor = self.activation(self.norm(self.conv(x)))
        return x + y if self.around else y


@dataclass(frozen=True)
class Case:
    """A network with its data.

    Attributes:
        module: in evaluation mode, batch norms with statistics of their own.
        samples, labels: batches for steps of training.
    """

    module: nn.Module
    samples: tuple[torch.Tensor, ...]
    labels: tuple[torch.Tensor, ...]

    @property
    def names(self) -> list[str]:
        """Every parameter."""
        return [name for name, _ in self.module.named_parameters()]

    def program(self, trained: list[str] | None = None) -> Program:
        """Forward and backward, as lowered."""
        names = self.names if trained is None else trained
        joint = export_training(self.module, self.samples[0], self.labels[0], nn.CrossEntropyLoss(), names)
        return lower(joint)

    def updating(self, optimizer: Optimizer | None = None) -> Program:
        """Pruned, with updates at the end."""
        return add_updates(prune(self.program()), optimizer or Sgd(weight_decay=0.01))

    def train(self, program: Program, rate: float = 0.05) -> tuple[list[float], dict[str, torch.Tensor]]:
        """Losses of some steps, and parameters and state after them."""
        memory, losses = program.initial_memory(), list[float]()
        for step, (sample, label) in enumerate(zip(self.samples, self.labels, strict=True)):
            values = program.run(to_nhwc(sample), label, memory, TrainingState(rate, step + 1, 1))
            losses.append(float(values[program.loss]))
        return losses, memory

    def gradients(self, program: Program) -> dict[str, torch.Tensor]:
        """Gradients of the first batch, as they lie in memory."""
        values = program.run(to_nhwc(self.samples[0]), self.labels[0], program.initial_memory())
        return {name: values[gradient] for name, gradient in program.gradients.items()}


def case(widths: list[tuple[int, int, bool, bool, int]], seed: int) -> Case:
    """A network of blocks of (channels, kernel, depthwise, batch norm, activation) and a classifier."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    inputs = 2
    for channels, kernel, depthwise, norm, activation in widths:
        outputs, groups = (inputs, inputs) if depthwise else (channels, 1)
        layers.append(Block(inputs, outputs, kernel, groups, norm, activation))
        inputs = outputs
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)).train()
    for _ in range(2):
        module(torch.randn(4, 2, SIZE, SIZE))
    samples = tuple(torch.randn(BATCH, 2, SIZE, SIZE) for _ in range(2))
    return Case(module.eval(), samples, tuple(torch.randint(CLASSES, (BATCH,)) for _ in samples))


def cases(depth: int = 3) -> st.SearchStrategy[Case]:
    """Networks of one to ``depth`` blocks."""
    block = st.tuples(
        st.sampled_from([3, 4]), st.sampled_from([1, 3]), st.booleans(), st.booleans(), st.integers(0, 3)
    )
    return st.builds(case, st.lists(block, min_size=1, max_size=depth), st.integers(0, 99))
