"""TinyTrain from meta-training to what a device must come to, with the compiled C on this computer as the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lab.compiler.host import HostTraining
from lab.compiler.model import CompiledModel
from lab.errors import ConfigError, WorkloadError
from lab.events import Job
from lab.workloads.base import FloatArray, Prepared, Room, Survey
from lab.workloads.data import omniglot
from lab.workloads.training import tinytrain, tinytrain_host
from lab.workloads.training.tinytrain_arms import IMAGE, MetaPlan, parse

ROOM = Room(1 << 22, 1 << 22)
SHORT = "ways=3,shots=2,queries=3,epochs=2"
# After fewer episodes the means of two classes are so near that rounding decides.
PLAN = MetaPlan(episodes=12, ways=4, shots=2, queries=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short meta-training on few made characters, and a mean over two tasks: this is about what is computed."""
    generator = np.random.default_rng(2)
    images = generator.random((6, 6, IMAGE, IMAGE)).astype(np.float32)
    few = omniglot.Characters(images, ("a",) * 6, omniglot.MADE_NAME, "few")
    monkeypatch.setattr(omniglot, "background", lambda side: (few, few))
    monkeypatch.setattr(omniglot, "digest", lambda: "few")
    monkeypatch.setattr(tinytrain_host, "TASKS", 1)
    monkeypatch.setattr(tinytrain_host, "TASK_QUERIES", 2)


def prepared(cache: Path, variant: str) -> Prepared:
    workshop = tinytrain_host.Workshop(parse(f"{SHORT},{variant}"), cache, PLAN)
    update = workshop.variant.update
    return tinytrain._averaging(workshop) if update == "none" else tinytrain._surveying(workshop)


def run(model: CompiledModel, jobs: tuple[Job, ...], at: Path) -> tuple[HostTraining, npt.NDArray[np.float32]]:
    """Run jobs of training one after the other; the losses are those of the last."""
    at.mkdir()
    host = HostTraining(model, at)
    losses: list[float] = []
    for job in jobs:
        samples = np.frombuffer(job.blob, np.float32).reshape(job.count, -1)
        targets = np.frombuffer(job.blobs["targets"], np.int32)
        losses = [
            host.step(samples[n : n + 1], targets[n : n + 1], float(job.parameters["lr"]))
            for _ in range(job.repeats)
            for n in range(job.count)
        ]
    return host, np.array(losses, np.float32)


def survey_of(made: Prepared) -> Survey:
    assert made.survey is not None
    return made.survey


@pytest.fixture(scope="module")
def surveyed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a device finds out; computed once, by the first test that asks."""
    return {}


def found_by(made: Prepared, kept: dict[str, bytes], at: Path) -> Mapping[str, bytes]:
    if not kept:
        survey = survey_of(made)
        kept |= run(survey.model, survey.jobs, at)[0].raw_variables()
    return kept


def test_the_device_chooses_trains_and_answers_as_pytorch_does(
    cache: Path, surveyed: dict[str, bytes], tmp_path: Path
) -> None:
    made = prepared(cache, "update=tinytrain")
    decided = survey_of(made).decide(found_by(made, surveyed, tmp_path / "survey"), ROOM)
    assert decided.survey is None
    plan = decided.training
    assert plan is not None
    host, losses = run(decided.model, (plan.job,), tmp_path / "trained")
    scores = {one.metric: one.value for one in plan.check(losses, host.raw_variables())}
    assert scores["class_mean_error"] < 1e-5
    assert scores["update_error"] < 0.01
    questions = np.frombuffer(decided.job.blob, np.float32).reshape(decided.job.count, -1)
    answers = host.run(questions).view(np.int8)
    told = {one.metric: one for one in decided.check(answers)}
    assert told["agreement"].value == 1.0
    assert told["accuracy"].trials == 9
    figures = {one.metric: one.value for one in decided.figures}
    assert 0 < figures["macs.backward"] <= 0.35 * 1_664_144
    assert "Trained: block" in " ".join(decided.facts)

    with pytest.raises(WorkloadError, match="losses differ from PyTorch's by 1 in the median"):
        plan.check(losses + 1, host.raw_variables())
    with pytest.raises(WorkloadError, match="losses differ from PyTorch's by nan"):
        plan.check(losses * np.float32(np.nan), host.raw_variables())
    host.reset()
    with pytest.raises(WorkloadError, match="trained variables are off PyTorch's by 1 of the way"):
        plan.check(losses, host.raw_variables())
    with pytest.raises(WorkloadError, match="of the images are told as PyTorch tells them"):
        decided.check(np.ascontiguousarray(-decided.reference_outputs.view(np.float32)).view(np.int8))


def test_what_was_surveyed_wrongly_is_refused(cache: Path, surveyed: dict[str, bytes], tmp_path: Path) -> None:
    made = prepared(cache, "update=tinytrain")
    raw = dict(found_by(made, surveyed, tmp_path / "survey"))
    for name, said in (("prototypes", "class means are off"), ("backbone.block4.body.project.conv.fisher", "Fisher")):
        values = np.frombuffer(raw[name], np.float32).copy()
        values[values.argmax()] *= 1.01
        with pytest.raises(WorkloadError, match=f"{said}.* PyTorch's by 0.0"):
            survey_of(made).decide({**raw, name: values.tobytes()}, ROOM)


def test_a_device_without_room_is_told_what_the_least_takes(
    cache: Path, surveyed: dict[str, bytes], tmp_path: Path
) -> None:
    made = prepared(cache, "update=tinytrain")
    raw = found_by(made, surveyed, tmp_path / "survey")
    with pytest.raises(ConfigError, match=r"no layer can be trained within \d+ .* and 20000 bytes of RAM"):
        survey_of(made).decide(raw, Room(20_000, 20_000))


def test_with_less_room_something_else_is_trained_and_the_program_fits(
    cache: Path, surveyed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the estimate says too little: what was compiled counts."""
    made = prepared(cache, "update=tinytrain")
    raw = found_by(made, surveyed, tmp_path / "survey")
    figures = {one.metric: one.value for one in survey_of(made).decide(raw, ROOM).figures}
    less = int(figures["memory.m4"]) - 1
    tight = {one.metric: one.value for one in survey_of(made).decide(raw, Room(less, less)).figures}
    assert tight["memory.m4"] <= less
    assert tight["trained"] != figures["trained"]


def test_class_means_alone_are_those_of_pytorch(cache: Path, tmp_path: Path) -> None:
    made = prepared(cache, "update=none")
    assert made.survey is None
    assert made.training is not None
    host, losses = run(made.model, (made.training.job,), tmp_path / "none")
    scores = {one.metric: one.value for one in made.training.check(losses, host.raw_variables())}
    assert scores["update_error"] < 1e-5
    questions = np.frombuffer(made.job.blob, np.float32).reshape(made.job.count, -1)
    assert {one.metric: one.value for one in made.check(host.run(questions).view(np.int8))}["agreement"] == 1.0


def test_baselines_are_surveyed_for_class_means_alone_and_share_that(cache: Path) -> None:
    last, full = survey_of(prepared(cache, "update=last")), survey_of(prepared(cache, "update=full"))
    assert last.model == full.model
    assert [one.name for one in last.model.training.variables] == ["prototypes"]  # type: ignore[union-attr]
    assert len(last.jobs) == 1


def test_preparing_again_reads_the_cache_and_from_nothing_gives_the_same_bits(cache: Path, tmp_path: Path) -> None:
    plain = tinytrain_host.Workshop(parse(SHORT), cache, PLAN)
    again = replace(plain, cache=tmp_path)

    def tensors(workshop: tinytrain_host.Workshop) -> dict[str, FloatArray]:
        return {name: values.astype(np.float32) for name, values in workshop.backbone().arrays.items()}

    first, second = tensors(plain), tensors(again)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_survey_answers_no_questions() -> None:
    with pytest.raises(WorkloadError, match="answers no questions"):
        tinytrain._refuse(np.zeros((1, 12), np.int8))


def test_a_task_of_more_images_than_there_are_is_refused(cache: Path) -> None:
    asked = parse("shots=50,queries=50,ways=10")
    drawn = tinytrain_host.Workshop(asked, cache, PLAN).task()
    assert len(drawn.support) == 500
    assert not {one.tobytes() for one in drawn.support} & {one.tobytes() for one in drawn.queries}
