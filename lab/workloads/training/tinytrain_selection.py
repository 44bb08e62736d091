"""Which layers and channels TinyTrain trains: Fisher information per memory and per multiply-accumulate, under budgets.

Source: Kwon et al. 2024, "TinyTrain: Resource-Aware Task-Adaptive Sparse Training of DNNs at the Data-Scarce Edge",
sections 2.2 and 2.3, equations 2 and 3, algorithm 1. What plans memory imports torch, so it is imported where it is
needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.layer_costs import LayerCost, weighted
from lab.errors import ConfigError

FloatArray: TypeAlias = npt.NDArray[np.float32]

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of a chosen layer's output channels, those that are trained: the largest gain of them all is taken."""
FLOAT_BYTES = 4
MOMENTS = 2
"""Floats that Adam keeps per trained element between steps."""


@dataclass(frozen=True)
class Update:
    """What is trained of a layer.

    Attributes:
        outputs: share of its output channels.
        bias: whether all of its bias is trained, too.
    """

    outputs: float = 1.0
    bias: bool = False

    def elements(self, layer: LayerCost) -> int:
        """Trained elements of a layer."""
        return round(layer.weight_elements * self.outputs) + (layer.bias_elements if self.bias else 0)


@dataclass(frozen=True)
class Budget:
    """What training may take: RAM for arena and variables, bytes, and multiply-accumulates of a backward pass."""

    ram_bytes: int
    macs: int


@dataclass(frozen=True)
class Selection:
    """What is trained.

    Attributes:
        channels: output channels by layer.
        scores: equation 3 by inspected layer.
        ram_bytes, macs: what that costs by the estimates that were compared with the budget.
    """

    channels: Mapping[str, tuple[int, ...]]
    scores: Mapping[str, float]
    ram_bytes: int
    macs: int


def potentials(fisher: Mapping[str, FloatArray]) -> dict[str, float]:
    """Potential of each layer: the sum of its channels' Fisher information."""
    return {name: float(values.sum(dtype=np.float64)) for name, values in fisher.items()}


def scores(layers: Sequence[LayerCost], fisher: Mapping[str, FloatArray]) -> dict[str, float]:
    """Equation 3: potential per relative number of parameters and per relative multiply-accumulates."""
    costs = {layer.name: layer for layer in layers if layer.name in fisher}
    weights = max(layer.weight_elements for layer in costs.values())
    macs = max(layer.macs for layer in costs.values())
    return {
        name: potential / (costs[name].weight_elements / weights * (costs[name].macs / macs))
        for name, potential in potentials(fisher).items()
    }


def backward_macs(layers: Sequence[LayerCost], updates: Mapping[str, Update]) -> int:
    """MACs of a backward pass: weight gradients of what is trained, input gradients above the earliest such layer."""
    found = weighted(layers)
    first = next((number for number, layer in enumerate(found) if layer.name in updates), len(found))
    gradients = sum(round(layer.macs * updates[layer.name].outputs) for layer in found if layer.name in updates)
    return gradients + sum(layer.macs for layer in found[first + 1 :])


def backward_memory(layers: Sequence[LayerCost], updates: Mapping[str, Update]) -> int:
    """The paper's definition of backward memory (appendix A.4; M3 in :mod:`lab.compiler.memory_definitions`), bytes.

    Updated weights with Adam's state, and the larger of what a layer reads and writes and of what is saved: inputs of
    updated layers, of which choosing output channels saves nothing, and one bit per element of each ReLU above the
    first.
    """
    from lab.compiler.memory_definitions import STATE_PER_PARAMETER, clamped, peak_in_out_elements

    found = weighted(layers)
    first = next((number for number, layer in enumerate(found) if layer.name in updates), len(found))
    masked = clamped(layers)
    updated = sum(updates[layer.name].elements(layer) for layer in found if layer.name in updates)
    saved = FLOAT_BYTES * sum(layer.input_elements for layer in found if layer.name in updates)
    saved += -(-sum(layer.output_elements for layer in found[first:] if layer.name in masked) // 8)
    working = FLOAT_BYTES * peak_in_out_elements(layers)
    return FLOAT_BYTES * (1 + STATE_PER_PARAMETER["adam"]) * updated + max(working, saved)


def ram(layers: Sequence[LayerCost], updates: Mapping[str, Update]) -> int:
    """RAM of training on a device, bytes, estimated: the arena, the weights that change, and Adam's moments."""
    from lab.compiler.training_arena import plan_training
    from lab.compiler.update_schemes import UpdateScheme

    found = weighted(layers)
    numbers = {layer.name: number for number, layer in enumerate(found)}
    scheme = UpdateScheme({numbers[name]: 1.0 for name in updates}, classifier=False)
    arena = plan_training(layers, scheme, element_bytes=4, alignment=16).offsets.arena_bytes
    whole = sum(layer.weight_elements for layer in found if layer.name in updates)
    moments = MOMENTS * sum(update.elements(found[numbers[name]]) for name, update in updates.items())
    return arena + FLOAT_BYTES * (whole + moments + found[-1].weight_elements)


def select(layers: Sequence[LayerCost], fisher: Mapping[str, FloatArray], budget: Budget) -> Selection:
    """Layers by score while both budgets hold, and of each the channels with the most Fisher information.

    For each share of output channels the layers are added greedily; the share is taken under which the chosen channels
    hold the most Fisher information, the larger one where two hold as much.

    Args:
        layers: the network, batch norm folded, the class means as its last, linear layer.
        fisher: float32 (output channels,) of each inspected layer.
        budget: what training may take.

    Raises:
        ConfigError: not even an eighth of the cheapest layer's channels fits the budget; says what that takes.
    """
    found = scores(layers, fisher)
    order = sorted(found, key=lambda name: -found[name])
    best: tuple[float, dict[str, Update]] = (-math.inf, {})
    for share in SHARES:
        updates: dict[str, Update] = {}
        for name in order:
            more = {**updates, name: Update(share)}
            if backward_macs(layers, more) <= budget.macs and ram(layers, more) <= budget.ram_bytes:
                updates = more
        value = sum(float(np.sort(fisher[name])[-_count(fisher[name], share) :].sum()) for name in updates)
        if updates and value > best[0]:
            best = (value, updates)
    if not best[1]:
        raise _nothing_fits(layers, order, budget)
    channels = {
        name: tuple(sorted(np.argsort(-fisher[name], kind="stable")[: _count(fisher[name], update.outputs)].tolist()))
        for name, update in best[1].items()
    }
    return Selection(channels, found, ram(layers, best[1]), backward_macs(layers, best[1]))


def _count(values: FloatArray, share: float) -> int:
    return max(1, round(len(values) * share))


def _nothing_fits(layers: Sequence[LayerCost], names: Iterable[str], budget: Budget) -> ConfigError:
    alone = [{name: Update(SHARES[-1])} for name in names]
    macs = min(backward_macs(layers, one) for one in alone)
    needed = min(ram(layers, one) for one in alone)
    return ConfigError(
        f"no layer can be trained within {budget.macs} multiply-accumulates a backward pass and {budget.ram_bytes} "
        f"bytes of RAM: an eighth of the cheapest layer's channels takes {macs} and {needed}",
        hint="a larger macs= or memory=, a device with more RAM, or update=none, which only averages",
    )


def with_class_means(layers: Sequence[LayerCost], ways: int) -> tuple[LayerCost, ...]:
    """A backbone's layers with the product of its features and the class means as last, linear layer."""
    last = layers[-1]
    depth = last.output_elements
    means = LayerCost("prototypes", "linear", (last.name,), depth, ways, depth, 1, depth * ways, 0, depth * ways)
    return (*layers, means)
