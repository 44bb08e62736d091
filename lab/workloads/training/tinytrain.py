"""TinyTrain: a meta-trained network learns new classes from a few images on the device, in chosen channels alone.

Kwon et al. 2024, "TinyTrain: Resource-Aware Task-Adaptive Sparse Training of DNNs at the Data-Scarce Edge". The network
learns on the host, from characters, to tell classes by the means of their features. The device is shown some images of
digits, a data set it has never seen. It averages their features, runs one pass over them that adds up the Fisher
information of each channel, and is then given a program that trains what is worth it within its budgets. Full training,
the last layer, a static sparse update and the class means alone are the baselines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lab.compiler.layer_costs import LayerCost
from lab.compiler.model import CompiledTraining
from lab.errors import WorkloadError
from lab.events import Job
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
    Room,
    Score,
    Survey,
    TrainingPlan,
)
from lab.workloads.classification import model_from_json
from lab.workloads.training import tinytrain_arms as arms
from lab.workloads.training import tinytrain_selection as costs
from lab.workloads.training.tinytrain_arms import SEED, Parts
from lab.workloads.training.tinytrain_checks import Expectation, Tolerance, compare_fisher, compare_means
from lab.workloads.training.tinytrain_claims import CLAIMS
from lab.workloads.training.tinytrain_host import PREFIX, TASKS, Task, Workshop, workshop_of

TARGET_ACCURACY = 0.8


class TinyTrain:
    """The workload. Variants: ``update=tinytrain|full|last|sparse|none``, ``macs=`` and ``memory=`` (the budgets),
    ``ways=``, ``shots=``, ``queries=``, ``epochs=``, ``rate=``, ``task=``, ``episodes=``, separated by commas. With
    ``size=paper`` also ``network=``, ``meta=``, ``data=`` and ``image=``.
    """

    id: str = "tinytrain"
    title: str = "Few-shot training on the device: layers and channels chosen by Fisher information (TinyTrain)"
    family: str = "training"
    systems: tuple[str, ...] = ("S007",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("update=full", "update=last", "update=sparse", "update=none")
    claims: tuple[Claim, ...] = CLAIMS
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Meta-train, draw the task, and compile what runs first; cached.

        Raises:
            ConfigError: unknown variant, a task that cannot be drawn, or data that cannot be used.
        """
        workshop = workshop_of(arms.parse(variant), cache)
        return _averaging(workshop) if workshop.variant.update == "none" else _surveying(workshop)


def _averaging(workshop: Workshop) -> Prepared:
    """Class means alone: nothing descends, and one pass over the images is all."""
    return _prepared(workshop, workshop.program({}, None), {}, _job(workshop.task(), 0.0, 1), (), ())


def _surveying(workshop: Workshop) -> Prepared:
    """What runs first on a device: class means, and for TinyTrain the Fisher information."""
    entry, task = workshop.survey(), workshop.task()
    model = model_from_json(json.loads(entry.document)["model"])
    jobs = [_job(task, 0.0, 1)]
    if workshop.variant.update == "tinytrain":
        jobs.append(_job(task, 1 / len(task.support), 1))

    def decide(raw: Mapping[str, bytes], room: Room) -> Prepared:
        return _decided(workshop, entry, _training(model.training).to_torch(raw), room)

    return Prepared(
        model=model,
        job=Job("infer", task.queries.tobytes(), len(task.queries)),
        dataset=_dataset(workshop, task),
        reference_outputs=_bytes(entry.arrays["logits"]),
        seed=SEED,
        parameters=arms.described(workshop.variant),
        check=_refuse,
        survey=Survey(model, tuple(jobs), decide),
    )


def _refuse(outputs: Int8Array) -> list[Score]:
    raise WorkloadError("a survey answers no questions: its `decide` yields what does")


def _decided(workshop: Workshop, entry: cached.Entry, found: Mapping[str, FloatArray], room: Room) -> Prepared:
    """What is trained, by what the device found out."""
    variant, means = workshop.variant, found["prototypes"]
    surveyed = [compare_means(means, entry.arrays["prototypes"].astype(np.float32))]
    job = _job(workshop.task(), variant.rate, variant.epochs)
    if variant.update != "tinytrain":
        parts = arms.static_parts(variant, workshop.layers())
        return _prepared(workshop, workshop.program(parts, means), parts, job, surveyed, ())
    names = json.loads(entry.document)["inspected"]
    theirs = {name: entry.arrays[f"fisher_{number}"].astype(np.float32) for number, name in enumerate(names)}
    fisher = {name: found[f"{PREFIX}{name}.fisher"] for name in names}
    surveyed.append(compare_fisher(fisher, theirs))
    return _chosen(workshop, fisher, means, room, job, surveyed)


def _chosen(
    workshop: Workshop,
    fisher: Mapping[str, FloatArray],
    means: FloatArray,
    room: Room,
    job: Job,
    surveyed: Sequence[Score],
) -> Prepared:
    """The program of what is worth training within the device's budgets.

    Raises:
        ConfigError: nothing fits them.
    """
    layers = workshop.layers()
    asked = tried = arms.budget(workshop.variant, layers, room)
    while True:
        parts, selection = arms.chosen_parts(layers, fisher, tried)
        entry = workshop.program(parts, means)
        training = _training(model_from_json(json.loads(entry.document)["model"]).training)
        # What is compiled may need more than was estimated: then the choice is made again, with as much less.
        over = training.arena_bytes + training.variables_bytes - asked.ram_bytes
        if over <= 0:
            return _prepared(workshop, entry, parts, job, surveyed, _why(selection, asked))
        tried = replace(tried, ram_bytes=selection.ram_bytes - over)


def _why(selection: costs.Selection, budget: costs.Budget) -> tuple[str, ...]:
    order = sorted(selection.scores, key=lambda name: -selection.scores[name])
    return (
        f"Budget: {budget.macs} MACs of a backward pass, {budget.ram_bytes} bytes of RAM; chosen: {selection.macs} "
        f"MACs, {selection.ram_bytes} bytes by estimate.",
        "Scores by the device's own Fisher information: "
        + ", ".join(f"{name} {selection.scores[name]:.3g}" for name in order) + ".",
        "Trained: "
        + "; ".join(f"{name}: {len(channels)} output channels" for name, channels in selection.channels.items()) + ".",
    )  # fmt: skip


def _prepared(
    workshop: Workshop, entry: cached.Entry, parts: Parts, job: Job, surveyed: Sequence[Score], said: tuple[str, ...]
) -> Prepared:
    document, arrays, task = json.loads(entry.document), entry.arrays, workshop.task()
    model = model_from_json(document["model"])
    training = _training(model.training)
    logits = arrays["logits"].astype(np.float32)
    expected = Expectation(
        labels=task.query_labels,
        training=training,
        losses=arrays["losses"].astype(np.float32),
        initial={name: arrays[f"initial_{n}"].astype(np.float32) for n, name in enumerate(document["names"])},
        variables={name: arrays[f"trained_{n}"].astype(np.float32) for n, name in enumerate(document["names"])},
        logits=logits,
        surveyed=tuple(surveyed),
        tolerance=Tolerance(**document["tolerance"]),
    )
    batch = task.support_labels.size
    reached = next((n for n, one in enumerate(document["accuracies"], 1) if one >= TARGET_ACCURACY), None)
    return Prepared(
        model=model,
        job=Job("infer", task.queries.tobytes(), len(task.queries)),
        dataset=_dataset(workshop, task),
        reference_outputs=_bytes(logits),
        seed=SEED,
        parameters=arms.described(workshop.variant),
        check=expected.check,
        facts=(*_facts(workshop, training), *said),
        figures=_figures(workshop, training, parts),
        training=TrainingPlan(job, expected.check_training, TARGET_ACCURACY, reached and reached * batch),
    )


def _facts(workshop: Workshop, training: CompiledTraining) -> tuple[str, ...]:
    variant = workshop.variant
    return (
        f"{variant.ways} classes of {workshop.source.asked_of}, {variant.shots} images of each to learn from, update: "
        f"{variant.update}.",
        f"Backbone: {workshop.source.network}, trained on {workshop.source.learnt_from}; no class of the task was "
        "among them.",
        f"Arena {training.arena_bytes} bytes (lower bound {training.lower_bound_bytes}), variables "
        f"{training.variables_bytes} bytes.",
        "Class means, Fisher information, losses, trained variables and answers are compared with PyTorch's; which "
        "layers are trained is computed on the host, from the device's own Fisher information.",
    )


def _figures(workshop: Workshop, training: CompiledTraining, parts: Parts) -> tuple[Figure, ...]:
    layers = workshop.layers()
    trained = arms.updates(parts, layers)
    m3 = "TinyTrain's backward memory, Adam, "
    hundred = json.loads(workshop.backbone().document)["full_batch100"]
    accuracy = f"mean over {TASKS} tasks, trained in PyTorch on the host"
    m4 = training.arena_bytes + training.variables_bytes
    figures = (
        Figure("arena", training.arena_bytes, "bytes", "planned arena of a training step"),
        Figure("arena.lower_bound", training.lower_bound_bytes, "bytes", "largest set of tensors live at once"),
        Figure("memory.m3", costs.backward_memory(layers, trained), "bytes", m3 + "batches of one"),
        Figure("memory.m4", m4, "bytes", "planned arena of a step and variables: what the firmware has"),
        Figure("macs.backward", costs.backward_macs(layers, trained), "MACs", "of a backward pass, analytic"),
        Figure("trained", costs.FLOAT_BYTES * _elements(trained, layers), "bytes", "parameters that change"),
        Figure("accuracy.tasks", workshop.accuracy_of_tasks(), "1", accuracy),
    )
    if workshop.variant.update == "full":
        note = m3 + "batches of 100, float inputs of norms and ReLUs kept, as the paper counts full training"
        return (*figures, Figure("memory.m3.batch100", hundred, "bytes", note))
    return figures


def _elements(trained: Mapping[str, costs.Update], layers: Sequence[LayerCost]) -> int:
    return sum(trained[layer.name].elements(layer) for layer in layers if layer.name in trained)


def _job(task: Task, rate: float, epochs: int) -> Job:
    labels = task.support_labels.astype(np.int32)
    return training_job(task.support, labels, epochs=epochs, learning_rate=rate, seed=SEED)


def _dataset(workshop: Workshop, task: Task) -> Dataset:
    source = workshop.source
    note = f"Learnt on the host: {source.learnt_from}. {source.asked_of} is another data set: its classes are new."
    return Dataset(source.asked_of, task.digest, len(task.queries), note)


def _bytes(logits: cached.AnyArray) -> Int8Array:
    return np.ascontiguousarray(logits.astype(np.float32)).view(np.int8)


def _training(training: CompiledTraining | None) -> CompiledTraining:
    if training is None:
        raise ValueError("the model is compiled for inference only")
    return training


WORKLOAD = TinyTrain()
