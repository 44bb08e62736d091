"""The hand-written model that is trained on devices, and PyTorch's version of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.model import CompiledModel, CompiledTraining, TensorSpec, TrainingStep
from lab.errors import WorkloadError
from lab.events import Job
from lab.training import training_job
from lab.workloads.base import Dataset, Int8Array, Prepared, Score, TrainingPlan

INPUTS, CLASSES = 100, 3
MOMENTUM = 0.5
ARENA_BYTES = 1232
ARENA_USED_BYTES = 16 + 4 * INPUTS * CLASSES
VARIABLES_BYTES = 4 * (2 * INPUTS * CLASSES + CLASSES)
STEPS = ("linear", "loss", "linear.weight gradient", "sgd")
PHASES = ("forward", "forward", "backward", "update")
TRAINED, EVALUATED, EPOCHS, RATE = 48, 8, 2, 0.02

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int32]

_FOLDER = Path(__file__).resolve().parents[1] / "data" / "trained_model"


def trained_model(defines: str = "") -> CompiledModel:
    """``tests/data/trained_model``; ``defines`` go before its source."""
    sources = {path.name: path.read_text() for path in sorted(_FOLDER.iterdir())}
    sources["model.c"] = defines + sources["model.c"]
    digest = sha256("".join(sources.values()).encode()).hexdigest()
    source, target = TensorSpec((4 * INPUTS,), 1.0, 0), TensorSpec((4 * CLASSES,), 1.0, 0)
    macs = INPUTS * CLASSES
    steps = tuple(TrainingStep(name, name, phase, macs, 0, 0) for name, phase in zip(STEPS, PHASES, strict=True))
    training = CompiledTraining(
        steps, (), ARENA_BYTES, ARENA_BYTES, "by hand", (), "int32", (1,), CLASSES, 1, "SGD", "float32"
    )
    return CompiledModel(
        "trained", sources, source, target, (), (), ARENA_BYTES, ARENA_BYTES, digest, training=training
    )


def trained_workload(*, accept: bool = True, learning_rate: float = RATE) -> Prepared:
    """Training on 48 samples in 2 epochs, then inference on 8 others; ``accept`` is the verdict on the training."""
    samples, labels = data(TRAINED)
    others, _ = data(EVALUATED, seed=9)
    expected = reference(samples, labels, [*range(TRAINED)] * EPOCHS, learning_rate)
    logits = (others @ expected.weight.T + expected.bias).astype(np.float32)

    def check_training(losses: FloatArray, variables: Mapping[str, bytes]) -> list[Score]:
        if not accept:
            raise WorkloadError("the loss did not fall")
        error = np.abs(as_floats(variables["linear.weight"]) - expected.weight.ravel()).max()
        return [
            Score("final_loss", float(losses[-TRAINED:].mean()), float(expected.losses[-TRAINED:].mean())),
            Score("weight_error", float(error), 0.0),
        ]

    def check(outputs: Int8Array) -> list[Score]:
        error = np.abs(outputs.view(np.float32) - logits).max()
        return [Score("logit_error", float(error), 0.0)]

    return Prepared(
        model=trained_model(),
        job=Job("infer", others.tobytes(), EVALUATED),
        dataset=Dataset("noise", sha256(others.tobytes()).hexdigest(), EVALUATED),
        reference_outputs=logits.view(np.int8),
        seed=3,
        parameters={},
        check=check,
        training=TrainingPlan(
            training_job(samples, labels, epochs=EPOCHS, learning_rate=learning_rate, seed=11), check_training
        ),
    )


def data(count: int, seed: int = 3) -> tuple[FloatArray, LabelArray]:
    """Random samples (count, INPUTS) with labels that a linear model can learn."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(count, INPUTS)).astype(np.float32)
    labels = (samples @ rng.normal(size=(INPUTS, CLASSES))).argmax(axis=1).astype(np.int32)
    return samples, labels


def initial_parameters() -> tuple[FloatArray, FloatArray]:
    """Weight and bias as compiled."""
    weight = np.zeros((CLASSES, INPUTS), np.float32)
    weight[0, :3] = 0.5, -0.25, 0.125
    return weight, np.array([0.0, 0.0, 0.25], np.float32)


@dataclass(frozen=True)
class Reference:
    """What PyTorch makes of the same steps: losses (steps,) and the variables after them."""

    losses: FloatArray
    weight: FloatArray
    bias: FloatArray
    momentum: FloatArray


def reference(samples: FloatArray, labels: LabelArray, order: Sequence[int], learning_rate: float) -> Reference:
    """Train with ``torch.optim.SGD``, one sample a step, momentum for the weight only."""
    layer = torch.nn.Linear(INPUTS, CLASSES)
    with torch.no_grad():
        for parameter, value in zip((layer.weight, layer.bias), initial_parameters(), strict=True):
            parameter.copy_(torch.from_numpy(value))
    groups: list[dict[str, Any]] = [{"params": [layer.weight], "momentum": MOMENTUM}, {"params": [layer.bias]}]
    optimizer = torch.optim.SGD(groups, lr=learning_rate)
    losses = []
    for index in order:
        optimizer.zero_grad()
        logits = layer(torch.from_numpy(samples[index : index + 1]))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([int(labels[index])]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    momentum = optimizer.state[layer.weight].get("momentum_buffer", torch.zeros(CLASSES, INPUTS))
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return Reference(np.array(losses, np.float32), weight, bias, momentum.numpy())


def as_floats(data: bytes) -> FloatArray:
    """A variable of the model."""
    return np.frombuffer(data, np.float32)


def xorshift32(state: int, steps: int) -> int:
    """The random state after so many steps (G. Marsaglia, "Xorshift RNGs", 2003, shifts 13, 17, 5)."""
    for _ in range(steps):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
    return state
