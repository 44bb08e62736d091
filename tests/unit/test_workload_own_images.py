"""``size=paper`` of the training workloads: a user's network and images, with tiny ones in the real formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_images
from torch import nn

from lab.compiler.host import HostTraining
from lab.compiler.layer_costs import layer_list
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.networks import Bottleneck, BottleneckNet, folded, rep_net
from lab.workloads.networks.rep_net import Connector
from lab.workloads.training import own_images, sparse_update, tinytl
from lab.workloads.training.transfer_tasks import task_of

CLASSES = ("daisy", "poppy", "rose")
SMALL = "size=paper,data=flowers,image=64,samples=6,evaluated=5,target=0.1,rate=0.01"


def tiny(_: str, classes: int) -> nn.Module:
    """What stands for the paper's network, whose steps take seconds: two blocks of the same kind."""
    return BottleneckNet((3, 8), (Bottleneck(16, 8, stride=2), Bottleneck(16, 8)), classes)


TINY_SIDE = (Connector("block1", 3, 8, repeated=True, groups=1, pool=8, inner=8), Connector("block2", 8, 8, True))
"""Its side network, with the first of the paper's modules."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with three classes, and networks that know a thousand others."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    monkeypatch.setattr(own_images, "untrained", tiny)
    monkeypatch.setattr(rep_net, "PROXYLESSNAS_MOBILE", TINY_SIDE)
    write_images(tmp_path, "flowers", CLASSES)
    (tmp_path / "networks").mkdir()
    torch.manual_seed(3)
    network = tiny("", 1000).train()
    network(torch.randn(8, 3, 64, 64))
    for name in (*own_images.NETWORKS, own_images.MOBILE):
        torch.save(network.state_dict(), tmp_path / "networks" / f"{name}.pt")
    return tmp_path


def test_a_users_network_and_images_are_what_is_trained(folder: Path) -> None:
    task = task_of(sparse_update.parse(SMALL), folder)
    data = task.data()
    assert task.title == "mcunet on 64x64 pixels"
    assert data.turned.shape == (6 + 6, 3, 64, 64), "as many of each class as needed"
    assert data.turned.min() >= -1
    assert data.turned.max() <= 1
    assert sorted(data.labels[data.training].tolist()) == [0, 0, 1, 1, 2, 2]
    assert data.labels[data.training].tolist() != [0, 0, 1, 1, 2, 2], "in no order"
    assert not set(data.training) & set(data.held_out)
    network = task.backbone(data)
    written = torch.load(folder / "networks" / "mcunet.pt", weights_only=True)
    theirs = tiny("", 1000)
    theirs.load_state_dict(written)
    maps = [nn.Sequential(*list(one.children())[:-1]) for one in (network, folded(theirs))]
    with torch.no_grad():
        assert torch.allclose(maps[0](data.turned), maps[1](data.turned), atol=1e-5), "all but the last layer"
        assert network(data.turned).shape == (12, 3)


def test_the_record_names_the_users_data_and_changes_with_them(folder: Path) -> None:
    options = tinytl.parse(SMALL)
    first = task_of(options, folder).dataset
    assert first.name == "images of flowers"
    assert first.samples == 5
    assert task_of(options, folder).dataset == first
    torch.manual_seed(4)
    torch.save(tiny("", 7).state_dict(), folder / "networks" / "proxylessnas.pt")
    weights = task_of(options, folder).dataset.digest
    (folder / "images" / "flowers" / "train" / "rose" / "000.png").unlink()
    assert len({first.digest, weights, task_of(options, folder).dataset.digest}) == 3


@pytest.mark.parametrize(
    ("name", "update", "network"),
    [
        ("sparse-update", "bias", "mcunet"),
        ("tinytl", "lite+bias", "proxylessnas"),
        ("rep-net", "rep+bias", "proxylessnas-mobile"),
    ],
)
def test_the_c_trains_the_users_network_as_pytorch_does(
    folder: Path, name: str, update: str, network: str
) -> None:
    prepared = get(name).prepare(folder / "cache", f"{SMALL},update={update}")
    assert prepared.facts[0].startswith(f"{network} on 64x64 pixels")
    assert prepared.job.count == 5
    plan = prepared.training
    assert plan is not None
    dtype = np.dtype(np.int8 if name == "sparse-update" else np.float32)
    samples = np.frombuffer(plan.job.blob, dtype).reshape(plan.job.count, 1, -1)
    targets = np.frombuffer(plan.job.blobs["targets"], np.int32)
    host = HostTraining(prepared.model, folder)
    host.state.random = int(plan.job.parameters["seed"])
    losses = [host.step(one, targets[n : n + 1], float(plan.job.parameters["lr"])) for n, one in enumerate(samples)]
    scores = {one.metric: one.value for one in plan.check(np.array(losses, np.float32), host.raw_variables())}
    assert scores["update_error"] < 1e-4


def test_published_schemes_fit_the_networks_that_they_are_for() -> None:
    for name in own_images.NETWORKS:
        layers = [one for one in own_images.untrained(name, 10).modules() if isinstance(one, nn.Conv2d)]
        sizes = []
        for scheme in (own_images.sparse_scheme(name, one) for one in own_images.SCHEMES):
            assert max(scheme.weights) < len(layers)
            assert scheme.biases <= len(layers)
            sizes.append(sum(share * layers[number].weight.numel() for number, share in scheme.weights.items()))
        assert sizes == sorted(sizes)
        assert len(set(sizes)) == len(sizes), "each is another scheme"


def test_a_scheme_is_that_of_the_network(folder: Path) -> None:
    variant = replace(sparse_update.PAPER, data="flowers")
    layers = layer_list(folded(tiny("", 3).eval()), torch.zeros(1, 3, 64, 64))
    assert sparse_update.scheme_of(variant, layers).biases == 20, "the scheme of 49 kB"
    assert sparse_update.scheme_of(replace(variant, update="bias"), layers).biases == len(layers_with_weights(layers))
    assert sparse_update.scheme_of(replace(variant, update="last"), layers).biases == 0


def layers_with_weights(layers: tuple[object, ...]) -> list[object]:
    """Those before the classifier."""
    return [one for one in layers if getattr(one, "kind", "") in ("conv", "linear")][:-1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper", "data=NAME"),
        ("size=paper,data=tulips", r"there is no folder .*tulips"),
        ("size=paper,data=../flowers", "is no name of a folder of images"),
        ("size=paper,data=flowers,network=resnet", "proxylessnas"),
        ("size=paper,data=flowers,image=100", "64, 128, 192, 256"),
        ("size=paper,size=ci,data=flowers", "a folder of images with size=paper"),
    ],
)
def test_what_the_papers_size_lacks_is_said(folder: Path, text: str, told: str) -> None:
    for name in ("sparse-update", "tinytl", "rep-net"):
        with pytest.raises(ConfigError, match=told):
            get(name).prepare(folder / "cache", text)


def test_without_weights_or_data_it_is_said_where_they_belong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "networks" / "mcunet.pt").unlink()
    with pytest.raises(ConfigError, match=r"mcunet.pt cannot be read") as refused:
        get("sparse-update").prepare(folder / "cache", SMALL)
    assert "torch.save(network.state_dict()" in refused.value.hint
    monkeypatch.delenv("LAB_DATA")
    with pytest.raises(ConfigError, match="images of flowers is needed, and LAB_DATA is not set"):
        get("tinytl").prepare(folder / "cache", SMALL)
