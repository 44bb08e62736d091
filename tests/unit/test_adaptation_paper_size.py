"""``size=paper`` of test-time adaptation: CIFAR-10-C and a user's ResNet, with tiny ones in the real formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_cifar10, write_cifar10_c
from helpers.toolchain import needs_host_compiler
from torch import nn

from lab.compiler.host import HostModel
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.adaptation import methods, networks, paper_size, reference, source
from lab.workloads.adaptation.lean_tta import WORKLOAD
from lab.workloads.adaptation.options import CLASSES, PAPER_SHIFTS, Options, parse
from lab.workloads.data import cifar10
from lab.workloads.data.corruptions import Segment
from lab.workloads.networks import ResNet, folded

EACH = 20
PAPER = parse("od-tta", "size=paper,length=24,cached=4", Options(method="od", stream="shifts", length=64))


def tiny(_: str) -> nn.Sequential:
    """What stands for ResNet-18, whose compilation takes minutes: two blocks, one of them with a shortcut."""
    return ResNet((4, 6), 1, CLASSES)


def settled() -> nn.Sequential:
    """Random weights, statistics of random images."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = tiny("").train()
        for _ in range(20):
            network(torch.randn(16, 3, 32, 32))
    return network.eval()


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with 20 images a file and the corruptions that ``shifts`` goes through."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    monkeypatch.setattr(paper_size, "untrained", tiny)
    monkeypatch.setattr(methods, "FALSE_ALARM_SAMPLES", 50)
    write_cifar10(tmp_path, EACH)
    write_cifar10_c(tmp_path, EACH, PAPER_SHIFTS.split("+"))
    (tmp_path / "networks").mkdir()
    torch.save(settled().state_dict(), tmp_path / "networks" / "resnet18.pt")
    return tmp_path


def test_a_stream_is_of_the_files_images_and_returns(folder: Path) -> None:
    met, data = source.stream_and_data(PAPER)
    assert met.names == ("clean", "impulse_noise 5", "brightness 5", "fog 5", "clean")
    assert np.bincount(met.segments).tolist() == [12, 24, 24, 24, 12]
    assert (data.name, data.samples) == ("CIFAR-10-C", 96)
    clean = np.frombuffer((folder / "cifar-10-batches-bin" / "test_batch.bin").read_bytes(), np.uint8)
    pixels = clean.reshape(EACH, 3073)[:, 1:].reshape(EACH, 3, 32, 32)
    fog = np.load(folder / "CIFAR-10-C" / "fog.npy")[4 * EACH :].transpose(0, 3, 1, 2)
    for segment, known in ((0, pixels), (3, fog)):
        found = met.images[met.segments == segment]
        mean, deviation = (np.array(one)[:, None, None] for one in (cifar10.MEAN, cifar10.DEVIATION))
        levels = np.rint((found * deviation + mean) * 255).astype(np.uint8)
        which = [int(np.flatnonzero((known == one).all((1, 2, 3)))[0]) for one in levels]
        assert [number % 10 for number in which] == met.labels[met.segments == segment].tolist()
        assert len(set(which)) == min(len(which), EACH), "all images come before one comes again"


def test_severities_of_one_corruption_are_those_of_the_file(folder: Path) -> None:
    met, _ = paper_size.stream((Segment("fog", 4, 5), Segment("fog", 2, 5)), only=-1)
    fog = np.load(folder / "CIFAR-10-C" / "fog.npy").transpose(0, 3, 1, 2)
    for place, image in enumerate(met.images):
        first = (4 - 1 if place < 5 else 2 - 1) * EACH
        known = cifar10.normalised(fog[first : first + EACH])
        assert (known == image).all((1, 2, 3)).sum() == 1


def test_one_class_may_be_all_that_a_stream_holds(folder: Path) -> None:
    met, _ = paper_size.stream((Segment("clean", 1, 3), Segment("fog", 2, 3)), only=7)
    assert met.labels.tolist() == [7] * 6
    assert met.names == ("clean", "fog 2")


def test_any_order_takes_every_corruption_at_every_severity() -> None:
    mixed = parse("lean-tta", "size=paper,length=150", Options(method="lean", stream="mixed", length=200))
    assert (mixed.network, mixed.layers) == ("resnet18", 20)
    parts = source.segments(mixed)
    assert {(one.corruption, one.severity) for one in parts[:75]} == {
        (kind, severity) for kind in cifar10.CORRUPTIONS for severity in range(1, 6)
    }
    assert len(parts) == 150


def test_the_record_changes_with_images_and_weights(folder: Path) -> None:
    def digest() -> str:
        return source.stream_and_data(PAPER)[1].digest

    first = digest()
    assert digest() == first
    network = settled()
    nn.init.zeros_(network.get_parameter("classifier.bias"))
    torch.save(network.state_dict(), folder / "networks" / "resnet18.pt")
    weights = digest()
    write = np.load(folder / "CIFAR-10-C" / "fog.npy")
    write[0, 0, 0, 0] ^= 1
    np.save(folder / "CIFAR-10-C" / "fog.npy", write)
    assert len({first, weights, digest()}) == 3


def test_norms_inside_blocks_are_replaced_and_yield_what_they_did() -> None:
    network, x = settled(), images(3)
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    source_like = networks.with_norms(network, lambda norm, _: networks.SampleNorm(norm, 1.0, 0.0))
    assert sum(isinstance(one, networks.SampleNorm) for one in source_like.modules()) == len(norms) == 6
    moving = networks.MovingNetwork(network)
    with torch.no_grad():
        for sample in x:
            logits = network(sample[None])
            assert torch.allclose(source_like(sample[None]), logits, atol=1e-5)
            assert torch.allclose(moving(sample[None]).output[:, :CLASSES], logits, atol=1e-5)
    first_two = networks.with_norms(network, lambda norm, n: nn.Identity() if n < 2 else norm)
    assert isinstance(first_two.get_submodule("stage1_block1.body.first.norm"), nn.Identity)
    assert isinstance(first_two.get_submodule("stage1_block1.body.second.norm"), nn.BatchNorm2d)


def test_distance_and_signature_are_those_of_every_norm_of_the_network() -> None:
    network, x = settled(), images(1)
    moving, seen, outputs = networks.MovingNetwork(network), [], []

    def keep(norm: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        statistics = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        mean, square = given[0].mean((0, 2, 3)), (given[0] ** 2).mean((0, 2, 3))
        off = (statistics[0] - mean, statistics[1] + statistics[0] ** 2 - square)
        seen.append(0.5 * sum(float((one**2).sum()) for one in off))
        outputs.append(output.mean((2, 3)))

    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_hook(keep)
    with torch.no_grad():
        network(x)
        made = moving(x)
    assert float(made.penalty) == pytest.approx(sum(seen), rel=1e-4)
    assert torch.allclose(made.output[:, CLASSES:], outputs[1], atol=1e-5), "the second norm's"


def test_moments_of_images_normalise_them_as_batch_statistics_do() -> None:
    network, x = settled(), images(16)
    moving = networks.MovingNetwork(network)
    reference.load(moving, reference.moments_of(networks.MovingNetwork(network), x))
    batch = networks.with_norms(network, networks.batch_norm_of_batch)
    with torch.no_grad():
        assert torch.allclose(moving(x).output[:, :CLASSES], batch(x), atol=1e-4)


@needs_host_compiler
def test_leantta_of_a_users_network_answers_as_pytorch_does(folder: Path) -> None:
    variant = "size=paper,stream=shifts,length=6,layers=6,precision=float32"
    made = get("lean-tta").prepare(folder / "cache", variant)
    assert made.facts[0].startswith("Method lean, your resnet18, float32")
    assert made.parameters["network"] == "resnet18"
    samples = np.frombuffer(made.job.blob, np.float32).reshape(made.job.count, 32, 32, 3)
    outputs = HostModel(made.model, folder).run(samples)
    scores = {score.metric: score.value for score in made.check(outputs.view(np.int8))}
    assert scores["output_error"] < 1e-5
    network = folded(settled())
    with torch.no_grad():
        unadapted = network(torch.from_numpy(samples.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(outputs.reshape(made.job.count, -1).view(np.float32) - unadapted).max() > 1e-3, "it adapts"


@needs_host_compiler
def test_leantta_in_int8_fuses_the_deep_half_of_a_users_network(folder: Path) -> None:
    made = get("lean-tta").prepare(folder / "cache", "size=paper,stream=shifts,length=6,layers=3")
    assert [one.operator for one in made.model.layers].count("sample_norm") == 3
    assert "add" in {one.operator for one in made.model.layers}, "of the blocks"
    samples = np.frombuffer(made.job.blob, np.int8).reshape(made.job.count, 32, 32, 3)
    scores = {score.metric: score.value for score in made.check(HostModel(made.model, folder).run(samples))}
    assert scores["output_error"] < 0.1
    assert parse("lean-tta", "size=paper", WORKLOAD.defaults).layers == 10


def test_on_demand_compiles_blocks_and_takes_source_states_of_training_images(folder: Path) -> None:
    made = get("od-tta").prepare(folder / "cache", "size=paper,length=6,cached=4,states=2")
    assert made.model.training is not None
    assert len(made.model.training.variables) == 12, "two of each norm"
    signature = made.model.output.size // 4 - CLASSES
    assert signature == 4, "channels of the second norm"
    assert len(made.job.blobs["pool"]) == 2 * 4 * (signature + made.model.training.variables_bytes // 4)
    assert made.check(made.reference_outputs)
    noise, light = (paper_size.shifted(kind, 3) for kind in ("gauss", "brightness"))
    assert noise.shape == (EACH, 3, 32, 32)
    clean = paper_size.shifted("clean", 1)
    assert np.array_equal(clean, cifar10.normalised(cifar10.cifar10(cifar10.TRAINING[:1]).samples))
    assert (light - clean).mean() > 0.5
    assert noise.std() > clean.std()


def other_images(folder: Path) -> None:
    np.save(folder / "CIFAR-10-C" / "labels.npy", np.tile((np.arange(EACH) + 1).astype(np.uint8) % 10, 5))


@pytest.mark.parametrize(
    ("damage", "variant", "told"),
    [
        (other_images, "", "are not of the same test images: 20 and 20 labels differ"),
        (lambda folder: (folder / "networks" / "resnet18.pt").unlink(), "", "resnet18.pt cannot be read"),
        (lambda folder: None, ",stream=mixed", r"\w+\.npy cannot be read"),
        (lambda folder: None, ",method=tent,batch=7", "no whole number of batches of 7"),
        (lambda folder: (folder / "CIFAR-10-C" / "fog.npy").unlink(), "", "fog.npy cannot be read"),
        (lambda folder: None, ",method=eco,network=wrn-40-2", "wrn-40-2.pt cannot be read"),
        (lambda folder: None, ",method=cema,batch=4", "resnet101.pt cannot be read"),
        (lambda folder: None, ",layers=21", "layers=21 is not allowed"),
    ],
)
def test_what_the_papers_size_lacks_is_said(
    folder: Path, damage: Callable[[Path], None], variant: str, told: str
) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=told):
        get("od-tta").prepare(folder / "cache", f"size=paper,length=24{variant}")


def test_a_class_without_images_is_said(folder: Path) -> None:
    path = folder / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[: 3 * 3073])
    with pytest.raises(ConfigError, match="no test image of the class 7"):
        paper_size.stream((Segment("clean", 1, 3),), only=7)
