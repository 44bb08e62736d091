"""Continual learning on a device: classes come one after another, and the device learns, rehearses and answers.

The extractor is frozen and yields int8; the classifier and what is kept for rehearsal are the device's own. A step of
training is a class, an inference as many questions as a class has samples. The same steps in PyTorch are the reference:
the classifier within rounding, the store of rehearsed latents to the bit. Where the extractor computes in float32, a
value near the middle between two steps of the grid may be rounded the other way: a few latents may differ, and what was
learnt from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.compiler.model import CompiledModel, CompiledTraining
from lab.errors import WorkloadError
from lab.events import Job
from lab.runtime_files import RUNTIME
from lab.training import training_job
from lab.workloads import cache as cached
from lab.workloads.base import (
    EVERY_CLASS,
    Claim,
    Dataset,
    DeviceClass,
    Figure,
    FloatArray,
    Int8Array,
    Prepared,
    Score,
    TrainingPlan,
)
from lab.workloads.classification import model_from_json
from lab.workloads.continual.base import HERE, Extractor, described, extractor, sources, units_in
from lab.workloads.continual.kept import Kept
from lab.workloads.continual.learner import binaries
from lab.workloads.continual.learner_plan import BIAS, UNITS, WEIGHT
from lab.workloads.continual.memory import memory_figures
from lab.workloads.continual.options import SEED, Variant, parse

MAX_LOSS_ERROR = 1e-4
MAX_UPDATE_ERROR = 1e-3
MIN_AGREEMENT = 0.98
"""How far a device may be from PyTorch: the median of the losses, the classifier's distance in parts of its own length
(it begins at zero), and the share of questions answered alike. Sums have other orders; seen: 1e-6 of both."""
MAX_UPDATE_ERROR_OF_FLOAT = 1e-2
"""The second behind a float32 extractor, whose latents may be rounded the other way."""
ROUNDED_OFF = 2.0**-24
"""Of a float32, by an addition."""


@dataclass(frozen=True)
class Expectation:
    """What a device must come to.

    Attributes:
        entry: what :func:`lab.workloads.continual.produce.produce` has made.
        variant: what was asked for.
        initial: the extractor's, with what attentive units begin with.
    """

    entry: cached.Entry
    variant: Variant
    initial: cached.Entry

    @cached_property
    def model(self) -> CompiledModel:
        """The program."""
        found = model_from_json(json.loads(self.entry.document)["model"])
        variables = found.training.variables if found.training else ()
        own = Extractor(self.initial)
        return replace(found, binaries={**own.model.binaries, **binaries(variables, own.units)})

    @property
    def training(self) -> CompiledTraining:
        """How it learns."""
        if self.model.training is None:
            raise ValueError("the learner is compiled for inference only")
        return self.model.training

    @property
    def max_update_error(self) -> float:
        """How far what is learnt may be from PyTorch's."""
        return MAX_UPDATE_ERROR_OF_FLOAT if self.variant.float_extractor else MAX_UPDATE_ERROR

    def floats(self, name: str) -> FloatArray:
        """An array of the reference."""
        return self.entry.arrays[name].astype(np.float32)

    def check_training(self, losses: FloatArray, raw: Mapping[str, bytes]) -> list[Score]:
        """Judge losses, float32 (steps,), and the raw bytes of the variables.

        Raises:
            WorkloadError: the classifier is not PyTorch's, or the store holds something else.
        """
        error = float(np.median(np.abs(losses - self.floats("losses"))))
        if not error <= MAX_LOSS_ERROR:
            raise WorkloadError(
                f"the losses differ from PyTorch's by {error:.2g} in the median; at most {MAX_LOSS_ERROR} is allowed"
            )
        found = self.training.to_torch(raw)
        pairs = [(found[WEIGHT], self.floats("weight")), (found[BIAS], self.floats("bias"))]
        off = math.sqrt(sum(_square(one - other) for one, other in pairs) / sum(_square(one) for _, one in pairs))
        if not off <= self.max_update_error:
            raise WorkloadError(
                f"the classifier is off PyTorch's by {off:.2g} of its length; at most {self.max_update_error} is "
                "allowed"
            )
        scores = [Score("loss_error", error, 0.0), Score("update_error", off, 0.0)]
        return [*scores, *self._check_units(found), *self.kept.check(raw)]

    def _check_units(self, found: Mapping[str, FloatArray]) -> list[Score]:
        """Attentive units, by how far they have come from where they began."""
        if not (initial := units_in(self.initial)):
            return []
        expected = units_in(self.entry)
        apart = math.sqrt(sum(_square(found[UNITS + name] - one) for name, one in expected.items()))
        moved = math.sqrt(sum(_square(one - initial[name]) for name, one in expected.items()))
        # At a low rate they move by less than what each addition rounds off.
        length = math.sqrt(sum(map(_square, initial.values())))
        rounded = ROUNDED_OFF * self.variant.classes * self.variant.shots * length
        off = apart / (moved + rounded / self.max_update_error)
        if not off <= self.max_update_error:
            raise WorkloadError(
                f"the attentive units are off PyTorch's by {off:.2g} of how far those have come; at most "
                f"{self.max_update_error} is allowed"
            )
        return [Score("units_error", off, 0.0)]

    @property
    def kept(self) -> Kept:
        """What the store must hold."""
        arrays, variant = self.entry.arrays, self.variant
        return Kept(
            arrays["pool"].tobytes(),
            arrays["ends"].astype(np.int32),
            arrays["stored"].astype(bool),
            self.floats("weight").shape[1],
            rounded=variant.float_extractor and variant.recipe.rehearsal == "latents",
        )

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge the answers by the device's own classifier, int8 views of float32 logits.

        Raises:
            WorkloadError: not those of PyTorch's classifier, which has learnt in the same way.
        """
        labels, expected = self.entry.arrays["labels"].astype(np.int64), self.floats("logits").argmax(1)
        told = np.ascontiguousarray(outputs).view(np.float32).reshape(len(labels), -1).argmax(1)
        alike = float(np.mean(told == expected))
        if alike < MIN_AGREEMENT:
            raise WorkloadError(
                f"{alike:.2%} of the questions are answered as PyTorch's classifier does, which has learnt in the same "
                f"way; at least {MIN_AGREEMENT:.0%} must be"
            )
        reference = float(np.mean(expected == labels))
        return [
            Score("accuracy", float(np.mean(told == labels)), reference, trials=len(labels)),
            Score("agreement", alike, 1.0),
        ]


def _square(values: FloatArray) -> float:
    return float(np.sum(values.astype(np.float64) ** 2))


@dataclass
class ContinualLearning:
    """A workload of this family: its method, its baselines and its claims; see :class:`Variant`."""

    id: str
    title: str
    systems: tuple[str, ...]
    baselines: tuple[str, ...]
    claims: tuple[Claim, ...]
    missing: str
    family: str = "continual"
    classes: tuple[DeviceClass, ...] = EVERY_CLASS

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train the extractor, compile the learner, and learn in PyTorch; cached.

        Raises:
            ConfigError: unknown variant, more classes or samples than there are, or data that cannot be used.
        """
        chosen = parse(self.id, variant)
        own = extractor(chosen, cache)
        key = cached.key({**described(chosen), **parameters(chosen)}, [*sources(), *_SOURCES, *RUNTIME.rglob("*.[ch]")])
        entry = cached.obtain(cache / "workloads", "continual", key, lambda: _produce(chosen, own))
        return _prepared(chosen, own, Expectation(entry, chosen, own.entry))


_SOURCES = [HERE / f"{name}.py" for name in ("produce", "reference", "learner", "learner_plan", "codes", "options",
                                               "attentive_units")]  # fmt: skip


def _produce(variant: Variant, own: Extractor) -> cached.Entry:
    from lab.workloads.continual.produce import produce

    return produce(variant, own)


def parameters(variant: Variant) -> dict[str, str]:
    """The options, for records."""
    return {name: str(value) for name, value in asdict(variant).items()}


def _prepared(variant: Variant, own: Extractor, expected: Expectation) -> Prepared:
    document, arrays = json.loads(expected.entry.document), expected.entry.arrays
    model, labels = expected.model, arrays["labels"]
    samples, targets = arrays["samples"].astype(np.int8), arrays["targets"].astype(np.int32)
    name, note = own.names
    job = training_job(
        samples, targets, epochs=variant.recipe.epochs or 1, learning_rate=document["rate"], seed=SEED
    )
    passes = len(labels) // variant.shots
    logits: npt.NDArray[np.float32] = np.ascontiguousarray(expected.floats("logits"))
    return Prepared(
        model=model,
        job=Job("infer", arrays["questions"].astype(np.int8).tobytes(), passes),
        dataset=Dataset(name, described(variant)["data"], len(labels), note),
        reference_outputs=logits.view(np.int8).reshape(passes, -1),
        seed=SEED,
        parameters=parameters(variant),
        check=expected.check,
        facts=_facts(variant, own, expected, document),
        figures=_figures(own, expected.training, document),
        training=TrainingPlan(job, expected.check_training),
    )


def _facts(variant: Variant, own: Extractor, expected: Expectation, document: Mapping[str, object]) -> tuple[str, ...]:
    recipe, model = variant.recipe, own.model
    zero = float(np.mean(own.unseen == model.output.zero_point))
    kept = {"none": "nothing", "means": "class means", "samples": "samples as they came",
            "latents": f"latents as {variant.kind}"}[recipe.rehearsal]  # fmt: skip
    curve = document["curve"]
    shown = ", ".join(f"{one:.0%}" for one in curve) if isinstance(curve, list) and curve else "all classes at once"
    return (
        f"{variant.classes} classes one after another, {variant.shots} samples each; method {variant.method}, "
        f"extractor {recipe.base} of {variant.network} ({model.macs} multiply-accumulates a sample), kept: {kept}.",
        *_units_fact(variant),
        f"A step of training is a class ({variant.shots} samples), an inference {variant.shots} questions.",
        f"Latents of {int(np.prod(model.output.shape))} values, {zero:.0%} of them zero. Learning rate "
        f"{document['rate']:g}" + ("" if variant.rate else ", the best on classes of the host") + ".",
        f"Accuracy on the classes so far, PyTorch: {shown}.",
        f"Arena {expected.training.arena_bytes} bytes, classifier and store {expected.training.variables_bytes} bytes.",
        _compared(variant),
    )


def _compared(variant: Variant) -> str:
    if not variant.float_extractor:
        return "The classifier is compared with PyTorch's, what is kept for rehearsal with NumPy's codes to the bit."
    return (
        "The extractor computes in float32 and rounds its latents to int8; classifier and latents are compared with "
        "PyTorch's, what is kept for rehearsal with NumPy's codes of those, where one value in many thousands may be "
        "rounded the other way."
    )


def _units_fact(variant: Variant) -> tuple[str, ...]:
    units = variant.attention
    if units is None:
        return ()
    return (
        f"{units.count} attentive units of {units.inputs}×{units.outputs} values are learnt with the classifier; the "
        f"{units.active} with the highest scores answer a sample ({units.macs} multiply-accumulates).",
    )


def _figures(own: Extractor, training: CompiledTraining, document: Mapping[str, float]) -> tuple[Figure, ...]:
    elements = int(np.prod(own.model.output.shape))
    return (
        Figure("arena", training.arena_bytes, "bytes", "planned arena of a training step"),
        Figure("arena.lower_bound", training.lower_bound_bytes, "bytes", "largest set of tensors live at once"),
        Figure("accuracy.tasks", document["accuracy_tasks"], "1", "mean over 8 deployments, in PyTorch on the host"),
        Figure("accuracy.float32", document["accuracy_float"], "1",
               "the device's task with a float32 extractor and nothing compressed, in PyTorch on the host"),
        Figure("forgetting", document["forgetting"], "1",
               "accuracy on a class right after it was learnt less that in the end, in PyTorch on the host"),
        *memory_figures(own.model, training, elements),
    )  # fmt: skip
