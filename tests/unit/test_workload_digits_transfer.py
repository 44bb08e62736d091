"""The training workload: variants, what it expects of a device, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.compiler.host import HostTraining
from lab.compiler.layer_costs import layer_list
from lab.compiler.update_schemes import selection
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks import digits_mb, folded
from lab.workloads.training.digits_transfer import Variant, parse, scheme_of

SMALL = "image=16,samples=150,evaluated=100,rate=0.05"


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """The smallest images."""
    return get("digits-transfer").prepare(cache_dir(), SMALL)


def test_variants_name_what_differs_from_the_default() -> None:
    assert parse("") == Variant()
    assert parse("image=48,update=full,rate=0.5") == replace(Variant(), image=48, update="full", rate=0.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image=33", "16, 32, 48, 64"),
        ("image=big", "image=big is no int"),
        ("update=most", "sparse, full, last, bias"),
        ("precision=int4", "int8, float32"),
        ("samples=0", "1 to 1400"),
        ("epochs=0", "at least 1"),
        ("rate=0", "above 0"),
        ("evaluated=1000", "1 to 350"),
        ("sample=3", "did you mean 'samples'"),
        ("colour=red", "there are: image"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text)


def test_schemes_are_those_of_the_reference() -> None:
    import torch

    network = folded(digits_mb().eval())
    layers = layer_list(network, torch.zeros(1, 1, 32, 32))
    chosen = {update: selection(scheme_of(update), layers) for update in ("sparse", "full", "last", "bias")}
    parameters = {name for name, _ in network.named_parameters()}
    assert set(chosen["full"]) == parameters
    assert set(chosen["last"]) == {"classifier.weight", "classifier.bias"}
    assert set(chosen["bias"]) == {name for name in parameters if name.endswith("bias")} | {"classifier.weight"}
    channels = {name: one.inputs for name, one in chosen["sparse"].items() if one is not None}
    assert channels == {"block3.body.expand.conv.weight": 0.5, "block4.body.expand.conv.weight": 0.5}


def test_what_is_cached_is_what_the_host_computes(prepared: Prepared, tmp_path: Path) -> None:
    plan = prepared.training
    assert plan is not None
    host = HostTraining(prepared.model, tmp_path)
    samples = np.frombuffer(plan.job.blob, np.int8).reshape(plan.job.count, 1, -1)
    targets = np.frombuffer(plan.job.blobs["targets"], np.int32)
    rate = float(plan.job.parameters["lr"])
    losses = [host.step(sample, targets[n : n + 1], rate) for n, sample in enumerate(samples)]
    scores = {one.metric: one for one in plan.check(np.array(losses, np.float32), host.raw_variables())}
    assert scores["update_error"].value == 0.0
    assert scores["loss.last"].value < scores["loss.first"].value
    outputs = host.run(np.frombuffer(prepared.job.blob, np.int8).reshape(prepared.job.count, -1))
    assert np.array_equal(outputs.reshape(prepared.job.count, -1).view(np.int8), prepared.reference_outputs)


def test_accuracy_rises_as_in_pytorch(prepared: Prepared) -> None:
    scores = {one.metric: one for one in prepared.check(prepared.reference_outputs)}
    assert scores["accuracy"].value > scores["accuracy.untrained"].value + 0.1
    assert abs(scores["accuracy"].value - scores["accuracy"].reference) <= 0.1


def test_other_losses_other_variables_and_nothing_learned_fail(prepared: Prepared, tmp_path: Path) -> None:
    plan = prepared.training
    assert plan is not None
    untrained = HostTraining(prepared.model, tmp_path).raw_variables()
    with pytest.raises(WorkloadError, match="losses differ from the host's by"):
        plan.check(np.zeros(plan.job.count, np.float32), untrained)
    host = HostTraining(prepared.model, tmp_path)
    samples = np.frombuffer(plan.job.blob, np.int8).reshape(plan.job.count, 1, -1)
    targets = np.frombuffer(plan.job.blobs["targets"], np.int32)
    rate = float(plan.job.parameters["lr"])
    losses = [host.step(sample, targets[n : n + 1], rate) for n, sample in enumerate(samples)]
    with pytest.raises(WorkloadError, match="trained variables are off the host's by 1"):
        plan.check(np.array(losses, np.float32), untrained)
    with pytest.raises(WorkloadError, match="nothing was learned"):
        prepared.check((-prepared.reference_outputs.view(np.float32)).view(np.int8))


def test_preparing_again_reads_the_cache(prepared: Prepared) -> None:
    again = get("digits-transfer").prepare(cache_dir(), SMALL)
    assert again.model == prepared.model
    assert np.array_equal(again.reference_outputs, prepared.reference_outputs)
