"""Definition M4: the arena that one training step at batch size one needs, from the layer list alone.

Forward and backward operators in order, each value a buffer from the operator that writes it to the last one that reads
it, offsets by :func:`lab.compiler.offsets.assign`. Trainable weights lie outside the arena and are reported apart. This
estimates what the compiler will plan before there is code for a network, and serves to compare with published figures.

Conventions, after the generated code of Lin et al., "On-Device Training Under 256KB Memory", 2022 (section 3.3 and the
repository mit-han-lab/tinyengine): batch norm is folded; activations are int8 (or float32), masks one bit per element,
gradients float32; ReLU, masking and addition work in place; a weight gradient is computed before the gradient of the
layer's input; of a layer whose update keeps some input channels, those are copied in the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lab.compiler.layer_costs import INPUT, LayerCost
from lab.compiler.offsets import Buffer, Offsets, assign
from lab.compiler.update_schemes import LayerUpdate, UpdateScheme, apply
from lab.errors import CompileError

GRADIENT_BYTES = 4
BIAS_BYTES = 4
ElementBytes = Literal[1, 4]
"""Bytes of an activation and of a weight: int8 or float32."""


@dataclass(frozen=True)
class Operation:
    """One step: values read, values written; ``in_place`` if the first one written may take the place of one read."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    in_place: bool = False


@dataclass(frozen=True)
class Schedule:
    """Operators in order and the bytes of every value."""

    operations: tuple[Operation, ...]
    size_bytes: Mapping[str, int]


@dataclass(frozen=True)
class TrainingArena:
    """The planned arena.

    Attributes:
        schedule: what runs; steps of :attr:`buffers` index its operations.
        buffers: lifetimes, values that share a buffer merged.
        offsets: where each lies.
        trainable_bytes: updated weights and biases, in RAM outside the arena.
    """

    schedule: Schedule
    buffers: tuple[Buffer, ...]
    offsets: Offsets
    trainable_bytes: int


def plan_inference(
    layers: Sequence[LayerCost], *, element_bytes: ElementBytes = 1, alignment: int = 1
) -> TrainingArena:
    """The arena of the forward pass alone.

    Raises:
        CompileError: the network has a norm; fold it first.
    """
    return plan(layers, Builder(layers, {}, element_bytes, False).forward(), 0, alignment)


def plan_training(
    layers: Sequence[LayerCost],
    scheme: UpdateScheme,
    *,
    element_bytes: ElementBytes = 1,
    immediate_update: bool = True,
    every_output_clamps: bool = False,
    alignment: int = 1,
) -> TrainingArena:
    """The arena of one training step.

    Args:
        layers: the network, batch norm folded.
        scheme: what is updated.
        element_bytes: bytes of an activation and of a weight.
        immediate_update: apply each gradient as soon as it exists; otherwise all live until the end of the step.
        every_output_clamps: also layers without ReLU have a mask, as int8 outputs saturate.
        alignment: of the offsets; published figures have none.

    Raises:
        CompileError: the network has a norm; fold it first.
        ConfigError: as :func:`lab.compiler.update_schemes.apply`.
    """
    updates = {update.layer.name: update for update in apply(scheme, layers)}
    builder = Builder(layers, updates, element_bytes, every_output_clamps)
    builder.forward()
    schedule = builder.backward(immediate_update)
    trainable = sum(
        element_bytes * update.weight_elements + BIAS_BYTES * update.bias_elements for update in updates.values()
    )
    return plan(layers, schedule, trainable, alignment)


def plan(layers: Sequence[LayerCost], schedule: Schedule, trainable_bytes: int, alignment: int) -> TrainingArena:
    """Lifetimes and offsets of a schedule."""
    norms = [layer.name for layer in layers if layer.kind == "norm"]
    if norms:
        raise CompileError(
            f"{len(norms)} norms, first {norms[0]!r}, have no place in the arena", hint="fold them first"
        )
    buffers = lifetimes(schedule)
    return TrainingArena(schedule, buffers, assign(buffers, alignment=alignment), trainable_bytes)


def lifetimes(schedule: Schedule) -> tuple[Buffer, ...]:
    """When each buffer is live; values written in place share the buffer of what they replace."""
    last: dict[str, int] = {}
    for step, operation in enumerate(schedule.operations):
        last.update(dict.fromkeys((*operation.reads, *operation.writes), step))
    size = schedule.size_bytes
    place = {INPUT: INPUT}
    lives = {INPUT: (0, last[INPUT])}
    for step, operation in enumerate(schedule.operations):
        for value in operation.writes:
            replaced = ""
            if operation.in_place and value == operation.writes[0]:
                dying = (place[read] for read in operation.reads if lives[place[read]][1] == step)
                replaced = next((buffer for buffer in dying if size[buffer] == size[value]), "")
            place[value] = replaced or value
            lives[place[value]] = (lives[replaced][0] if replaced else step, last[value])
    return tuple(Buffer(name, size[name], *life) for name, life in lives.items())


@dataclass
class Builder:
    """Writes the schedule of a network, forward and then backward."""

    layers: Sequence[LayerCost]
    updates: Mapping[str, LayerUpdate]
    element_bytes: ElementBytes
    every_output_clamps: bool
    operations: list[Operation] = field(default_factory=list)
    size_bytes: dict[str, int] = field(default_factory=dict)
    needs_gradient: dict[str, bool] = field(default_factory=lambda: {INPUT: False})
    saved: dict[str, str] = field(default_factory=dict)
    gradient: dict[str, str] = field(default_factory=dict)

    def schedule(self) -> Schedule:
        """What was written so far."""
        return Schedule(tuple(self.operations), dict(self.size_bytes))

    def write(self, name: str, reads: tuple[str, ...], size_bytes: int, in_place: bool = False) -> str:
        """Add an operator that writes one value, which has its name."""
        self.operations.append(Operation(name, reads, (name,), in_place))
        self.size_bytes[name] = size_bytes
        return name

    def forward(self) -> Schedule:
        """The forward pass, with what the updates need of it later."""
        self.size_bytes[INPUT] = self.layers[0].input_elements * self.element_bytes
        clamps = {layer.inputs[0] for layer in self.layers if layer.kind == "clamp"}
        for layer in self.layers:
            update = self.updates.get(layer.name)
            updated = update is not None and update.is_updated
            self.needs_gradient[layer.name] = updated or any(self.needs_gradient[source] for source in layer.inputs)
            if update is not None and update.weight_elements:
                self.save_input(layer, update)
            writes = [layer.name]
            saturates = self.every_output_clamps and layer.is_weighted and layer.name not in clamps
            if self.needs_gradient[layer.name] and (layer.kind == "clamp" or saturates):
                writes.append(mask_of(layer))
                self.size_bytes[mask_of(layer)] = -(-layer.output_elements // 8)
            self.operations.append(
                Operation(layer.name, layer.inputs, tuple(writes), in_place=layer.kind in ("clamp", "add"))
            )
            self.size_bytes[layer.name] = layer.output_elements * self.element_bytes
        return self.schedule()

    def save_input(self, layer: LayerCost, update: LayerUpdate) -> None:
        """Keep what the weight gradient reads: the input itself, or a copy of the channels that are updated."""
        if update.saved_elements == layer.input_elements:
            self.saved[layer.name] = layer.inputs[0]
        else:
            size_bytes = update.saved_elements * self.element_bytes
            self.saved[layer.name] = self.write(f"{layer.name}.saved", (layer.inputs[0],), size_bytes)

    def backward(self, immediate_update: bool) -> Schedule:
        """Append loss, gradients and updates."""
        output = self.layers[-1]
        size_bytes = output.output_elements * GRADIENT_BYTES
        self.gradient[output.name] = self.write("loss.gradient", (output.name,), size_bytes)
        pending: list[str] = []
        for layer in reversed(self.layers):
            if self.needs_gradient[layer.name] and layer.name in self.gradient:
                flowing = self.through_mask(layer, self.gradient[layer.name])
                pending += self.parameter_gradients(layer, flowing, immediate_update)
                self.to_inputs(layer, flowing)
        if pending:
            self.operations.append(Operation("update", tuple(pending)))
        return self.schedule()

    def through_mask(self, layer: LayerCost, flowing: str) -> str:
        """The gradient behind a layer's mask or smooth activation, in place."""
        if layer.kind == "smooth":
            needed = layer.inputs[0]
        elif mask_of(layer) in self.size_bytes:
            needed = mask_of(layer)
        else:
            return flowing
        return self.write(f"{layer.name}.masked", (flowing, needed), self.size_bytes[flowing], in_place=True)

    def parameter_gradients(self, layer: LayerCost, flowing: str, immediate_update: bool) -> list[str]:
        """Write the gradients of a layer's bias and weight; those not applied at once are returned."""
        update = self.updates.get(layer.name)
        if update is None:
            return []
        pending = []
        saved = (self.saved[layer.name],) if update.weight_elements else ()
        parts = (("bias", update.bias_elements, ()), ("weight", update.weight_elements, saved))
        for part, elements, reads in parts:
            if elements:
                name = f"{layer.name}.{part}.gradient"
                self.write(name, (flowing, *reads), elements * GRADIENT_BYTES)
                if immediate_update:
                    self.operations.append(Operation(f"{name}.update", (name,)))
                else:
                    pending.append(name)
        return pending

    def to_inputs(self, layer: LayerCost, flowing: str) -> None:
        """Hand the gradient on to the layer's inputs that need one, summed where it is not the first."""
        for source in layer.inputs:
            if not self.needs_gradient[source]:
                continue
            contribution = flowing
            if layer.is_weighted or layer.kind == "pool":
                size_bytes = layer.input_elements * GRADIENT_BYTES
                contribution = self.write(f"{layer.name}.input.gradient", (flowing,), size_bytes)
            if source in self.gradient:
                size_bytes = self.size_bytes[contribution]
                reads = (self.gradient[source], contribution)
                contribution = self.write(
                    f"{source}.gradient.sum{len(self.operations)}", reads, size_bytes, in_place=True
                )
            self.gradient[source] = contribution


def mask_of(layer: LayerCost) -> str:
    """Name of a layer's mask."""
    return f"{layer.name}.mask"
