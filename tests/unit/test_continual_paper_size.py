"""``size=paper`` of the continual workloads: CIFAR-100 and Speech Commands from a folder, the paper's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.continual_folders import write_esc50, write_mini_imagenet
from helpers.data_folders import write_cifar100, write_speech_commands
from helpers.learner_runs import losses_of

from lab.compiler import compile_with_reference
from lab.compiler.host import HostTraining
from lab.errors import ConfigError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.continual import tasks
from lab.workloads.continual.attentive_units import fresh
from lab.workloads.continual.meta import MetaPlan, latents, meta_plan, train_extractor
from lab.workloads.continual.networks import Widths, extractor, folded_extractor, widths_of
from lab.workloads.continual.options import parse
from lab.workloads.continual.resuming import Saved
from lab.workloads.data import esc50, mini_imagenet
from lab.workloads.data.cifar10 import normalised
from lab.workloads.fitting import seeded

SMALL = "size=paper,width=0.03,classes=3,shots=2,questions=2,meta=2"
WORDS = ("bed", "cat", "down", "five", "go", "happy", "left")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def test_classes_of_cifar_100_are_parted_and_normalised(folder: Path) -> None:
    written = write_cifar100(folder, 3)
    found = tasks.load("cifar-100")
    assert (len(found.known), len(found.unseen)) == (70, 30)
    assert not set(found.known.names) & set(found.unseen.names)
    assert found.known.shape == (3, 32, 32)
    assert np.array_equal(found.unseen.samples[4, 2], normalised(written[74])[2])
    assert "70 classes; the device has the other 30" in found.note
    some = found.known.spread(5, 2)
    assert some.images.shape == (5, 2, 3, 32, 32)
    assert np.array_equal(some.images[-1], found.known.images[69, :2])


def test_words_are_parted_and_those_of_the_device_do_not_scale_them(folder: Path) -> None:
    recordings = write_speech_commands(folder, WORDS)
    found = tasks.load("speech-commands")
    assert found.known.names == WORDS[:5], "25 of 35"
    assert found.unseen.names == WORDS[5:]
    assert found.known.images.shape == (5, 2, 1, 49, 10), "speakers of validation and tests are left out"
    before = found.known.samples
    assert np.abs(before.mean(2)).max() < 1e-5
    assert before.std() == pytest.approx(1, abs=1e-3)
    digest = tasks.digest("speech-commands")
    for path in (recordings / "left").iterdir():
        path.write_bytes((recordings / "happy" / path.name).read_bytes())
    again = tasks.load("speech-commands")
    assert np.array_equal(again.known.samples, before)
    assert np.array_equal(again.unseen.samples[0], again.unseen.samples[1])
    assert tasks.digest("speech-commands") != digest


def test_photographs_are_parted_by_the_lists(folder: Path) -> None:
    made = write_mini_imagenet(folder)
    found = tasks.load("mini-imagenet")
    assert found.known.names == tuple(made["train"])
    assert found.unseen.names == tuple(made["test"]), "classes of validation are nobody's"
    assert found.known.images.shape == (3, 3, 3, 84, 84)
    own = mini_imagenet.load("test")
    assert np.array_equal(found.unseen.images[1, 2], mini_imagenet.normalised(own.samples)[5])
    before = tasks.digest("mini-imagenet")
    next((folder / "mini-imagenet" / "images").glob(f"{made['test'][0]}*")).write_bytes(b"another")
    assert tasks.digest("mini-imagenet") != before


def test_sounds_are_parted_and_those_of_the_device_do_not_scale_them(folder: Path) -> None:
    written = write_esc50(folder)
    found = tasks.load("esc-50")
    assert found.known.images.shape == (30, 1, 1, 157, 64)
    assert found.unseen.names == tuple(f"sound_{number}" for number in range(30, 50))
    assert np.abs(found.known.samples.mean(2)).max() < 1e-4
    assert found.known.samples.std() == pytest.approx(1, abs=1e-3)
    features = esc50.log_mel(written["2-100031-A-31.wav"][None])[0]
    own = found.unseen.samples[1, 0]
    assert np.corrcoef(own.ravel(), (features - features.mean(0)).ravel())[0, 1] > 0.9999


def test_data_that_cannot_be_used_are_refused(folder: Path) -> None:
    for asked in ("cifar-100", "speech-commands", "mini-imagenet", "esc-50"):
        with pytest.raises(ConfigError, match="there is no folder"):
            get("lifelearner").prepare(cache_dir(), f"size=paper,data={asked}")
    write_speech_commands(folder, WORDS[:3])
    with pytest.raises(ConfigError, match=r"there are 3 words \(bed, cat, down\)"):
        tasks.load("speech-commands")
    write_cifar100(folder, 1)
    path = folder / "cifar-100-binary" / "train.bin"
    path.write_bytes(path.read_bytes()[: 70 * 3074])
    with pytest.raises(ConfigError, match="no training image of 'thing_70'"):
        tasks.load("cifar-100")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper,data=characters", "cifar-100, mini-imagenet, speech-commands, esc-50"),
        ("size=paper,network=ds-cnn", "cnn"),
        ("size=paper,width=2", "0.02 to 1"),
        ("width=0.5", "other widths are for size=paper"),
        ("data=cifar-100", "characters, digits, speech"),
        ("size=huge", "ci, paper"),
    ],
)
def test_variants_of_the_other_size_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("lifelearner", text)
    assert told in caught.value.hint


def test_the_defaults_are_the_papers() -> None:
    variant = parse("metacl-bench", "size=paper")
    assert (variant.data, variant.classes, variant.shots, variant.meta) == ("cifar-100", 30, 30, 20_000)
    assert (variant.pool, variant.samples) == (30, 60), "one deployment"
    plan = meta_plan("paper", variant.meta)
    assert (plan.steps, plan.trajectory, plan.inner_rate, plan.outer_rate) == (20_000, 30, 1e-3, 1e-3)
    assert meta_plan("ci", 200) == MetaPlan()


@pytest.mark.parametrize(
    ("sample", "elements", "classes", "megabytes"),
    [((3, 32, 32), 4096, 100, 39.69), ((1, 49, 10), 1536, 35, 10.16), ((3, 84, 84), 16_384, 84, 474.5)],
)
def test_the_network_has_the_size_of_the_papers_table(
    sample: tuple[int, int, int], elements: int, classes: int, megabytes: float
) -> None:
    """LifeLearner's table 1, ANML: parameters, a classifier, and little else."""
    with torch.device("meta"):
        network = extractor("anml", "cnn", sample, widths_of("paper", 1.0, padded=sample[1] != 84))
        assert network(torch.zeros(2, *sample)).numel() == 2 * elements
    parameters = sum(one.numel() for one in network.parameters())
    assert 0.9 * megabytes < 4e-6 * (parameters + elements * classes) < 1.02 * megabytes


@pytest.mark.parametrize(
    ("asked", "megabytes"),
    [
        ("method=anml+aim,data=cifar-100", 1093 - 39.69),
        ("method=oml+aim,data=cifar-100", 834.1),
        ("method=anml+aim,data=speech-commands,classes=10", 608.2 - 10.16),
        ("method=oml+aim,data=speech-commands,classes=10", 135.2),
        ("method=anml+aim,data=mini-imagenet,classes=20", 1562 - 474.5),
        ("method=oml+aim,data=mini-imagenet,classes=20,units=32", 1051),
    ],
)
def test_attentive_units_have_the_size_of_the_papers_table(asked: str, megabytes: float) -> None:
    """LifeLearner's table 1: weights, their gradients and Adam's two moments, without the network before them."""
    units = parse("lifelearner", f"size=paper,{asked}").attention
    assert units is not None
    assert (units.active, units.hidden, units.keys) == (10, 128, 128)
    with torch.device("meta"):
        parameters = sum(one.numel() for one in fresh(units).values())
    assert 16e-6 * parameters == pytest.approx(megabytes, rel=0.05)


def test_a_gate_that_would_be_all_of_the_network_is_a_convolution() -> None:
    """A linear one of ESC-50's maps would have 662 M weights."""
    with torch.device("meta"):
        network = extractor("anml", "cnn", (1, 157, 64), widths_of("paper", 1.0))
        assert network(torch.zeros(2, 1, 157, 64)).shape == (2, 256, 19, 8)
    assert sum(one.numel() for one in network.parameters()) < 2_000_000


def test_a_linear_gate_is_compiled_to_the_order_of_the_map() -> None:
    """Rows of the layer that yields a map move to its place in memory."""
    torch.manual_seed(1)
    network = folded_extractor(extractor("anml", "cnn", (2, 16, 24), Widths(6, 4, 4, dense_gate=True)).eval())
    samples = torch.randn(24, 2, 16, 24)
    model, integer = compile_with_reference(network, samples[:1], calibration=samples, name="gated")
    told = model.output.dequantize(integer.run_integer(model.input.quantize(samples.permute(0, 2, 3, 1).numpy())))
    with torch.no_grad():
        expected = latents(network, samples).numpy()
    assert model.output.shape == (2, 3, 6)
    assert np.abs(told.reshape(24, -1) - expected).max() < 0.08 * np.abs(expected).max()
    shuffled = np.abs(told.reshape(24, 2, 3, 6).transpose(0, 3, 1, 2).reshape(24, -1) - expected).max()
    assert shuffled > 0.5 * np.abs(expected).max(), "the order is seen"


def test_attentive_units_are_pytorchs(folder: Path, tmp_path: Path) -> None:
    write_cifar100(folder, 4)
    given = get("metacl-bench").prepare(tmp_path / "cache", f"{SMALL},method=anml+aim,units=16,rate=0.03")
    assert given.training is not None
    host = HostTraining(given.model, tmp_path)
    scores = {one.metric: one.value for one in given.training.check(losses_of(given, host), host.raw_variables())}
    assert scores["update_error"] < 1e-4
    assert scores["units_error"] < 1e-4
    variables = given.model.training.variables if given.model.training else ()
    assert [one.shape for one in variables if one.name == "units.value"] == [(16, 31, 31)]


def test_it_is_whole_with_the_users_images(folder: Path, tmp_path: Path) -> None:
    write_cifar100(folder, 5)
    given = get("lifelearner").prepare(tmp_path / "cache", SMALL)
    assert given.training is not None
    assert given.dataset.name == "CIFAR-100, binary version"
    assert given.dataset.digest == tasks.digest("cifar-100")
    assert given.model.input.shape == (2, 32, 32, 3)
    assert not list((tmp_path / "cache").rglob("*.unfinished.pt"))
    host = HostTraining(given.model, tmp_path)
    scores = {one.metric: one.value for one in given.training.check(losses_of(given, host), host.raw_variables())}
    assert scores["update_error"] < 1e-4
    assert scores["replay.bytes"] > 0


def test_meta_training_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    known = tasks.Classes(generator.standard_normal((4, 5, 16, 16)).astype(np.float32), tuple("abcd"))
    saved = Saved(tmp_path / "state.pt", every=2)

    def trained(steps: int, kept: Saved | None) -> torch.Tensor:
        with seeded(3):
            plan = MetaPlan(pretraining=2, steps=steps, trajectory=3, remembered=6)
            made = train_extractor("anml", "cnn", known, plan, 3, saved=kept)
        return torch.cat([one.flatten() for one in made.network.parameters()])

    whole = trained(5, None)
    trained(3, saved)
    assert saved.begun, "of two steps"
    assert torch.equal(trained(5, saved), whole)
    saved.done()
    assert not saved.begun
