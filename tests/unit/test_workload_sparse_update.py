"""The workload sparse-update: variants, the three machines that take the same steps, memory by every definition."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.compiler.host import HostTraining
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import FloatArray, Int8Array, Prepared
from lab.workloads.training.sparse_update import Variant, parse
from lab.workloads.training.transfer import accuracy_of, update_error

SMALL = "samples=32,evaluated=50,target=0.1"


@pytest.fixture(scope="module", params=["int8", "float32"])
def prepared(request: pytest.FixtureRequest) -> Prepared:
    """Few steps, in both precisions."""
    return get("sparse-update").prepare(cache_dir(), f"{SMALL},precision={request.param}")


def read(prepared: Prepared, blob: bytes, count: int) -> FloatArray | Int8Array:
    """Samples of a job, (count, elements)."""
    if prepared.parameters["precision"] == "float32":
        return np.frombuffer(blob, np.float32).reshape(count, -1)
    return np.frombuffer(blob, np.int8).reshape(count, -1)


def on_host(prepared: Prepared, folder: Path) -> tuple[HostTraining, FloatArray]:
    """The plan's steps by the C on this computer, and their losses."""
    plan = prepared.training
    assert plan is not None
    host = HostTraining(prepared.model, folder)
    host.state.random = int(plan.job.parameters["seed"])
    samples = read(prepared, plan.job.blob, plan.job.count)[:, None]
    targets = np.frombuffer(plan.job.blobs["targets"], np.int32)
    rate = float(plan.job.parameters["lr"])
    return host, np.array([host.step(one, targets[n : n + 1], rate) for n, one in enumerate(samples)], np.float32)


def test_the_c_comes_to_pytorchs_losses_and_variables(prepared: Prepared, tmp_path: Path) -> None:
    host, losses = on_host(prepared, tmp_path)
    plan = prepared.training
    assert plan is not None
    scores = {one.metric: one for one in plan.check(losses, host.raw_variables())}
    assert scores["update_error"].value < 1e-5
    assert scores["loss.last"].value == pytest.approx(scores["loss.last"].reference, abs=1e-5)
    outputs = host.run(read(prepared, prepared.job.blob, prepared.job.count))
    accuracy = {one.metric: one for one in prepared.check(outputs.reshape(prepared.job.count, -1).view(np.int8))}
    assert accuracy["accuracy"].value == accuracy["accuracy"].reference
    assert accuracy["accuracy"].trials == 50


def test_other_losses_other_variables_and_no_numbers_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    host, losses = on_host(prepared, tmp_path)
    plan = prepared.training
    assert plan is not None
    untrained = HostTraining(prepared.model, tmp_path).raw_variables()
    for wrong in (losses + np.float32(0.1), np.full_like(losses, math.nan)):
        with pytest.raises(WorkloadError, match="the losses differ from PyTorch's"):
            plan.check(wrong, host.raw_variables())
    with pytest.raises(WorkloadError, match="off PyTorch's by 1 of the way"):
        plan.check(losses, untrained)


def test_memory_is_told_by_every_definition_and_m4_is_the_plan(prepared: Prepared) -> None:
    figures = {one.metric: one.value for one in prepared.figures}
    training = prepared.model.training
    assert training is not None
    assert figures["memory.m4"] == training.arena_bytes + training.variables_bytes
    assert figures["memory.m4"] == figures["arena"] + training.variables_bytes
    assert figures["memory.m1"] == pytest.approx(7.67e3, rel=0.06), "7.67 kB by the reference's own count of layers"
    assert figures["memory.m2"] < figures["memory.m2.batch100"] <= 100 * figures["memory.m2"]
    assert figures["memory.m3"] < figures["memory.m3.batch100"] <= 100 * figures["memory.m3"]
    assert figures["macs.backward"] == pytest.approx(0.304e6, rel=0.01), "0.304 M by the same table"
    assert figures["arena.inference"] <= figures["arena"]


def test_a_method_that_learns_nothing_fails_and_a_baseline_does_not(prepared: Prepared) -> None:
    flipped = (-prepared.reference_outputs.view(np.float32)).view(np.int8)
    with pytest.raises(WorkloadError, match="nothing was learned"):
        prepared.check(flipped)
    baseline = get("sparse-update").prepare(cache_dir(), f"{SMALL},update=last,precision=float32")
    flipped = (-baseline.reference_outputs.view(np.float32)).view(np.int8)
    assert {one.metric for one in baseline.check(flipped)} == {"accuracy", "accuracy.untrained"}


def test_the_time_to_an_accuracy_is_that_of_the_first_point_of_the_curve_that_has_it(prepared: Prepared) -> None:
    plan = prepared.training
    assert plan is not None
    assert plan.target_accuracy == 0.1
    assert plan.steps_to_accuracy is None or plan.steps_to_accuracy % 4 == 0


def test_variants_name_what_differs_from_the_default() -> None:
    assert parse("") == Variant()
    assert parse("image=32,update=full,image=48") == replace(Variant(), image=48, update="full")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper", "data=NAME, a folder below images/"),
        ("size=big", "ci, paper"),
        ("image=33", "16, 32, 48, 64"),
        ("image=big", "image=big is no int"),
        ("update=most", "sparse, full, last, bias"),
        ("precision=int4", "int8, float32"),
        ("samples=0", "1 to 1400"),
        ("epochs=0", "1 to 100"),
        ("rate=0", "1e-06 to 10"),
        ("rate=nan", "no finite number"),
        ("evaluated=1000", "1 to 350"),
        ("target=2", "0.1 to 1"),
        ("sample=3", "did you mean 'samples'"),
        ("colour=red", "there are: size"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text)


def test_distance_of_updates_is_a_share_of_the_way() -> None:
    zero, one, two = ({"w": np.full(3, value, np.float32)} for value in (0.0, 1.0, 2.0))
    assert update_error(one, two, zero) == pytest.approx(0.5)
    assert update_error(two, two, zero) == 0.0
    assert update_error(one, zero, zero) == math.inf


def test_accuracy_reads_logits_from_bytes() -> None:
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4]], np.float32)
    assert accuracy_of(logits.view(np.int8), np.array([1, 0, 0])) == pytest.approx(2 / 3)
