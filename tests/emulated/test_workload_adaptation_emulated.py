"""Test-time adaptation on devices: where and to what PyTorch adapts as well; what does not fit is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import entry, needs_qemu
from torch import nn

import lab.compiler
from lab.bench import Bench
from lab.build import build
from lab.comparison import Sizes, run_on
from lab.compiler.model import CompiledModel
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.errors import ProtocolError, WorkloadError
from lab.events import Job, MetricEvent, RegionEvent, ResultEvent
from lab.paths import cache_dir, project_root
from lab.training import checkpoint
from lab.workloads.adaptation import networks, reference
from lab.workloads.adaptation.methods import pool_bytes
from lab.workloads.adaptation.od_tta import WORKLOAD
from lab.workloads.adaptation.options import Detector
from measurements.store import Store

pytestmark = needs_qemu

VARIANT = "length=80"
CLASSES = 10
STREAM = 12


def test_a_board_adapts_where_pytorch_does_and_pays_less_than_adapting_all_the_time(tmp_path: Path) -> None:
    device_entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    beside = replace(WORKLOAD, baselines=("method=tent",))
    with Store(tmp_path / "store") as store, connected(device_entry, cache_dir()) as device:
        found = run_on(device_entry, device, beside, VARIANT, store, "s", Sizes(), cache_dir())
    method, tent = found.method, found.baselines["method=tent"]
    assert method.median("adaptations", "run") == method.median("adaptations.reference", "run") >= 2
    assert method.median("accuracy", "run") == method.median("accuracy.reference", "run")
    assert tent.median("adaptations", "run") == 320 / 8
    # Adam makes a whole step of a gradient of any size, also of one that is rounding.
    for one, allowed in ((method, 1e-4), (tent, 0.02)):
        assert one.median("variable_error", "run") < allowed
        passes = one.median("instructions", "inference") * (320 if one is method else 40)
        adapting = one.median("instructions", "adapt") * one.median("adaptations", "run")
        assert one.median("instructions_per_sample", "run") == pytest.approx((passes + adapting) / 320, rel=0.01)
        assert one.median("energy", "adapt") > 0
    for metric in ("instructions_per_sample", "energy_per_sample"):
        assert method.median(metric, "run") < 0.6 * tent.median(metric, "run")
    assert method.median("peak_ram.activations", "run") < 0.1 * tent.median("peak_ram.activations", "run")


# ---- the job, alone ----


@cache
def parts() -> tuple[networks.MovingNetwork, tuple[reference.State, ...], torch.Tensor]:
    """A small network with moving moments that is sure of some samples, two source states, and the samples."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = networks.MovingNetwork(networks.source_network((4, 4, 4, 4)).eval(), affine=True)
        samples = torch.rand(STREAM, 1, 16, 16)
    with torch.no_grad():
        dict(network.named_parameters())["layers.14.weight"].mul_(300)
    names = reference.variable_names(network)
    own = {name: one.detach().numpy().copy() for name, one in network.named_parameters() if name in names}
    far = {name: value + 1 for name, value in own.items()}
    signature = reference.signature_of(network, samples)
    return network, (reference.State("here", signature, own), reference.State("far", signature + 100, far)), samples


@cache
def moving() -> tuple[CompiledModel, bytes, bytes]:
    """The network compiled, its states as the job takes them, and the job's samples."""
    network, states, samples = parts()
    model = lab.compiler.compile(
        network, samples[:1], loss=networks.gated_entropy, target=torch.zeros(1),
        train=reference.variable_names(network), precision="float32", name="moving",
    )  # fmt: skip
    return model, pool_bytes(model, states), samples.permute(0, 2, 3, 1).contiguous().numpy().tobytes()


def stream_job(**changes: int | float) -> Job:
    """Adapts to three samples as soon as a second sample has moved the average."""
    _, pool, samples = moving()
    own = {"classes": CLASSES, "cached": 3, "compared": 2, "weight": 0.5, "threshold": 0.0, "settle": 1}
    return Job("adapt", samples, STREAM, warmup=0, parameters={**own, **changes}, blobs={"pool": pool})


@contextmanager
def running(model: CompiledModel) -> Iterator[Device]:
    found = entry("host")
    with connected(found, cache_dir()) as device:
        device.deploy(build(model, "host", cache=cache_dir(), sanitize="address,undefined"))
        yield device


def test_the_job_on_a_stream_and_what_it_refuses() -> None:
    model, pool, samples = moving()
    assert model.training is not None
    job = stream_job()
    with running(model) as device:
        before = checkpoint(device).variables
        events = list(device.run(job))
        places = [one.index for one in events if isinstance(one, RegionEvent) and one.region == "adapt"]
        # Seen at 1, kept 2 to 4; the detector begins anew with 5: its base, seen at 6, kept 7 to 9.
        assert places == [4, 9]
        assert [one.value for one in events if isinstance(one, MetricEvent) and one.name == "adapt.state"] == [0, 0]
        assert sum(isinstance(one, ResultEvent) for one in events) == STREAM
        changed = checkpoint(device).variables
        assert changed != before
        again = [one.data for one in device.run(job) if isinstance(one, ResultEvent)]
        assert again == [one.data for one in events if isinstance(one, ResultEvent)], "a stream begins as compiled"
        for wrong, words in (
            (replace(job, blob=samples[:-4]), "samples: the blob does not hold exactly so many samples"),
            (replace(job, count=STREAM - 1), "samples: the blob does not hold exactly so many"),
            (replace(job, blobs={}), "pool: the source states have 0 bytes; at least one of"),
            (replace(job, blobs={"pool": pool[:-4]}), "pool: the source states have"),
            (replace(job, repeats=2), "adapt: a stream has no warm-up and runs once"),
            (replace(job, warmup=1), "adapt: a stream has no warm-up and runs once"),
            (stream_job(classes=1), "classes: it must be given, from 2 to 14"),
            (stream_job(classes=15), "classes: it must be given, from 2 to 14"),
            (stream_job(cached=0), "cached: it must be given, from 1 to 65535"),
            (stream_job(compared=4), "compared: it must be given, from 1 to 3"),
            (stream_job(settle=0), "settle: it must be given, from 1"),
            (stream_job(weight=1.5), "weight: it must be given, finite and in its range"),
            (stream_job(threshold=float("nan")), "threshold: it must be given, finite"),
            (stream_job(affine=-0.1), "affine: it must be given, finite"),
            (stream_job(always=1), "lr: it must be given, finite"),
        ):
            with pytest.raises(ProtocolError, match=f"'input' at {words}"):
                list(device.run(wrong))
            assert checkpoint(device).variables == changed
        quiet = list(device.run(stream_job(threshold=1e9)))
        assert not [one for one in quiet if isinstance(one, RegionEvent) and one.region == "adapt"]
        assert checkpoint(device).variables == before, "an unshifted stream changes nothing"
        assert_affine_pass_is_pytorchs(device, changed)


def assert_affine_pass_is_pytorchs(device: Device, statistics_alone: Mapping[str, bytes]) -> None:
    """Scale and shift move in a second pass over the kept samples, and in that alone."""
    network, states, samples = parts()
    training = moving()[0].training
    assert training is not None
    rate = 0.05
    places = [one.index for one in device.run(stream_job(affine=rate)) if isinstance(one, RegionEvent)]
    found = training.to_torch(checkpoint(device).variables)
    watch = Detector(weight=0.5, threshold=0.0, settle=1)
    expected = reference.on_demand(copy.deepcopy(network), samples, states, watch, 3, 2, rate)
    assert tuple(index for index in places if places.count(index) > 1) == tuple(np.repeat(expected.adapted, 2))
    alone, begun = training.to_torch(statistics_alone), states[0].variables
    for name, value in expected.variables.items():
        np.testing.assert_allclose(found[name], value, atol=2e-4, rtol=1e-3, err_msg=name)
        if name.endswith((".weight", ".bias")):
            np.testing.assert_array_equal(alone[name], begun[name])
    assert max(np.abs(expected.variables[name] - begun[name]).max() for name in begun if name.endswith(".bias")) > 1e-3


@pytest.mark.parametrize("always", [0, 1])
def test_a_sample_that_is_no_number_ends_the_stream_before_it_is_adapted_to(always: int) -> None:
    model, _, samples = moving()
    poisoned = np.frombuffer(samples, np.float32).copy().reshape(STREAM, -1)
    poisoned[3] = np.nan
    job = replace(stream_job(always=always, lr=0.1), blob=poisoned.tobytes())
    with running(model) as device, pytest.raises(WorkloadError, match=r"'nan' at adapt: sample [34]: the loss is no"):
        list(device.run(job))


def test_models_that_need_labels_or_do_not_train_are_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    labelled = lab.compiler.compile(
        module, torch.zeros(1, 1, 2, 2), loss=nn.functional.cross_entropy, train=["1.bias"], precision="float32",
        name="labelled",
    )  # fmt: skip
    fixed = lab.compiler.compile(module, torch.zeros(1, 1, 2, 2), precision="float32", name="fixed")
    for model, words in ((labelled, "needs labels"), (fixed, "compiled without training")):
        with running(model) as device, pytest.raises(ProtocolError, match=words):
            list(device.run(Job("adapt", bytes(16), 1, warmup=0, parameters={"always": 1, "lr": 0.1})))
