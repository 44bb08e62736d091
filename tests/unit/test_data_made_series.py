"""Made movements and heart beats: seeded, told apart by others' classifiers, and shifted from domain to domain."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import periodogram
from sklearn.neighbors import KNeighborsClassifier

from lab.errors import ConfigError
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.made_series import ECG_CLASSES, IMU_CLASSES, IMU_RATE_HZ, ecg, imu


def spectra(data: Labelled[np.float32]) -> npt.NDArray[np.float64]:
    """Levels and amplitude spectra of every channel: (n, features)."""
    amplitudes = np.abs(np.fft.rfft(data.samples.astype(np.float64), axis=2))
    return amplitudes.reshape(len(data), -1)


def accuracy(known: Labelled[np.float32], asked: Labelled[np.float32]) -> float:
    """Of scikit-learn's nearest neighbours."""
    neighbours = KNeighborsClassifier(3).fit(spectra(known), known.labels)
    return float(neighbours.score(spectra(asked), asked.labels))


def test_movements_repeat_by_seed_and_say_what_they_are() -> None:
    once, again, other = imu(5, 2), imu(5, 2), imu(5, 2, seed=2)
    assert np.array_equal(once.samples, again.samples)
    assert not np.array_equal(once.samples, other.samples)
    assert once.digest == again.digest != other.digest
    assert once.samples.shape == (5 * 2 * 6, 6, 128)
    assert once.samples.dtype == np.float32
    assert once.classes == IMU_CLASSES
    assert once.domain_names() == ("hand/person1", "hand/person2")
    assert once.name.startswith("made")
    assert np.bincount(once.labels).tolist() == [10] * 6


def test_a_strangers_movements_are_understood_and_another_place_is_a_shift() -> None:
    data = imu(20, 4, places=("hand", "ankle"))
    hands = [one for one in data.domain_names() if one.startswith("hand")]
    by_hand = data.at(np.array([number for number, one in enumerate(data.domains) if one in hands]))
    stranger = accuracy(*by_hand.parted("hand/person4"))
    elsewhere = accuracy(*data.parted(*(one for one in data.domain_names() if one not in hands)))
    assert stranger > 0.8
    assert elsewhere < stranger - 0.1


def test_the_strongest_swing_of_walking_is_at_its_cadence() -> None:
    data = imu(10, 1).of_classes([IMU_CLASSES.index("walking")])
    hz, power = periodogram(data.samples[0, 2], fs=IMU_RATE_HZ)
    strongest = float(hz[1:][np.argmax(power[1:])])
    assert 1.8 * 0.8 * 0.8 < strongest < 1.8 * 1.25 * 1.2


def test_gravity_has_one_g_whatever_the_tilt() -> None:
    lying = imu(10, 3, places=("hand", "chest")).of_classes([IMU_CLASSES.index("lying")])
    assert np.linalg.norm(lying.samples[:, :3].mean(axis=2), axis=1) == pytest.approx(np.ones(60), abs=0.1)


def test_hearts_repeat_by_seed_and_a_strangers_beats_are_understood() -> None:
    data = ecg((30,) * 5)
    assert np.array_equal(data.samples, ecg((30,) * 5).samples)
    assert data.digest != ecg((30,) * 5, seed=3).digest
    assert data.samples.shape == (600, 1, 140)
    assert accuracy(*data.parted("person4")) > 0.8


def test_beats_can_be_as_rare_as_they_are_in_life() -> None:
    data = ecg((58, 35, 4, 2, 1), people=1)
    assert np.bincount(data.labels).tolist() == [58, 35, 4, 2, 1]
    assert data.classes == ECG_CLASSES
    normal = data.of_classes([0]).samples[:, 0]
    assert np.argmax(normal.mean(axis=0)) == pytest.approx(0.39 * 139, abs=6), "the highest wave is R"


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: imu(0), "per_class=0"),
        (lambda: imu(people=0), "people=0"),
        (lambda: imu(places=()), "places=0"),
        (lambda: imu(places=("knee",)), "hand, chest, ankle"),
        (lambda: ecg((1, 2)), "no count for each of 5"),
        (lambda: ecg((0,) * 5), "beats=0"),
        (lambda: ecg(people=0), "people=0"),
    ],
)
def test_series_that_cannot_be_are_refused(made: object, told: str) -> None:
    assert callable(made)
    with pytest.raises(ConfigError) as refused:
        made()
    assert told in f"{refused.value} {refused.value.hint}"


def test_tasks_take_every_class_once_and_in_order() -> None:
    data = imu(2, 1)
    tasks = data.tasks(4)
    assert [sorted(set(one.labels.tolist())) for one in tasks] == [[0, 1, 2, 3], [4, 5]]
    assert sum(map(len, tasks)) == len(data)
    assert tasks[1].classes == data.classes
    with pytest.raises(ConfigError, match="0 classes"):
        data.tasks(0)


def test_whom_nobody_knows_cannot_be_held_out() -> None:
    data = ecg((1,) * 5, people=2)
    rest, out = data.parted("person2")
    assert set(rest.domains) == {"person1"}
    assert set(out.domains) == {"person2"}
    with pytest.raises(ConfigError, match="'person3'"):
        data.parted("person3")
    with pytest.raises(ConfigError, match="2 of 2 domains"):
        data.parted("person1", "person2")
    with pytest.raises(ConfigError, match="0 of 2"):
        data.parted()
    with pytest.raises(ConfigError, match="no class 5"):
        data.of_classes([5])
