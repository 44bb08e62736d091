"""``size=paper`` of ear: a user's encoder and folders of images, one for each domain, with tiny ones of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_images
from helpers.toolchain import needs_host_compiler
from PIL import Image
from torch import nn

from lab.compiler.host import HostTraining
from lab.errors import ConfigError
from lab.events import Job
from lab.workloads import get
from lab.workloads.base import Prepared, Room
from lab.workloads.continual import ear_domains
from lab.workloads.continual.ear import PAPER, parse
from lab.workloads.networks import Bottleneck, BottleneckNet, folded
from lab.workloads.training import own_images

CLASSES = ("cat", "dog", "owl")
DATA = "size=paper,data=photo+sketch"
SMALL = f"{DATA},image=64,shots=4,samples=9,evaluated=6,epochs=2,dimensions=64,target=0.1"


def tiny(_: str, classes: int) -> nn.Sequential:
    """What stands for MobileNetV2: the three blocks whose maps tell domains apart."""
    return BottleneckNet((3, 8), (Bottleneck(8, 8), Bottleneck(16, 12, stride=2), Bottleneck(24, 16)), classes)


def settled() -> nn.Sequential:
    """Random weights, statistics of random images."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = tiny("", 1000).train()
        for _ in range(20):
            network(torch.randn(8, 3, 64, 64))
    return network


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: photographs, the same turned dark as sketches, other classes, and a random encoder."""
    made = tmp_path_factory.mktemp("data")
    write_images(made, "photo", CLASSES)
    for path in write_images(made, "sketch", CLASSES).rglob("*/*/*.*"):
        Image.fromarray(255 - np.asarray(Image.open(path).convert("RGB"))).save(path)
    write_images(made, "other", ("cat", "dog"))
    (made / "networks").mkdir()
    torch.save(settled().state_dict(), made / "networks" / "mobilenet-v2.pt")
    return made


@pytest.fixture
def folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(root))
    monkeypatch.setattr(own_images, "untrained", tiny)
    return root


def enrolled(prepared: Prepared, job: Job, folder: Path) -> Mapping[str, bytes]:
    """The variables behind a job, step by step in the C on this computer."""
    host, rate = HostTraining(prepared.model, folder), float(job.parameters["lr"])
    samples = np.frombuffer(job.blob, np.float32).reshape(job.count, -1)
    targets = np.frombuffer(job.blobs["targets"], np.int32)
    for n in range(job.count):
        host.step(samples[n], targets[n : n + 1], rate)
    return host.raw_variables()


@needs_host_compiler
def test_the_users_domains_are_enrolled_and_their_adaptors_are_pytorchs(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    enrolling = get("ear").prepare(cache, SMALL)
    survey = enrolling.survey
    assert survey is not None
    assert len(enrolling.reference_outputs) == 2 * 4, "four images of each of two domains"
    bundles = enrolled(enrolling, survey.jobs[0], tmp_path)
    prepared = survey.decide(bundles, Room(1 << 40, 1 << 40))
    assert prepared.training is not None
    assert prepared.model.training is not None
    # Its steps were taken by the C on this computer, by PyTorch's operators and by its autograd, which agree.
    assert {one.name for one in prepared.model.training.variables} == {"down.weight", "down.bias", "up.weight"}
    assert prepared.training.job.count * prepared.training.job.repeats == 2 * 4, "two epochs of the new domain"
    answers = {one.metric: one for one in prepared.check(prepared.reference_outputs)}
    assert answers["accuracy.source"].trials == 6
    assert answers["routing"].value == 1.0, "light and dark images"
    assert "photo, sketch" in prepared.facts[0]
    assert prepared.dataset.name == "images of photo+sketch; pre-trained networks: mobilenet-v2"


def test_the_encoder_is_the_users_and_its_new_layer_learns_the_source(folder: Path, tmp_path: Path) -> None:
    known = ear_domains.known_images(parse(SMALL), tmp_path / "cache")
    theirs = tiny("", 1000)
    theirs.load_state_dict(torch.load(folder / "networks" / "mobilenet-v2.pt", weights_only=True))
    images = known.domains["photo"].upright
    with torch.no_grad():
        found, expected = (ear_domains.split(one)[0](images) for one in (known.network, folded(theirs)))
        right = known.network(images).argmax(1) == known.domains["photo"].labels
    torch.testing.assert_close(found, expected)
    assert float(right.float().mean()) > 0.9, "a colour for each class"
    assert torch.equal(known.domains["photo"].labels.unique(), torch.arange(3))
    assert list(known.domains) == ["photo", "sketch"]
    again = ear_domains.known_images(parse(SMALL), tmp_path / "cache")
    assert known.digest == again.digest
    assert torch.equal(ear_domains.split(known.network)[1].weight, ear_domains.split(again.network)[1].weight)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper,data=photo", "names no two domains"),
        ("size=paper,data=photo+photo", "names no two domains"),
        ("size=paper,data=photo+cartoon", "no folder"),
        ("size=paper,data=photo+other", "other classes than images/photo"),
        (f"{SMALL},shots=50", "12 images; 50 are asked for"),
        (f"{SMALL},evaluated=30", "12 images; 30 are asked for"),
        (f"{SMALL},network=mcunet", "mcunet.pt cannot be read"),
    ],
)
def test_what_the_user_lacks_is_told(folder: Path, tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        get("ear").prepare(tmp_path / "cache", text)
    assert told in str(refused.value)


def test_the_defaults_are_the_domains_of_pacs() -> None:
    assert parse("size=paper") == PAPER
    assert PAPER.data.split("+") == ["photo", "art_painting", "cartoon", "sketch"]
    for text, told in (("dimensions=20000", "64 to 10000"), ("image=16", "64, 128, 192, 256")):
        with pytest.raises(ConfigError) as refused:
            parse(f"size=paper,{text}")
        assert told in str(refused.value)


def test_the_last_classes_come_with_the_other_domains(folder: Path, tmp_path: Path) -> None:
    known = ear_domains.known_images(parse(f"{SMALL},new=1"), tmp_path / "cache")
    assert known.owners == (1,)
    assert ear_domains.split(known.network)[1].out_features == 2, "owls come with sketches"
    for name, classes in (("photo", {0, 1}), ("sketch", {0, 1, 2})):
        data = known.domains[name]
        for part in (data.training, data.held_out):
            assert set(data.labels[part].tolist()) == classes
    with pytest.raises(ConfigError, match="new=2 of 3 classes"):
        ear_domains.known_images(parse(f"{SMALL},new=2"), tmp_path / "cache")
