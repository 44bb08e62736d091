"""tpsgd's recurrent networks: cells, losses and updates by hand; a device's are in ``tests/emulated``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.data_folders import write_mnist
from torch import nn
from torch.nn import functional

from lab.compiler.joint import Penalised
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.networks.local_recurrent import LocalRecurrent, RnnCell
from lab.workloads.training.from_scratch import selection_of
from lab.workloads.training.local_learning import Variant, recurrent_of

IMAGES = torch.randn((2, 1, 3, 5), generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2])


def network(depth: int = 2) -> LocalRecurrent:
    torch.manual_seed(3)
    return LocalRecurrent("rnn", depth, 3, 5, 8, 4, "projection", seed=7)


def test_the_cell_is_pytorchs() -> None:
    ours, theirs = RnnCell(5, 8), nn.RNNCell(5, 8)
    names = {"input.weight": "weight_ih", "hidden.weight": "weight_hh", "input.bias": "bias_ih"}
    nn.init.zeros_(theirs.bias_hh)
    for name, one in names.items():
        ours.get_parameter(name).data.copy_(theirs.get_parameter(one))
    x, state = IMAGES[:, 0, 0], torch.rand(2, 8)
    torch.testing.assert_close(ours(x, state), theirs(x, state))


def test_each_states_loss_and_update_are_those_of_the_rule_by_hand() -> None:
    """Towards its own target, w += rate / rows · (P y − h) · (1 − h²) xᵀ, from what the updates before have made."""
    module, rate = network(), 0.3
    weights = [[one.get_parameter(f"{name}.weight").detach().clone() for name in ("input", "hidden")]
               for one in module.hidden]  # fmt: skip
    biases = [torch.zeros(8) for _ in module.hidden]
    states = [torch.zeros(2, 8) for _ in module.hidden]
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    losses = module.losses(IMAGES, LABELS)
    for number in range(3 * 2):
        row, layer = divmod(number, 2)
        x, (inner, recurrent) = states[0] if layer else IMAGES[:, 0, row], weights[layer]
        state = torch.tanh(x @ inner.T + states[layer] @ recurrent.T + biases[layer])
        error = module.get_buffer(f"projection{number}")[LABELS] - state
        loss = next(losses)
        assert float(loss.detach()) == pytest.approx(float(error.square().sum()) / 2 / 3, rel=1e-4)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step = rate / 3 * error * (1 - state.square())
        inner += step.T @ x
        recurrent += step.T @ states[layer]
        biases[layer] += step.sum(0)
        states[layer] = state
        torch.testing.assert_close(module.hidden[layer].get_parameter("hidden.weight").detach(), recurrent)
    logits = functional.linear(states[1], module.classifier.weight, module.classifier.bias)
    assert float(next(losses).detach()) == pytest.approx(float(functional.cross_entropy(logits, LABELS).detach()))


def test_a_step_tells_the_sum_of_its_losses_and_targets_are_within_reach() -> None:
    module = network()
    made = module(IMAGES)
    assert isinstance(made, Penalised)
    whole = functional.cross_entropy(made.output, LABELS) + made.of(LABELS)
    torch.testing.assert_close(whole, sum(module.losses(IMAGES, LABELS), torch.zeros(())))
    targets = [module.get_buffer(f"projection{number}") for number in range(3 * 2)]
    assert all(0.5 < float(one.abs().mean()) <= float(one.abs().max()) <= 1 for one in targets)
    assert not torch.equal(targets[0], targets[1])


def test_rows_of_the_users_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recurrent_of(Variant("paper", "mnist", network="gru", depth=2, width=64), "projection")
    assert [tuple(one.get_parameter("input.weight").shape) for one in made.hidden] == [(192, 32), (192, 64)]
    assert made(torch.zeros(1, 1, 32, 32)).output.shape == (1, 10)
    colour = recurrent_of(Variant("paper", "cifar10", network="rnn", depth=1, width=64, update="full"), "projection")
    assert colour(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert colour.hidden[0].get_parameter("input.weight").shape == (64, 96)
    assert set(selection_of("bias", colour)) == {"hidden.0.input.bias", "classifier.weight", "classifier.bias"}
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    write_mnist(tmp_path, "mnist")
    with pytest.raises(ConfigError, match="channels=16 is of another network than rnn"):
        get("tpsgd").prepare(tmp_path / "cache", "size=paper,network=rnn,channels=16")
    with pytest.raises(ConfigError, match="network=rnn is not allowed"):
        get("lls").prepare(tmp_path / "cache", "size=paper,data=mnist,network=rnn")
