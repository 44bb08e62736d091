"""Autograd beside the program's operators on this computer: one that comes apart on the way, and one that is wrong."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lab.errors import WorkloadError
from lab.workloads.training import in_pytorch
from lab.workloads.training.agreement import EARLY_STEPS
from lab.workloads.training.transfer import Transfer

RATE = 0.05
Variables = Mapping[str, npt.NDArray[np.float32]]


@pytest.fixture
def task() -> Transfer:
    """A layer that learns from 100 samples."""
    torch.manual_seed(5)
    samples, labels = torch.randn(100, 3), np.arange(100, dtype=np.int64) % 2
    network = torch.nn.Linear(3, 2)
    selection = {name: None for name, _ in network.named_parameters()}
    return Transfer(
        "unit", network, selection, "float32", samples, labels, samples[:1], labels[:1], samples[:1], 1, RATE, 0
    )


def variables(network: torch.nn.Module) -> Variables:
    return {name: value.detach().numpy().copy() for name, value in network.named_parameters()}


def way(task: Transfer, rate: float, other_from: int) -> dict[int, Variables]:
    """Variables after each step of gradient descent by hand (softmax less one-hot); from one step on another rate's."""
    layer = copy.deepcopy(task.network)
    assert isinstance(layer, torch.nn.Linear)
    found = {}
    for step in range(EARLY_STEPS):
        sample, label = task.samples[step], int(task.labels[step])
        with torch.no_grad():
            wrong = torch.softmax(layer(sample), 0) - torch.nn.functional.one_hot(torch.tensor(label), 2)
            used = rate if step < other_from else 1.5 * rate
            layer.weight -= used * wrong[:, None] * sample
            layer.bias -= used * wrong
        found[step + 1] = variables(layer)
    return found


def error(task: Transfer, of_program: dict[int, Variables]) -> float:
    points = {step: of_program[step] for step in in_pytorch._autograd_points(task)}
    return in_pytorch._autograd_error(task, points, variables(task.network))


def test_the_same_steps_agree(task: Transfer) -> None:
    assert error(task, way(task, RATE, EARLY_STEPS)) < 1e-5


def test_ways_that_part_late_are_no_other_gradient(task: Transfer) -> None:
    assert error(task, way(task, RATE, 50)) < 1e-5


@pytest.mark.parametrize(("rate", "other_from"), [(RATE, 0), (RATE, 20), (1.001 * RATE, EARLY_STEPS)])
def test_another_gradient_is_refused(task: Transfer, rate: float, other_from: int) -> None:
    with pytest.raises(WorkloadError, match=r"of the way apart; at most 0\.0001 is allowed"):
        error(task, way(task, rate, other_from))


def test_fewer_steps_are_compared_to_the_last(task: Transfer) -> None:
    assert sorted(in_pytorch._autograd_points(task)) == [8, 16, 24, 32, 40, 48, 56, 64]
    short = Transfer(**{**vars(task), "samples": task.samples[:3]})
    assert sorted(in_pytorch._autograd_points(short)) == [1, 2, 3]
