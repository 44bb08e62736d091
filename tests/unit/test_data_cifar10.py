"""CIFAR-10 and CIFAR-10-C from a user's folder, against independent readings, and every way the folder can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import write_cifar10, write_cifar10_c

from lab.errors import ConfigError
from lab.workloads.data import cifar10
from lab.workloads.data.cifar10 import TEST, TRAINING


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def test_binary_files_are_read_as_they_were_written(folder: Path) -> None:
    written = write_cifar10(folder, 20)
    training, asked = cifar10.cifar10(TRAINING), cifar10.cifar10(TEST)
    assert np.array_equal(training.samples, written[:5].reshape(-1, 3, 32, 32))
    assert np.array_equal(asked.samples, written[5])
    assert training.labels.tolist() == [*range(10)] * 10
    assert training.domain_names() == tuple(f"data_batch_{number}" for number in range(1, 6))
    assert training.classes[3] == "cat"
    assert training.digest != asked.digest


def test_corrupted_images_are_those_of_the_severity_in_the_order_of_the_test_set(folder: Path) -> None:
    write_cifar10(folder, 20)
    written = write_cifar10_c(folder, 20)
    found = cifar10.cifar10_c(("gaussian_noise", "fog"), (3, 1))
    noise, fog = found.samples[:20], found.samples[60:]
    assert np.array_equal(noise.transpose(0, 2, 3, 1), written["gaussian_noise"][40:60])
    assert np.array_equal(fog.transpose(0, 2, 3, 1), np.load(folder / "CIFAR-10-C" / "fog.npy")[:20])
    assert found.labels.tolist() == [*range(10)] * 8
    assert found.domains[::20] == ("gaussian_noise 3", "gaussian_noise 1", "fog 3", "fog 1")


def test_the_digest_is_that_of_the_content(folder: Path) -> None:
    write_cifar10(folder)
    first = cifar10.cifar10(TEST).digest
    assert cifar10.cifar10(TEST).digest == first
    path = folder / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert cifar10.cifar10(TEST).digest != first


def test_networks_take_images_of_no_mean_and_one_deviation() -> None:
    levels = np.stack([np.full((32, 32), 255 * mean) for mean in cifar10.MEAN])[None]
    assert np.abs(cifar10.normalised(np.rint(levels).astype(np.uint8))).max() < 0.01
    white = cifar10.normalised(np.full((1, 3, 32, 32), 255, np.uint8))
    assert white.dtype == np.float32
    assert white[0, :, 0, 0] == pytest.approx([(1 - 0.4914) / 0.2470, (1 - 0.4822) / 0.2435, (1 - 0.4465) / 0.2616])


def damage_length(folder: Path) -> None:
    (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes(3072))


def damage_label(folder: Path) -> None:
    (folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))


def remove_file(folder: Path) -> None:
    (folder / "cifar-10-batches-bin" / "test_batch.bin").unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_length, "3072 bytes, which is no whole number of images of 3073"),
        (damage_label, "the label 10; 0 to 9"),
        (remove_file, "test_batch.bin cannot be read: No such file"),
    ],
)
def test_binary_files_that_are_none_are_refused(folder: Path, damage: Callable[[Path], None], told: str) -> None:
    write_cifar10(folder, 10)
    damage(folder)
    with pytest.raises(ConfigError, match=told) as refused:
        cifar10.cifar10(TEST)
    assert "cifar.html" in refused.value.hint


def replace_array(name: str, content: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        np.save(folder / "CIFAR-10-C" / name, np.array(content, dtype=object if content is None else None))

    return damage


def cut(folder: Path) -> None:
    path = folder / "CIFAR-10-C" / "fog.npy"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (replace_array("fog.npy", np.zeros((50, 32, 32, 4), np.uint8)), r"shape \(50, 32, 32, 4\) for 50 labels"),
        (replace_array("fog.npy", np.zeros((45, 32, 32, 3), np.uint8)), r"shape \(45, 32, 32, 3\) for 50 labels"),
        (replace_array("fog.npy", np.zeros((50, 32, 32, 3), np.float32)), "no array of whole numbers in 4"),
        (replace_array("fog.npy", np.full((50, 32, 32, 3), 300)), "values from 300 to 300"),
        (replace_array("fog.npy", None), "is no array of NumPy"),
        (replace_array("labels.npy", np.full(50, 11, np.uint8)), "the label 11"),
        (replace_array("labels.npy", np.zeros(0, np.uint8)), "labels.npy is no array of whole numbers"),
        (cut, "fog.npy is no array of NumPy"),
    ],
)
def test_arrays_that_are_none_are_refused(folder: Path, damage: Callable[[Path], None], told: str) -> None:
    write_cifar10(folder, 10)
    write_cifar10_c(folder, 10)
    damage(folder)
    with pytest.raises(ConfigError, match=told) as refused:
        cifar10.cifar10_c(("fog",))
    assert "Zenodo record 2535967" in refused.value.hint


def test_corruptions_and_severities_that_are_not_there_are_refused(folder: Path) -> None:
    write_cifar10(folder, 10)
    write_cifar10_c(folder, 10)
    with pytest.raises(ConfigError, match=r"snow.npy cannot be read"):
        cifar10.cifar10_c(("snow",))
    with pytest.raises(ConfigError, match="severity 6"):
        cifar10.cifar10_c(severities=(5, 6))


def test_without_the_folder_it_is_said_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_DATA", raising=False)
    with pytest.raises(ConfigError, match="CIFAR-10-C is needed, and LAB_DATA is not set") as refused:
        cifar10.cifar10_c()
    assert "put it as CIFAR-10-C/ with labels.npy" in refused.value.hint
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no folder .*cifar-10-batches-bin"):
        cifar10.cifar10()
