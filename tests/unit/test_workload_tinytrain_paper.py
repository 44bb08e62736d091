"""``size=paper`` of tinytrain: a user's network and two folders of images, with tiny ones in the real formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_images
from helpers.host_training import judged, train
from torch import nn

from lab.compiler.host import HostTraining
from lab.compiler.layer_costs import layer_list
from lab.compiler.update_schemes import MCUNET_SCHEMES, apply
from lab.errors import ConfigError, WorkloadError
from lab.workloads import get
from lab.workloads.base import Room
from lab.workloads.networks import Bottleneck, BottleneckNet, folded, mcunet_5fps
from lab.workloads.training import own_images, tinytrain_host
from lab.workloads.training import tinytrain_arms as arms
from lab.workloads.training.tinytrain_checks import Steps, Tolerance, tolerance_of
from lab.workloads.training.tinytrain_selection import with_class_means
from lab.workloads.training.tinytrain_sources import own_source

KNOWN, NEW = ("ant", "bee", "cow", "dog"), ("daisy", "poppy", "rose")
EACH = 10
SMALL = (
    "size=paper,meta=animals,data=flowers,image=64,ways=2,shots=2,queries=3,epochs=1,episodes=1,macs=0.5,"
    "update=tinytrain"
)


def tiny(_: str, classes: int) -> nn.Sequential:
    """What stands for the paper's network, whose steps take seconds: two blocks of the same kind."""
    return BottleneckNet((3, 8), (Bottleneck(16, 8, stride=2), Bottleneck(16, 8, stride=2)), classes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's two folders, and a network that knows a thousand classes."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    monkeypatch.setattr(own_images, "untrained", tiny)
    monkeypatch.setattr(tinytrain_host, "TASKS", 1)
    write_images(tmp_path, "animals", KNOWN, EACH)
    write_images(tmp_path, "flowers", NEW, EACH)
    (tmp_path / "networks").mkdir()
    torch.manual_seed(3)
    network = tiny("", 1000).train()
    network(torch.randn(8, 3, 64, 64))
    torch.save(network.state_dict(), tmp_path / "networks" / "mcunet.pt")
    return tmp_path


def test_a_device_learns_new_classes_of_the_users_images_as_pytorch_does(folder: Path) -> None:
    prepared = get("tinytrain").prepare(folder / "cache", SMALL)
    survey = prepared.survey
    assert survey is not None
    assert prepared.dataset.name == "images of flowers"
    host = HostTraining(survey.model, folder)
    for job in survey.jobs:
        samples = np.frombuffer(job.blob, np.float32).reshape(job.count, 1, -1)
        targets = np.frombuffer(job.blobs["targets"], np.int32)
        assert samples[0].size == 3 * 64 * 64
        for number, sample in enumerate(samples):
            host.step(sample, targets[number : number + 1], float(job.parameters["lr"]))
    decided = survey.decide(host.raw_variables(), Room(1 << 24, 1 << 24))
    (folder / "trained").mkdir()
    losses, variables = train(decided, folder / "trained")
    scores = judged(decided, losses, variables)
    assert scores["class_mean_error"].value < 1e-5
    assert scores["fisher_error"].value < 1e-4
    assert scores["update_error"].value < 0.01
    with pytest.raises(WorkloadError, match="the losses differ from PyTorch's by 1 in the median"):
        judged(decided, losses + 1, variables)
    assert "Backbone: mcunet, trained on" in " ".join(decided.facts)
    assert "and images of animals" in " ".join(decided.facts)


def test_a_device_may_be_no_further_from_pytorch_than_rounding_takes_pytorch() -> None:
    """Where PyTorch from the same weights but for rounding comes to the same, the bounds are those of every size."""
    start, end = [np.zeros(4, np.float32)], [np.full(4, 2.0, np.float32)]
    logits = np.eye(4, dtype=np.float32)
    steps = Steps(np.array([1.0, 0.5, 0.2], np.float32), start, end, logits)
    assert tolerance_of(steps, steps) == Tolerance(0.02, 0.25, 0.9)
    losses = steps.losses + np.array([0.0, 0.1, 0.4], np.float32)
    other = Steps(losses, start, [np.full(4, 2.5, np.float32)], logits[[1, 1, 2, 3]])
    found = tolerance_of(steps, other)
    assert found.loss == pytest.approx(3 * 0.1), "the median"
    assert found.update == pytest.approx(3 * 0.25), "0.5 of the way of 2"
    assert found.agreement == pytest.approx(1 - 3 * 0.25), "one of four answers"
    anywhere = tolerance_of(steps, Steps(losses, start, [np.full(4, 9.0, np.float32)], -logits))
    assert anywhere.agreement == 0.0
    assert anywhere.update < 1, "a device that trains nothing is off by 1"


def test_meta_training_begins_with_the_users_weights_and_the_images_are_theirs(folder: Path) -> None:
    source = own_source(arms.parse(SMALL))
    theirs = tiny("", 1000)
    theirs.load_state_dict(torch.load(folder / "networks" / "mcunet.pt", weights_only=True))
    written, begun = dict(theirs.named_parameters()), dict(source.backbone().named_parameters())
    assert set(written) - set(begun) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(one, written[name]) for name, one in begun.items())
    known, asked = source.known(), source.asked()
    assert (known.alphabets, asked.alphabets) == (KNOWN, NEW)
    assert known.images.shape == (4, EACH, 3, 64, 64)
    assert known.images.min() >= 0
    assert known.images.max() <= 1
    # Images of a class are bright in one colour (write_images): red, green and blue, in turn.
    assert [int(one.mean((0, 2, 3)).argmax()) for one in asked.images] == [0, 1, 2]
    (folder / "images" / "flowers" / "test" / "rose" / "000.png").unlink()
    again = own_source(arms.parse(SMALL))
    assert again.digest != source.digest
    assert again.asked().images.shape[1] == EACH - 1, "as many of each class as the smallest has"
    assert again.identity() == source.identity(), "the network has not seen the tasks"


def test_the_papers_network_is_inspected_and_updated_as_the_paper_has_it() -> None:
    """Of MCUNet's 42 convolutions the last 18; the static update is the published one of 99 kB."""
    backbone = folded(mcunet_5fps(1).eval())
    trunk = layer_list(backbone, torch.zeros(1, 3, 128, 128))
    layers = with_class_means(trunk[:-1], 5)
    assert len(arms.inspected("mcunet", layers)) == 18
    parts = arms.static_parts(arms.Variant("paper", "mcunet", update="sparse"), layers)
    expected = {one.layer.name: one for one in apply(MCUNET_SCHEMES["99kb"], trunk)[:-1] if one.is_updated}
    biases = {f"{name}.bias" for name, one in expected.items() if one.bias}
    assert {name for name in parts if name.endswith(".bias")} == biases
    weights = {name: one for name, one in expected.items() if one.weight_elements}
    assert {name.removesuffix(".weight") for name in parts if name.endswith(".weight")} == set(weights)
    for name, one in weights.items():
        channels = parts[f"{name}.weight"].inputs
        assert channels is not None
        assert len(channels) * one.layer.weight_elements // one.layer.input_channels == one.weight_elements
    assert sum(one.parameters for one in expected.values()) == 57_272


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper,data=flowers", "meta=NAME"),
        ("size=paper,meta=animals", "data=NAME"),
        ("size=paper,meta=animals,data=animals", "are the same images"),
        ("size=paper,meta=animals,data=tulips", r"there is no folder .*tulips"),
        ("size=paper,meta=animals,data=flowers,network=digits-mb", "mcunet, mobilenet-v2, proxylessnas"),
        ("size=paper,meta=animals,data=flowers,network=proxylessnas", r"proxylessnas.pt cannot be read"),
        ("data=flowers", "a folder of images with size=paper"),
        (f"{SMALL},ways=4", r"an episode of 4 ways.* from 3 classes of 10 images \(images of flowers\)"),
    ],
)
def test_what_the_papers_size_lacks_is_said(folder: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        get("tinytrain").prepare(folder / "cache", text)
