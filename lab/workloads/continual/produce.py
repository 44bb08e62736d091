"""What the host computes for a deployment: rate, codebook, program, and all steps in PyTorch. Imports torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lab import progress
from lab.workloads import cache as cached
from lab.workloads.base import FloatArray, Int8Array
from lab.workloads.classification import model_to_json
from lab.workloads.continual import tasks
from lab.workloads.continual.attentive_units import Attention
from lab.workloads.continual.base import Extractor
from lab.workloads.continual.codes import Codec, codec_of
from lab.workloads.continual.learner import Precision, compose
from lab.workloads.continual.learner_plan import UNITS, Plan
from lab.workloads.continual.options import RATES, SEED, Variant
from lab.workloads.continual.reference import Learned, Stream, learn
from lab.workloads.fitting import seeded

IntArray: TypeAlias = npt.NDArray[np.int64]
TRIED_TASKS = 4
"""Deployments of classes of the host by which a rate is chosen."""
TASKS = 8
"""Deployments of unseen classes whose mean accuracy is told beside that of the device's own."""
MOST_VALUES = 1 << 25
"""Of latents, or of attentive units, in replicas that learn side by side."""
ROOM = 1.25
"""Room for what the latents of unseen classes take, by what those of the host's take in the mean."""


@dataclass(frozen=True)
class Packed:
    """Latents of a deployment as its store holds them.

    Attributes:
        items: packed bytes of each (steps, shots); empty where samples are kept.
        stored: bool (steps, shots): whether there was room.
    """

    items: tuple[tuple[bytes, ...], ...]
    stored: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Given:
    """What all deployments of a variant have in common.

    Attributes:
        variant: what was asked for.
        plan: sizes on the device.
        codec: how it keeps latents.
        attention: attentive units before its classifier; None for none.
    """

    variant: Variant
    plan: Plan
    codec: Codec
    attention: Attention | None

    @property
    def together(self) -> int:
        """Deployments that learn side by side."""
        latents = self.variant.classes * self.variant.shots * self.codec.elements
        units = 0 if self.attention is None else sum(one.numel() for one in self.attention.initial.values())
        return max(1, MOST_VALUES // max(latents, units))

    def learn(self, stream: Stream, rates: torch.Tensor) -> Learned:
        """All steps of a stream; what came of the last of them."""
        return learn(
            stream, self.plan, rates, SEED, self.variant.recipe.epochs or 1, self.attention, only_last=True
        )


def draw_of(variant: Variant, there: tuple[int, int], number: int, purpose: int) -> tasks.Draw:
    """Task ``number``; ``purpose`` keeps the classes of the host apart from the device's."""
    generator = np.random.default_rng((SEED, purpose, number))
    return tasks.draw(there, variant.classes, variant.shots, variant.questions, generator)


def order_of(variant: Variant) -> IntArray:
    """Where each step's samples come from, (steps, shots, 2): class after class; for the oracle all in random order."""
    places = np.stack(np.meshgrid(np.arange(variant.classes), np.arange(variant.shots), indexing="ij"), -1)
    if variant.recipe.epochs is None:
        return places
    flat = np.random.default_rng((SEED, 2, variant.task)).permutation(places.reshape(-1, 2))
    return flat.reshape(places.shape)


def produce(variant: Variant, extractor: Extractor) -> cached.Entry:
    """The program, and what a device must come to."""
    recipe = variant.recipe
    latent = extractor.model.output
    known, unseen = extractor.known, extractor.unseen
    codec = codec_of(variant.kind, latent, known.reshape(-1, known.shape[-1])[:2000], variant.dimension, SEED)
    plan = plan_of(variant, extractor, codec)
    given = Given(variant, plan, codec, attention_of(variant, extractor))
    with seeded(SEED):
        with progress.step(f"{variant.method}: choosing the learning rate", quiet_below_s=2.0):
            rate = variant.rate or _chosen_rate(given, known)
        name = re.sub("[^a-z]", "_", f"continual_{variant.method}")
        precision: Precision = "float32" if variant.float_extractor else "int8"
        model = compose(extractor.model, codec, plan, name, extractor.units, precision)
        draw = draw_of(variant, unseen.shape[:2], variant.task, 1)
        own, packed = stream_of(variant, plan, codec, unseen, [draw])
        asked = torch.from_numpy(latent.dequantize(draw.asked(unseen))).flatten(0, 1)[None]
        with progress.step(f"{variant.method}: learning in PyTorch", quiet_below_s=2.0):
            learned = learn(own, plan, torch.tensor([rate]), SEED, recipe.epochs or 1, given.attention, asked=asked)
            several = _mean_accuracy(given, unseen, rate)
            floats = _float_accuracy(given, extractor.unseen_float, draw, rate)
    labels = np.repeat(np.arange(variant.classes), variant.questions)
    place = order_of(variant)
    # What the program includes lies in the extractor's entry.
    document = {
        "model": model_to_json(replace(model, binaries={})), "rate": rate,
        "accuracy_tasks": several, "accuracy_float": floats,
        **accuracies(learned, labels, variant),
    }  # fmt: skip
    held = _held(variant, packed, draw.learnt(extractor.inputs))
    arrays: dict[str, cached.AnyArray] = {
        "samples": draw.learnt(extractor.inputs)[place[..., 0], place[..., 1]],
        "targets": own.labels.numpy().astype(np.int32),
        "questions": draw.asked(extractor.inputs).reshape(-1, variant.shots, extractor.inputs.shape[-1]),
        "labels": labels,
        "logits": learned.told(asked)[0].numpy(),
        "losses": learned.losses[:, 0].numpy(),
        "weight": learned.weights[-1, 0].numpy(),
        "bias": learned.biases[-1, 0].numpy(),
        "stored": packed.stored,
        **{UNITS + name: value[0].numpy() for name, value in learned.units.items()},
        "pool": np.frombuffer(b"".join(held), np.uint8),
        "ends": np.cumsum([len(one) for one in held], dtype=np.int32),
    }
    return cached.Entry(json.dumps(document), arrays)


def plan_of(variant: Variant, extractor: Extractor, codec: Codec) -> Plan:
    """Sizes, with the room that the host's own latents suggest."""
    items = variant.classes * variant.shots
    rehearsal = variant.recipe.rehearsal
    if rehearsal == "samples":
        needed = items * extractor.model.input.size
    elif codec.sparse:
        rows = extractor.known.reshape(-1, codec.elements)[:: max(1, extractor.known[..., 0].size // 256)]
        needed = int(ROOM * items * np.mean([len(codec.encode(row)) for row in rows]))
    else:
        needed = items * len(codec.encode(extractor.known[0, 0]))
    room = variant.room * 1024 or needed
    return Plan(
        rehearsal, variant.classes, variant.shots, variant.batch, variant.epochs, items, room, variant.attention
    )


def attention_of(variant: Variant, extractor: Extractor) -> Attention | None:
    """The attentive units as the device begins with them; None for a method without."""
    if variant.attention is None:
        return None
    initial = {name: torch.from_numpy(value) for name, value in extractor.units.items()}
    return Attention(initial, variant.attention.active)


def pack(variant: Variant, plan: Plan, codec: Codec, latents: Int8Array, sample_bytes: int = 0) -> Packed:
    """What a store of ``plan.pool_bytes`` takes of latents (steps, shots, elements), in their order."""
    samples = variant.recipe.rehearsal == "samples"
    items = tuple(tuple(b"" if samples else codec.encode(one) for one in step) for step in latents)
    used, stored = 0, np.zeros(latents.shape[:2], bool)
    for step, shots in enumerate(items):
        for shot, item in enumerate(shots):
            size = sample_bytes if samples else len(item)
            stored[step, shot] = used + size <= plan.pool_bytes
            used += size * int(stored[step, shot])
    return Packed(items, stored)


def _held(variant: Variant, packed: Packed, samples: Int8Array) -> list[bytes]:
    """The items that the store holds in the end."""
    if variant.recipe.rehearsal == "samples":
        return [one.tobytes() for one in samples[packed.stored]]
    rows = zip(packed.items, packed.stored, strict=True)
    return [item for items, kept in rows for item, one in zip(items, kept, strict=True) if one]


def stream_of(
    variant: Variant, plan: Plan, codec: Codec, latents: Int8Array, draws: list[tasks.Draw]
) -> tuple[Stream, Packed]:
    """Deployments as replicas, and how the store holds the first of them."""
    place = order_of(variant)
    learnt = np.stack([draw.learnt(latents) for draw in draws])
    fresh = codec.latent.dequantize(learnt)
    packed = [pack(variant, plan, codec, one, plan.pool_bytes // plan.capacity) for one in learnt]
    kept = fresh
    if variant.recipe.rehearsal == "latents":
        kept = np.array([[[codec.decode(one) for one in row] for row in each.items] for each in packed], np.float32)
    first, second = (torch.from_numpy(one[:, place[..., 0], place[..., 1]]) for one in (fresh, kept))
    return Stream(first, second, torch.from_numpy(place[..., 0].copy()), packed[0].stored), packed[0]


def accuracies(learned: Learned, labels: IntArray, variant: Variant) -> dict[str, object]:
    """Accuracy on the classes so far after each step, and how much of each class is forgotten in the end.

    Args:
        learned: of one replica, with what all questions were answered after each step.
        labels: of those.
        variant: sizes.
    """
    own: list[FloatArray] = []
    for step, answers in enumerate(() if learned.answers is None else learned.answers[:, 0]):
        told = answers.clone()
        if variant.recipe.epochs is None:
            told[:, step + 1 :] = -torch.inf
        right = (told.argmax(1).numpy() == labels).reshape(variant.classes, -1)
        own.append(right.mean(1).astype(np.float32))
    steps = range(variant.classes)
    in_turn = variant.recipe.epochs is None
    return {
        "curve": [float(own[step][: step + 1].mean()) for step in steps] if in_turn else [],
        "accuracy": float(own[-1].mean()),
        "forgetting": float(np.mean([own[step][step] - own[-1][step] for step in steps[:-1]])) if in_turn else 0.0,
    }


def _chosen_rate(given: Given, known: Int8Array) -> float:
    """The rate that is most accurate on classes of the host; the largest of equals."""
    variant = given.variant
    if variant.recipe.rehearsal == "means":
        return RATES[0]
    draws = [draw_of(variant, known.shape[:2], number, 0) for number in range(TRIED_TASKS)]
    tried = torch.tensor(RATES).repeat_interleave(TRIED_TASKS)
    found = _accuracy(given, known, [draw for _ in RATES for draw in draws], tried)
    return max(zip(found.reshape(len(RATES), -1).mean(1).tolist(), RATES, strict=True))[1]


def _mean_accuracy(given: Given, unseen: Int8Array, rate: float) -> float:
    variant = given.variant
    draws = [draw_of(variant, unseen.shape[:2], variant.task + number, 1) for number in range(TASKS)]
    return float(_accuracy(given, unseen, draws, torch.full((TASKS,), rate)).mean())


def _accuracy(given: Given, latents: Int8Array, draws: list[tasks.Draw], rates: torch.Tensor) -> torch.Tensor:
    """Accuracy of each deployment in the end, (draws,)."""
    found: list[torch.Tensor] = []
    for at in range(0, len(draws), given.together):
        some = draws[at : at + given.together]
        stream, _ = stream_of(given.variant, given.plan, given.codec, latents, some)
        asked = torch.from_numpy(np.stack([given.codec.latent.dequantize(draw.asked(latents)) for draw in some]))
        found.append(_share(given.learn(stream, rates[at : at + given.together]), asked, given.variant))
    return torch.cat(found)


def _float_accuracy(given: Given, floats: FloatArray, draw: tasks.Draw, rate: float) -> float:
    """Accuracy with the float32 extractor and nothing compressed: what quantisation and codes cost together."""
    place = order_of(given.variant)
    fresh = torch.from_numpy(draw.learnt(floats)[place[..., 0], place[..., 1]])[None]
    stream = Stream(fresh, fresh, torch.from_numpy(place[..., 0].copy()), np.ones(place.shape[:2], bool))
    learned = given.learn(stream, torch.tensor([rate]))
    return float(_share(learned, torch.from_numpy(draw.asked(floats))[None], given.variant)[0])


def _share(learned: Learned, asked: torch.Tensor, variant: Variant) -> torch.Tensor:
    labels = torch.arange(variant.classes).repeat_interleave(variant.questions)
    return (learned.told(asked.flatten(1, 2)).argmax(2) == labels).float().mean(1)
