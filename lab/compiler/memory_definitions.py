"""The definitions of training memory and compute that papers use, over one layer list.

Ratios between figures of two definitions, or of two batch sizes, mean nothing; so each definition is a function here
and its name goes with the figure.

- M1 :func:`extra_memory`: what training adds on top of int8 inference, counted per layer.
- M2 :func:`profiled_memory`: the profiler of TinyTL.
- M3 :func:`backward_memory`: weights, optimiser state and activations as TinyTrain counts them.
- M4 :func:`lab.compiler.training_arena.plan_training`: the arena that firmware needs.
- MACs: :func:`backward_macs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lab.compiler.layer_costs import INPUT, LayerCost, weighted
from lab.compiler.update_schemes import LayerUpdate, UpdateScheme, apply

FLOAT_BYTES = 4
Optimizer = Literal["sgd", "adam"]
STATE_PER_PARAMETER: Mapping[Optimizer, int] = {"sgd": 1, "adam": 3}
"""Floats per updated parameter beside itself: its gradient, and the two moments of Adam."""


@dataclass(frozen=True)
class ExtraMemory:
    """Memory that training adds (definition M1), in bits because masks are."""

    activation_bits: int
    weight_bits: int

    @property
    def activation_bytes(self) -> float:
        """Saved inputs and masks."""
        return self.activation_bits / 8

    @property
    def weight_bytes(self) -> float:
        """Updated weights and biases."""
        return self.weight_bits / 8

    @property
    def total_bytes(self) -> float:
        """Both."""
        return self.activation_bytes + self.weight_bytes


@dataclass(frozen=True)
class BackwardMemory:
    """Memory of a training step (definition M3)."""

    weight_bytes: int
    optimizer_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """All three."""
        return self.weight_bytes + self.optimizer_bytes + self.activation_bytes


@dataclass(frozen=True)
class BackwardMacs:
    """MACs of one backward pass."""

    weight_gradients: int
    input_gradients: int

    @property
    def total(self) -> int:
        """Both."""
        return self.weight_gradients + self.input_gradients


def extra_memory(
    layers: Sequence[LayerCost],
    scheme: UpdateScheme,
    *,
    every_output_clamps: bool = True,
    classifier_weights: bool = False,
) -> ExtraMemory:
    """Definition M1: what an int8 network with batch norm folded keeps for training on top of inference.

    From the earliest updated layer on, one bit per output element; per updated weight its saved inputs and itself, 8
    bits each; 32 bits per updated bias. Gradients are not counted. Source: Lin et al., "On-Device Training Under 256KB
    Memory", 2022 (repository mit-han-lab/tiny-training, algorithm/core/utils/partial_backward.py).

    Args:
        layers: the network.
        scheme: what is updated.
        every_output_clamps: as in the source, each layer has a mask because int8 outputs saturate. Otherwise only
            layers behind which there is a ReLU have one.
        classifier_weights: count the classifier's parameters too; the source counts its input only.
    """
    *trunk, classifier = apply(scheme, layers)
    masked = {layer.name for layer in weighted(layers)} if every_output_clamps else clamped(layers)
    chain = updated_chain(trunk)
    masks = sum(update.layer.output_elements for update in chain if update.layer.name in masked)
    counted = [*chain, classifier] if classifier_weights else chain
    return ExtraMemory(
        masks + 8 * sum(update.saved_elements for update in (*chain, classifier)),
        sum(8 * update.weight_elements + 32 * update.bias_elements for update in counted),
    )


def updated_chain(updates: Sequence[LayerUpdate]) -> Sequence[LayerUpdate]:
    """The layers from the earliest updated one on."""
    earliest = next((number for number, update in enumerate(updates) if update.is_updated), len(updates))
    return updates[earliest:]


def clamped(layers: Sequence[LayerCost]) -> set[str]:
    """Names of the layers whose output a ReLU clamps, directly or behind a norm or as first operand of an addition."""
    by_name = {layer.name: layer for layer in layers}
    names = set()
    for layer in layers:
        if layer.kind == "clamp":
            source = layer.inputs[0]
            while source != INPUT and by_name[source].kind in ("norm", "add"):
                source = by_name[source].inputs[0]
            names.add(source)
    return names


def peak_in_out_elements(layers: Sequence[LayerCost]) -> int:
    """Elements of the largest pair of one convolution's or linear layer's input and output."""
    return max(layer.input_elements + layer.output_elements for layer in weighted(layers))


def profiled_memory(layers: Sequence[LayerCost], scheme: UpdateScheme, *, batch: int = 1) -> float:
    """Definition M2, in bytes: the profiler of TinyTL.

    Per layer in forward order: its input and output (the output divided by the groups), inputs of residual blocks that
    are still open, and what is kept so far for the backward pass; the peak of that times the batch, plus parameters of
    4 bytes where updated and 1 byte elsewhere. Kept are float inputs of layers and norms whose weight is updated, one
    bit per element of a ReLU, the float input of other activations. A norm is updated as its convolution is. Source:
    Cai et al., "TinyTL", 2020 (repository mit-han-lab/tinyml, tinytl/tinytl/utils/memory_cost_profiler.py).
    """
    updates = updates_with_norms(scheme, layers)
    kept = peak = 0.0
    for number, layer in enumerate(layers):
        if layer.kind not in ("add", "pool"):
            outputs = layer.output_elements // layer.groups if layer.is_weighted else 0
            working = layer.input_elements + outputs + open_residual_elements(layers, number)
            peak = max(peak, FLOAT_BYTES * working + kept)
        if layer.kind == "clamp":
            kept += layer.input_elements / 8
        elif layer.kind == "smooth":
            kept += FLOAT_BYTES * layer.input_elements
        elif layer.name in updates:
            kept += FLOAT_BYTES * updates[layer.name].saved_elements
    trainable = sum(update.parameters for update in updates.values())
    frozen = sum(layer.parameters for layer in layers) - trainable
    return batch * peak + FLOAT_BYTES * trainable + frozen


def updates_with_norms(scheme: UpdateScheme, layers: Sequence[LayerCost]) -> dict[str, LayerUpdate]:
    """What a scheme does to each layer with parameters, by name; a norm is updated whole if the layer before it is."""
    updates = {update.layer.name: update for update in apply(scheme, layers)}
    for layer in layers:
        if layer.kind == "norm" and layer.inputs[0] in updates:
            before = updates[layer.inputs[0]]
            updates[layer.name] = LayerUpdate(layer, float(before.ratio > 0), before.bias)
    return updates


def open_residual_elements(layers: Sequence[LayerCost], number: int) -> int:
    """Elements of values that were read before or are read in a layer, and again by a later addition."""
    earlier = {source for layer in layers[: number + 1] for source in layer.inputs}
    later = {source for layer in layers[number + 1 :] if layer.kind == "add" for source in layer.inputs}
    return sum(layer.output_elements for layer in layers if layer.name in earlier & later)


def backward_memory(
    layers: Sequence[LayerCost],
    scheme: UpdateScheme,
    optimizer: Optimizer,
    *,
    batch: int = 1,
    float_activations: bool = False,
) -> BackwardMemory:
    """Definition M3: updated weights, optimiser state and activations, all in float32.

    What is saved for the backward pass may lie in the buffers that inference works in, so activations are the larger of
    the two. Source: Kwon et al., "TinyTrain", 2024, appendix A.4.

    Args:
        layers: the network; with its batch norms for the figures of full training.
        scheme: what is updated.
        optimizer: sets the state per updated parameter.
        batch: samples per step; multiplies the activations.
        float_activations: as the source's figures of full training do (and PyTorch does), keep the float input of norms
            and ReLUs in place of one bit per element.
    """
    updates = updates_with_norms(scheme, layers)
    updated = sum(update.parameters for update in updates.values())
    kept = saved_float_bytes(layers, updates) if float_activations else saved_bytes(layers, scheme)
    activations = batch * max(FLOAT_BYTES * peak_in_out_elements(layers), kept)
    return BackwardMemory(FLOAT_BYTES * updated, FLOAT_BYTES * STATE_PER_PARAMETER[optimizer] * updated, activations)


def saved_bytes(layers: Sequence[LayerCost], scheme: UpdateScheme, *, every_output_clamps: bool = False) -> int:
    """Float inputs of updated layers and one bit per element of each ReLU from the earliest updated layer on.

    The classifier is left out, as in TinyTrain's table 11: its input is one value per channel. ``every_output_clamps``
    as in :func:`extra_memory`.
    """
    chain = updated_chain(apply(scheme, layers)[:-1])
    masked = {layer.name for layer in weighted(layers)} if every_output_clamps else clamped(layers)
    masks = sum(update.layer.output_elements for update in chain if update.layer.name in masked)
    return FLOAT_BYTES * sum(update.saved_elements for update in chain) + -(-masks // 8)


def saved_float_bytes(layers: Sequence[LayerCost], updates: Mapping[str, LayerUpdate]) -> int:
    """Float inputs of updated layers and norms, and of all activations."""
    saved = sum(update.saved_elements for update in updates.values())
    return FLOAT_BYTES * (saved + sum(layer.input_elements for layer in layers if layer.kind in ("clamp", "smooth")))


def backward_macs(layers: Sequence[LayerCost], scheme: UpdateScheme) -> BackwardMacs:
    """MACs of one backward pass.

    The weight gradient of a layer costs the MACs of its forward pass times the share of channels; so does the input
    gradient, in full, of each layer above the earliest updated one. Both are fewer on patches.
    """
    updates = apply(scheme, layers)
    chain = updated_chain(updates)
    return BackwardMacs(
        sum(update.layer.share(update.gradient_macs, update.ratio) for update in updates),
        sum(update.gradient_macs for update in chain[1:]),
    )
