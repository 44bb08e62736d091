"""``size=paper`` of baffle: LeNet on a user's CIFAR-10 or MNIST, with a few made images in the real formats."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.data_folders import write_cifar10, write_cifar100, write_mnist
from helpers.host_training import judged, plan_of, train
from helpers.toolchain import needs_host_compiler
from torch.nn import functional

from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.data.cifar10 import DEVIATION, MEAN
from lab.workloads.networks.lenet import lenet
from lab.workloads.networks.wide_resnet import wide_resnet_10_2
from lab.workloads.training.baffle import PAPER, WORKLOAD, parse
from lab.workloads.training.scratch_images import SIDE, augmented, images_of

Pixels = npt.NDArray[np.float32]
SMALL = "size=paper,samples=3,evaluated=4,passes=4,channels=4"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def test_lenet_is_the_papers() -> None:
    """27,530 parameters by hand, as the layers of the released network have them; its norms learn nothing."""
    network = lenet(3)
    names = [name for name, _ in network.named_parameters()]
    assert sum(one.numel() for one in network.parameters()) == 25 * 3 * 16 + 16 + 25 * 16 * 64 + 64 + 64 * 10 + 10
    assert {name.partition(".")[0] for name in names} == {"first", "second", "classifier"}
    x = torch.randn(2, 3, SIDE, SIDE)
    y = functional.conv2d(x, network.get_parameter("first.weight"), network.get_parameter("first.bias"), padding=2)
    y = functional.max_pool2d(functional.hardswish(functional.group_norm(y, 2)), 2)
    y = functional.conv2d(y, network.get_parameter("second.weight"), network.get_parameter("second.bias"), padding=2)
    y = functional.hardswish(functional.group_norm(y, 4)).mean((2, 3))
    y = functional.linear(y, network.get_parameter("classifier.weight"), network.get_parameter("classifier.bias"))
    torch.testing.assert_close(network(x), y)
    assert lenet(1, channels=4)(x[:, :1]).shape == (2, 10)


def test_the_wide_network_is_the_papers_and_knows_no_other_images() -> None:
    """By hand: a stem, three blocks with their shortcuts and a classifier; nothing of it depends on a batch."""
    network = wide_resnet_10_2(100)
    blocks = sum(9 * (read * made + made * made) + read * made for read, made in ((16, 32), (32, 64), (64, 128)))
    assert sum(one.numel() for one in network.parameters()) == 27 * 16 + blocks + 129 * 100
    kinds = {type(one) for one in network.modules()}
    assert torch.nn.GroupNorm in kinds
    assert not kinds & {torch.nn.BatchNorm2d, torch.nn.ReLU}
    x = torch.randn(2, 3, SIDE, SIDE)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


@needs_host_compiler
def test_a_hundred_classes_are_learnt_and_each_colour_has_its_mean(folder: Path) -> None:
    written = write_cifar100(folder, 2)
    root = folder / "cifar-100-binary"
    (root / "test.bin").write_bytes((root / "train.bin").read_bytes())
    chosen = parse("baffle", f"{SMALL},data=cifar100,samples=200")
    parts = images_of(chosen).parts()
    pixels = written.reshape(-1, 3, SIDE * SIDE).mean((0, 2)) / 255
    expected = (pixels - (0.5071, 0.4865, 0.4409)) / (0.2673, 0.2564, 0.2762)
    np.testing.assert_allclose(parts.samples.mean((0, 2, 3)), expected, atol=1e-4)
    assert sorted(set(parts.labels.tolist())) == list(range(100))
    prepared = WORKLOAD.prepare(folder / "cache", f"{SMALL},data=cifar100")
    assert prepared.model.output.size == 4 * 100
    assert prepared.dataset.name == "CIFAR-100, binary version"


def test_the_wide_network_takes_colour_images() -> None:
    with pytest.raises(ConfigError, match="network=wrn10-2 takes colour images; data=mnist is grey"):
        parse("baffle", "size=paper,network=wrn10-2,data=mnist")
    with pytest.raises(ConfigError, match="network=lenet is not allowed"):
        parse("baffle", "network=lenet")


def test_the_users_images_are_what_is_trained_on(folder: Path) -> None:
    written = write_cifar10(folder)
    parts = images_of(parse("baffle", f"{SMALL},samples=100,evaluated=20")).parts()
    assert parts.samples.shape == (100, 3, SIDE, SIDE)
    mean, deviation = (np.array(one)[:, None, None] for one in (MEAN, DEVIATION))
    pixels = (parts.samples.numpy() * deviation + mean) * 255
    found = {one.astype(np.uint8).tobytes() for one in np.rint(pixels)}
    assert found == {one.tobytes() for one in written[:5].reshape(-1, 3, SIDE, SIDE)}
    assert parts.labels.tolist() != sorted(parts.labels.tolist()), "in no order"
    assert sorted(parts.answers.tolist()) == sorted(list(range(10)) * 2)
    few = images_of(parse("baffle", SMALL)).parts()
    assert torch.equal(few.samples, parts.samples[:3]), "the first of the same order"


def test_mnist_is_enlarged_and_another_digest(folder: Path) -> None:
    images = write_mnist(folder)["train"]
    chosen = images_of(parse("baffle", f"{SMALL},data=mnist"))
    parts = chosen.parts()
    assert chosen.name == "MNIST"
    assert parts.samples.shape == (3, 1, SIDE, SIDE)
    assert parts.samples.min() >= 0
    assert parts.samples.max() <= 1
    grey = torch.from_numpy(images[:, None] / np.float32(255))
    enlarged = functional.interpolate(grey, (SIDE, SIDE), mode="bilinear")
    for sample, label in zip(parts.samples, parts.labels, strict=True):
        (place,) = [n for n, one in enumerate(enlarged) if torch.allclose(one, sample, atol=1e-6)]
        assert label == place % 10
    write_cifar10(folder)
    assert images_of(parse("baffle", SMALL)).digest != chosen.digest


def changes_of(image: Pixels) -> dict[bytes, tuple[int, int, bool]]:
    """Every image, by its bytes, that mirroring and moving by up to four pixels can make of one (channels, H, W)."""
    # The image, mirrored at its own first and last row and column, which are not repeated.
    places = np.abs(np.arange(-4, SIDE + 4))
    places = np.where(places < SIDE, places, 2 * (SIDE - 1) - places)
    found = {}
    for y, x, mirrored in product(range(9), range(9), (False, True)):
        columns = places[x : x + SIDE][:: -1 if mirrored else 1]
        found[image[:, places[y : y + SIDE][:, None], columns].tobytes()] = (y, x, mirrored)
    return found


def test_colour_images_are_mirrored_and_moved_anew_in_each_epoch(folder: Path) -> None:
    write_cifar10(folder)
    parts = images_of(parse("baffle", f"{SMALL},samples=8")).parts()
    made = augmented(parts, 3)
    found = [
        changes_of(parts.samples[n % 8].numpy())[one.numpy().tobytes()] for n, one in enumerate(made.samples)
    ]
    assert len(found) == 24
    assert {one[2] for one in found} == {False, True}
    assert all(len({one[axis] for one in found}) > 5 for axis in (0, 1))
    assert found[:8] != found[8:16] != found[16:], "another change in each epoch"
    assert made.labels.tolist() == 3 * parts.labels.tolist()
    assert made.asked is parts.asked
    assert torch.equal(augmented(parts, 3).samples, made.samples), "seeded"


@needs_host_compiler
@pytest.mark.parametrize("update", ["stein", "full"])
def test_the_c_comes_to_pytorchs_losses_and_variables(folder: Path, update: str) -> None:
    write_cifar10(folder)
    asked = f"{SMALL},epochs=2"
    prepared = get("baffle").prepare(folder / "cache", f"{asked},update={update}")
    assert prepared.dataset.name == "CIFAR-10, binary version"
    assert prepared.facts[0].startswith("LeNet of 4 and 16 channels on cifar10, from scratch")
    losses, variables = train(prepared, folder)
    assert judged(prepared, losses, variables)["update_error"].value < 1e-3
    # Both arms are sent the same changed images of both epochs.
    job, changed = plan_of(prepared).job, augmented(images_of(parse("baffle", asked)).parts(), 2)
    assert (job.count, job.repeats) == (6, 1)
    assert job.blob == changed.samples.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    # A few steps teach LeNet nothing, and that is no failure of the device.
    prepared.check(np.zeros_like(prepared.reference_outputs))


@needs_host_compiler
def test_clients_keep_their_images_through_epochs_and_each_is_changed(folder: Path) -> None:
    write_cifar10(folder)
    asked = f"{SMALL},samples=5,epochs=2,clients=2,batch=1"
    plan, parts = plan_of(WORKLOAD.prepare(folder / "cache", asked)), images_of(parse("baffle", asked)).parts()
    sent = np.frombuffer(plan.job.blob, np.float32).reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    assert (plan.job.count, plan.job.repeats) == (8, 1), "two whole rounds of two clients in each epoch"
    assert all(one.tobytes() in changes_of(parts.samples[n % 4].numpy()) for n, one in enumerate(sent))


def test_grey_images_are_not_changed_and_neither_are_colours_without_it(folder: Path) -> None:
    write_mnist(folder)
    prepared = WORKLOAD.prepare(folder / "cache", f"{SMALL},data=mnist,epochs=2,passes=1")
    assert (plan_of(prepared).job.count, plan_of(prepared).job.repeats) == (3, 2)
    assert "mirrored" not in prepared.facts[0]
    assert WORKLOAD.missing == ""
    with pytest.raises(ConfigError, match="augment=paper is not allowed"):
        parse("baffle", "augment=paper")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALL, "CIFAR-10, binary version is needed, and there is no folder"),
        (f"{SMALL},data=mnist", "MNIST is needed, and there is no folder"),
    ],
)
def test_missing_data_are_one_clear_error(folder: Path, text: str, told: str) -> None:
    assert PAPER.data == "cifar10"
    with pytest.raises(ConfigError, match=told):
        get("baffle").prepare(folder / "cache", text)
