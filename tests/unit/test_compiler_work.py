"""What each step of a compiled program computes and moves, against closed forms of its layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lab.compiler.model import TrainingStep
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training

FLOAT = 4
SIDE, IN, OUT, CLASSES = 6, 2, 4, 3
POSITIONS = SIDE * SIDE
CONV, LINEAR = 9 * IN * OUT, OUT * POSITIONS * CLASSES
"""Weights of the two layers."""


def steps(*, immediate: bool, weight_decay: float = 0.0) -> dict[str, TrainingStep]:
    """The schedule of a convolution, a ReLU and a linear layer, all trained, by names."""
    torch.manual_seed(1)
    linear = nn.Linear(OUT * POSITIONS, CLASSES)
    network = nn.Sequential(nn.Conv2d(IN, OUT, 3, padding=1), nn.ReLU(), nn.Flatten(), linear)
    made = compile_training(
        network, torch.randn(1, IN, SIDE, SIDE), loss=nn.CrossEntropyLoss(), train=lambda name, parameter: True,
        optimizer=Sgd(weight_decay=weight_decay), immediate=immediate,
    )  # fmt: skip
    training = made.compiled.training
    assert training is not None
    return {one.name: one for one in training.steps}


def of_kind(found: dict[str, TrainingStep], operator: str, phase: str) -> TrainingStep:
    """The only step of an operator in a phase."""
    (one,) = (step for step in found.values() if (step.operator, step.phase) == (operator, phase))
    return one


def test_forward_reads_inputs_and_parameters_and_writes_outputs_once() -> None:
    found = steps(immediate=False)
    convolution, linear = found["0"], found["3"]
    assert convolution.flop == 2 * POSITIONS * CONV
    assert convolution.traffic_bytes == FLOAT * (POSITIONS * IN + CONV + OUT + POSITIONS * OUT)
    assert linear.flop == 2 * LINEAR
    assert linear.traffic_bytes == FLOAT * (OUT * POSITIONS + LINEAR + CLASSES + CLASSES)
    assert of_kind(found, "softmax", "forward").flop == 0
    assert of_kind(found, "softmax", "forward").traffic_bytes == FLOAT * 2 * CLASSES


def test_gradients_are_written_in_backward_and_read_in_the_update() -> None:
    found = steps(immediate=False)
    gradient = of_kind(found, "conv2d.weight_gradient", "backward")
    assert gradient.flop == 2 * POSITIONS * CONV
    assert gradient.traffic_bytes == FLOAT * (POSITIONS * IN + POSITIONS * OUT + CONV)
    updates = [one for one in found.values() if one.phase == "update"]
    parameters = CONV + OUT + LINEAR + CLASSES
    assert sum(one.flop for one in updates) == 2 * parameters
    assert sum(one.traffic_bytes for one in updates) == FLOAT * 3 * parameters, "value, gradient, and the new value"
    backward = sum(one.flop for one in found.values() if one.phase == "backward")
    assert backward == 2 * (POSITIONS * CONV + 2 * LINEAR), "nobody asks for the gradient of the sample"


def test_an_update_at_once_computes_the_same_and_moves_no_gradient_of_a_weight() -> None:
    apart, merged = steps(immediate=False), steps(immediate=True)
    assert not [one for one in merged.values() if one.phase == "update"]
    assert sum(one.flop for one in apart.values()) == sum(one.flop for one in merged.values())
    weight = of_kind(merged, "conv2d.sgd", "backward")
    assert weight.flop == 2 * POSITIONS * CONV + 2 * CONV
    assert weight.traffic_bytes == FLOAT * (POSITIONS * IN + POSITIONS * OUT + 2 * CONV)
    saved = sum(one.traffic_bytes for one in apart.values()) - sum(one.traffic_bytes for one in merged.values())
    # The gradient of the linear bias is that of the logits, which others read as well.
    assert saved == 2 * FLOAT * (CONV + OUT + LINEAR)


@pytest.mark.parametrize("immediate", [False, True])
def test_weight_decay_computes_twice_as_much_in_the_update(immediate: bool) -> None:
    plain, decayed = (steps(immediate=immediate, weight_decay=decay).values() for decay in (0.0, 0.1))
    more = sum(one.flop for one in decayed) - sum(one.flop for one in plain)
    assert more == 2 * (CONV + OUT + LINEAR + CLASSES)
