"""The class learner in C against PyTorch's autograd: online, with every kind of store, and with class means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_learner import CLASSES, SHOTS, plan, small_task

from lab.compiler import binary_constants
from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.model import CompiledModel
from lab.compiler.program import TrainingState
from lab.workloads.continual.attentive_units import Attention, fresh
from lab.workloads.continual.codes import STORES, StoreKind
from lab.workloads.continual.learner import compose
from lab.workloads.continual.learner_plan import (
    BIAS,
    COUNTS,
    POOL,
    STORE,
    UNITS,
    WEIGHT,
    Plan,
    Rehearsal,
    Units,
)
from lab.workloads.continual.reference import learn, shuffled
from lab.workloads.parts import as_part

RATE, SEED = 0.02, 7


def learnt_in_c(sizes: Plan, kind: StoreKind, folder: Path) -> tuple[HostTraining, list[float], CompiledModel]:
    """All classes, with undefined behaviour trapped and the arena guarded."""
    model = compose(small_task().extractor, small_task().codec(kind), sizes, "small_learner")
    return *run_all(model, folder, RATE), model


def run_all(model: CompiledModel, folder: Path, rate: float) -> tuple[HostTraining, list[float]]:
    """A step for each class."""
    host = HostTraining(model, folder, flags=("-O2", *TRAP_UNDEFINED))
    host.state.random = SEED
    targets = np.repeat(np.arange(CLASSES, dtype=np.int32), SHOTS).reshape(CLASSES, SHOTS)
    return host, [host.step(small_task().inputs[number], targets[number], rate) for number in range(CLASSES)]


@pytest.mark.parametrize("kind", STORES)
def test_rehearsing_packed_latents_comes_to_pytorchs_classifier_and_store(kind: StoreKind, tmp_path: Path) -> None:
    task = small_task()
    codec = task.codec(kind)
    packed = b"".join(codec.encode(one) for shots in task.latents for one in shots)
    sizes = plan("latents", len(packed), epochs=2)
    host, losses, _ = learnt_in_c(sizes, kind, tmp_path)
    expected = learn(task.stream(codec), sizes, torch.tensor([RATE]), SEED)
    found = host.variables()
    assert np.allclose(losses, expected.losses[:, 0], atol=1e-6)
    assert np.allclose(found[WEIGHT], expected.weights[-1, 0], atol=1e-6)
    assert np.allclose(found[BIAS], expected.biases[-1, 0], atol=1e-6)
    assert host.raw_variables()[POOL] == packed
    assert found[STORE].tolist() == [CLASSES * SHOTS, len(packed), 0]


@pytest.mark.parametrize("rehearsal", ["none", "samples", "means"])
def test_without_packed_latents_it_comes_to_pytorchs_classifier(rehearsal: Rehearsal, tmp_path: Path) -> None:
    task = small_task()
    sizes = plan(rehearsal, task.inputs.nbytes)
    host, losses, model = learnt_in_c(sizes, "int8", tmp_path)
    expected = learn(task.stream(), sizes, torch.tensor([RATE]), SEED)
    found = host.variables()
    assert np.allclose(losses, expected.losses[:, 0], atol=1e-6)
    assert np.allclose(found[WEIGHT], expected.weights[-1, 0], atol=1e-6)
    assert np.allclose(found[BIAS], expected.biases[-1, 0], atol=1e-5)
    assert (STORE in found) == (rehearsal == "samples")
    if rehearsal == "samples":
        assert host.raw_variables()[POOL] == task.inputs.tobytes()
    if rehearsal == "means":
        assert found[COUNTS].tolist() == [SHOTS] * CLASSES
        assert np.allclose(found[WEIGHT], task.stream().fresh[0].mean(1), atol=1e-6)
    assert {one.name for one in model.training.variables} == set(found) if model.training else False


@pytest.mark.parametrize("least_bytes", [1, binary_constants.LEAST_BYTES])
def test_attentive_units_come_to_pytorchs_and_only_those_that_answer_are_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least_bytes: int
) -> None:
    """Whether what they begin with is text, or in files that the assembler includes."""
    monkeypatch.setattr(binary_constants, "LEAST_BYTES", least_bytes)
    task = small_task()
    units = Units(count=7, active=2, hidden=5, keys=4, inputs=task.latents.shape[-1], outputs=6)
    torch.manual_seed(1)
    initial = fresh(units)
    sizes = replace(plan("none", 0), units=units)
    given = {name: one.numpy() for name, one in initial.items()}
    model = compose(task.extractor, task.codec("int8"), sizes, "small_learner", given)
    assert bool(model.binaries) == (least_bytes == 1)
    host, losses = run_all(model, tmp_path, 0.3)
    expected = learn(task.stream(), sizes, torch.tensor([0.3]), SEED, attention=Attention(initial, units.active))
    found = host.variables()
    assert np.allclose(losses, expected.losses[:, 0], atol=1e-5)
    assert np.allclose(found[WEIGHT], expected.weights[-1, 0], atol=1e-5)
    for name, one in expected.units.items():
        assert np.allclose(found[UNITS + name], one[0], atol=1e-5), name
    # Class 0 was learnt by a classifier of zeros at first, so units change from the second sample on.
    changed = (found[UNITS + "value"] != given["value"]).any((1, 2))
    assert 0 < changed.sum() < units.count
    assert np.array_equal((found[UNITS + "state"] != given["state"]).any(1), changed)
    told = host.run(task.inputs).reshape(1, -1, CLASSES)
    assert np.allclose(told, expected.told(task.stream().fresh.flatten(1, 2)), atol=1e-5)
    host.reset()
    assert np.array_equal(host.variables()[UNITS + "key"], given["key"]), "from flash again"


def test_answers_are_by_what_was_learnt(tmp_path: Path) -> None:
    task = small_task()
    host, _, _ = learnt_in_c(plan("means", 0), "int8", tmp_path)
    told = host.run(task.inputs).reshape(CLASSES, SHOTS, CLASSES)
    found = host.variables()
    assert np.allclose(told, task.stream().fresh[0].numpy() @ found[WEIGHT].T + found[BIAS], atol=1e-5)
    assert (told.argmax(-1) == np.arange(CLASSES)[:, None]).mean() > 0.9


def test_what_finds_no_room_is_dropped_and_counted(tmp_path: Path) -> None:
    task = small_task()
    each = task.latents.shape[-1]
    host, _, _ = learnt_in_c(plan("latents", 5 * each + 3), "int8", tmp_path)
    assert host.variables()[STORE].tolist() == [5, 5 * each, CLASSES * SHOTS - 5]
    assert host.raw_variables()[POOL] == task.latents.reshape(-1)[: 5 * each].tobytes() + bytes(3)


def test_the_plan_is_tight_and_the_extractor_lies_over_what_the_classifier_needs(tmp_path: Path) -> None:
    task = small_task()
    model = compose(task.extractor, task.codec("bitmap+pq"), plan("latents", 200), "small_learner")
    assert model.training is not None
    where = {one.name: one for one in model.training.buffers}
    assert where["extractor"].offset == where["decoded"].offset
    assert model.lower_bound_bytes <= model.arena_bytes <= model.lower_bound_bytes + 16 * len(where)
    again = compose(task.extractor, task.codec("int8"), plan("samples", 500), "small_learner")
    assert again.training is not None
    where = {one.name: one for one in again.training.buffers}
    assert where["extractor"].offset >= where["errors"].offset + where["errors"].size, "both are used in rehearsal"
    assert model.training.variables_bytes < again.training.variables_bytes
    assert HostTraining(model, tmp_path).layer_names == ("extractor", "classifier")


def test_an_extractor_without_a_border_is_refused() -> None:
    task = small_task()
    broken = CompiledModel(
        "broken", {"model.c": "int nothing;"}, task.extractor.input, task.extractor.output, (), (), 0, 0, ""
    )
    with pytest.raises(ValueError, match="defines lab_model 0 times"):
        as_part(broken, "lab_extractor")


def test_every_item_is_rehearsed_once_an_epoch() -> None:
    state = TrainingState(0.0, 0, SEED)
    orders = [shuffled(9, state) for _ in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert orders[0] != orders[1]


def test_replicas_do_not_see_each_other() -> None:
    task = small_task()
    alone, sizes = task.stream(), plan("latents", 10_000)
    rates = torch.tensor([RATE, 3 * RATE])
    twice = type(alone)(alone.fresh.repeat(2, 1, 1, 1), alone.kept.repeat(2, 1, 1, 1), alone.labels, alone.stored)
    both = learn(twice, sizes, rates, SEED)
    for number, rate in enumerate(rates):
        one = learn(alone, sizes, rate[None], SEED)
        assert torch.allclose(one.weights[:, 0], both.weights[:, number], atol=1e-6)
