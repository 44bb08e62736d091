"""TinyTrain's choice: equation 3 by hand, budgets that hold, the channels with the most information, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.layer_costs import INPUT, LayerCost
from lab.compiler.memory_definitions import backward_macs as published_macs
from lab.compiler.memory_definitions import backward_memory as published_memory
from lab.compiler.update_schemes import UpdateScheme
from lab.errors import ConfigError
from lab.workloads.base import Room
from lab.workloads.training import tinytrain_arms as arms
from lab.workloads.training.tinytrain_arms import Variant
from lab.workloads.training.tinytrain_selection import (
    Budget,
    Update,
    backward_macs,
    backward_memory,
    ram,
    scores,
    select,
    with_class_means,
)

PIXELS = 16
ROOMY = Budget(1 << 40, 1 << 40)


def conv(name: str, before: str, inputs: int, outputs: int) -> LayerCost:
    """A pointwise convolution with a bias."""
    weights = inputs * outputs
    return LayerCost(
        name, "conv", (before,), inputs * PIXELS, outputs * PIXELS, inputs, 1, weights, outputs, weights * PIXELS
    )


def network() -> tuple[LayerCost, ...]:
    """Three convolutions, ReLU behind the first two, and the class means of two ways."""
    a, b, c = conv("a", INPUT, 4, 8), conv("b", "a.relu", 8, 8), conv("c", "b.relu", 8, 16)
    relus = [LayerCost(f"{x.name}.relu", "clamp", (x.name,), x.output_elements, x.output_elements, 8) for x in (a, b)]
    pool = LayerCost("pool", "pool", ("c",), 16 * PIXELS, 16, 16)
    return with_class_means((a, relus[0], b, relus[1], c, pool), 2)


FISHER = {
    "b": np.array([1, 0, 3, 0, 0, 0, 5, 0], np.float32),
    "c": np.arange(16, dtype=np.float32),
}


def test_scores_are_equation_3() -> None:
    """Potential over weights relative to the largest and MACs relative to the largest: b is half of c in both."""
    assert scores(network(), FISHER) == {"b": 9 / (0.5 * 0.5), "c": 120.0}


def test_costs_are_those_of_the_published_definitions_where_these_apply() -> None:
    layers = network()
    whole = {"b": Update(bias=True), "c": Update(bias=True)}
    scheme = UpdateScheme({1: 1.0, 2: 1.0}, biases=2, classifier=False)
    assert backward_macs(layers, whole) == published_macs(layers, scheme).total
    assert backward_memory(layers, whole) == published_memory(layers, scheme, "adam").total_bytes
    # Half of the output channels: half of the weight gradient and of what Adam has, but the same saved inputs.
    half = {"b": Update(0.5), "c": Update(bias=True)}
    assert backward_macs(layers, whole) - backward_macs(layers, half) == 8 * 8 * PIXELS // 2
    assert backward_memory(layers, whole) - backward_memory(layers, half) == 16 * (8 * 8 // 2 + 8)


def test_everything_is_chosen_where_there_is_room() -> None:
    found = select(network(), FISHER, ROOMY)
    assert found.channels == {"b": tuple(range(8)), "c": tuple(range(16))}
    assert found.macs == backward_macs(network(), {"b": Update(), "c": Update()})


def test_a_tight_budget_takes_the_channels_with_the_most_information() -> None:
    """Both layers at a half cost less than both whole, and hold more information than one whole."""
    layers = network()
    both_halves = {"b": Update(0.5), "c": Update(0.5)}
    fisher = {**FISHER, "c": np.maximum(FISHER["c"] - 7, 0)}
    found = select(layers, fisher, Budget(1 << 40, backward_macs(layers, both_halves)))
    assert found.channels["c"] == tuple(range(8, 16))
    assert found.channels["b"] == (0, 1, 2, 6)


def test_a_layer_that_does_not_fit_makes_way_for_the_next() -> None:
    """b is worth more by its score, but reaching it takes more MACs than the budget has."""
    layers = network()
    found = select(layers, FISHER, Budget(1 << 40, backward_macs(layers, {"c": Update()})))
    assert found.channels == {"c": tuple(range(16))}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 12_000), st.integers(0, 12_000), st.integers(0, 1000))
def test_budgets_hold_or_nothing_could_have_fitted(ram_bytes: int, macs: int, seed: int) -> None:
    layers = network()
    generator = np.random.default_rng(seed)
    fisher = {"b": generator.random(8).astype(np.float32), "c": generator.random(16).astype(np.float32)}
    cheapest = [{name: Update(0.125)} for name in fisher]
    fits = any(ram(layers, one) <= ram_bytes and backward_macs(layers, one) <= macs for one in cheapest)
    if not fits:
        with pytest.raises(ConfigError, match=f"no layer can be trained within {macs} multiply-accumulates"):
            select(layers, fisher, Budget(ram_bytes, macs))
        return
    found = select(layers, fisher, Budget(ram_bytes, macs))
    assert found.ram_bytes <= ram_bytes
    assert found.macs <= macs
    for name, channels in found.channels.items():
        left = np.delete(fisher[name], list(channels))
        assert left.size == 0 or fisher[name][list(channels)].min() >= left.max()


def test_a_budget_that_nothing_meets_says_what_the_least_takes() -> None:
    layers = network()
    least = backward_macs(layers, {"c": Update(0.125)})
    with pytest.raises(ConfigError, match=f"within 5 multiply-accumulates .* 7 bytes .* takes {least} and") as caught:
        select(layers, FISHER, Budget(7, 5))
    assert "update=none" in caught.value.hint


def test_the_budget_is_the_devices_room_or_the_variants_where_that_is_less() -> None:
    layers = network()
    everything = backward_macs(layers, arms.full_updates(layers))
    tight, wide = arms.parse("memory=1,macs=0.5"), arms.parse("memory=2048")
    assert arms.budget(tight, layers, Room(50_000, 40_000)) == Budget(1024, everything // 2)
    assert arms.budget(wide, layers, Room(50_000, 40_000)).ram_bytes == 50_000
    assert arms.budget(arms.parse(""), layers, Room(50_000, 40_000)).ram_bytes == 50_000


def test_parts_are_the_chosen_channels_with_the_biases_of_their_layers() -> None:
    layers = network()
    parts, selection = arms.chosen_parts(layers, FISHER, Budget(1 << 40, backward_macs(layers, {"c": Update()})))
    assert parts == {"c.weight": arms.Part(outputs=selection.channels["c"]), "c.bias": arms.Part()}
    assert arms.updates(parts, layers) == {"c": Update(1.0, bias=True)}


def test_baselines_train_what_they_are_named_after() -> None:
    layers = network()
    full, last, none = (arms.static_parts(Variant(update=one), layers) for one in ("full", "last", "none"))
    assert set(full) == {f"{x}.{kind}" for x in "abc" for kind in ("weight", "bias")}
    assert set(last) == {"c.weight", "c.bias"}
    assert none == {}
    assert arms.updates(full, layers) == arms.full_updates(layers)
    with pytest.raises(ValueError, match="depend on the device"):
        arms.static_parts(Variant(update="tinytrain"), layers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("update=fisher", "update=fisher is not allowed"),
        ("ways=1", "ways=1 is not allowed"),
        ("shots=0", "shots=0 is not allowed"),
        ("macs=0", "macs=0.0 is not allowed"),
        ("macs=nan", "no finite number"),
        ("memory=-1", "memory=-1 is not allowed"),
        ("epoch=3", "no option 'epoch'"),
        ("rate=fast", "rate=fast is no float"),
        ("size=paper", "meta= is not allowed"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        arms.parse(text)
