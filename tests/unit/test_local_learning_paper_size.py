"""``size=paper`` of lls and tpsgd: their convolutional networks and a perceptron on a user's images, few and narrow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_cifar10, write_mnist
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.joint import Penalised
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.networks.local_conv import SHAPES, ConvName, LocalConv
from lab.workloads.networks.local_mlp import EPSILON, TEMPERATURE, Rule, periodic_basis
from lab.workloads.options import read_sized
from lab.workloads.training import lls, tpsgd
from lab.workloads.training.local_learning import Variant, network_of

LABELS = torch.tensor([2, 7])


def small_conv(rule: Rule, channels: int = 4, name: ConvName = "small-conv") -> LocalConv:
    torch.manual_seed(5)
    return LocalConv(name, 3, channels, 10, rule, seed=7)


def images(count: int = 2) -> torch.Tensor:
    return torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def test_small_conv_has_the_published_layers() -> None:
    module = small_conv("backprop", 32)
    shapes = [tuple(one.shape) for one in module.parameters() if one.dim() > 1]
    assert shapes == [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (512, 512), (10, 512)]
    assert sum(one.numel() for one in module.parameters()) == 361_258
    # Of the latents that meet the basis: averages of 4x4, 2x2 and 2x2 maps, and all units of the linear layer.
    assert module.latents == (32 * 16, 64 * 4, 128 * 4, 512)


@pytest.mark.parametrize(
    ("name", "parameters", "latents"),
    [
        # 3x3 kernels, two values a channel of the norms, 2048 -> 1024 -> 10.
        (
            "vgg8",
            9 * 128 * (3 + 256 + 2 * 512 + 1024 + 2048) + 2 * 128 * (1 + 2 + 2 + 2 + 4 + 4) + 2049 * 1024 + 10250,
            (128 * 16, 256 * 4, 256 * 4, 256 * 4, 512 * 4, 512 * 4, 1024),
        ),
        # MobileNetV1 of the usual 3,206,976 values in front of a classifier of 10.
        ("mobilenet", 3_206_976 + 10250, (32 * 64, 64 * 16, 128 * 16, 128 * 16, 256 * 4, 256 * 4, *(512 * 4,) * 6, 1024,
                                          1024)),
    ],
)  # fmt: skip
def test_larger_networks_have_the_published_layers(name: ConvName, parameters: int, latents: tuple[int, ...]) -> None:
    module = small_conv("backprop", 128 if SHAPES[name].units else 32, name)
    assert sum(one.numel() for one in module.parameters()) == parameters
    assert module.latents == latents
    assert small_conv("backprop", 4, name)(images()).shape == (2, 10)


def test_batch_norm_is_behind_every_layer_but_the_classifier() -> None:
    torch.manual_seed(5)
    module = LocalConv("small-conv", 3, 32, 10, "backprop", seed=7, norm="batch")
    norms = [one.num_features for one in module.modules() if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert norms == [32, 64, 128, 512]
    # Scale and shift of the linear layer's in place of its bias.
    assert sum(one.numel() for one in module.parameters()) == 361_258 + 512
    torch.manual_seed(5)
    single = LocalConv("small-conv", 3, 32, 10, "backprop", seed=7)
    weights = [[one for one in net.parameters() if one.dim() > 1] for net in (module, single)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*weights, strict=True))


def by_hand(module: LocalConv, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the hidden layers, each from the detached one before it."""
    outputs = []
    for number, layer in enumerate(module.hidden):
        if number == 3:
            x = functional.linear(x.flatten(1), layer.get_parameter("weight"), layer.get_parameter("bias"))
        else:
            x = functional.conv2d(x, layer.get_parameter("0.weight"), padding=1)
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
            scale, offset = (layer.get_parameter(f"1.{one}")[:, None, None] for one in ("weight", "bias"))
            x = (x - mean) / torch.sqrt(variance + 1e-5) * scale + offset
        x = x * torch.sigmoid(x)
        outputs.append(x)
        x = x.detach()
        x = functional.max_pool2d(x, 2) if number < 2 else x
        x = functional.avg_pool2d(x, 4) if number == 2 else x
    return outputs


def test_the_periodic_loss_of_maps_is_cross_entropy_of_cosines_of_their_averages() -> None:
    module = small_conv("periodic")
    made = module(images())
    assert isinstance(made, Penalised)
    expected = torch.zeros(())
    for output, side in zip(by_hand(module, images()), (4, 2, 2, 0), strict=True):
        latent = functional.avg_pool2d(output, output.shape[2] // side).flatten(1) if side else output
        cosine = functional.normalize(latent, dim=1, eps=EPSILON) @ periodic_basis(10, latent.shape[1]).T
        expected = expected + functional.cross_entropy(cosine / TEMPERATURE, LABELS)
    torch.testing.assert_close(made.of(LABELS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["periodic", "projection"])
def test_no_gradient_passes_from_map_to_map(rule: Rule) -> None:
    module = small_conv(rule)
    made = module(images())
    assert isinstance(made, Penalised)
    functional.cross_entropy(made.output, LABELS).backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is None for name, one in module.named_parameters() if name.startswith("hidden."))
    made.of(LABELS).backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is not None for one in module.parameters())


def test_images_in_one_step_do_not_change_each_others_answers() -> None:
    """Maps are normalised by themselves: what a device learns from one image is what a batch would."""
    module = small_conv("backprop")
    both, first = module(images()), module(images()[:1])
    assert isinstance(both, torch.Tensor)
    torch.testing.assert_close(both[:1], first)


@needs_host_compiler
@pytest.mark.parametrize(
    ("workload", "text", "data"),
    [
        ("lls", "channels=4,data=cifar10,batch=4", "CIFAR-10, binary version"),
        ("tpsgd", "network=small-conv,channels=4,data=kmnist", "Kuzushiji-MNIST"),
    ],
)
def test_the_c_learns_the_users_images_as_pytorch_does(folder: Path, workload: str, text: str, data: str) -> None:
    write_cifar10(folder)
    write_mnist(folder, "kmnist")
    prepared = get(workload).prepare(folder / "cache", f"size=paper,samples=12,evaluated=5,{text}")
    plan = prepared.training
    assert plan is not None
    # Whole batches: three of four, with batch norm, of which one is asked; or single images.
    batch = 4 if workload == "lls" else 1
    assert (prepared.dataset.name, prepared.dataset.samples) == (data, 5 // batch * batch)
    samples = np.frombuffer(plan.job.blob, np.float32).reshape(plan.job.count, batch, -1)
    assert samples.shape == (12 // batch, batch, 3 * 32 * 32 if workload == "lls" else 32 * 32)
    targets = np.frombuffer(plan.job.blobs["targets"], np.int32).reshape(-1, batch)
    host = HostTraining(prepared.model, folder)
    rate = float(plan.job.parameters["lr"])
    losses = [host.step(one, targets[n], rate) for n, one in enumerate(samples)]
    statistics = {name for name in host.raw_variables() if name.endswith(("running_mean", "running_var"))}
    assert len(statistics) == (8 if workload == "lls" else 0), "of three convolutions and the linear layer"
    scores = {one.metric: one.value for one in plan.check(np.array(losses, np.float32), host.raw_variables())}
    assert scores["update_error"] < 1e-4
    figures = {one.metric: one.value for one in prepared.figures}
    assert figures["macs.local"] == (4 * (16 + 8 + 16 + 16) * 10 if workload == "lls" else 0)


def test_networks_are_those_of_the_variants() -> None:
    conv = network_of(Variant("paper", "fashion-mnist", network="small-conv", channels=4), "periodic")
    assert conv(torch.zeros(1, 1, 32, 32)).output.shape == (1, 10)
    mlp = network_of(Variant("paper", "cifar10", depth=2, width=64, update="full"), "projection")
    assert mlp(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert [tuple(one.get_parameter("weight").shape) for one in mlp.hidden] == [(64, 3072), (64, 64)]
    assert not any(isinstance(one, nn.GroupNorm) for one in mlp.modules())


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("lls", "size=paper,channels=5", "4, 8, 16, 32"),
        ("lls", "size=paper,depth=3", "depth=3 is of another network than small-conv"),
        ("lls", "channels=4", "channels=4 is of another network than mlp"),
        ("lls", "network=vgg8", "others with size=paper"),
        ("lls", "network=small-conv", "two machines' ways part"),
        ("lls", "modulation=row", "none, class, matrix"),
        ("lls", "network=small-conv,norm=batch", "one image has no statistics of a batch"),
        ("lls", "norm=batch,batch=8", "norm=batch is of another network than mlp"),
        ("lls", "batch=64,samples=63", "a smaller batch=, or more images"),
        ("tpsgd", "batch=2", "1: one image a step"),
        ("tpsgd", "modulation=class", "modulation=class is not allowed"),
        ("tpsgd", "layers=backwards", "together, one-by-one"),
        ("lls", "data=cifar10", "others with size=paper"),
        ("tpsgd", "size=paper,width=2048", "512, 1024"),
        ("tpsgd", "size=paper,samples=50001", "1 to 50000"),
    ],
)
def test_options_of_the_other_size_are_refused(folder: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        get(name).prepare(folder / "cache", text)
    assert told in str(refused.value)


def test_without_options_the_sizes_are_the_papers() -> None:
    assert read_sized("lls", lls.SIZES, "size=paper") == lls.PAPER
    assert read_sized("tpsgd", tpsgd.SIZES, "size=paper,update=full") != tpsgd.PAPER
    assert read_sized("tpsgd", tpsgd.SIZES, "") == tpsgd.DEFAULT
