"""``network=yamnet``, sizes of a transformer and ``data=urbansound8k`` of the continual workloads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.continual_folders import write_urbansound8k
from helpers.learner_runs import losses_of
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.continual import tasks
from lab.workloads.continual.base import network_of
from lab.workloads.continual.networks import Gated, extractor, widths_of
from lab.workloads.continual.options import parse
from lab.workloads.continual.vit import PatchFeatures
from lab.workloads.data import urbansound8k, yamnet_patches
from lab.workloads.networks import yamnet as networks
from lab.workloads.networks.attention import SelfAttention

PATCH = (1, 96, 64)


def settled(network: nn.Module) -> nn.Module:
    """With statistics as if it had been trained."""
    torch.manual_seed(4)
    for one in network.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean, one.running_var = 0.1 * torch.randn(one.num_features), 0.5 + torch.rand(one.num_features)
            one.bias.data = 0.3 * torch.randn(one.num_features)
    return network.eval()


def test_it_has_the_published_size() -> None:
    """3.7 M weights and 69.2 M multiplies a patch, says its page; and by hand."""
    with torch.device("meta"):
        network = networks.yamnet()
    convolutions = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
    weights = sum(one.weight.numel() for one in convolutions) + 1024 * 521
    offsets = sum(one.out_channels for one in convolutions) + 521
    # Weights, and of batch norm an offset, a mean and a variance: scales are not the published ones'.
    assert weights + offsets == 3_729_481
    side, multiplies = {1: (48, 32), 3: (24, 16), 5: (12, 8), 7: (6, 4), 13: (3, 2)}, 1024 * 521
    for name, one in network.named_modules():
        if isinstance(one, nn.Conv2d):
            at = max(number for number in side if number <= int(name.split(".")[0].removeprefix("layer")))
            multiplies += one.weight.numel() * side[at][0] * side[at][1]
    assert multiplies == 69_165_056
    assert len(convolutions) == 27


def test_strides_pad_as_tensorflow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an even side: nothing in front and one zero behind."""
    monkeypatch.setattr(networks, "ROWS", ((4, 2),))
    monkeypatch.setattr(networks, "STEM_CHANNELS", 3)
    network = settled(networks.yamnet())
    x = torch.randn(2, 1, 8, 12)
    made = x
    tensors = iter(network.state_dict().values())
    for stride, groups in ((2, 1), (2, 3), (1, 1)):
        weight, scale, offset, mean, variance, _ = (next(tensors) for _ in range(6))
        padded = functional.pad(made, (0, 1, 0, 1)) if stride == 2 else made
        made = functional.conv2d(padded, weight, stride=stride, groups=groups)
        made = functional.batch_norm(made, mean, variance, scale, offset, eps=1e-4).relu()
    assert made.shape == (2, 4, 2, 3)
    logits = functional.linear(made.mean((2, 3)), next(tensors), next(tensors))
    with torch.no_grad():
        torch.testing.assert_close(network(x), logits)
        assert isinstance(network, nn.Sequential)
        torch.testing.assert_close(networks.embedding(network)(x), made.mean((2, 3)))


def by_hand(wave: np.ndarray[tuple[int], np.dtype[np.float64]], frame: int) -> list[float]:
    """A frame of the published front end, band by band: HTK's mel scale in natural logarithms, as TensorFlow has it."""
    cut = wave[160 * frame : 160 * frame + 400] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    times = np.arange(400)
    bins = [abs(np.sum(cut * np.exp(-2j * np.pi * number * times / 512))) for number in range(257)]
    places = 1127 * np.log(1 + np.arange(257) * 16_000 / 512 / 700)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    bands = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        slopes = np.minimum((places - low) / (middle - low), (high - places) / (high - middle))
        bands.append(float(np.log(np.sum(np.maximum(0, slopes) * bins) + 0.001)))
    return bands


def test_patches_are_the_published_ones() -> None:
    wave = np.random.default_rng(5).normal(0, 0.1, 16_000)
    wave[12_000:] *= 20
    found = yamnet_patches.patches(wave)
    assert found.shape == (2, 96, 64), "the second is made whole by zeros"
    assert found[0, 7] == pytest.approx(by_hand(wave, 7), abs=1e-4)
    assert found[1, 40] == pytest.approx(by_hand(wave, 88), abs=1e-4)
    assert np.array_equal(yamnet_patches.loudest(wave), found[0]), "most of the second is silence"
    assert yamnet_patches.patches(wave[:15_600]).shape[0] == 1
    assert yamnet_patches.patches(wave[:500]).shape[0] == 1
    assert yamnet_patches.patches(np.zeros(5 * 16_000)).shape[0] == 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with UrbanSound8K."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    write_urbansound8k(tmp_path, each=3)
    return tmp_path


def test_city_noises_are_parted_and_shown_as_each_network_takes_them(folder: Path) -> None:
    found = tasks.load("urbansound8k")
    assert found.known.names == tuple(f"noise_{number}" for number in range(5))
    assert found.unseen.names == tuple(f"noise_{number}" for number in range(5, 10))
    assert found.unseen.images.shape == (5, 3, 1, 128, 85), "MetaCLBench's"
    assert np.abs(found.known.samples.mean(3)).max() < 1e-3, "each band by itself"
    assert found.known.samples.std() == pytest.approx(1, abs=1e-3)
    shown = tasks.load("urbansound8k", patches=True)
    assert shown.known.images.shape == (5, 3, *PATCH)
    clip = urbansound8k.load(16_000).samples[4].astype(np.float64) / 32_768
    assert np.array_equal(shown.known.images[1, 1, 0], yamnet_patches.loudest(clip))
    assert tasks.digest("urbansound8k") == urbansound8k.digest()


def test_the_device_learns_behind_the_users_yamnet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow one, under other names for its tensors."""
    monkeypatch.setattr(networks, "ROWS", ((8, 1), (8, 2), (12, 2)))
    monkeypatch.setattr(networks, "STEM_CHANNELS", 8)
    asked = "size=paper,data=urbansound8k,network=yamnet,method=pretrained,classes=3,shots=1,questions=1,rate=0.01"
    with pytest.raises(ConfigError, match=r"no folder .*networks"):
        get("metacl-bench").prepare(folder / "cache", asked)
    theirs = settled(networks.yamnet())
    (folder / "networks").mkdir()
    state = {f"module.{number}": one for number, one in enumerate(theirs.state_dict().values()) if one.dim()}
    torch.save(state, folder / "networks" / "yamnet.pt")
    given = get("metacl-bench").prepare(folder / "cache", asked)
    assert given.training is not None
    assert given.dataset.name == "UrbanSound8K"
    assert given.model.input.shape == (1, 96, 64, 1)
    host = HostTraining(given.model, folder)
    scores = {one.metric: one.value for one in given.training.check(losses_of(given, host), host.raw_variables())}
    assert scores["update_error"] < 1e-4
    # The latents that it has learnt from are theirs: a step from zero leaves the classifier along them.
    with torch.no_grad():
        own = networks.embedding(theirs)(torch.from_numpy(tasks.load("urbansound8k", True).unseen.images).flatten(0, 1))
    variables = given.model.training.variables if given.model.training else ()
    assert [one.shape for one in variables if one.name == "classifier.weight"] == [(12, 3)]
    assert given.model.training is not None
    row = given.model.training.to_torch(host.raw_variables())["classifier.weight"][0]
    cosines = functional.cosine_similarity(torch.from_numpy(row)[None], own - own.mean(0), dim=1)
    assert float(cosines.max()) > 0.5


def test_behind_a_gate_it_is_the_users_trunk() -> None:
    features = nn.Sequential(nn.Flatten(), nn.Linear(96 * 64, 5), nn.ReLU())
    gated = extractor("anml", "yamnet", PATCH, widths_of("paper", 0.05), features=features).eval()
    assert isinstance(gated, Gated)
    assert gated.features is features
    assert gated(torch.randn(2, *PATCH)).shape == (2, 5)


def test_a_transformer_has_the_sizes_that_the_user_gives(folder: Path) -> None:
    sizes = "depth=2,heads=4,embed=8,patch=40"
    asked = parse("metacl-bench", f"size=paper,data=urbansound8k,network=vit,{sizes},method=pretrained,meta=1")
    known = tasks.Classes(np.zeros((2, 2, 128, 85), np.float32), ("a", "b"))
    made, _ = network_of(asked, known, folder / "cache")
    assert isinstance(made, PatchFeatures)
    assert made.positions.shape == (1, 6, 8), "3 by 2 patches; what is left over is not seen"
    assert made.patches.kernel_size == (40, 40)
    assert len(made.blocks) == 2
    blocks = [one for one in made.modules() if isinstance(one, SelfAttention)]
    assert [one.heads for one in blocks] == [4, 4]
    other, _ = network_of(replace(asked, depth=1), known, folder / "cache")
    assert isinstance(other, PatchFeatures)
    assert len(other.blocks) == 1, "not the one that is cached"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper,network=yamnet", "network=yamnet takes recordings; data=cifar-100 has none"),
        ("network=yamnet", "network=yamnet is not allowed"),
        ("network=vit,depth=2", "depth=2 is not allowed"),
        ("size=paper,depth=2", "depth=2 is a size of a transformer, not of cnn"),
        ("size=paper,network=vit,embed=10", "3 heads cannot share tokens of embed=10 elements"),
        ("size=paper,network=vit,heads=4", "4 heads cannot share tokens of embed=0"),
        ("size=paper,network=vit,patch=33", "a patch of 33 pixels is larger than data=cifar-100"),
    ],
)
def test_what_cannot_be_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("lifelearner", text)
    assert told in str(caught.value)
