"""``size=paper`` of EcoTTA and CEMA: the papers' networks against their published form, both on tiny real formats."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_cifar10, write_cifar10_c
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostModel
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.adaptation import cema, cloud, eco_tta, meta_networks, methods, paper_size, reference, source
from lab.workloads.adaptation.cloud import ReceivingNetwork
from lab.workloads.adaptation.options import PAPER_SHIFTS, Options, parse
from lab.workloads.networks import ResNet, WideResNet, resnet18, resnet101, weight_files
from lab.workloads.networks.blocks import conv2d
from lab.workloads.networks.wide_resnet import PreactivatedBlock

EACH = 20
NARROW = ((4, 4, 1), (4, 4, 1), (4, 6, 2), (6, 8, 2))
TAIL = ("norm", "relu", "pool", "flatten", "classifier")
ECO = "size=paper,length=8,batch=8,epochs=1"
CEMA = "size=paper,length=8,batch=4,upload=all"


def narrow(name: str) -> nn.Sequential:
    """What stands for the papers' networks, whose compilation takes minutes; the blocks are theirs."""
    if name == "wrn-40-2":
        layers = [conv2d(3, 4, 3), *(PreactivatedBlock(*one) for one in NARROW)]
        names = ["stem", "stage1_block1", "stage1_block2", "stage2_block1", "stage3_block1"]
        body = OrderedDict(zip(names, layers, strict=True))
        tail = [nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
        return nn.Sequential(body | OrderedDict(zip(TAIL, tail, strict=True)))
    return ResNet((4, 6), 1, 10) if name == "resnet18" else ResNet((4, 6), 1, 10, bottleneck=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with 20 images a file and a network for each name."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    monkeypatch.setattr(paper_size, "untrained", narrow)
    write_cifar10(tmp_path, EACH)
    write_cifar10_c(tmp_path, EACH, PAPER_SHIFTS.split("+"))
    (tmp_path / "networks").mkdir()
    for name in ("wrn-40-2", "resnet18", "resnet101"):
        torch.save(settled(name).state_dict(), tmp_path / "networks" / f"{name}.pt")
    return tmp_path


def settled(name: str) -> nn.Sequential:
    """Random weights, statistics of random images."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = narrow(name).train()
        with torch.no_grad():
            for _ in range(8):
                network(torch.randn(8, 3, 32, 32))
    return network.eval()


# ---- the papers' networks ----


def published_wide(depth: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a checkpoint of AugMix, in order; without counters."""

    def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((f"{name}.{own}", (channels,)) for own in ("weight", "bias", "running_mean", "running_var"))

    yield "conv1.weight", (16, 3, 3, 3)
    inputs = 16
    for stage, outputs in enumerate((16 * width, 32 * width, 64 * width), 1):
        for layer in range((depth - 4) // 6):
            place = f"block{stage}.layer.{layer}"
            yield from norm(f"{place}.bn1", inputs)
            yield f"{place}.conv1.weight", (outputs, inputs, 3, 3)
            yield from norm(f"{place}.bn2", outputs)
            yield f"{place}.conv2.weight", (outputs, outputs, 3, 3)
            if inputs != outputs:
                yield f"{place}.convShortcut.weight", (outputs, inputs, 1, 1)
            inputs = outputs
    yield from norm("bn1", inputs)
    yield from (("fc.weight", (10, inputs)), ("fc.bias", (10,)))


def test_a_published_wide_network_is_taken_and_computes_what_its_tensors_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its forward pass written down with PyTorch's functions alone, from the checkpoint's own names."""
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.rand(shape, generator=generator) + 0.1 for name, shape in published_wide(10, 2)}
    state = {name: (one - 0.6) * 0.3 if one.ndim == 4 else one for name, one in state.items()}
    (tmp_path / "networks").mkdir()
    torch.save(state, tmp_path / "networks" / "wide.pt")
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    network = WideResNet(10, 2).eval()
    weight_files.load(network, "wide")
    x = torch.randn(2, 3, 32, 32, generator=generator)

    def activated(name: str, x: torch.Tensor) -> torch.Tensor:
        own = [state[f"{name}.{one}"] for one in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *own).relu()

    y = functional.conv2d(x, state["conv1.weight"], padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        place = f"block{stage}.layer.0"
        first = activated(f"{place}.bn1", y)
        inner = functional.conv2d(first, state[f"{place}.conv1.weight"], stride=stride, padding=1)
        inner = functional.conv2d(activated(f"{place}.bn2", inner), state[f"{place}.conv2.weight"], padding=1)
        y = inner + functional.conv2d(first, state[f"{place}.convShortcut.weight"], stride=stride)
    expected = functional.linear(activated("bn1", y).mean((2, 3)), state["fc.weight"], state["fc.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)


def test_the_papers_networks_have_the_published_sizes() -> None:
    wide = paper_size.untrained("wrn-40-2")
    shapes = [tuple(one.shape) for key, one in wide.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert shapes == [shape for _, shape in published_wide(40, 2)]
    counts = {name: sum(one.numel() for one in network.parameters())
              for name, network in (("wide", wide), ("18", resnet18()), ("101", resnet101()))}  # fmt: skip
    # WideResNet-40-2: 2.2 million (Zagoruyko and Komodakis, table 4); ResNet-101 as published for CIFAR-10: 42.5.
    assert counts == {"wide": 2_243_546, "18": 11_173_962, "101": 42_512_970}
    with pytest.raises(ValueError, match=r"6n \+ 4 layers, not 12"):
        WideResNet(12, 1)


def test_a_bottleneck_block_is_its_three_convolutions_around_which_the_input_goes() -> None:
    network, x = settled("resnet101"), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state = network.state_dict()

    def normed(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel = state[f"{name}.conv.weight"]
        y = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2)
        own = [state[f"{name}.norm.{one}"] for one in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(y, *own)

    y = normed("stem", x).relu()
    for place, stride in (("stage1_block1", 1), ("stage2_block1", 2)):
        inner = normed(f"{place}.body.second", normed(f"{place}.body.first", y).relu(), stride).relu()
        y = (normed(f"{place}.body.third", inner) + normed(f"{place}.shortcut", y, stride)).relu()
    assert y.shape == (2, 24, 16, 16)
    expected = functional.linear(y.mean((2, 3)), state["classifier.weight"], state["classifier.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)


# ---- EcoTTA ----


def test_parts_are_the_papers_and_their_meta_networks_follow_their_strides() -> None:
    wide = paper_size.untrained("wrn-40-2")
    # The stem and 3 blocks, 3, 6, 6 (EcoTTA, section 3.1); of ResNet-18 the stages.
    assert meta_networks.part_ends(wide) == (4, 7, 13, 19)
    assert meta_networks.part_ends(paper_size.untrained("resnet18-w16")) == (3, 5, 7, 9)
    made = meta_networks.MetaNetwork(wide)
    convolutions = [part.conv for part in made.parts if isinstance(part, meta_networks.MetaPart)]
    assert [(one.in_channels, one.out_channels, one.stride[0]) for one in convolutions] == [
        (3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 128, 2),
    ]  # fmt: skip
    assert [type(one).__name__ for one in made.tail] == [
        "BatchNorm2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="2 stages, the first of 1 blocks, do not make 4 parts"):
        meta_networks.part_ends(ResNet((4, 6), 1, 10))


def test_every_size_has_the_network_and_the_batch_of_its_paper() -> None:
    eco, by_host = (parse("x", "size=paper", one.WORKLOAD.defaults) for one in (eco_tta, cema))
    assert (eco.network, eco.batch, eco.epochs) == ("wrn-40-2", 64, 10)
    assert (by_host.network, by_host.foundation, by_host.batch) == ("resnet18", "resnet101", 32)
    lean = parse("x", "size=paper", Options(method="lean", stream="mixed", length=8))
    assert (lean.network, lean.layers) == ("resnet18", 20)


def test_images_are_on_the_scale_of_the_network_that_takes_them() -> None:
    levels = np.stack([np.full((3, 2, 2), level, np.uint8) for level in (0, 255)])
    np.testing.assert_array_equal(paper_size.taken(levels, "wrn-40-2")[:, 0, 0, 0], [-1, 1])
    assert paper_size.taken(levels, "resnet18")[0, 0, 0, 0] == pytest.approx(-0.4914 / 0.2470)


@needs_host_compiler
def test_ecotta_warms_up_on_the_users_images_and_answers_as_pytorch_does(folder: Path) -> None:
    """What adaptation starts from: with all its compilations the method itself takes five times as long."""
    made = get("eco-tta").prepare(folder / "cache", f"{ECO},method=meta")
    assert made.facts[0].startswith("Method meta, your wrn-40-2, float32")
    samples = np.frombuffer(made.job.blob, np.float32).reshape(-1, 8, 32, 32, 3)
    assert len(samples) == made.job.count == 4
    assert samples.min() >= -1
    assert samples.max() <= 1
    outputs = HostModel(made.model, folder).run(samples)
    assert {score.metric: score.value for score in made.check(outputs.view(np.int8))}["output_error"] < 1e-5


def test_ecotta_steps_move_the_meta_networks_of_residual_parts_alone() -> None:
    network = meta_networks.MetaNetwork(settled("wrn-40-2"))
    before = {name: one.detach().clone() for name, one in network.named_parameters()}
    with torch.no_grad():
        dict(network.named_parameters())["tail.4.weight"].mul_(100)
        before["tail.4.weight"] *= 100
    found = reference.eco(network, torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 8, 0.1)
    moved = {name for name, one in network.named_parameters() if not torch.equal(one, before[name])}
    assert moved == set(found.variables) == set(meta_networks.meta_names(network))
    assert len(moved) == 4 * 5


def test_the_warm_up_learns_the_training_images_on_the_networks_scale(folder: Path) -> None:
    options = parse("eco-tta", ECO, eco_tta.WORKLOAD.defaults)
    learnt, labels = source.learnt_images(options)
    assert learnt.shape == (5 * EACH, 3, 32, 32)
    assert labels.bincount().tolist() == [10] * 10
    file = np.frombuffer((folder / "cifar-10-batches-bin" / "data_batch_2.bin").read_bytes(), np.uint8)
    first = file[1:3073].reshape(3, 32, 32).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(learnt[EACH], first, atol=1e-6)
    plain = methods.meta_network(options, settled("wrn-40-2"), folder / "cache")
    assert plain.parts[0].conv.weight.shape == (4, 3, 3, 3)


# ---- CEMA ----


def test_cema_is_taught_by_the_users_foundation_and_sends_every_norm_of_blocks(folder: Path) -> None:
    made = get("cema").prepare(folder / "cache", CEMA)
    norms = sum(isinstance(one, nn.BatchNorm2d) for one in settled("resnet18").modules())
    names = set(ReceivingNetwork(settled("resnet18")).received_names())
    assert made.model.training is not None
    assert {one.name for one in made.model.training.variables} == names
    assert len(names) == 2 * norms == 12
    assert any("network resnet101 teaches" in fact for fact in made.facts)
    scores = {one.metric: one.value for one in made.check(made.reference_outputs)}
    assert scores["agreement"] == 1
    outputs = made.reference_outputs.view(np.float32).reshape(made.job.count, -1)[:, :10]
    samples = np.frombuffer(made.job.blob, np.float32).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    with torch.no_grad():
        unadapted = settled("resnet18")(torch.from_numpy(samples.copy())).numpy()
    np.testing.assert_allclose(outputs[:4], unadapted[:4], atol=1e-4, err_msg="before the first round")
    assert np.abs(outputs[4:] - unadapted[4:]).max() > 1e-3, "what comes back is used"


def test_the_paper_keeps_ten_thousand_uploads_and_follows_slowly(folder: Path) -> None:
    assert (cloud.FOLLOWED, cloud.KEPT, cloud.REPLAYED_ALONE) == (0.1, 10_000, 4)
    host = methods.cloud_of(parse("cema", CEMA, cema.WORKLOAD.defaults), folder / "cache")
    x = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
    before = settled("resnet18").get_submodule("stem.norm")
    assert isinstance(before, nn.BatchNorm2d)
    for begin in range(0, 16, 4):
        assert host.take(list(x[begin : begin + 4])) is not None
    assert host.take([]) is not None, "four batches are enough for replay"


def test_records_change_with_whatever_is_read(folder: Path) -> None:
    def digest(workload: str, variant: str) -> str:
        own = {"eco-tta": eco_tta, "cema": cema}[workload].WORKLOAD.defaults
        return source.stream_and_data(parse(workload, variant, own))[1].digest

    first = digest("eco-tta", ECO), digest("cema", CEMA)
    other = settled("resnet101")
    nn.init.zeros_(other.get_parameter("classifier.bias"))
    torch.save(other.state_dict(), folder / "networks" / "resnet101.pt")
    assert digest("eco-tta", ECO) == first[0]
    assert digest("cema", CEMA) != first[1]
    path = folder / "cifar-10-batches-bin" / "data_batch_4.bin"
    changed = bytearray(path.read_bytes())
    changed[1] ^= 1
    path.write_bytes(changed)
    assert digest("eco-tta", ECO) != first[0]


@pytest.mark.parametrize(
    ("lost", "workload", "variant"),
    [
        ("networks/wrn-40-2.pt", "eco-tta", ECO),
        ("cifar-10-batches-bin/data_batch_3.bin", "eco-tta", ECO),
        ("networks/resnet101.pt", "cema", CEMA),
        ("CIFAR-10-C/fog.npy", "cema", CEMA),
    ],
)
def test_a_file_that_is_lost_is_named(folder: Path, lost: str, workload: str, variant: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(ConfigError, match=f"{Path(lost).name} cannot be read") as told:
        get(workload).prepare(folder / "cache", variant)
    assert "LAB_DATA" in str(told.value.hint)
