"""``size=paper`` of the continual workloads: CIFAR-100 and Speech Commands from a folder, the paper's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_cifar100, write_speech_commands

from lab.compiler import compile_with_reference
from lab.compiler.host import HostTraining
from lab.errors import ConfigError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.continual import tasks
from lab.workloads.continual.meta import MetaPlan, latents, meta_plan, train_extractor
from lab.workloads.continual.networks import Widths, extractor, folded_extractor, widths_of
from lab.workloads.continual.options import parse
from lab.workloads.continual.resuming import Saved
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


def test_data_that_cannot_be_used_are_refused(folder: Path) -> None:
    for asked in ("cifar-100", "speech-commands"):
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
        ("size=paper,data=characters", "cifar-100, speech-commands"),
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
    ("sample", "elements", "megabytes"), [((3, 32, 32), 4096, 39.69), ((1, 49, 10), 1536, 10.16)]
)
def test_the_network_has_the_size_of_the_papers_table(
    sample: tuple[int, int, int], elements: int, megabytes: float
) -> None:
    """LifeLearner's table 1, ANML: parameters, a classifier, and little else."""
    network = extractor("anml", "cnn", sample, widths_of("paper", 1.0))
    parameters = sum(one.numel() for one in network.parameters())
    classifier = elements * (100 if sample[0] == 3 else 35)
    assert 0.9 * megabytes < 4e-6 * (parameters + classifier) < megabytes


def test_a_linear_gate_is_compiled_to_the_order_of_the_map() -> None:
    """Rows of the layer that yields a map move to its place in memory."""
    torch.manual_seed(1)
    network = folded_extractor(extractor("anml", "cnn", (2, 16, 24), Widths(6, 4, dense_gate=True)).eval())
    samples = torch.randn(24, 2, 16, 24)
    model, integer = compile_with_reference(network, samples[:1], calibration=samples, name="gated")
    told = model.output.dequantize(integer.run_integer(model.input.quantize(samples.permute(0, 2, 3, 1).numpy())))
    with torch.no_grad():
        expected = latents(network, samples).numpy()
    assert model.output.shape == (2, 3, 6)
    assert np.abs(told.reshape(24, -1) - expected).max() < 0.08 * np.abs(expected).max()
    shuffled = np.abs(told.reshape(24, 2, 3, 6).transpose(0, 3, 1, 2).reshape(24, -1) - expected).max()
    assert shuffled > 0.5 * np.abs(expected).max(), "the order is seen"


def test_it_is_whole_with_the_users_images(folder: Path, tmp_path: Path) -> None:
    write_cifar100(folder, 5)
    given = get("lifelearner").prepare(tmp_path / "cache", SMALL)
    assert given.training is not None
    assert given.dataset.name == "CIFAR-100, binary version"
    assert given.dataset.digest == tasks.digest("cifar-100")
    assert given.model.input.shape == (2, 32, 32, 3)
    assert not list((tmp_path / "cache").rglob("*.unfinished.pt"))
    host = HostTraining(given.model, tmp_path)
    job = given.training.job
    samples = np.frombuffer(job.blob, np.int8).reshape(job.count, -1)
    targets = np.frombuffer(job.blobs["targets"], np.int32).reshape(job.count, -1)
    host.state.random = int(job.parameters["seed"])
    losses = [host.step(*pair, float(job.parameters["lr"])) for pair in zip(samples, targets, strict=True)]
    scores = {one.metric: one.value for one in given.training.check(np.array(losses, np.float32), host.raw_variables())}
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
