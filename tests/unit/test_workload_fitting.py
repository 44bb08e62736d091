"""Training repeats to the bit, leaves the process as it was, and learns; the network has its closed-form size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lab import progress
from lab.workloads.fitting import Plan, fit, seeded
from lab.workloads.networks import DsCnn, Stem, logits

PLAN = Plan(epochs=2, batch=16, learning_rate=1e-2)


def tiny() -> DsCnn:
    return DsCnn(Stem((3, 3), (2, 2), (1, 1)), ((1, 1),), channels=4, classes=3, dropout=0.2)


def bars() -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose class is the column that is lit."""
    labels = torch.arange(96) % 3
    inputs = torch.randn(96, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    for index, label in enumerate(labels.tolist()):
        inputs[index, 0, :, 2 * label] += 1
    return inputs, labels


def weights_after(seed: int, plan: Plan = PLAN) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    with seeded(seed):
        network = tiny()
        fit(network, *bars(), plan, seed, "test")
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).numpy()


def test_the_same_seed_gives_the_same_weights() -> None:
    first = weights_after(3)
    torch.rand(7)
    np.testing.assert_array_equal(first, weights_after(3))


def test_another_seed_gives_other_weights() -> None:
    assert not np.array_equal(weights_after(3), weights_after(4))


def test_the_number_of_threads_outside_does_not_matter() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = weights_after(3)
        torch.set_num_threads(2)
        np.testing.assert_array_equal(one, weights_after(3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_settings_and_generator_of_the_process_are_restored() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with seeded(5):
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(9)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_settings_are_restored_when_training_fails() -> None:
    inputs, labels = bars()
    with pytest.raises(ValueError, match="fewer than one batch"), seeded(5):
        fit(tiny(), inputs[:1], labels[:1], PLAN, 5, "test")
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_learns_what_can_be_learnt() -> None:
    inputs, labels = bars()
    with seeded(0):
        network = tiny()
        loss = fit(network, inputs, labels, Plan(epochs=30, batch=16, learning_rate=2e-2), 0, "test")
    assert loss < 0.7
    assert (logits(network, inputs).argmax(1) == labels).float().mean() > 0.95


def test_fewer_samples_than_a_batch_are_refused() -> None:
    inputs, labels = bars()
    with pytest.raises(ValueError, match="10 samples are fewer than one batch of 16"):
        fit(tiny(), inputs[:10], labels[:10], PLAN, 0, "test")


def test_progress_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    def update(self: progress.Step, done: int, total: int, detail: str = "") -> None:
        told.append((done, total))

    monkeypatch.setattr(progress.Step, "update", update)
    weights_after(0)
    assert told == [(number, 12) for number in range(1, 13)]


def test_logits_are_those_of_evaluation_and_restore_the_mode() -> None:
    network = tiny().train()
    inputs, _ = bars()
    first = logits(network, inputs)
    assert network.training
    assert not first.requires_grad
    torch.testing.assert_close(first, network.eval()(inputs).detach(), rtol=0, atol=0)


@pytest.mark.parametrize(("channels", "blocks", "classes"), [(4, 1, 3), (32, 3, 10)])
def test_parameters_follow_the_closed_form(channels: int, blocks: int, classes: int) -> None:
    network = DsCnn(Stem((10, 4), (2, 2), (4, 1)), ((1, 1),) * blocks, channels, classes, dropout=0.0)
    norm = 2 * channels
    stem = 10 * 4 * channels + norm
    block = 9 * channels + norm + channels * channels + norm
    expected = stem + blocks * block + channels * classes + classes
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert logits(network, torch.zeros(2, 1, 49, 10)).shape == (2, classes)
