"""The grid of learning rates: what its runs train on and ask, and how far rounding carries them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lab.paths import cache_dir
from lab.workloads.training import rates, turned_digits
from lab.workloads.training.rates import ASKED, ORDERS, grid, table

SMALL = "update=last,samples=24"


def in_pytorch(rate: float, order: int) -> float:
    """Accuracy on the last images of an order after one pass over the first 24, by PyTorch alone."""
    data = turned_digits.load(16)
    network = turned_digits.pretrained(16, data, cache_dir())
    classifier = network.get_submodule("classifier")
    optimizer = torch.optim.SGD(classifier.parameters(), lr=rate)
    chosen = np.random.default_rng(order).permutation(data.training)
    for index in chosen[:24]:
        optimizer.zero_grad()
        made, answer = network(data.turned[index : index + 1]), data.labels[index : index + 1]
        nn.functional.cross_entropy(made, answer).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    asked = chosen[-ASKED:]
    assert not set(asked) & (set(chosen[:24]) | set(data.held_out))
    with torch.no_grad():
        return float((network(data.turned[asked]).argmax(1) == data.labels[asked]).float().mean())


def test_accuracies_are_pytorchs_and_rounding_alone_carries_the_last_layer_nowhere() -> None:
    (found,) = grid("tinytl", SMALL, cache_dir(), (0.08,))
    assert found.accuracies == pytest.approx([in_pytorch(0.08, order) for order in ORDERS], abs=1.5 / ASKED)
    assert found.accuracy == pytest.approx(np.mean(found.accuracies))
    assert 0 < found.apart < 1e-4


def test_a_table_tells_each_rate_and_what_came_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(workload: str, variant: str, *_: object) -> list[rates.Tried]:
        return [rates.Tried(0.01, (0.25, 0.75), 1e-6), rates.Tried(0.1, (0.1, 0.1), 0.0625)]

    monkeypatch.setattr(rates, "grid", made)
    assert table("tinytl", ("", "update=full"), cache_dir(), (0.01, 0.1)).splitlines() == [
        "| arm | 0.01 | 0.1 |", "|---|---|---|", "| the method | 50.0% | 10.0% (0.06) |",
        "| update=full | 50.0% | 10.0% (0.06) |",
    ]  # fmt: skip
