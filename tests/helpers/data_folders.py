"""Tiny copies of public data sets in their real formats, for a test's ``LAB_DATA``; everything random is seeded."""

from __future__ import annotations

import gzip
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CORRUPTIONS = ("fog", "gaussian_noise")


def write_cifar10(root: Path, each: int = 20) -> npt.NDArray[np.uint8]:
    """CIFAR-10 as binary files of ``each`` images; the images of all six files: (6, each, 3, 32, 32).

    Classes are bright in one place each, so that a network can learn them.
    """
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(5)
    images = generator.integers(0, 80, (6, each, 3, 32, 32), dtype=np.uint8)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for number, name in enumerate(names):
        rows = []
        for place in range(each):
            label = place % 10
            top, left = 8 * (label // 4) + 2, 8 * (label % 4)
            images[number, place, label % 3, top : top + 8, left : left + 8] += 150
            rows.append(bytes([label]) + images[number, place].tobytes())
        (folder / name).write_bytes(b"".join(rows))
    return images


def write_cifar100(root: Path, each: int = 4) -> npt.NDArray[np.uint8]:
    """CIFAR-100's training file with ``each`` images of every class; the images: (100, each, 3, 32, 32)."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    images = np.random.default_rng(12).integers(0, 256, (100, each, 3, 32, 32), dtype=np.uint8)
    rows = [bytes([fine // 5, fine]) + images[fine, take].tobytes() for take in range(each) for fine in range(100)]
    (folder / "train.bin").write_bytes(b"".join(rows))
    (folder / "fine_label_names.txt").write_text("".join(f"thing_{fine:02}\n" for fine in range(100)))
    return images


def write_cifar10_c(
    root: Path, each: int = 20, corruptions: Sequence[str] = CORRUPTIONS
) -> dict[str, npt.NDArray[np.uint8]]:
    """CIFAR-10-C of ``each`` images a severity, (5 · each, 32, 32, 3) by corruption; made of the CIFAR-10 beside it."""
    folder = root / "CIFAR-10-C"
    folder.mkdir(parents=True)
    rows = np.frombuffer((root / "cifar-10-batches-bin" / "test_batch.bin").read_bytes(), np.uint8).reshape(-1, 3073)
    clean = rows[:each, 1:].reshape(each, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.int64)
    generator = np.random.default_rng(6)
    made = {}
    for corruption in corruptions:
        severe = [clean + generator.normal(30, 10 * severity, clean.shape) for severity in range(1, 6)]
        made[corruption] = np.clip(np.concatenate(severe), 0, 255).astype(np.uint8)
        np.save(folder / f"{corruption}.npy", made[corruption])
    np.save(folder / "labels.npy", np.tile(rows[:each, 0], 5))
    return made


def write_wav(path: Path, samples: npt.NDArray[np.int16], rate_hz: int = 16_000) -> None:
    """A 16-bit mono recording."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(rate_hz)
        recording.writeframes(samples.astype("<i2").tobytes())


def write_speech_commands(root: Path, words: Sequence[str] = ("yes", "no"), speakers: int = 3) -> Path:
    """Two recordings of each word by each speaker, of other lengths; speaker 0 is for validation, 1 for tests."""
    folder = root / "speech-commands"
    generator = np.random.default_rng(7)
    lists: dict[int, list[str]] = {0: [], 1: []}
    for word in words:
        for speaker in range(speakers):
            for take in range(2):
                name = f"{word}/{speaker:08x}_nohash_{take}.wav"
                length = (16_000, 12_001)[take]
                write_wav(folder / name, generator.integers(-9000, 9000, length).astype(np.int16))
                lists.get(speaker, []).append(name)
    (folder / "_background_noise_").mkdir()
    (folder / "validation_list.txt").write_text("\n".join(lists[0]) + "\n")
    (folder / "testing_list.txt").write_text("\n".join(lists[1]) + "\n")
    return folder


def write_uci_har(root: Path, rows: int = 6) -> Path:
    """Windows in sixteen columns' width each, as the data set prints its numbers."""
    folder = root / "UCI HAR Dataset"
    generator = np.random.default_rng(8)
    for part in ("train", "test"):
        (folder / part / "Inertial Signals").mkdir(parents=True)
        for kind in ("body_acc", "body_gyro", "total_acc"):
            for axis in "xyz":
                lines = ["".join(f" {value:15.7e}" for value in row) for row in generator.normal(0, 1, (rows, 128))]
                path = folder / part / "Inertial Signals" / f"{kind}_{axis}_{part}.txt"
                path.write_text("\n".join(lines) + "\n")
        (folder / part / f"y_{part}.txt").write_text("".join(f"{1 + row % 6}\n" for row in range(rows)))
        (folder / part / f"subject_{part}.txt").write_text("".join(f"{2 + row % 3}\n" for row in range(rows)))
    return folder


def write_pamap2(root: Path, activities: Sequence[tuple[int, int]] = ((0, 30), (4, 100), (0, 10), (24, 70))) -> Path:
    """Two people who do the activities, each for so many samples; every 9th heart rate is there, as in the data."""
    folder = root / "PAMAP2_Dataset" / "Protocol"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(9)
    for person in (101, 105):
        lines = []
        for number, activity in enumerate(np.repeat(*np.array(activities).T)):
            values = [f"{value:.5f}" for value in generator.normal(0, 5, 51)]
            lines.append(" ".join([f"{8 + number / 100:.2f}", str(activity), "NaN" if number % 9 else "104", *values]))
        (folder / f"subject{person}.dat").write_text("\n".join(lines) + "\n")
    return folder


def write_images(
    root: Path, name: str, classes: Sequence[str], each: int = 4, size: tuple[int, int] = (40, 30)
) -> Path:
    """Images of ``size`` (width, height), ``each`` for training and as many for tests; a colour for each class."""
    folder = root / "images" / name
    generator = np.random.default_rng(10)
    for part in ("train", "test"):
        for number, one in enumerate(classes):
            (folder / part / one).mkdir(parents=True)
            for place in range(each):
                pixels = generator.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
                pixels[..., number % 3] += np.uint8(60 + 100 * (number // 3 % 2))
                suffix = "jpg" if place % 2 else "png"
                Image.fromarray(pixels).save(folder / part / one / f"{place:03}.{suffix}")
    return folder


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """An array of bytes as an idx file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def write_mnist(
    root: Path, name: str = "mnist", training: int = 60, asked: int = 20
) -> dict[str, npt.NDArray[np.uint8]]:
    """A data set of the MNIST family, its part for training packed; images (n, 28, 28) by part.

    Classes are bright in one place each, so that a network can learn them; labels go 0, 1, …, 9, 0, ….
    """
    folder = root / name
    folder.mkdir(parents=True)
    generator = np.random.default_rng(11)
    made = {}
    for part, count in (("train", training), ("t10k", asked)):
        images = generator.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for place, label in enumerate(labels):
            top, left = 9 * (label // 4) + 1, 7 * (label % 4)
            images[place, top : top + 8, left : left + 7] += 180
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path, content = folder / f"{part}-{kind}-ubyte", idx_bytes(array)
            if part == "train":
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                path.write_bytes(content)
        made[part] = images
    return made


def write_ecg5000(
    root: Path, suffix: str = ".tsv", counts: Sequence[int] = (12, 8, 4, 4, 2)
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
    """ECG5000 with so many beats of each class in both parts; beats (n, 140) and labels from 0, by part.

    Forms: ``.tsv`` and ``.txt`` of the archive, ``.ts`` of timeseriesclassification.com. Classes differ in where they
    have their peak.
    """
    folder = root / "ECG5000"
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(13)
    at = np.arange(140)
    made = {}
    for part in ("TRAIN", "TEST"):
        labels = np.repeat(np.arange(len(counts)), counts)
        peaks = 4 * np.exp(-((at - 20 - 25 * labels[:, None]) ** 2) / 50)
        beats = peaks + generator.normal(0, 0.3, (len(labels), 140))
        lines = []
        for beat, label in zip(beats, labels + 1, strict=True):
            values = [f"{value:.6f}" for value in beat]
            if suffix == ".tsv":
                lines.append("\t".join([str(label), *values]))
            elif suffix == ".txt":
                lines.append("  ".join([f"  {label:.7e}", *(f"{float(value):.7e}" for value in values)]))
            else:
                lines.append(",".join(values) + f":{label}")
        header = "#Beats\n@problemName ECG5000\n@univariate true\n@classLabel true 1 2 3 4 5\n@data\n"
        text = (header if suffix == ".ts" else "") + "\n".join(lines) + "\n"
        (folder / f"ECG5000_{part}{suffix}").write_text(text)
        made[part] = (beats, labels)
    return made


def write_recordings(root: Path, name: str, classes: Sequence[str], others: Sequence[str] = (), each: int = 4) -> Path:
    """Tones of 0.4 s, one for each class: ``each`` for training and as many for tests, which have others, too."""
    folder = root / "recordings" / name
    generator = np.random.default_rng(14)
    for part, there in (("train", tuple(classes)), ("test", (*classes, *others))):
        for number, one in enumerate(there):
            tone = np.sin(2 * np.pi * 300 * (2 + 3 * number) * np.arange(6400) / 16_000)
            for place in range(each):
                clip = 6000 * tone + generator.normal(0, 300, 6400)
                write_wav(folder / part / one / f"{place:03}.wav", clip.astype(np.int16))
    return folder
