"""Sizes of a class learner, its variables, and the plan of its arena. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from lab.compiler.model import BufferPlan, CompiledModel, Variable
from lab.workloads.continual.codes import Codec

Rehearsal: TypeAlias = Literal["none", "means", "latents", "samples"]

WEIGHT, BIAS, COUNTS = "classifier.weight", "classifier.bias", "means.counts"
STORE, POOL, ENDS, LABELS = "store.state", "store.pool", "store.ends", "store.labels"
UNITS = "units."
"""What the names of attentive units' variables begin with."""
ALIGNMENT = 16
EXTRACT, JUDGE, LEARN, REHEARSE = range(4)
"""Parts of a step: the first two are forward, the others backward and update."""


@dataclass(frozen=True)
class Units:
    """Sizes of attentive units, :mod:`lab.workloads.continual.attentive_units`.

    Attributes:
        count, active: how many there are, and how many answer a latent.
        hidden: elements of a unit's state.
        keys: elements of queries and keys.
        inputs, outputs: elements of a latent, and of a value.
    """

    count: int
    active: int
    hidden: int
    keys: int
    inputs: int
    outputs: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates for a latent: queries of all units, its key, scores, and values of those that answer."""
        matched = self.count * self.keys * (self.hidden + 1)
        return matched + self.keys * self.inputs + self.active * self.outputs * (self.inputs + 1)

    @property
    def working_floats(self) -> int:
        """What a latent needs besides itself, as ``lab_attentive_units.h`` has it, and a gradient of the features."""
        queries = self.count * (self.keys + 1)
        return queries + 3 * self.keys + self.active * (self.outputs + 1) + 3 * self.outputs + 1


@dataclass(frozen=True)
class Plan:
    """Sizes of a learner.

    Attributes:
        rehearsal: what is kept and learnt again.
        classes, shots: classes, and samples of each.
        batch, epochs: of rehearsal.
        capacity: items that the store has places for.
        pool_bytes: what they have room in.
        units: what stands between extractor and classifier, and learns with it; None for nothing.
    """

    rehearsal: Rehearsal
    classes: int
    shots: int
    batch: int
    epochs: int
    capacity: int
    pool_bytes: int
    units: Units | None = None

    @property
    def rehearses(self) -> bool:
        """Whether there is a store."""
        return self.rehearsal in ("latents", "samples")


def variables_of(codec: Codec, plan: Plan) -> tuple[Variable, ...]:
    """What outlives a step: the classifier, what learns with it, and what is kept."""
    width = codec.elements if plan.units is None else plan.units.outputs
    found = [
        Variable(WEIGHT, "float32", (width, plan.classes), (1, 0), (plan.classes, width)),
        _flat(BIAS, "float32", plan.classes),
    ]
    if plan.units is not None:
        found += _units_variables(plan.units)
    if plan.rehearsal == "means":
        found.append(_flat(COUNTS, "int32", plan.classes))
    if plan.rehearses:
        found += [_flat(STORE, "int32", 3), _flat(ENDS, "int32", plan.capacity), _flat(LABELS, "int8", plan.capacity),
                  _flat(POOL, "int8", plan.pool_bytes)]  # fmt: skip
    return tuple(found)


def _units_variables(units: Units) -> list[Variable]:
    def same(name: str, *shape: int) -> Variable:
        return Variable(UNITS + name, "float32", shape, tuple(range(len(shape))), shape)

    return [
        same("state", units.count, units.hidden),
        same("query", units.count, units.hidden, units.keys),
        Variable(UNITS + "key", "float32", (units.inputs, units.keys), (1, 0), (units.keys, units.inputs)),
        same("key_bias", units.keys),
        same("value", units.count, units.inputs, units.outputs),
    ]


def _flat(name: str, dtype: str, count: int) -> Variable:
    return Variable(name, dtype, (count,), (0,), (count,))


def arena_of(extractor: CompiledModel, codec: Codec, plan: Plan) -> tuple[BufferPlan, ...]:
    """What lies where, and in which parts of a step: what the extractor needs lies over what the classifier needs,
    but where samples are extracted again while they are rehearsed.
    """
    batch = plan.batch if plan.rehearses else 1
    again = plan.rehearsal == "samples"
    kept = [("step", ALIGNMENT, JUDGE, REHEARSE), ("latents", plan.shots * codec.elements, EXTRACT, REHEARSE)]
    if plan.rehearses:
        kept.append(("order", 2 * (plan.capacity + plan.shots), REHEARSE, REHEARSE))
    learnt = [
        ("decoded", 4 * batch * codec.elements, JUDGE, REHEARSE),
        ("errors", 4 * batch * plan.classes, JUDGE, REHEARSE),
    ]
    if plan.units is not None:
        learnt.append(("attending", 4 * plan.units.working_floats, JUDGE, LEARN))
    extracted = [("again", codec.elements, REHEARSE, REHEARSE)] if again else []
    extracted.append(("extractor", extractor.arena_bytes, EXTRACT, REHEARSE if again else EXTRACT))
    below = _stacked(kept, 0)
    above = _stacked(learnt, _end(below))
    return (*below, *above, *_stacked(extracted, _end(above if again else below)))


def part_of_inference(buffers: Sequence[BufferPlan]) -> tuple[BufferPlan, ...]:
    """The same plan, of what inference uses."""
    used = [one for one in buffers if one.name in ("latents", "decoded", "attending", "extractor")]
    return tuple(replace(one, last=min(one.last, JUDGE)) for one in used)


def _stacked(wanted: Sequence[tuple[str, int, int, int]], start: int) -> tuple[BufferPlan, ...]:
    found: list[BufferPlan] = []
    for name, size, first, last in wanted:
        found.append(BufferPlan(name, start, size, first, last))
        start = _end(found)
    return tuple(found)


def _end(buffers: Sequence[BufferPlan]) -> int:
    """The first aligned place behind the last buffer."""
    return -(-(buffers[-1].offset + buffers[-1].size) // ALIGNMENT) * ALIGNMENT


def live_bytes(buffers: Sequence[BufferPlan]) -> int:
    """Most bytes that are live at once."""
    return max(sum(one.size for one in buffers if one.first <= at <= one.last) for at in range(REHEARSE + 1))
