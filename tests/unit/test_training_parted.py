"""A device whose way parts from PyTorch's, by rounding or because it is another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lab.errors import WorkloadError
from lab.workloads.training.agreement import (
    EARLY_LOSS,
    EARLY_STEPS,
    STROKE,
    FloatArray,
    Limits,
    Spread,
    nearly,
    parts_late,
)
from lab.workloads.training.transfer import Expectation, Trained, Transfer, from_entry, to_entry, train_on_host

LIMITS = Limits(loss=1e-3, update=1e-3)
SAMPLES = 40


def task() -> Transfer:
    """A network of corners that learns labels which mean nothing."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    samples = torch.randn(SAMPLES, 6, 1, 1)
    labels = np.random.default_rng(4).integers(0, 3, SAMPLES)
    return Transfer(
        name="parted", network=network, selection={name: None for name, _ in network.named_parameters()},
        precision="float32", samples=samples, labels=labels, asked=samples[:8], answers=labels[:8],
        calibration=samples[:0], epochs=12, rate=0.05, seed=7, limits=LIMITS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def learnt() -> Trained:
    return train_on_host(task())


def as_sent(values: dict[str, FloatArray]) -> dict[str, bytes]:
    return {name: one.tobytes() for name, one in values.items()}


def parted_losses(trained: Trained, step: int) -> FloatArray:
    losses = trained.losses.copy()
    losses[step:] += 2 * EARLY_LOSS
    return losses


def off(trained: Trained, share: float) -> dict[str, bytes]:
    """Variables that are so much of the way off."""
    return as_sent(
        {name: one - np.float32(share) * (one - trained.initial[name]) for name, one in trained.variables.items()}
    )


def test_how_far_ways_part_is_measured_and_tame_ones_leave_no_more_than_the_limits(learnt: Trained) -> None:
    assert STROKE < learnt.parted.update < LIMITS.update
    assert LIMITS.beside(learnt.parted) == LIMITS
    assert from_entry(to_entry(learnt)).parted == learnt.parted


def test_where_ways_part_late_a_device_may_come_as_far_as_a_changed_run_three_times(learnt: Trained) -> None:
    held = Expectation(replace(learnt, parted=Spread(1e-4, 0.1)), LIMITS)
    late = parted_losses(learnt, EARLY_STEPS)
    assert held.check_training(late, off(learnt, 0.29))[-1].value == pytest.approx(0.29, rel=1e-3)
    with pytest.raises(WorkloadError, match=r"of the way these have come; at most 0\.3 is allowed"):
        held.check_training(late, off(learnt, 0.31))


@pytest.mark.parametrize("step", [0, EARLY_STEPS - 1, 12 * SAMPLES], ids=["at once", "early", "never"])
def test_variables_without_losses_that_part_late_are_held_to_the_limits(learnt: Trained, step: int) -> None:
    held = Expectation(replace(learnt, parted=Spread(1e-4, 0.1)), LIMITS)
    with pytest.raises(WorkloadError, match=r"of the way these have come; at most 0\.001 is allowed"):
        held.check_training(parted_losses(learnt, step), off(learnt, 0.01))


def test_what_trains_nothing_is_refused_however_far_ways_part(learnt: Trained) -> None:
    held = Expectation(replace(learnt, parted=Spread(5.0, 50.0)), LIMITS)
    with pytest.raises(WorkloadError, match=r"off PyTorch's by 1 of the way these have come; at most 0\.9 is allowed"):
        held.check_training(parted_losses(learnt, EARLY_STEPS), off(learnt, 1.0))


def test_losses_that_are_no_numbers_part_at_once() -> None:
    losses = np.ones(100, np.float32)
    assert not parts_late(np.full(100, np.nan, np.float32), losses)
    assert not parts_late(losses, losses)


def test_weights_change_by_their_own_size_and_the_same_in_every_order() -> None:
    weights = {"a": np.full(1000, 8, np.float32), "b": np.ones((10, 10), np.float32)}
    changed = nearly(weights, STROKE, 1)
    assert np.std(changed["a"] / weights["a"] - 1) == pytest.approx(STROKE, rel=0.1)
    again = nearly(dict(reversed(weights.items())), STROKE, 1)
    assert all(np.array_equal(again[name], one) for name, one in changed.items())
