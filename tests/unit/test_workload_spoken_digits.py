"""The spoken-digits workload on scikit-learn's images and on small archives of tones, with short training."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import lab.workloads
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads.base import Prepared
from lab.workloads.classification import Bounds
from lab.workloads.data import digits, mfcc, spoken_digits
from lab.workloads.fitting import Plan
from lab.workloads.inference.spoken_digits import BOUNDS, SEED, Speech, SpokenDigits

SHORT = Plan(epochs=3, batch=64, learning_rate=6e-3)
SHORT_SPEECH = Plan(epochs=1, batch=16, learning_rate=6e-3)

real_data = pytest.mark.skipif(
    not os.environ.get("LAB_DATA"), reason="LAB_DATA is not set: the real recordings are not here"
)

QUIET_PREPARE = """
import sys
from pathlib import Path
from lab.workloads.fitting import Plan
from lab.workloads.inference.spoken_digits import SpokenDigits
workload = SpokenDigits(image_plan=Plan(epochs=3, batch=64, learning_rate=6e-3))
prepared = workload.prepare(Path(sys.argv[1]))
print(prepared.model.digest)
print(",".join(sorted({"torch", "sklearn", "scipy", "pandas"} & set(sys.modules))) or "light")
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of this module's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """``LAB_DATA`` is absent unless a test sets it, or needs the real one."""
    if "real" not in request.node.name:
        monkeypatch.delenv("LAB_DATA", raising=False)


def prepare_images(cache: Path) -> Prepared:
    return SpokenDigits(image_plan=SHORT).prepare(cache)


@pytest.fixture
def images(cache: Path) -> Prepared:
    """The workload on images; trained once."""
    return prepare_images(cache)


def held_out_images() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    everything = digits.load()
    _, held_out = digits.stratified_split(everything.digits, 0.2, SEED)
    return everything.pixels[held_out], everything.digits[held_out]


def test_images_never_pass_for_speech(images: Prepared) -> None:
    assert images.dataset.name == "scikit-learn-digits"
    assert "Not speech" in images.dataset.note
    assert any("Not speech" in fact and "LAB_DATA is not set" in fact for fact in images.facts)
    assert images.parameters["data"] == "handwritten digits (scikit-learn)"
    assert images.dataset.digest == digits.digest(digits.find())


def test_job_holds_the_held_out_images(images: Prepared) -> None:
    pixels, labels = held_out_images()
    assert images.job.name == "infer"
    assert images.job.count == images.dataset.samples == len(labels)
    assert images.model.input.shape == (8, 8, 1)
    fed = np.frombuffer(images.job.blob, dtype=np.int8).reshape(len(labels), 8, 8)
    np.testing.assert_allclose(images.model.input.dequantize(fed), pixels, atol=images.model.input.scale / 2 + 1e-6)


def test_accuracy_is_counted_against_the_true_digits(images: Prepared) -> None:
    _, labels = held_out_images()
    scores = {score.metric: score for score in images.check(images.reference_outputs)}
    assert scores["accuracy"].value == np.mean(images.reference_outputs.argmax(axis=1) == labels)
    assert scores["accuracy"].reference > 0.8
    assert f"{scores['accuracy'].reference:.2%}" in images.facts[1]


def test_network_is_the_depthwise_separable_family(images: Prepared) -> None:
    operators = [layer.operator for layer in images.model.layers]
    assert operators.count("depthwise_conv2d") == 3
    # Stem 8·8·9·32; blocks (9 + 32)·32 per output pixel of 8×8, 4×4, 4×4; classifier 32·10.
    assert images.model.macs == 64 * 9 * 32 + (64 + 16 + 16) * 41 * 32 + 320
    assert {"model.c", "model.h"} <= set(images.model.sources)


def test_a_changed_byte_fails(images: Prepared) -> None:
    outputs = images.reference_outputs.copy()
    outputs[7, 3] ^= 1
    with pytest.raises(WorkloadError, match="1 of 359 outputs differ from the integer reference, first sample 7"):
        images.check(outputs)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(1.01, 1000.0, 1.0), "agrees with the float32 reference"),
        (Bounds(0.0, 0.01, 1.0), "output steps in the mean; at most 0.01"),
        (Bounds(0.0, 1000.0, -1.0), "accuracy on the device"),
    ],
)
def test_bounds_are_the_workloads(cache: Path, bounds: Bounds, words: str) -> None:
    prepared = SpokenDigits(image_plan=SHORT, bounds=bounds).prepare(cache)
    with pytest.raises(WorkloadError, match=words):
        prepared.check(prepared.reference_outputs)


def test_preparing_twice_from_nothing_gives_the_same(images: Prepared, tmp_path: Path) -> None:
    again = prepare_images(tmp_path)
    assert again.model == images.model
    assert again.job == images.job
    np.testing.assert_array_equal(again.reference_outputs, images.reference_outputs)
    assert again.facts == images.facts


def test_second_preparation_imports_nothing_heavy(cache: Path, images: Prepared) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LAB_DATA"}
    command = [sys.executable, "-c", QUIET_PREPARE, str(cache)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == [images.model.digest, "light"]
    assert result.stderr == ""


def test_another_plan_is_another_entry(cache: Path, images: Prepared) -> None:
    other = SpokenDigits(image_plan=Plan(epochs=1, batch=64, learning_rate=6e-3)).prepare(cache)
    assert other.model.digest != images.model.digest
    assert prepare_images(cache).model.digest == images.model.digest


def tones(folder: Path, speakers: dict[str, float]) -> Path:
    """An archive in which each speaker says each digit four times, as a tone; the factor moves its pitch."""
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(folder / spoken_digits.ARCHIVE, "w") as archive:
        for speaker, factor in speakers.items():
            for digit in range(10):
                for take in range(4):
                    length = int(generator.integers(2000, 5000))
                    clip = 8000 * np.sin(2 * np.pi * factor * (200 + 200 * digit) * np.arange(length) / 8000)
                    buffer = io.BytesIO()
                    with wave.open(buffer, "wb") as file:
                        file.setnchannels(1)
                        file.setsampwidth(2)
                        file.setframerate(8000)
                        file.writeframes(clip.astype("<i2").tobytes())
                    archive.writestr(f"recordings/{digit}_{speaker}_{take}.wav", buffer.getvalue())
    digest = hashlib.sha256((folder / spoken_digits.ARCHIVE).read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  ./{spoken_digits.ARCHIVE}\n")
    return folder


@pytest.fixture
def two_speakers(tmp_path: Path) -> Path:
    """A small archive with the speakers theo and jackson."""
    folder = tmp_path / "data"
    folder.mkdir()
    return tones(folder, {"theo": 1.0, "jackson": 1.1})


def test_speech_is_used_where_there_is_any(two_speakers: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(two_speakers))
    prepared = SpokenDigits(speech_plan=SHORT_SPEECH).prepare(cache)
    assert prepared.dataset.name == "free-spoken-digit-dataset"
    assert prepared.dataset.digest == spoken_digits.verify(two_speakers)
    assert "theo" in prepared.dataset.note
    assert prepared.parameters["held-out speaker"] == "theo"
    assert prepared.job.count == prepared.dataset.samples == 40
    assert prepared.model.input.shape == (49, 10, 1)
    assert len(prepared.job.blob) == 40 * 490
    assert 500_000 <= prepared.model.macs <= 700_000
    assert not any("Not speech" in fact for fact in prepared.facts)


def test_the_variant_chooses_the_speaker(two_speakers: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(two_speakers))
    workload = SpokenDigits(speech_plan=SHORT_SPEECH)
    default, jackson = workload.prepare(cache), workload.prepare(cache, "speaker=jackson")
    assert jackson.parameters["held-out speaker"] == "jackson"
    assert jackson.job.blob != default.job.blob
    named = workload.prepare(cache, "speaker=theo")
    assert (named.job, named.model.digest) == (default.job, default.model.digest)


def test_nothing_of_the_held_out_speaker_reaches_training(two_speakers: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    tones(other, {"theo": 0.7, "jackson": 1.1})
    # The generator draws theo's lengths first, so jackson says the same in both archives.
    one, two = (Speech(folder, "theo", "digest", copies=2).samples(3) for folder in (two_speakers, other))
    np.testing.assert_array_equal(one.training, two.training)
    np.testing.assert_array_equal(one.calibration, two.calibration)
    assert not np.array_equal(one.held_out, two.held_out)
    assert one.training.shape == (3 * 40, 1, 49, 10)
    assert one.calibration.shape == one.held_out.shape == (40, 1, 49, 10)
    assert np.bincount(one.held_out_labels).tolist() == [4] * 10
    assert np.bincount(one.training_labels).tolist() == [12] * 10


def test_speech_features_are_centred_and_scaled(two_speakers: Path) -> None:
    samples = Speech(two_speakers, "theo", "digest", copies=1).samples(3)
    np.testing.assert_allclose(samples.training.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(samples.training.std(axis=(0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(samples.held_out.mean(axis=2), 0, atol=1e-3)
    recordings = spoken_digits.load(two_speakers)
    first = mfcc.mfcc(mfcc.one_second(recordings.clips[recordings.of("theo")[0]])[np.newaxis])[0]
    for coefficient in range(10):
        ours = samples.held_out[0, 0, :, coefficient]
        assert np.corrcoef(ours, first[:, coefficient])[0, 1] == pytest.approx(1.0, abs=1e-5)


def test_a_speaker_who_is_not_there_is_named(two_speakers: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(two_speakers))
    with pytest.raises(ConfigError, match="has the speakers jackson, theo: lucas cannot be held out"):
        SpokenDigits(speech_plan=SHORT_SPEECH).prepare(cache, "speaker=lucas")


@pytest.mark.parametrize(
    ("variant", "hint"),
    [("speaker=teo", "did you mean 'speaker=theo'?"), ("speaker=Jackson", "'speaker=jackson'"), ("xyzzy", "")],
)
def test_unknown_variants_suggest_the_nearest(cache: Path, variant: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"has no variant '{variant}'; allowed are .*speaker=yweweler") as caught:
        SpokenDigits().prepare(cache, variant)
    assert hint in caught.value.hint


def test_a_speaker_without_speech_is_refused(cache: Path) -> None:
    with pytest.raises(ConfigError, match="needs the spoken digits, and LAB_DATA is not set") as caught:
        SpokenDigits().prepare(cache, "speaker=lucas")
    assert "Jakobovski/free-spoken-digit-dataset" in caught.value.hint


def test_a_wrong_folder_is_an_error_and_no_silent_stand_in(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere/free-spoken-digit-dataset\.zip cannot be read: No such file"):
        SpokenDigits().prepare(cache)


def test_training_that_diverges_is_told_and_not_cached(tmp_path: Path) -> None:
    wild = SpokenDigits(image_plan=Plan(epochs=1, batch=64, learning_rate=1e30))
    with pytest.raises(WorkloadError, match="training diverged"):
        wild.prepare(tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


@real_data
def test_real_speech_keeps_speakers_apart() -> None:
    task = Speech(Path(os.environ["LAB_DATA"]), "george", "digest", copies=0)
    samples = task.samples(SEED)
    assert samples.held_out.shape == (500, 1, 49, 10)
    assert samples.training.shape == (2500, 1, 49, 10)
    known = {sample.tobytes() for sample in samples.training}
    assert not [sample for sample in samples.held_out if sample.tobytes() in known]


@real_data
@pytest.mark.timeout(900)  # where it is the first to need the network, it trains it
def test_real_speech_of_an_unseen_speaker_is_understood() -> None:
    """The network that the main job and the command line's tests use as well; docs/workloads.md has its accuracies."""
    prepared = SpokenDigits().prepare(cache_dir())
    accuracy = prepared.check(prepared.reference_outputs)[0]
    assert accuracy.reference >= 0.85
    assert accuracy.value >= accuracy.reference - BOUNDS.max_accuracy_drop


def test_registry_finds_the_workload() -> None:
    workload = lab.workloads.get("spoken-digits")
    assert (workload.id, workload.family) == ("spoken-digits", "inference")
    assert isinstance(workload, SpokenDigits)
