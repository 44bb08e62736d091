"""int8 weights learn what float32 weights learn, and what that hangs on: scaled gradients and stochastic rounding.

A network trained on scikit-learn's digits meets inverted ones; only the weights of its int8 layers change, one sample
at a time. Everything is seeded: the numbers are the same in every run. Method and expectations: Lin et al. 2022,
"On-Device Training Under 256KB Memory", section 2.1; each rule other than the product's is written out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.int8_training import CROSS_ENTROPY
from sklearn.datasets import load_digits
from torch import nn

from lab.compiler.graph import to_nhwc
from lab.compiler.host import HostTraining
from lab.compiler.model import CompiledModel
from lab.compiler.operations.int8_training import Int8WeightUpdate
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.program import Program, Step
from lab.compiler.training import TrainingModel, compile_training

RATE, STEPS, FEW_STEPS = 0.01, 2400, 250
SOURCE, TARGET = 1000, 400
"""Samples of the digits the network is made on, and of inverted ones it learns from; the other 397 are its test."""
NETWORKS = 4
EVALUATED = 150
"""Test samples of the (slow) integer reference."""
Floats: TypeAlias = npt.NDArray[np.float32]
Rule: TypeAlias = Callable[[Floats, Floats, Floats], Floats]
"""New weights of the int8 weights, the step on real weights in steps of their grid, and the scales of the grid."""


@dataclass(frozen=True)
class Task:
    """The network and its data.

    Attributes:
        module: trained on upright digits.
        calibration: images of both kinds.
        images, labels: inverted ones to learn from.
        test_images, test_labels: inverted ones.
    """

    module: nn.Sequential
    calibration: torch.Tensor
    images: torch.Tensor
    labels: list[int]
    test_images: torch.Tensor
    test_labels: npt.NDArray[np.int64]

    @property
    def trained(self) -> list[str]:
        """The weights that change: not the classifier's, which are float32."""
        names = [name for name, _ in self.module.named_parameters() if name.endswith("weight")]
        return names[:-1]

    def compile(self, *, int8: bool, immediate: bool = True) -> TrainingModel:
        """For training, one sample a step."""
        return compile_training(
            self.module,
            self.images[:1],
            loss=CROSS_ENTROPY,
            train=self.trained,
            optimizer=Sgd(),
            precision="int8" if int8 else "float32",
            calibration=self.calibration if int8 else None,
            immediate=immediate,
        )


def small_network() -> nn.Sequential:
    """Full, depthwise and pointwise convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, 1, 1, groups=24),
        nn.ReLU(),
        nn.Conv2d(24, 32, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small take longer on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def task(one_thread: None) -> Task:
    return task_of(0)


def task_of(seed: int) -> Task:
    """One network and one order of the digits."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator)
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[order, None]
    y = torch.tensor(digits.target)[order]
    module = small_network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(25):
        for batch in torch.randperm(SOURCE, generator=generator).reshape(-1, 100):
            optimizer.zero_grad()
            CROSS_ENTROPY(module(x[batch]), y[batch]).backward()
            optimizer.step()
    inverted = 1 - x
    seen, unseen = slice(SOURCE, SOURCE + TARGET), slice(SOURCE + TARGET, None)
    return Task(
        module.eval(),
        torch.cat((x[:64], inverted[seen][:64])),
        inverted[seen],
        y[seen].tolist(),
        inverted[unseen],
        y[unseen].numpy(),
    )


def samples(model: CompiledModel, images: torch.Tensor) -> Floats | npt.NDArray[np.int8]:
    """Images as the model takes them."""
    physical: Floats = to_nhwc(images).numpy()
    return model.input.quantize(physical) if model.input.dtype == "int8" else physical


def rate_at(number: int, steps: int) -> float:
    """Constant for the first half, then linearly to zero, so that the last samples do not decide."""
    return RATE * min(1.0, 2 * (1 - number / steps))


@dataclass(frozen=True)
class Built:
    """A model of the task in C."""

    task: Task
    model: CompiledModel
    host: HostTraining

    def accuracy_after(self, steps: int) -> float:
        """Accuracy on the test images after so many steps from the start."""
        self.host.reset()
        images = samples(self.model, self.task.images)
        for number in range(steps):
            at = number % TARGET
            label = np.array([self.task.labels[at]], dtype=np.int32)
            self.host.step(images[at : at + 1], label, rate_at(number, steps))
        scores = self.host.run(samples(self.model, self.task.test_images))
        return float((scores.argmax(1) == self.task.test_labels).mean())


def built(task: Task, folder: Path, *, int8: bool) -> Built:
    """Compiled and built."""
    folder.mkdir(exist_ok=True)
    compiled = task.compile(int8=int8).compiled
    return Built(task, compiled, HostTraining(compiled, folder))


@pytest.fixture(scope="module")
def int8(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(task, tmp_path_factory.mktemp("int8"), int8=True)


@pytest.fixture(scope="module")
def stored(task: Task) -> TrainingModel:
    """With stored gradients, for rules of the test's own."""
    return task.compile(int8=True, immediate=False)


def test_int8_learns_what_float32_learns(one_thread: None, tmp_path: Path) -> None:
    """At the learning rate of float32, most of what that gains, in the mean over networks.

    One network says little: of ten, int8 lost 4.3 points in the mean with a standard deviation of 5, and which of them
    lose more is different on another processor, whose sums make other networks. Seen: 0.94 of the gain, ±0.07.
    """
    gains = []
    for seed in range(NETWORKS):
        task = task_of(seed)
        int8 = built(task, tmp_path / f"int8-{seed}", int8=True)
        real = built(task, tmp_path / f"real-{seed}", int8=False).accuracy_after(STEPS)
        start, integer = int8.accuracy_after(0), int8.accuracy_after(STEPS)
        assert start < 0.2
        assert real > start + 0.4
        gains.append((integer - start) / (real - start))
    assert 0.8 <= np.mean(gains) <= 1.2


def stochastic(x: Floats, rng: np.random.Generator) -> Floats:
    """Rounds up with the probability of what is cut off."""
    rounded: Floats = np.floor(x + rng.random(x.shape, dtype=np.float32))
    return rounded


def train_by_rule(task: Task, model: TrainingModel, rule: Rule) -> tuple[float, int]:
    """Train for a few steps in Python by a rule of the test's own.

    Returns:
        accuracy on some test images, and how many int8 weights moved.
    """
    program, memory = model.program, model.program.initial_memory()
    images = samples(model.compiled, task.images)
    layers = [Int8Weights(program, step) for step in program.steps if isinstance(step.operation, Int8WeightUpdate)]
    start = [layer.plain(memory) for layer in layers]
    for number in range(FEW_STEPS):
        label = torch.tensor([task.labels[number]], dtype=torch.int32)
        values = program.run(torch.from_numpy(images[number : number + 1]), label, memory)
        for layer in layers:
            layer.update(memory, values, rate_at(number, FEW_STEPS), rule)
    right = 0
    for image, wanted in zip(samples(model.compiled, task.test_images[:EVALUATED]), task.test_labels, strict=False):
        scores = model.inference.run(torch.from_numpy(image[None]), None, memory)[model.inference.output]
        right += int(int(scores.argmax()) == wanted)
    moved = sum(int((layer.plain(memory) != was).sum()) for layer, was in zip(layers, start, strict=True))
    return right / EVALUATED, moved


class Int8Weights:
    """The int8 weights of one layer, updated by the test."""

    def __init__(self, program: Program, step: Step) -> None:
        operation, grid = step.operation, program.tensors[step.inputs[0]].grid
        assert isinstance(operation, Int8WeightUpdate)
        assert grid is not None
        self._name, self._gradient, self._bias = step.inputs[:3]
        self._geometry, self._grid = operation.update.geometry, grid

    def plain(self, memory: dict[str, torch.Tensor]) -> npt.NDArray[np.int8]:
        """(outputs, rows, columns, inputs), or (outputs, rows, columns) for a filter per channel."""
        return self._grid.storage.load(memory[self._name].numpy())

    def update(
        self, memory: dict[str, torch.Tensor], values: dict[str, torch.Tensor], rate: float, rule: Rule
    ) -> None:
        """One step; the layer's own bias stays as it is."""
        storage, plain = self._grid.storage, self.plain(memory)
        bias = storage.unfold(plain, memory[self._bias].numpy())
        gradient = self._geometry.to_torch_weight(values[self._gradient]).movedim(1, -1).reshape(plain.shape)
        scales = np.asarray(self._grid.scales, dtype=np.float32).reshape(-1, *(1,) * (plain.ndim - 1))
        step = np.asarray(rate * gradient.numpy() / scales, dtype=np.float32)
        new = rule(plain.astype(np.float32), step, scales)
        rounded = np.clip(new, -127, 127).astype(np.int8)
        memory[self._name] = torch.from_numpy(storage.store(rounded)).reshape(memory[self._name].shape)
        memory[self._bias] = torch.from_numpy(storage.fold(rounded, bias))


def test_truncation_does_not_learn(task: Task, int8: Built, stored: TrainingModel) -> None:
    """A conversion as in C cuts towards zero: it takes every weight a step at a time to zero, whatever the gradient."""
    learnt = int8.accuracy_after(FEW_STEPS)
    truncated, moved = train_by_rule(task, stored, lambda weight, step, scale: np.trunc(weight - step))
    assert moved > 0
    assert truncated <= 0.15
    assert learnt >= truncated + 0.1


def test_without_scaling_the_same_rate_does_not_learn(task: Task, int8: Built, stored: TrainingModel) -> None:
    """The gradient of the integers is scale² times what a step on real weights takes: hardly a weight moves."""
    rng = np.random.default_rng(0)
    start, learnt = int8.accuracy_after(0), int8.accuracy_after(FEW_STEPS)

    def unscaled_rule(weight: Floats, step: Floats, scale: Floats) -> Floats:
        return stochastic(weight - step * scale * scale, rng)

    unscaled, moved = train_by_rule(task, stored, unscaled_rule)
    assert learnt >= start + 0.1
    weights = sum(task.module.get_parameter(name).numel() for name in task.trained)
    assert moved < 0.01 * weights
    assert abs(unscaled - start) <= 0.05
