"""``size=paper`` of early-exit and ur2m: the papers' networks on a user's idx files and recordings, tiny ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_mnist, write_speech_commands
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostModel
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.uncertainty import early_exit, paper_networks, paper_scenes, ur2m
from lab.workloads.uncertainty.networks import Converter, SoftmaxExits
from lab.workloads.uncertainty.paper_scenes import KEYWORDS, features, keywords_task, mnist_task, noisy
from lab.workloads.uncertainty.scenes import CLEAN, SHIFTED, UNKNOWN
from lab.workloads.uncertainty.training_runs import in_chunks

SMALL_LENET = "size=paper,epochs=1,samples=60,evaluated=20"
SMALL_KEYWORDS = "size=paper,epochs=1,samples=4,evaluated=10,width=32,precision=float32"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def answered(prepared: Prepared, at: Path, dtype: type[np.generic]) -> dict[str, float]:
    """What the C on this computer comes to."""
    samples = np.frombuffer(prepared.job.blob, dtype).reshape(prepared.job.count, -1)
    outputs = np.ascontiguousarray(HostModel(prepared.model, at).run(samples)).view(np.int8)
    return {one.metric: one.value for one in prepared.check(outputs)}


# ---- CBNet: BranchyNet's LeNet on the MNIST family ---------------------------------------------------------------


def test_lenet_has_the_layers_and_the_maps_of_the_published_one() -> None:
    made = paper_networks.branchy_lenet()
    parts, heads = made.parts(), made.heads(10)
    weights = [tuple(one.shape) for module in (*parts, *heads) for one in module.parameters() if one.dim() > 1]
    assert weights == [(5, 1, 5, 5), (10, 5, 5, 5), (20, 10, 5, 5), (10, 5, 3, 3), (10, 640), (84, 720), (10, 84)]
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    first = parts[0](x)
    torch.testing.assert_close(parts[1](first), published(first, parts[1]))
    assert heads[1](parts[1](first)).shape == heads[0](first).shape == (3, 10)


def published(x: torch.Tensor, part: nn.Sequential) -> torch.Tensor:
    """Pools that take the odd row and column along, in front of their ReLU, as the authors have them."""
    second, third = (one for one in part if isinstance(one, nn.Conv2d))
    for layer in (second, third):
        x = layer(functional.relu(functional.max_pool2d(x, 2, ceil_mode=True)))
    return functional.relu(functional.max_pool2d(x, 2, ceil_mode=True))


def test_images_asked_are_the_users_test_part_and_those_trained_on_the_other(folder: Path) -> None:
    written = write_mnist(folder, "kmnist")
    task = mnist_task("kmnist", 50, (12, 4, 0))
    images, labels = task.training()
    assert images.shape == (50, 1, 28, 28)
    known = {one.tobytes(): place % 10 for part in written.values() for place, one in enumerate(part)}
    levels = np.rint(images[:, 0] * 255).astype(np.uint8)
    assert [known[one.tobytes()] for one in levels] == labels.tolist()
    assert labels.tolist() != sorted(labels), "in no order"
    clean = task.scene.kinds == CLEAN
    tests = {one.tobytes() for one in written["t10k"]}
    asked = [one.tobytes() in tests for one in np.rint(task.scene.images[:, 0] * 255).astype(np.uint8)]
    np.testing.assert_array_equal(asked, clean)
    assert (task.scene.kinds == SHIFTED).sum() == 4
    assert task.dataset.name == "Kuzushiji-MNIST"


def test_the_record_changes_with_images_and_what_is_trained_with_the_part_for_training(folder: Path) -> None:
    write_mnist(folder)
    first, fewer = (mnist_task("mnist", samples, (5, 0, 0)) for samples in (60, 40))
    path = folder / "mnist" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    other = mnist_task("mnist", 60, (5, 0, 0))
    assert len({one.dataset.digest for one in (first, fewer, other)}) == 3
    assert first.trained_on == other.trained_on != fewer.trained_on


@needs_host_compiler
def test_the_c_leaves_where_pytorch_does_on_the_users_images(folder: Path) -> None:
    write_mnist(folder, "fashion-mnist")
    variant = f"{SMALL_LENET},data=fashion-mnist,threshold=0.2"
    prepared = get("early-exit").prepare(folder / "cache", variant)
    scores = answered(prepared, folder, np.int8)
    assert scores["same_exit"] == 1
    assert scores["output_error"] < 1e-5
    assert {"exit_share.1", "exit_share.2"} <= set(scores)
    assert "exit_share.3" not in scores
    # 5x5 on 30x30, the branch's 3x3 on 15x15, its linear layer.
    figures = {one.metric: one.value for one in prepared.figures}
    assert figures["macs.exit.1"] == 30 * 30 * 5 * 25 + 15 * 15 * 10 * 5 * 9 + 640 * 10
    assert prepared.dataset.name == "Fashion-MNIST"
    assert prepared.parameters["samples"] == "60"


def test_cbnet_is_the_light_network_behind_an_autoencoder_of_images(folder: Path) -> None:
    write_mnist(folder)
    variant = early_exit.parse(f"{SMALL_LENET},method=cbnet")
    task = early_exit.task_of(variant)
    module = early_exit.network(variant, task, folder / "cache")
    x = torch.rand(2, 1, 28, 28)
    converter = next(one for one in module.modules() if isinstance(one, Converter))
    converted = converter(x)
    assert converted.shape == x.shape
    exits = early_exit.network(replace(variant, method="exits"), task, folder / "cache")
    assert isinstance(exits, SoftmaxExits)
    with torch.no_grad():
        light = torch.softmax(exits.heads[0](exits.parts[0](converted)), 1)
        torch.testing.assert_close(module(x)[:, :10], light)


def test_the_autoencoder_has_the_authors_layers_or_the_users_and_their_weights(folder: Path) -> None:
    layers = {}
    for data, hidden in (("mnist", ""), ("kmnist", ""), ("mnist", "20+6+20")):
        if not (folder / data).is_dir():
            write_mnist(folder, data, asked=40)
        variant = early_exit.parse(f"{SMALL_LENET},method=cbnet,data={data},hidden={hidden}")
        assert isinstance(variant, early_exit.PaperVariant)
        task = early_exit.task_of(variant)
        whole = early_exit.network(replace(variant, method="exits"), task, folder / "cache")
        assert isinstance(whole, SoftmaxExits)
        made = early_exit.converter(variant, whole, task, folder / "cache")
        layers[data + hidden] = [one.out_features for one in made if isinstance(one, nn.Linear)]
        # Nothing stands behind a code that is the last hidden layer.
        assert sum(isinstance(one, nn.ReLU) for one in made) == 3
    published = {"mnist": [512, 256, 512, 784], "kmnist": [512, 384, 256, 64, 784]}
    assert layers == {**published, "mnist20+6+20": [20, 6, 20, 784]}
    (folder / "networks").mkdir()
    torch.save(made.state_dict(), folder / "networks" / "mine.pt")
    given = replace(variant, converter="mine")
    again = early_exit.converter(given, whole, task, folder / "elsewhere")
    torch.testing.assert_close(again.state_dict(), made.state_dict())
    prepared = get("early-exit").prepare(folder / "cache", f"{SMALL_LENET},method=cbnet,hidden=20+6+20,converter=mine")
    assert prepared.parameters["converter"].startswith("mine, ")
    with pytest.raises(ConfigError, match=r"mine\.pt: the tensor for 1\.weight is of shape \(20, 784\)"):
        early_exit.converter(replace(given, hidden="12+6+20"), whole, task, folder / "cache")


@pytest.mark.parametrize("text", ["hidden=0", "hidden=20+", "hidden=8x8", f"hidden=1{8 * '+1'}", "converter=../mine"])
def test_an_autoencoder_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        early_exit.parse(f"size=paper,{text}")


def test_an_entropy_needs_images_that_are_not_asked(folder: Path) -> None:
    write_mnist(folder)
    with pytest.raises(ConfigError, match="of which 0 are left; 10 are needed"):
        get("early-exit").prepare(folder / "cache", f"{SMALL_LENET},rule=entropy")
    given, task = early_exit.parse(f"{SMALL_LENET},rule=entropy,entropy=0.05"), mnist_task("mnist", 60, (4, 4, 0))
    assert early_exit.calibrated(given, task, folder / "cache") == given
    assert task.judged is not None
    images, labels = task.judged()
    assert images.shape == (12, 1, 28, 28)
    assert len(labels) == 12


def test_many_inputs_go_through_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.workloads.uncertainty.training_runs.CHUNK", 3)
    network, sizes = nn.Linear(2, 2), list[int]()
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    x = torch.randn(7, 2)
    torch.testing.assert_close(in_chunks(network, x), network(x).detach())
    assert sizes == [3, 3, 1, 7]


# ---- UR2M: keywords ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "blocks"), [(32, 3), (64, 7)])
def test_the_backbone_is_identical_blocks_in_thirds(width: int, blocks: int) -> None:
    made = paper_networks.depthwise_thirds(width, blocks)
    parts = made.parts()
    assert sum(len(part) for part in parts) == blocks
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    shapes = [tuple(one.weight.shape) for one in nn.Sequential(*parts).modules() if isinstance(one, nn.Conv2d)]
    block = [(width, width, 1, 1), (width, 1, 3, 3), (width, width, 1, 1)]
    assert shapes == [(width, 1, 1, 1), *block[1:], *block * (blocks - 1)]
    x = torch.randn(2, 1, 10, 51)
    for number, part in enumerate(parts):
        x = part.eval()(x)
        assert x.shape == (2, width, 10, 51)
        assert made.head(number, 20)(x).shape == (2, 20)


def test_features_are_the_papers_and_neither_loudness_nor_channel_change_them() -> None:
    generator = np.random.default_rng(2)
    clips = generator.standard_normal((2, 16_000)).astype(np.float32)
    found = features(clips)
    assert found.shape == (2, 1, 10, 51)
    np.testing.assert_allclose(found.mean(3), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(3), 1, atol=1e-3)
    np.testing.assert_allclose(features(0.5 * clips), found, atol=0.02)
    assert np.isfinite(features(np.zeros((1, 16_000), np.float32))).all()


@pytest.mark.parametrize("level", [0.0, 10.0])
def test_noise_has_the_power_that_is_asked_for(level: float) -> None:
    generator = np.random.default_rng(3)
    clips = generator.standard_normal((3, 16_000)).astype(np.float32) * np.array([[0.1], [1], [3]], np.float32)
    noise = noisy(clips, np.full(3, level), generator) - clips
    np.testing.assert_allclose(10 * np.log10((clips**2).mean(1) / (noise**2).mean(1)), level, atol=0.2)


def test_ten_words_are_known_and_others_are_not(folder: Path) -> None:
    write_speech_commands(folder, (*KEYWORDS, "bed", "zero"))
    task = keywords_task(1, (20, 10, 4))
    images, labels = task.training()
    assert images.shape == (20, 1, 10, 51)
    assert labels.tolist() == [*range(10)] * 2, "each once as it is and once with noise"
    scene = task.scene
    np.testing.assert_array_equal(scene.labels == -1, scene.kinds == UNKNOWN)
    assert [int((scene.kinds == kind).sum()) for kind in (CLEAN, SHIFTED, UNKNOWN)] == [20, 10, 4]
    assert set(scene.labels[scene.kinds == CLEAN]) == set(range(10))
    np.testing.assert_array_equal(keywords_task(1, (20, 10, 4)).scene.images, scene.images)
    assert task.dataset.samples == 34
    assert task.judged is not None
    assert task.judged()[1].tolist() == [*range(10)], "of the part for validation"


@needs_host_compiler
def test_the_c_answers_of_keywords_as_the_programs_steps_in_pytorch(folder: Path) -> None:
    write_speech_commands(folder, (*KEYWORDS, "bed"))
    prepared = get("ur2m").prepare(folder / "cache", SMALL_KEYWORDS)
    scores = answered(prepared, folder, np.float32)
    assert scores["same_exit"] == scores["agreement"] == 1
    assert scores["output_error"] < 1e-5
    figures = {one.metric: one.value for one in prepared.figures}
    # 1x1 from one channel, 3x3 depthwise, 1x1, on 10x51; a linear layer of six pools to ten events' evidence.
    assert figures["macs.exit.1"] == 510 * (32 + 9 * 32 + 32 * 32) + 6 * 32 * 20
    assert prepared.dataset.name == "Speech Commands"


def test_without_other_words_there_is_nothing_unknown_to_ask(folder: Path) -> None:
    write_speech_commands(folder, KEYWORDS, speakers=1)
    with pytest.raises(ConfigError, match="no words beside the ten keywords"):
        keywords_task(1, (20, 10, 4))


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (early_exit.parse, "size=paper,data=emnist", "mnist, fashion-mnist, kmnist"),
        (early_exit.parse, "size=paper,samples=31", "32 to 60000"),
        (early_exit.parse, "size=paper,evaluated=10001", "10 to 10000"),
        (ur2m.parse, "size=paper,width=48", "32, 64, 128, 256, 512"),
        (ur2m.parse, "size=paper,blocks=2", "3 to 7"),
        (ur2m.parse, "size=paper,evaluated=5", "10 to 4000: a fifth"),
    ],
)
def test_options_that_cannot_be_are_refused(
    parse: Callable[[str], object], text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("name", "told"), [("early-exit", "MNIST is needed"), ("ur2m", "Speech Commands is needed")]
)
def test_without_the_data_it_is_said_where_they_belong(folder: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"{told}, and there is no folder {folder}"):
        get(name).prepare(folder / "cache", "size=paper")


def test_the_sizes_defaults_are_the_papers() -> None:
    assert early_exit.parse("size=paper") == early_exit.PaperVariant()
    assert ur2m.parse("size=paper").evaluated == ur2m.parse("").evaluated
    assert paper_scenes.FRAMING.frames == 51
