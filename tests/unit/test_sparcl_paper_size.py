"""``size=paper`` of sparcl: Split CIFAR-10 from a user's folder, and a ResNet whose convolutions keep blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_cifar10
from helpers.toolchain import needs_host_compiler
from torch import nn

from lab.compiler.host import HostTraining
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.base import FloatArray, Prepared
from lab.workloads.continual import sparcl_networks
from lab.workloads.continual.sparcl import PAPER, images_of, parse, stream_of
from lab.workloads.continual.sparcl_masks import blocks_of
from lab.workloads.data import cifar10
from lab.workloads.networks import ResNet

SMALL = "size=paper,hidden=16,samples=6,questions=2,classes=4,epochs=3,buffer=8,batch=8,removal=0.2,target=0.1"


def tiny(width: int, norm: sparcl_networks.Norm) -> nn.Module:
    """What stands for ResNet-18, whose compilation takes long: two blocks, one of them with a shortcut."""
    made = ResNet((width, 2 * width), 1, 10)
    return made if norm == "batch" else sparcl_networks.group_normed(made)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A user's folder of 20 images a file, which the images are of: (6, 20, 3, 32, 32)."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    monkeypatch.setattr(sparcl_networks, "residual", tiny)
    return write_cifar10(tmp_path)


def run_job(prepared: Prepared, folder: Path) -> tuple[FloatArray, Mapping[str, bytes], Mapping[str, bytes]]:
    """Losses of the job, and variables before and after it, step by step in the C on this computer."""
    assert prepared.training is not None
    host, job = HostTraining(prepared.model, folder), prepared.training.job
    first = host.raw_variables()
    host.state.random = int(job.parameters["seed"])
    samples = np.frombuffer(job.blob, np.float32).reshape(job.count, -1)
    targets = np.frombuffer(job.blobs["targets"], np.int32).reshape(job.count, -1)
    order = np.frombuffer(job.blobs["order"], np.uint16) if "order" in job.blobs else np.arange(job.count)
    losses = [host.step(samples[one], targets[one], float(job.parameters["lr"])) for one in order]
    return np.array(losses, np.float32), first, host.raw_variables()


def test_the_stream_is_of_the_users_images_and_test_images_are_asked(folder: np.ndarray) -> None:
    variant = parse(SMALL)
    stream = stream_of(variant, images_of(variant))
    assert [stream.classes_of(task).tolist() for task in range(2)] == [[0, 1], [2, 3]]
    assert stream.samples.shape == (24, 32, 32, 3)
    mean, deviation = np.array(cifar10.MEAN), np.array(cifar10.DEVIATION)
    learnt = (stream.samples, stream.labels, folder[:5].reshape(-1, 3, 32, 32))
    for found, labels, known in (learnt, (stream.questions, stream.answers, folder[5])):
        levels = np.rint((found * deviation + mean) * 255).astype(np.uint8).transpose(0, 3, 1, 2)
        places = [int(np.flatnonzero((known == one).all((1, 2, 3)))[0]) for one in levels]
        assert len(set(places)) == len(labels)
        assert [place % 10 for place in places] == labels.tolist()
    for text, told in (("samples=11", "from 1 to 10"), ("questions=3", "from 1 to 2")):
        with pytest.raises(ConfigError) as refused:
            stream_of(wrong := parse(f"{SMALL},{text}"), images_of(wrong))
        assert told in str(refused.value)


@needs_host_compiler
def test_blocks_of_convolutions_come_to_masks_in_pytorch(folder: np.ndarray, tmp_path: Path) -> None:
    prepared = get("sparcl").prepare(tmp_path / "cache", SMALL)
    losses, first, variables = run_job(prepared, tmp_path)
    assert prepared.training is not None
    scores = {one.metric: one.value for one in prepared.training.check(losses, variables)}
    assert scores["update_error"] < 1e-3
    assert scores["mask_agreement"] == 1.0
    assert (prepared.dataset.name, prepared.dataset.samples) == ("CIFAR-10, binary version", 8)
    blocks = [name for name in variables if name.endswith(".blocks")]
    assert len(blocks) == 5, "four convolutions and a shortcut"
    assert all(variables[name] != first[name] for name in blocks)
    assert variables["stem.conv.weight"] != first["stem.conv.weight"], "the stem trains whole"


def test_the_papers_network_keeps_a_quarter_of_all_but_stem_and_classifier() -> None:
    assert parse("size=paper") == PAPER
    network = sparcl_networks.residual(PAPER.hidden, PAPER.norm)
    assert sum(one.numel() for one in network.parameters()) == 11_173_962, "of the published network"
    assert len([one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]) == 20
    single = sparcl_networks.residual(PAPER.hidden, "single")
    assert not [one for one in single.modules() if isinstance(one, nn.BatchNorm2d)]
    assert sum(one.numel() for one in single.parameters()) == 11_173_962
    layers = sparcl_networks.sparse_layers("paper", PAPER.hidden)
    assert len(layers) == 19, "sixteen convolutions and three shortcuts"
    assert {inputs for _, inputs in layers.values()} == {64, 128, 256, 512}
    assert {rows for rows, _ in layers.values()} == {9 * 64, 9 * 128, 128, 9 * 256, 256, 9 * 512, 512}
    kept = sum(network.get_parameter(name).numel() for name in layers)
    assert kept / sum(one.numel() for one in network.parameters()) > 0.99
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_papers_schedule_is_whole_with_its_samples_and_epochs() -> None:
    """Fifty epochs: expanded in the first five, 1 % of a layer's blocks exchanged each five, settled in the last."""
    variant = parse("size=paper,samples=5000,questions=1000,epochs=50")
    plan = variant.rehearsal()
    blocks = blocks_of(variant, plan)
    task = plan.task_steps(10_000)
    for name, (rows, inputs) in sparcl_networks.sparse_layers("paper", 64).items():
        renewal = blocks[name].renewal
        assert blocks[name].kept == inputs // 16, "a quarter"
        assert renewal.task == task
        assert renewal.expanded == renewal.steps == task - renewal.settled
        assert renewal.steps == pytest.approx(task / 10, rel=0.01)
        assert renewal.steps % 3 == 0
        assert renewal.rows == round(0.01 * rows * inputs / 4)
    with pytest.raises(ConfigError, match="no block is left to be exchanged for"):
        blocks_of(parse(f"{SMALL},hidden=8"), plan)


def test_the_class_means_of_images_are_numpys(folder: np.ndarray, tmp_path: Path) -> None:
    variant = parse(f"{SMALL},update=ncm")
    stream = stream_of(variant, images_of(variant))
    means = get("sparcl").prepare(tmp_path / "cache", f"{SMALL},update=ncm")
    *_, variables = run_job(means, tmp_path)
    expected = [stream.samples[stream.labels == label].mean(0).ravel() for label in range(4)]
    found = np.frombuffer(variables["prototypes"], np.float32).reshape(10, -1)[:4]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_the_users_data_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="CIFAR-10, binary version is needed, and there is no folder"):
        get("sparcl").prepare(tmp_path / "cache", "size=paper")
