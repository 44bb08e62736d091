"""``size=paper`` of yono: CIFAR-10, Speech Commands and PAMAP2 from a user's folder, tiny ones here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_cifar10, write_mnist, write_pamap2, write_speech_commands
from helpers.toolchain import needs_host_compiler
from torch import nn

from lab.compiler.host import HostModel
from lab.errors import ConfigError, DoesNotFit
from lab.workloads import get
from lab.workloads.data import cifar10, inertial
from lab.workloads.many_models import own_tasks, tasks
from lab.workloads.many_models.networks import PUBLISHED, network_of
from lab.workloads.many_models.options import PAPER, parse
from lab.workloads.many_models.storing import ends_of
from lab.workloads.networks.evaluation import exported, folded

SMALL = "size=paper,samples=10,epochs=1,tuning=1,drop=1,evaluated=4,words=16"
ACTIVITIES = ((1, 700), (2, 700), (4, 700), (24, 700))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder."""
    found = tmp_path_factory.mktemp("data")
    write_cifar10(found)
    write_speech_commands(found, own_tasks.WORDS, speakers=6)
    write_pamap2(found, ACTIVITIES)
    return found


@pytest.fixture(autouse=True)
def small(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of 8x8, narrow networks, and short windows, of which few minutes of movement hold enough."""
    monkeypatch.setenv("LAB_DATA", str(root))
    monkeypatch.setattr(own_tasks, "FORM", tasks.Form(8, (8, 16, 16)))
    monkeypatch.setattr(own_tasks, "WINDOW", 64)


def named(found: Sequence[tasks.Task]) -> dict[str, tasks.Task]:
    return {one.name: one for one in found}


def test_tasks_are_of_the_users_files(root: Path) -> None:
    found = named(own_tasks.all_tasks(parse(SMALL)))
    assert {name: one.training.samples.shape[1:] for name, one in found.items()} == {
        "images": (3, 32, 32), "words": (1, 48, 16), "movements": (6, 8, 8),
    }  # fmt: skip
    assert {name: one.stride for name, one in found.items()} == {"images": (4, 4), "words": (6, 2), "movements": (1, 1)}
    assert [one.classes for one in found.values()] == [10, 10, len(inertial.pamap2(samples=64, step=64).classes)]
    for one in found.values():
        parts = [{sample.tobytes() for sample in part.samples} for part in (one.training, one.validation, one.asked)]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        assert all(np.isfinite(part.samples).all() for part in (one.training, one.validation, one.asked))
    test = cifar10.cifar10(cifar10.TEST)
    images = [one.tobytes() for one in cifar10.normalised(test.samples)]
    theirs = dict(zip(images, test.labels, strict=True))
    asked = found["images"].asked
    assert [theirs[one.tobytes()] for one in asked.samples] == asked.labels.tolist()


def test_words_and_movements_are_standardised_by_what_is_trained_on() -> None:
    found = named(own_tasks.all_tasks(parse(f"{SMALL},evaluated=20")))
    words, movements = (found[name].training.samples for name in ("words", "movements"))
    assert not words[..., 10:].any(), "ten coefficients"
    # One of 49 frames is left out.
    assert np.abs(words[..., :10].mean((0, 1, 2))).max() < 0.05
    assert np.abs(movements.mean((0, 2, 3))).max() < 1e-4
    assert np.abs(movements.std((0, 2, 3)) - 1).max() < 1e-3
    assert np.bincount(found["words"].asked.labels).tolist() == [2] * 10, "both recordings of speaker 1"


@needs_host_compiler
def test_the_networks_of_the_users_data_switch_and_answer_as_the_reference(tmp_path: Path) -> None:
    prepared = get("yono").prepare(tmp_path / "cache", SMALL)
    host = HostModel(prepared.model, tmp_path)
    samples = np.frombuffer(prepared.job.blob, np.int8).reshape(prepared.job.count, -1)
    outputs = []
    for network, sample in zip(prepared.job.blobs["networks"], samples, strict=True):
        host.load(network)
        outputs.append(host.run(sample[None])[0])
    scores = {one.metric for one in prepared.check(np.array(outputs, np.int8))}
    assert scores >= {"accuracy.images", "accuracy.words", "accuracy.movements"}
    assert prepared.dataset.name == own_tasks.SOURCES["alike"]
    assert json.loads(prepared.parameters["samples"]) == 10


def test_published_networks_have_the_layers_of_their_papers() -> None:
    found = {name: made(10) for name, made in PUBLISHED.items()}
    # LeCun et al. 1998 with all maps read by C3; Zhang et al. 2017, table 9; Banbury et al. 2021.
    sizes = {name: sum(one.numel() for one in folded(network).parameters()) for name, network in found.items()}
    assert sizes == {"lenet5": 61_706, "ds-cnn": 22_604 - 2 * 65, "resnet8": 77_706}
    shapes = [tuple(one.shape) for one in found["lenet5"].parameters() if one.dim() > 1]
    assert shapes == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 16, 5, 5), (84, 120), (10, 84)]
    for network in found.values():
        names = [name for name, one in network.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)]
        assert ends_of(network) == (names[0], names[-1]) == ("stem.conv", "classifier")


@needs_host_compiler
def test_published_networks_switch_and_answer_as_the_reference(root: Path, tmp_path: Path) -> None:
    if not (root / "mnist").is_dir():
        write_mnist(root, training=100)
    variant = f"{SMALL},networks=published,evaluated=2"
    tasks_of = named(own_tasks.all_tasks(parse(variant)))
    assert {name: one.asked.samples.shape[1:] for name, one in tasks_of.items()} == {
        "digits": (1, 32, 32), "words": (1, 49, 10), "images": (3, 32, 32),
    }  # fmt: skip
    prepared = get("yono").prepare(tmp_path / "cache", variant)
    host = HostModel(prepared.model, tmp_path)
    samples = np.frombuffer(prepared.job.blob, np.int8).reshape(prepared.job.count, -1)
    outputs = []
    for network, sample in zip(prepared.job.blobs["networks"], samples, strict=True):
        host.load(network)
        outputs.append(host.run(sample[None])[0])
    scores = {one.metric for one in prepared.check(np.array(outputs, np.int8))}
    assert scores >= {"accuracy.digits", "accuracy.words", "accuracy.images"}
    # Of LeNet-5 the third convolution and the units, of DS-CNN the 1x1, of ResNet-8 all between stem and classifier.
    coded = {one.metric: one.value for one in prepared.figures}["stored.coded_weights"]
    assert coded == 120 * 400 + 84 * 120 + 4 * 64 * 64 + (77_706 - (27 + 1) * 16 - 650 - (2 * 16 + 3 * 32 + 3 * 64))
    with pytest.raises(DoesNotFit, match="share no trunk"):
        get("yono").prepare(tmp_path / "cache", f"{variant},store=heads")


def small_networks() -> dict[str, nn.Module]:
    """A user's own: of images with a depthwise kernel, which is no code's, of movements in one row."""
    torch.manual_seed(4)
    images = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 4, groups=8), nn.Conv2d(8, 8, 1),
        nn.Flatten(), nn.Linear(200, 10),
    )  # fmt: skip
    words = nn.Sequential(nn.Conv2d(1, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8), nn.Linear(8, 10))
    movements = nn.Sequential(
        nn.Conv2d(6, 8, (1, 5), (1, 4)), nn.ReLU(), nn.Conv2d(8, 8, (1, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, len(inertial.pamap2(samples=64, step=64).classes)),
    )  # fmt: skip
    return {"images": images, "words": words, "movements": movements}


@needs_host_compiler
def test_a_users_own_networks_are_coded_and_answer_as_the_reference(root: Path, tmp_path: Path) -> None:
    folder, variant = root / "networks", f"{SMALL},networks=own,evaluated=2"
    with pytest.raises(ConfigError, match=r"a network of your own is needed|networks/yono-images\.pt2 cannot be read"):
        get("yono").prepare(tmp_path / "cache", variant)
    folder.mkdir()
    shapes = {"images": (3, 32, 32), "words": (1, 49, 10), "movements": (6, 1, 64)}
    for name, one in small_networks().items():
        (folder / f"yono-{name}.pt2").write_bytes(exported(one, torch.randn(1, *shapes[name])))
    tasks_of = named(own_tasks.all_tasks(parse(variant)))
    assert {name: one.asked.samples.shape[1:] for name, one in tasks_of.items()} == shapes
    for name, one in small_networks().items():
        x = torch.from_numpy(tasks_of[name].asked.samples[:3])
        torch.testing.assert_close(network_of(tasks_of[name])(x), one.eval()(x), atol=1e-4, rtol=1e-4)
    prepared = get("yono").prepare(tmp_path / "cache", variant)
    host = HostModel(prepared.model, tmp_path)
    samples = np.frombuffer(prepared.job.blob, np.int8).reshape(prepared.job.count, -1)
    outputs = []
    for network, sample in zip(prepared.job.blobs["networks"], samples, strict=True):
        host.load(network)
        outputs.append(host.run(sample[None])[0])
    assert {one.metric for one in prepared.check(np.array(outputs, np.int8))} >= {"accuracy.movements"}
    # Of the images the 1x1, of the words the first linear layer, of the movements the second convolution.
    assert {one.metric: one.value for one in prepared.figures}["stored.coded_weights"] == 64 + 96 * 8 + 3 * 64
    with pytest.raises(DoesNotFit, match="own networks share no trunk"):
        get("yono").prepare(tmp_path / "cache", f"{variant},store=heads")
    (folder / "yono-words.pt2").write_bytes(exported(small_networks()["images"], torch.randn(1, 3, 32, 32)))
    with pytest.raises(ConfigError, match=r"yono-words\.pt2 takes a sample of the shape \(3, 32, 32\); the data's is"):
        get("yono").prepare(tmp_path / "cache", variant)


def test_the_papers_size_is_that_of_its_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("size=paper") == PAPER
    task = own_tasks.all_tasks(parse(SMALL))[0]
    monkeypatch.undo()
    network = network_of(replace(task, form=own_tasks.FORM))
    # 2.91 MB of float32 for five networks.
    assert sum(one.numel() for one in network.parameters()) == pytest.approx(2.91e6 / 5 / 4, rel=0.02)


def test_what_the_user_lacks_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, told in (("evaluated=21", "images has 20 held-out samples"), ("samples=5", "movements has 16 samples")):
        with pytest.raises(ConfigError) as refused:
            own_tasks.all_tasks(parse(f"{SMALL},{text}"))
        assert told in str(refused.value)
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="CIFAR-10, binary version is needed"):
        get("yono").prepare(tmp_path / "cache", "size=paper")
