"""UR2M's search for a network: over channels and blocks, within a device's memory and time, on this computer.

Kwon et al., "UR2M", 2024, section VI, algorithm 1: a grid of networks, of which the one with the highest accuracy for
its operations is taken. ``grid`` trains every network that fits as long as the one that is deployed; ``halving`` trains
all shortly and half of them twice as long, until one is left (K. Jamieson and A. Talwalkar, "Non-stochastic Best Arm
Identification and Hyperparameter Optimization", 2016). Imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import nn

import lab.compiler
from lab import progress
from lab.compiler.float_inference import compile_program, program_of
from lab.errors import ConfigError
from lab.workloads import cache as cached
from lab.workloads import fitting
from lab.workloads.fitting import Plan, seeded
from lab.workloads.networks.evaluation import logits
from lab.workloads.uncertainty import networks, training_runs
from lab.workloads.uncertainty.answers import TRAINED_BY, Precision
from lab.workloads.uncertainty.networks import Backbone
from lab.workloads.uncertainty.scenes import SEED, Task

How: TypeAlias = Literal["grid", "halving"]
Objective: TypeAlias = Literal["per-operation", "accuracy"]
CALIBRATION_SAMPLES = 16
ALWAYS_ON = 0.0
"""Threshold with which networks are judged: by their deepest exits, so that one is found for all thresholds."""


@dataclass(frozen=True)
class Budget:
    """What a device offers.

    Attributes:
        arena_bytes: of RAM, for activations.
        flash_bytes: for the network's constants.
        latency_ms: of an inference that goes to the deepest exit.
        macs_per_ms: multiply-accumulates that the device does in a millisecond, which make of these a latency.
    """

    arena_bytes: int
    flash_bytes: int
    latency_ms: float
    macs_per_ms: float


@dataclass(frozen=True)
class Candidate:
    """A network of the grid and what it takes.

    Attributes:
        width, blocks: of the backbone.
        macs: multiply-accumulates to the deepest exit.
        flash_bytes: constants.
        arena_bytes: as it is planned; 0 where the others alone are too much already.
    """

    width: int
    blocks: int
    macs: int
    flash_bytes: int
    arena_bytes: int = 0

    def within(self, budget: Budget) -> bool:
        """Whether it fits."""
        return (
            self.arena_bytes <= budget.arena_bytes
            and self.flash_bytes <= budget.flash_bytes
            and self.macs / budget.macs_per_ms <= budget.latency_ms
        )


@dataclass(frozen=True)
class Found:
    """What a search comes to.

    Attributes:
        chosen: the network.
        accuracy: its accuracy by what the host judges; 0 where one network alone fits, which nobody has to train.
        candidates, fitting: networks of the grid, and how many of them fit.
        trained_epochs: of all networks together.
    """

    chosen: Candidate
    accuracy: float
    candidates: int
    fitting: int
    trained_epochs: int


@dataclass(frozen=True)
class Search:
    """A search.

    Attributes:
        grid: channels and blocks of each network.
        backbone: makes that of a pair.
        task: what is trained on; its ``judged`` judges.
        budget: of the device.
        how, objective: which networks are trained how long, and which of them is the best.
        plan: of the network that is deployed.
        precision: of the layers in front of the heads, as they are deployed; networks are judged in float32.
    """

    grid: Sequence[tuple[int, int]]
    backbone: Callable[[int, int], Backbone]
    task: Task
    budget: Budget
    how: How
    objective: Objective
    plan: Plan
    precision: Precision

    def run(self, cache: Path) -> Found:
        """The network to deploy, searched for or read from the cache.

        Raises:
            ConfigError: no network fits, or the cache cannot be written.
        """
        entry = cached.obtain(cache / "workloads", "ur2m-search", self._key(), self._produce)
        document = json.loads(entry.document)
        return Found(**{**document, "chosen": Candidate(**document["chosen"])})

    def _key(self) -> str:
        parts = {
            "data": f"{self.task.trained_on}, {self.task.dataset.digest}",
            "options": json.dumps([
                list(self.grid), asdict(self.budget), self.how, self.objective, asdict(self.plan), self.precision,
            ]),
            **{package: version(package) for package in ("numpy", "torch")},
        }  # fmt: skip
        compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
        return cached.key(parts, [*TRAINED_BY, *compiler, Path(__file__), Path(fitting.__file__)])

    def _produce(self) -> cached.Entry:
        fitting_ones = self.fitting()
        accuracies, epochs = self._compete(fitting_ones)
        chosen = self.best(accuracies)[0]
        found = Found(chosen, accuracies[chosen], len(self.grid), len(fitting_ones), epochs)
        return cached.Entry(json.dumps(asdict(found)), {})

    def fitting(self) -> list[Candidate]:
        """The networks within the budget, in the order of the grid.

        Raises:
            ConfigError: there is none.
        """
        sample = torch.from_numpy(self.task.scene.images[:CALIBRATION_SAMPLES])
        title = f"ur2m: sizes of {len(self.grid)} networks"
        with seeded(SEED), progress.step(title, quiet_below_s=2.0):
            measured = [self._measured(width, blocks, sample) for width, blocks in self.grid]
        found = [one for one in measured if one.within(self.budget)]
        if not found:
            least = min(measured, key=lambda one: (one.macs, one.flash_bytes))
            offered = self.budget
            raise ConfigError(
                f"ur2m: none of {len(measured)} networks fits into {offered.arena_bytes / 1024:g} KiB of arena, "
                f"{offered.flash_bytes / 1024:g} KiB of flash and {offered.latency_ms:g} ms; the smallest, "
                f"{least.blocks} blocks of {least.width} channels, takes {least.arena_bytes / 1024:.1f} KiB, "
                f"{least.flash_bytes / 1024:.1f} KiB and {least.macs / offered.macs_per_ms:.1f} ms",
                hint="more arena= or flash= (KiB), more latency= (ms), or the rate= of a faster device",
            )
        return found

    def _measured(self, width: int, blocks: int, sample: torch.Tensor) -> Candidate:
        """What a network takes; compiled, which has its plan of the arena, where the rest fits, or is the least."""
        whole = self.network(width, blocks)
        weights = [one for one in whole.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
        flash = sum(one.weight.numel() for one in weights)
        rough = Candidate(width, blocks, macs_of(whole, sample[:1]), flash)
        if not rough.within(self.budget) and (width, blocks) != min(self.grid):
            return rough
        calibration = sample if self.precision == "int8" else None
        model = compile_program(program_of(whole, sample[:1], calibration), "candidate")
        return Candidate(width, blocks, model.macs, model.weights_bytes, model.arena_bytes)

    def network(self, width: int, blocks: int) -> networks.EvidenceExits:
        """The cascade, untrained, in evaluation mode; all of it answers."""
        made = self.backbone(width, blocks)
        whole = networks.EvidenceExits(made.parts(), made.heads(2 * self.task.classes), ALWAYS_ON)
        whole.eval()
        return whole

    def _compete(self, left: Sequence[Candidate]) -> tuple[Mapping[Candidate, float], int]:
        """Accuracies of those that were trained longest, and how many epochs all took."""
        if len(left) == 1:
            return {left[0]: 0.0}, 0
        if self.how == "grid":
            return {one: self.accuracy(one, self.plan.epochs) for one in left}, len(left) * self.plan.epochs
        epochs = max(1, self.plan.epochs >> (len(left) - 1).bit_length() - 1)
        total = 0
        while True:
            found = {one: self.accuracy(one, epochs) for one in left}
            total += len(left) * epochs
            left = self.best(found)[: (len(left) + 1) // 2]
            if len(left) == 1:
                return found, total
            epochs = min(2 * epochs, self.plan.epochs)

    def best(self, accuracies: Mapping[Candidate, float]) -> list[Candidate]:
        """Candidates, the best first: by accuracy for each operation, or by accuracy and then fewer operations."""

        def rank(one: Candidate) -> tuple[float, float]:
            return accuracies[one] / (one.macs if self.objective == "per-operation" else 1), -one.macs

        return sorted(accuracies, key=rank, reverse=True)

    def accuracy(self, one: Candidate, epochs: int) -> float:
        """Of the deepest exit, trained for so many epochs: share of what judges whose event it tells, in PyTorch."""
        if self.task.judged is None:
            raise ValueError("nothing judges the networks of this task")
        inputs, labels = (torch.from_numpy(part) for part in self.task.judged())
        with seeded(SEED):
            whole = self.network(one.width, one.blocks)
            training_runs.train_cascade(whole, self.task, replace(self.plan, epochs=epochs))
            told = logits(whole, inputs)[:, : self.task.classes].argmax(1)
        return float((told == labels).double().mean())


def macs_of(whole: nn.Module, sample: torch.Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one sample."""
    counted: list[int] = []

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counted.append(output[0].numel() * layer.weight[0].numel())

    hooks = [one.register_forward_hook(count) for one in whole.modules()]
    logits(whole, sample)
    for hook in hooks:
        hook.remove()
    return sum(counted)
