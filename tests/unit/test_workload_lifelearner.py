"""The workloads lifelearner and metacl-bench: the C comes to PyTorch's classifier, every bound can break, bad input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.learner_runs import losses_of

from lab.compiler.host import HostTraining
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.continual.learner_plan import LABELS, POOL, STORE, UNITS, WEIGHT
from lab.workloads.continual.options import RATES, RECIPES, Variant, parse
from lab.workloads.continual.produce import accuracies, draw_of, order_of
from lab.workloads.continual.reference import Learned

SMALL = "classes=3,shots=4,questions=4,meta=4,dimension=8"


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("lifelearner").prepare(cache_dir(), SMALL)


@pytest.fixture(scope="module")
def learnt(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> HostTraining:
    """The C on this computer, after all classes."""
    host = HostTraining(prepared.model, tmp_path_factory.mktemp("learnt"))
    losses_of(prepared, host)
    return host


def test_the_c_comes_to_pytorchs_classifier_and_its_answers(prepared: Prepared, learnt: HostTraining) -> None:
    assert prepared.training is not None
    scores = {one.metric: one for one in prepared.training.check(losses_of(prepared, learnt), learnt.raw_variables())}
    assert scores["update_error"].value < 1e-5
    assert scores["replay.dropped"].value == 0
    wide = 4 * int(np.prod(learnt.variables()[WEIGHT].shape[1:]))
    assert scores["replay.bytes"].value == pytest.approx(12 * wide / scores["replay.reduction"].value)
    questions = np.frombuffer(prepared.job.blob, np.int8).reshape(prepared.job.count, -1)
    answers = {one.metric: one for one in prepared.check(learnt.run(questions).view(np.int8))}
    assert answers["agreement"].value == 1
    assert answers["accuracy"].trials == 12


def test_what_is_not_pytorchs_is_refused(prepared: Prepared, learnt: HostTraining) -> None:
    assert prepared.training is not None
    check, losses, good = prepared.training.check, losses_of(prepared, learnt), learnt.raw_variables()

    def spoilt(name: str, place: int) -> Mapping[str, bytes]:
        data = bytearray(good[name])
        data[place] ^= 1
        return {**good, name: bytes(data)}

    with pytest.raises(WorkloadError, match="losses differ"):
        check(losses + 1, good)
    with pytest.raises(WorkloadError, match="losses differ from PyTorch's by nan"):
        check(losses * np.nan, good)
    with pytest.raises(WorkloadError, match="classifier is off PyTorch's by 1 of its length"):
        check(losses, {name: bytes(len(data)) for name, data in good.items()})
    with pytest.raises(WorkloadError, match="not those of the reference, first at byte 7"):
        check(losses, spoilt(POOL, 7))
    with pytest.raises(WorkloadError, match="not those of the reference, in its labels"):
        check(losses, spoilt(LABELS, 2))
    with pytest.raises(WorkloadError, match="the store holds 13 items in"):
        check(losses, spoilt(STORE, 0))
    with pytest.raises(WorkloadError, match="of the questions are answered as PyTorch's classifier does"):
        prepared.check(np.roll(prepared.reference_outputs.view(np.float32).reshape(-1, 3), 1, 1).view(np.int8))


def test_a_store_without_room_drops_and_says_so(tmp_path: Path) -> None:
    """A kilobyte is less than a single latent that is kept wide."""
    given = get("lifelearner").prepare(cache_dir(), f"{SMALL},store=float32,room=1")
    assert given.training is not None
    host = HostTraining(given.model, tmp_path)
    scores = {one.metric: one for one in given.training.check(losses_of(given, host), host.raw_variables())}
    assert scores["replay.dropped"].value == 12
    assert scores["replay.bytes"].value == scores["replay.reduction"].value == 0


def test_attentive_units_are_pytorchs_and_refused_where_they_are_not(tmp_path: Path) -> None:
    given = get("metacl-bench").prepare(cache_dir(), f"{SMALL},method=oml+aim,units=6,active=3,rate=0.3")
    assert given.training is not None
    host = HostTraining(given.model, tmp_path)
    losses = losses_of(given, host)
    raw = host.raw_variables()
    scores = {one.metric: one.value for one in given.training.check(losses, raw)}
    assert scores["units_error"] < 1e-4
    assert "3 with the highest scores answer" in " ".join(given.facts)
    name = UNITS + "value"
    host.reset()
    begun = host.raw_variables()[name]
    for wrong in (bytes(len(begun)), begun):
        with pytest.raises(WorkloadError, match="attentive units are off PyTorch's by"):
            given.training.check(losses, {**raw, name: wrong})
    figures = {one.metric: one.value for one in given.figures}
    weights = sum(len(data) for variable, data in raw.items() if variable.startswith(UNITS)) // 4
    assert weights == 6 * 16 * 17 + 16 * 33 + 6 * 32 * 32
    assert figures["memory.m1"] == 32 + weights


def test_two_preparations_are_equal_and_host_and_device_see_other_classes(prepared: Prepared, tmp_path: Path) -> None:
    again = get("lifelearner").prepare(tmp_path, SMALL)
    assert again.model.digest == prepared.model.digest
    assert again.job.blob == prepared.job.blob
    assert again.training is not None
    assert prepared.training is not None
    assert again.training.job.blob == prepared.training.job.blob
    assert np.array_equal(again.reference_outputs, prepared.reference_outputs)
    learnt_from = {prepared.training.job.blob[at : at + 576] for at in range(0, 12 * 576, 576)}
    asked = {prepared.job.blob[at : at + 576] for at in range(0, 12 * 576, 576)}
    assert len(learnt_from) == len(asked) == 12
    assert not learnt_from & asked


def test_the_figures_are_whole(prepared: Prepared) -> None:
    figures = {one.metric: one.value for one in prepared.figures}
    assert {"memory.m1", "memory.m2", "memory.m3", "memory.m4", "memory.paper", "accuracy.tasks",
            "accuracy.float32", "forgetting"} <= set(figures)  # fmt: skip
    training = prepared.model.training
    assert training is not None
    assert figures["memory.m4"] == training.arena_bytes + training.variables_bytes
    assert figures["memory.m1"] == 288
    assert "to the bit" in prepared.facts[-1]


def test_forgetting_and_the_curve_are_those_of_the_answers() -> None:
    """Two classes: the first is known after the first step, and lost to the second."""
    variant = Variant(classes=2, shots=1, questions=2)
    weights = torch.tensor([[[[1.0], [0.0]]], [[[-1.0], [1.0]]]])
    answers = weights[..., 0][:, :, None].expand(2, 1, 4, 2)
    learned = Learned(torch.zeros(2, 1), weights, torch.zeros(2, 1, 2), {}, answers=answers)
    assert torch.equal(learned.told(torch.ones(1, 4, 1)), answers[-1])
    found = accuracies(learned, np.array([0, 0, 1, 1]), variant)
    assert found == {"curve": [1.0, 0.5], "accuracy": 0.5, "forgetting": 1.0}


def test_the_oracle_sees_every_sample_once_in_random_order() -> None:
    variant = Variant(method="oracle", classes=3, shots=4)
    order = order_of(variant).reshape(-1, 2)
    assert sorted(map(tuple, order.tolist())) == [(a, b) for a in range(3) for b in range(4)]
    assert not np.array_equal(order, order_of(Variant(classes=3, shots=4)).reshape(-1, 2))


def test_tasks_differ_and_repeat() -> None:
    first, again = (draw_of(Variant(), (40, 20), 0, 1) for _ in range(2))
    assert np.array_equal(first.shots, again.shots)
    assert not np.array_equal(first.classes, draw_of(Variant(), (40, 20), 1, 1).classes)
    assert not np.array_equal(first.classes, draw_of(Variant(), (40, 20), 0, 0).classes)


def test_baselines_are_methods_there_are_and_each_is_made_of_something_else() -> None:
    for name in ("lifelearner", "metacl-bench"):
        for baseline in get(name).baselines:
            assert parse(name, baseline) != Variant()
    assert len(set(RECIPES.values())) == len(RECIPES)
    assert list(RATES) == sorted(set(RATES))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("method=aim", r"latent-oml, raw, anml, oml, anml\+aim, oml\+aim, pretrained, oracle, means"),
        ("units=6", "at most 4, or more units="),
        ("classes=1", "2 to 100"),
        ("shots=0", "1 to 19"),
        ("batch=0", "1 to 64"),
        ("shots=3", "make the questions a multiple of the shots"),
        ("rate=-1", "0 to 10"),
        ("store=zip", "float32, int8, bitmap, pq"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("metacl-bench", "") == Variant()
    with pytest.raises(ConfigError, match=told):
        parse("metacl-bench", text)


def test_more_classes_than_there_are_unseen_are_refused() -> None:
    with pytest.raises(ConfigError, match="11 classes with 2 samples") as caught:
        get("metacl-bench").prepare(cache_dir(), "data=digits,classes=11,shots=2,questions=2,meta=1")
    assert "2 to 10 classes" in caught.value.hint
