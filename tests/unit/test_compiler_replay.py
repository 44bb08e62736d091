"""Replay of stored logits and gradients that add up: the C takes the steps that PyTorch takes on whole batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kernel_runner import run_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.operations.optimizer import Adam, Optimizer, Sgd
from lab.compiler.operations.replay import DRAWS, Replay, ReplayGradient
from lab.compiler.program import TrainingState
from lab.compiler.replay import Turns
from lab.compiler.training import TrainingModel, compile_training
from lab.errors import CompileError

CLASSES, INPUTS, RATE = 3, 6, 0.1


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(INPUTS, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def compiled(replay: Replay | None, group: int, optimizer: Optimizer | None = None, batch: int = 1) -> TrainingModel:
    return compile_training(
        network(), torch.zeros(batch, INPUTS), loss=functional.cross_entropy, train=lambda _name, _one: True,
        optimizer=optimizer or Sgd(), replay=replay, group=group,
    )  # fmt: skip


def material(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(count, INPUTS, generator=generator), torch.arange(count) % CLASSES


def test_what_is_kept_is_a_uniform_sample_and_what_is_drawn_is_there() -> None:
    kept = np.zeros(60)
    for seed in range(1, 401):
        turns, slots = Turns(6, 2, 1, seed), [-1] * 6
        for step in range(1, 30 * turns.group + 1):
            slot = turns.slot(step)
            if turns.draw_of(step):
                assert slots[slot] >= 0
            elif slot < 6:
                slots[slot] = (step - 1) // turns.group * 2 + (step - 1) % turns.group
        kept[slots] += 1
    assert kept.sum() == 400 * 6
    # 40 of each are expected, with a deviation of 6.
    assert kept.min() > 15
    assert kept.max() < 65


@settings(max_examples=30, deadline=None)
@given(
    slots=st.integers(1, 4), batch=st.integers(1, 3), step=st.integers(1, 40), seed=st.integers(1, 99),
    alone=st.booleans(),
)  # fmt: skip
def test_the_kernel_does_what_its_step_is_for(slots: int, batch: int, step: int, seed: int, alone: bool) -> None:
    generator, rows = torch.Generator().manual_seed(seed), 1 if alone else batch
    gradient, logits = (torch.randn(rows, CLASSES, generator=generator) for _ in range(2))
    kept = torch.randn(slots, CLASSES, generator=generator)
    operation = ReplayGradient(Replay(slots, batch, 0.3, 0.5, seed, rows), CLASSES)
    state, inputs = TrainingState(RATE, step), [gradient, logits, kept]
    expected = operation.apply(inputs, state)
    found = run_kernel(operation, inputs, expected, written=(2,), state=state)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    after, passed = found
    turns, numbers = Turns(slots, batch, DRAWS, seed), range((step - 1) * rows + 1, step * rows + 1)
    found_slots, draw = [turns.slot(one) for one in numbers], turns.draw_of(numbers[0])
    if draw == 0:
        last = {slot: row for row, slot in enumerate(found_slots)}
        stored = [logits[last[one]] if one in last else kept[one] for one in range(slots)]
        torch.testing.assert_close(after, torch.stack(stored))
        torch.testing.assert_close(passed, gradient)
    elif draw == 1:
        variable = logits.clone().requires_grad_()
        (0.3 * functional.mse_loss(variable, kept[found_slots])).backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(passed, variable.grad)
    else:
        torch.testing.assert_close(passed, 0.5 * gradient)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_steps_of_a_group_are_one_of_pytorchs_on_the_papers_loss(tmp_path: Path, rows: int) -> None:
    """Batches of new samples, of draws for their logits and of draws for their labels, by autograd."""
    replay, module = Replay(5, 2, 0.4, 0.7, 3, rows), network()
    host = HostTraining(compiled(replay, replay.turns.group // rows, batch=rows).compiled, tmp_path)
    samples, labels = material(24)
    optimizer, buffer = torch.optim.SGD(module.parameters(), RATE), [(samples[0], labels[0], torch.zeros(0))] * 5
    rate = RATE / replay.batch * rows
    for first in range(0, len(samples), 2):
        step = first // 2 * replay.turns.group
        chosen = [samples[first : first + 2], labels[first : first + 2]]
        logits = module(chosen[0])
        loss = functional.cross_entropy(logits, chosen[1])
        for place in range(2):
            if (slot := replay.turns.slot(step + 1 + place)) < 5:
                buffer[slot] = (chosen[0][place], chosen[1][place], logits[place].detach())
        drawn = [buffer[replay.turns.slot(step + place)] for place in range(3, 7)]
        x, y, stored = (torch.stack(part) for part in zip(*drawn, strict=True))
        loss = loss + 0.4 * functional.mse_loss(module(x[:2]), stored[:2])
        loss = loss + 0.7 * functional.cross_entropy(module(x[2:]), y[2:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        all_samples, all_labels = torch.cat([chosen[0], x]).numpy(), torch.cat([chosen[1], y]).numpy().astype(np.int32)
        for start in range(0, len(all_samples), rows):
            host.step(all_samples[start : start + rows], all_labels[start : start + rows], rate)
    found = host.variables()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(found[name], parameter.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(found[name], found[f"{name}.next"])
    np.testing.assert_allclose(found["replay.logits"], torch.stack([one[2] for one in buffer]).numpy(), rtol=1e-4)


def test_within_a_group_no_parameter_changes(tmp_path: Path) -> None:
    host = HostTraining(compiled(None, 3).compiled, tmp_path)
    samples, labels = material(4)
    seen = [host.variables()["0.weight"]]
    for sample, label in zip(samples, labels, strict=True):
        host.step(sample.numpy(), label.numpy().astype(np.int32)[None], RATE)
        seen.append(host.variables()["0.weight"])
    moved = [not np.array_equal(seen[n], seen[n + 1]) for n in range(4)]
    assert moved == [False, False, True, False]


@pytest.mark.parametrize(
    ("replay", "group", "optimizer", "batch", "told"),
    [
        (Replay(0, 1, 1.0, 1.0, 1), 3, Sgd(), 1, "slots and batch from 1"),
        (Replay(4, 2, 1.0, 1.0, 1), 1, Sgd(), 2, "cross entropy of the samples of a step"),
        (Replay(4, 3, 1.0, 1.0, 1, 2), 1, Sgd(), 2, "one or a batch"),
        (None, 3, Adam(), 1, "without weight decay"),
        (None, 3, Sgd(weight_decay=0.1), 1, "without weight decay"),
        (None, 0, Sgd(), 1, "steps from 1"),
    ],
)
def test_what_cannot_be_replayed_or_added_up_is_refused(
    replay: Replay | None, group: int, optimizer: Optimizer, batch: int, told: str
) -> None:
    with pytest.raises(CompileError) as refused:
        compiled(replay, group, optimizer, batch)
    assert told in str(refused.value)
