"""The workload sparcl: what is learnt in which order and what is removed; masks in PyTorch and blocks in C agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.host import HostTraining
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import FloatArray, Prepared, Score, TrainingPlan
from lab.workloads.continual import sparcl, sparcl_host
from lab.workloads.continual.sparcl import Variant, parse
from lab.workloads.continual.sparcl_stream import QUESTIONS, Rehearsal, load, packed, removals_alike, rounds, walk

SMALL = "samples=6,epochs=2,hidden=64,buffer=8,renew=3,orders=2,target=0.1"


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("sparcl").prepare(cache_dir(), SMALL)


@pytest.fixture(scope="module")
def learnt(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[FloatArray, Mapping[str, bytes]]:
    """Losses and variables of the job, step by step in the C on this computer."""
    return run_job(prepared, tmp_path_factory.mktemp("sparcl"))


def plan_of(prepared: Prepared) -> TrainingPlan:
    assert prepared.training is not None
    return prepared.training


def run_job(prepared: Prepared, folder: Path) -> tuple[FloatArray, Mapping[str, bytes]]:
    host, job = HostTraining(prepared.model, folder), plan_of(prepared).job
    host.state.random = int(job.parameters["seed"])
    samples = np.frombuffer(job.blob, np.float32).reshape(job.count, -1)
    targets = np.frombuffer(job.blobs["targets"], np.int32).reshape(job.count, -1)
    order = np.frombuffer(job.blobs["order"], np.uint16) if "order" in job.blobs else np.arange(job.count)
    assert len(order) == job.count * job.repeats
    losses = [host.step(samples[one], targets[one], float(job.parameters["lr"])) for one in order]
    return np.array(losses, np.float32), host.raw_variables()


# ---- the stream ---------------------------------------------------------------------------------------------------


def test_tasks_bring_two_classes_each_and_no_question_is_learnt() -> None:
    stream = load(12, 6)
    assert [stream.classes_of(task).tolist() for task in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert len(stream.answers) == 6 * QUESTIONS
    learnt = {one.tobytes() for one in stream.samples}
    assert not learnt.intersection(one.tobytes() for one in stream.questions)


def test_another_order_has_the_same_samples_in_other_tasks() -> None:
    one, other = load(5, 10), load(5, 10, 3)
    assert sorted(other.labels.tolist()) == sorted(one.labels.tolist())
    assert other.labels.tolist() != one.labels.tolist()
    assert all(len(other.classes_of(task)) == 2 for task in range(5))


@settings(max_examples=25, deadline=None)
@given(epochs=st.integers(1, 6), buffer=st.integers(0, 9), removal=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_a_walk_rehearses_what_came_and_removes_what_is_easy(
    epochs: int, buffer: int, removal: float, seed: int
) -> None:
    stream, plan = load(5, 4), Rehearsal(epochs, buffer, removal, seed)
    hardness = np.random.default_rng(seed).random(len(stream.samples))
    order = walk(stream, plan, lambda samples: float(hardness[samples[0]]))
    for place in range(1, len(order), 2) if buffer else ():
        assert order[place] in order[:place:2]
    new = order[::2] if buffer else order
    for task in stream.tasks:
        often = {int(one): new.count(int(one)) for one in task}
        gone = round(len(task) * removal)
        last = [one for one, count in often.items() if count == epochs]
        # What is removed after the last epoch has been learnt as often as the rest.
        if epochs > 2:
            assert len(last) == len(task) - gone
            assert set(last) == set(sorted(map(int, task), key=lambda one: hardness[one])[gone:])
    losses = [float(hardness[one]) for one in order]
    assert removals_alike(stream, plan, losses, losses) == 1.0


@pytest.mark.parametrize("buffer", [0, 3])
def test_what_other_losses_remove_is_compared_sample_by_sample(buffer: int) -> None:
    stream, plan = load(5, 4), Rehearsal(3, buffer, 0.4)
    order = walk(stream, plan, lambda samples: 1.0 + samples[0])
    theirs = [1.0 + sample for sample in order]
    assert removals_alike(stream, plan, theirs, [-one for one in theirs]) == 0.0, "two of ten easy ones go each time"
    half = [-one if sample < 10 else one for sample, one in zip(order, theirs, strict=True)]
    assert removals_alike(stream, plan, theirs, half) == 0.5, "the second of two tasks"
    assert removals_alike(stream, plan, theirs, half, tie=100.0) == 1.0, "all of them lie that near"
    assert removals_alike(stream, plan, theirs, half, tie=0.5) == 0.5, "none of them lies that near"
    plan = replace(plan, removal=0.0)
    losses = [1.0] * len(walk(stream, plan, lambda _: 1.0))
    assert removals_alike(stream, plan, losses, losses) == 1.0, "nothing is removed"


def test_what_is_rehearsed_is_spread_over_all_that_came() -> None:
    """Reservoir sampling: late in the stream every earlier task is in the buffer, and never more than its size."""
    stream, tasks = load(40, 10), []
    for seed in range(1, 9):
        order = walk(stream, Rehearsal(1, 60, 0.0, seed), lambda _: 1.0)
        late = order[-len(stream.tasks[-1]) :][1::2]
        assert len(set(late)) <= 60
        tasks += [next(n for n, task in enumerate(stream.tasks) if one in task) for one in late]
    assert all(0.12 < tasks.count(task) / len(tasks) < 0.3 for task in range(4)), "a fifth, or a little more, of each"


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 400))
def test_a_jobs_epochs_and_samples_make_its_steps(steps: int) -> None:
    samples = np.ones((7, 3), np.float32)
    more, labels, epochs = packed(samples, np.ones(7, np.int64), steps)
    assert len(more) == len(labels)
    assert len(more) * epochs == max(steps, 7)
    assert np.array_equal(more[:7], samples)
    assert not more[7:].any()


def test_rounds_have_each_class_once() -> None:
    stream = load(4, 6)
    assert [set(stream.labels[rounds(stream)[6 * n : 6 * n + 6]]) for n in range(4)] == [set(range(6))] * 4


# ---- what a device is held to -------------------------------------------------------------------------------------


def test_blocks_in_c_come_to_masks_over_dense_weights_in_pytorch(
    prepared: Prepared, learnt: tuple[FloatArray, Mapping[str, bytes]]
) -> None:
    scores = {one.metric: one for one in plan_of(prepared).check(*learnt)}
    assert scores["update_error"].value < 1e-3
    assert scores["mask_agreement"] == Score("mask_agreement", 1.0, 1.0)
    assert plan_of(prepared).steps_to_accuracy is not None
    assert prepared.check(prepared.reference_outputs)


def test_removing_other_samples_than_the_losses_say_is_refused(
    prepared: Prepared, learnt: tuple[FloatArray, Mapping[str, bytes]]
) -> None:
    losses, variables = learnt
    other = losses.copy()
    # The first epoch of the first task; few enough that the median of the differences is still nothing.
    other[:24:2] = other[:24:2][::-1]
    with pytest.raises(WorkloadError, match="remove other samples"):
        plan_of(prepared).check(other, variables)
    with pytest.raises(WorkloadError, match="losses differ"):
        plan_of(prepared).check(losses + 1, variables)


def test_other_blocks_and_weights_that_did_not_move_are_refused(
    prepared: Prepared, learnt: tuple[FloatArray, Mapping[str, bytes]], tmp_path: Path
) -> None:
    losses, variables = learnt
    blocks = np.frombuffer(variables["0.weight.blocks"], np.uint8)
    moved = {**variables, "0.weight.blocks": ((blocks + 5) % 16).astype(np.uint8).tobytes()}
    with pytest.raises(WorkloadError, match="of the blocks that the device keeps"):
        plan_of(prepared).check(losses, moved)
    untrained = HostTraining(prepared.model, tmp_path).raw_variables()
    with pytest.raises(WorkloadError, match="off PyTorch's"):
        plan_of(prepared).check(losses, untrained)


def test_sparsity_is_in_the_memory_and_the_work_and_removal_in_the_steps(prepared: Prepared) -> None:
    dense = get("sparcl").prepare(cache_dir(), f"{SMALL},update=dense")
    ours, theirs = ({one.metric: one.value for one in arm.figures} for arm in (prepared, dense))
    assert theirs["memory.m4"] > 2 * ours["memory.m4"]
    assert theirs["macs.step"] > 3 * ours["macs.step"]
    assert theirs["steps"] == 5 * 2 * 12 * 2
    assert ours["steps"] < theirs["steps"]
    assert ours["macs.training"] == ours["macs.step"] * ours["steps"]
    assert not [one for one in dense.model.training.variables if "blocks" in one.name]  # type: ignore[union-attr]


@settings(max_examples=25, deadline=None)
@given(
    epochs=st.integers(1, 6), batch=st.integers(1, 4), draws=st.integers(1, 2), removal=st.floats(0, 0.5),
    alone=st.booleans(),
)  # fmt: skip
def test_batches_come_before_what_is_drawn_for_them(
    epochs: int, batch: int, draws: int, removal: float, alone: bool
) -> None:
    rows = 1 if alone else batch
    stream, plan = load(5, 4), Rehearsal(epochs, 7, removal, 1, batch, draws, rows)
    order, group = walk(stream, plan, lambda samples: 1.0 + samples[0]), (1 + draws) * batch
    assert plan.turns.group == group
    assert len(order) == 2 * plan.task_steps(10) * rows
    assert plan.group * rows == (group if batch > 1 else 1)
    for first in range(0, len(order), group):
        new = order[first : first + batch]
        assert len(set(new)) == batch
        came = {one for start in range(0, first + 1, group) for one in order[start : start + batch]}
        assert set(order[first + batch : first + group]) <= came
    epoch = len(stream.tasks[0]) // batch * group
    assert len({one for n in range(0, epoch, group) for one in order[n : n + batch]}) == 10 // batch * batch


def test_the_papers_samples_go_at_each_tenth_of_its_epochs() -> None:
    plan = Rehearsal(50, 500, 0.3, batch=32, draws=2)
    assert plan.removals == [5, 10, 15, 20]
    assert [plan.left(10_000, epoch) for epoch in (4, 5, 19, 20, 50)] == [10_000, 9250, 7750, 7000, 7000]
    assert plan.task_steps(10_000) == 96 * 5 * (312 + 289 + 265 + 242 + 6 * 218)
    with pytest.raises(ConfigError, match="of a task's 40 samples 28 are left"):
        plan.task_steps(40)


DER = "samples=6,epochs=3,hidden=64,buffer=8,orders=1,target=0.1,replay=der,batch=3,masks=tasks,rate=0.2"


def test_stored_logits_batches_and_the_papers_masks_are_pytorchs(tmp_path: Path) -> None:
    """DER++ in C, whose logits the device stores itself, and by autograd with logits that PyTorch stores."""
    arm = get("sparcl").prepare(cache_dir(), DER)
    losses, variables = run_job(arm, tmp_path)
    scores = {one.metric: one.value for one in plan_of(arm).check(losses, variables)}
    assert scores["update_error"] < 1e-3
    assert scores["mask_agreement"] == 1.0
    stored = np.frombuffer(variables["replay.logits"], np.float32).reshape(8, 10)
    assert len(np.unique(stored, axis=0)) > 4
    assert all(variables[name] == variables[f"{name}.next"] for name in ("0.weight", "4.bias"))
    first = HostTraining(arm.model, tmp_path).raw_variables()
    places = [np.frombuffer(one["0.weight.blocks"], np.uint8).reshape(64, 5) for one in (first, variables)]
    assert (places[0] != places[1]).any(1).all(), "each row has drawn a spare block"
    assert scores["logits_error"] < 1e-3
    wrong = {**variables, "replay.logits": bytes(len(variables["replay.logits"]))}
    with pytest.raises(WorkloadError, match="the logits that the device stored are off"):
        plan_of(arm).check(losses, wrong)


NORMED = "samples=8,epochs=3,hidden=32,buffer=12,orders=1,target=0.1,classes=4,norm=batch,batch=8,replay=der,rate=0.1"


def test_batch_norm_over_a_batch_is_pytorchs_in_each_step_of_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps of eight samples change the network once; running statistics follow each."""
    arm = get("sparcl").prepare(cache_dir(), NORMED)
    losses, variables = run_job(arm, tmp_path)
    scores = {one.metric: one.value for one in plan_of(arm).check(losses, variables)}
    assert len(losses) == 2 * 3 * (2 + 1 + 1), "tasks, turns and batches, of which removal leaves fewer"
    assert {"update_error", "logits_error", "statistics_error"} <= scores.keys()
    assert max(value for name, value in scores.items() if name.endswith("_error")) < 1e-3
    assert scores["mask_agreement"] == 1.0
    assert {one.metric: one.value for one in arm.figures}["steps"] == len(losses)
    asked = [len(one.reference_outputs) * one.model.training.batch  # type: ignore[union-attr]
             for one in (arm, get("sparcl").prepare(cache_dir(), f"{NORMED},update=ncm"))]  # fmt: skip
    assert asked == [4 * QUESTIONS // 8 * 8] * 2, "the baseline is asked the same"
    monkeypatch.setattr(sparcl, "MOST_JOB_BYTES", 24 * 8 * 64 * 4 - 1)
    with pytest.raises(ConfigError, match="24 steps of 8 samples are a job of"):
        get("sparcl").prepare(cache_dir(), NORMED)
    wrong = {**variables, "1.running_var": bytes(len(variables["1.running_var"]))}
    with pytest.raises(WorkloadError, match="the running statistics are off PyTorch's"):
        plan_of(arm).check(losses, wrong)


def test_a_static_mask_stays(learnt: tuple[FloatArray, Mapping[str, bytes]], tmp_path: Path) -> None:
    static = get("sparcl").prepare(cache_dir(), f"{SMALL},update=static")
    _, variables = run_job(static, tmp_path)
    first = HostTraining(static.model, tmp_path).raw_variables()["0.weight.blocks"]
    assert variables["0.weight.blocks"] == first != learnt[1]["0.weight.blocks"]


def test_class_means_are_numpys_and_take_one_pass(tmp_path: Path) -> None:
    means = get("sparcl").prepare(cache_dir(), f"{SMALL},update=ncm")
    losses, variables = run_job(means, tmp_path)
    scores = {one.metric: one.value for one in plan_of(means).check(losses, variables)}
    assert scores["update_error"] < 1e-5
    stream = load(6, 10)
    expected = np.stack([stream.samples[stream.labels == digit].mean(0) for digit in range(10)])
    np.testing.assert_allclose(
        np.frombuffer(variables["prototypes"], np.float32).reshape(10, 64), expected, rtol=1e-4, atol=1e-5
    )
    cosines = stream.questions @ (expected / np.linalg.norm(expected, axis=1, keepdims=True)).T
    accuracy = float(np.mean(cosines.argmax(1) == stream.answers))
    assert {one.metric: one.value for one in means.check(means.reference_outputs)}["accuracy"] == accuracy
    assert len(losses) == len(stream.samples)


def test_without_a_buffer_only_the_last_classes_are_known() -> None:
    arm = get("sparcl").prepare(cache_dir(), "samples=20,epochs=3,hidden=64,buffer=0,classes=4,orders=1,target=0.1")
    told = np.ascontiguousarray(arm.reference_outputs).view(np.float32).argmax(1)
    assert set(told.tolist()) <= {2, 3}
    figures = {one.metric: one.value for one in arm.figures}
    assert figures["forgetting"] > 0.8
    assert "Two classes at a time" in arm.dataset.note


def test_forgetting_is_the_mean_fall_of_earlier_tasks() -> None:
    stream = load(1, 4)

    def answers(wrong: dict[int, int]) -> np.ndarray:
        """Logits that are right but for so many questions of a class."""
        logits = np.eye(10, dtype=np.float32)[stream.answers]
        for digit, count in wrong.items():
            logits[np.flatnonzero(stream.answers == digit)[:count]] = np.eye(10, dtype=np.float32)[9]
        return logits.view(np.int8)

    after = [answers({0: 7}), answers({0: 14, 1: 21, 2: 35})]
    assert sparcl_host.forgetting(stream, after) == pytest.approx(28 / (2 * QUESTIONS))


def test_preparations_are_equal_and_cached(prepared: Prepared, tmp_path: Path) -> None:
    again = get("sparcl").prepare(tmp_path, SMALL)
    assert again.model.digest == prepared.model.digest
    assert again.training is not None
    assert again.training.job == plan_of(prepared).job
    assert np.array_equal(again.reference_outputs, prepared.reference_outputs)
    assert len(list((tmp_path / "workloads").glob("sparcl-*.npz"))) == 1


def test_claims_name_figures_and_baselines_that_are_there(prepared: Prepared) -> None:
    workload, known = get("sparcl"), {one.metric for one in prepared.figures}
    measured = {"instructions", "training_time", "training_energy", "peak_ram"}
    for claim in workload.claims:
        assert claim.metric in known | measured
        assert claim.baseline in workload.baselines
        assert claim.why
    assert any(one.at_least is not None and one.metric == "instructions" for one in workload.claims)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper,hidden=256", "hidden=256 is not allowed"),
        ("update=best", "sparcl, static, dense, ncm"),
        ("sparsity=0.99", "0.5 to 0.95"),
        ("spars=0.9", "did you mean 'sparsity'"),
        ("removal=1", "0 to 0.9"),
        ("replay=der,buffer=0", "no logits are stored"),
        ("replay=logits", "er, der"),
        ("norm=batch,batch=4", "batch= from 8"),
        ("norm=batch,batch=16,buffer=15", "buffer=0 or at least as large"),
        ("rate=fast", "rate=fast is no float"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    assert replace(parse("update=dense"), update="sparcl") == Variant()
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("classes=2", "a stream has two tasks at least"),
        ("classes=5", "an even number from 4 to 10"),
        ("samples=0", "from 1 to"),
        ("samples=6,batch=9", "of a task's 12 samples 8 are left"),
        ("samples=4,epochs=1,batch=4,masks=tasks,removal=0", "three updates in each task; there are 2"),
        ("samples=1000", "samples=1000 of each class cannot be had"),
    ],
)
def test_streams_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        get("sparcl").prepare(cache_dir(), text)
    assert told in str(refused.value)
