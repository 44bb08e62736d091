"""Made series that come with the lab: movements as an inertial sensor sees them, and heart beats; seeded.

They stand for UCI-HAR, PAMAP2 and ECG5000 where a user has none of these, and never pass for them: the name says so.
What differs between people and places is what such data differ by: gain, tilt, cadence and noise of a sensor; width,
height and time of the waves of a heart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.data.labelled import Labelled

FloatArray: TypeAlias = npt.NDArray[np.float32]
_Doubles: TypeAlias = npt.NDArray[np.float64]

IMU_NAME = "made movements of six kinds"
IMU_RATE_HZ = 50.0
IMU_SAMPLES = 128
PLACES: Mapping[str, tuple[float, float]] = {"hand": (1.0, 0.9), "chest": (0.55, 0.2), "ankle": (1.5, -1.1)}
"""Where a sensor is worn: gain of what moves, and by how many radians it is tilted."""
ECG_NAME = "made heart beats of five kinds"
ECG_SAMPLES = 140
ECG_CLASSES = ("normal", "r-on-t", "premature ventricular", "premature supraventricular", "unknown")
ECG_NOISE = 0.05
ECG_JITTER = 0.08


@dataclass(frozen=True)
class _Movement:
    """Steps a second, amplitude (g) of the first three harmonics, gravity's axis, and share of time in motion."""

    steps_hz: float
    harmonics: tuple[float, float, float]
    gravity: tuple[float, float, float]
    busy: float = 1.0


_MOVEMENTS: Mapping[str, _Movement] = {
    "lying": _Movement(0.25, (0.02, 0.0, 0.0), (1.0, 0.0, 0.1)),
    "standing": _Movement(0.4, (0.03, 0.01, 0.0), (0.0, 0.1, 1.0)),
    "walking": _Movement(1.8, (0.3, 0.12, 0.05), (0.0, 0.1, 1.0)),
    "running": _Movement(2.8, (0.9, 0.4, 0.2), (0.1, 0.0, 1.0)),
    "climbing": _Movement(1.3, (0.35, 0.05, 0.15), (0.0, 0.35, 0.95)),
    "ironing": _Movement(0.9, (0.25, 0.02, 0.02), (0.2, 0.3, 0.9), busy=0.5),
}
IMU_CLASSES = tuple(_MOVEMENTS)


def imu(per_class: int = 40, people: int = 4, places: Sequence[str] = ("hand",), seed: int = 1) -> Labelled[np.float32]:
    """Windows of 128 samples at 50 Hz of six kinds of movement.

    Args:
        per_class: windows of each class by each person at each place.
        people: how many wear the sensor.
        places: where, some of :data:`PLACES`.
        seed: of everything random.

    Returns:
        Samples float32 (n, 6, 128), acceleration in g and angular rate in rad/s; domains are ``place/person``.

    Raises:
        ConfigError: fewer than one window or person, or a place that there is not.
    """
    _at_least_one({"per_class": per_class, "people": people, "places": len(places)})
    if unknown := [one for one in places if one not in PLACES]:
        raise ConfigError(f"nobody wears a sensor at the place '{unknown[0]}'", hint=f"there are: {', '.join(PLACES)}")
    windows, labels, domains = [], [], []
    for person in range(people):
        # By person alone: whoever wears three sensors moves the same way.
        who = np.random.default_rng((seed, 0, person))
        gain, cadence, lean = who.uniform(0.8, 1.25), who.uniform(0.8, 1.25), who.normal(0, 0.12, 3)
        for place in places:
            generator = np.random.default_rng((seed, 1, person, list(PLACES).index(place)))
            strength, tilt = PLACES[place]
            turn = _turned(tilt + lean[0], lean[1], lean[2])
            for number, movement in enumerate(_MOVEMENTS.values()):
                for _ in range(per_class):
                    windows.append(_window(movement, gain * strength, cadence, turn, generator))
                labels += [number] * per_class
                domains += [f"{place}/person{person + 1}"] * per_class
    samples = np.stack(windows).astype(np.float32)
    asked = f"imu {per_class} {people} {list(places)} {seed}"
    return Labelled(samples, np.array(labels, np.int64), IMU_CLASSES, tuple(domains), IMU_NAME, _digest(asked))


def _window(
    movement: _Movement, gain: float, cadence: float, turn: _Doubles, generator: np.random.Generator
) -> _Doubles:
    """(6, 128): of harmonics at a random phase, in bursts where the movement pauses."""
    seconds = np.arange(IMU_SAMPLES) / IMU_RATE_HZ
    phase = 2 * np.pi * (cadence * movement.steps_hz * generator.normal(1, 0.04) * seconds + generator.random())
    # A slow wave below this level is so large a share of the time.
    level = np.cos(np.pi * (1 - movement.busy))
    busy = np.sin(phase / 3 + generator.uniform(0, 2 * np.pi)) <= level
    waves = [size * np.sin((order + 1) * phase) for order, size in enumerate(movement.harmonics)]
    swing = gain * busy * np.sum(waves, axis=0)
    along = np.stack([0.4 * swing, 0.3 * np.roll(swing, 3), swing])
    rates = 2.0 * np.stack([np.roll(swing, 5), 0.5 * swing, 0.2 * np.roll(swing, 8)])
    gravity = np.array(movement.gravity) / np.linalg.norm(movement.gravity)
    both = np.concatenate([turn @ (along + gravity[:, None]), turn @ rates])
    noisy: _Doubles = both + generator.normal(0, 0.05, both.shape)
    return noisy


def _turned(about_x: float, about_y: float, about_z: float) -> _Doubles:
    """Rotation by three angles in radians, (3, 3)."""
    made: _Doubles = np.eye(3)
    for axis, angle in enumerate((about_x, about_y, about_z)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        made = made @ one
    return made


# ---- hearts -------------------------------------------------------------------------------------------------------

_Waves: TypeAlias = Mapping[str, tuple[float, float, float]]
"""Of the waves P, Q, R, S and T: height (1 is R's), middle and width, both as shares of the beat."""
_NORMAL: _Waves = {
    "P": (0.15, 0.20, 0.030), "Q": (-0.12, 0.355, 0.012), "R": (1.0, 0.39, 0.014), "S": (-0.25, 0.425, 0.014),
    "T": (0.30, 0.65, 0.050),
}  # fmt: skip
_BEATS: Mapping[str, _Waves] = {
    "normal": _NORMAL,
    "r-on-t": {**_NORMAL, "R": (0.9, 0.36, 0.04), "S": (-0.3, 0.45, 0.03), "T": (-0.35, 0.53, 0.05)},
    "premature ventricular": {
        **_NORMAL, "P": (0.0, 0.2, 0.03), "R": (1.1, 0.37, 0.05), "S": (-0.4, 0.48, 0.04), "T": (-0.3, 0.66, 0.06)
    },
    "premature supraventricular": {**_NORMAL, "P": (-0.14, 0.15, 0.025)},
    "unknown": {**_NORMAL, "R": (0.45, 0.40, 0.06), "S": (0.0, 0.43, 0.02)},
}  # fmt: skip


def ecg(counts: Sequence[int] = (40,) * 5, people: int = 4, seed: int = 1) -> Labelled[np.float32]:
    """Heart beats of 140 samples and five kinds, as ECG5000 has them: sums of five Gaussian waves.

    Gaussians for the waves P to T are the idea of McSharry et al., "A dynamical model for generating synthetic
    electrocardiogram signals", 2003; heights, times and widths are ours. They differ from beat to beat by 8 %, and a
    person's are higher or lower, wider or narrower, sooner or later.

    Args:
        counts: beats of each kind by each person; unlike ones make a rare kind.
        people: whose hearts.
        seed: of everything random.

    Returns:
        Samples float32 (n, 1, 140), millivolts; domains are the people.

    Raises:
        ConfigError: not one count for each kind, or fewer than one person or beat.
    """
    if len(counts) != len(ECG_CLASSES) or min(counts) < 0:
        raise ConfigError(f"beats of each kind: {list(counts)} is no count for each of {len(ECG_CLASSES)} kinds")
    _at_least_one({"beats": sum(counts), "people": people})
    beats, labels, domains = [], [], []
    for person in range(people):
        generator = np.random.default_rng((seed, 2, person))
        own = {wave: generator.normal((1, 0, 1), (0.15, 0.01, 0.1)) for wave in _NORMAL}
        for number, (kind, count) in enumerate(zip(ECG_CLASSES, counts, strict=True)):
            beats += [_beat(_BEATS[kind], own, generator) for _ in range(count)]
            labels += [number] * count
            domains += [f"person{person + 1}"] * count
    samples = np.stack(beats)[:, None].astype(np.float32)
    asked = f"ecg {list(counts)} {people} {seed}"
    return Labelled(samples, np.array(labels, np.int64), ECG_CLASSES, tuple(domains), ECG_NAME, _digest(asked))


def _beat(waves: _Waves, own: Mapping[str, _Doubles], generator: np.random.Generator) -> _Doubles:
    at = np.linspace(0, 1, ECG_SAMPLES)
    # The line a beat stands on wanders with the breath.
    made: _Doubles = 0.08 * np.sin(2 * np.pi * (0.3 * at + generator.random()))
    for wave, (height, middle, width) in waves.items():
        gain, late, wide = own[wave]
        jitter = generator.normal(1, ECG_JITTER, 3)
        centre = middle + late + 0.1 * (jitter[1] - 1)
        made = made + height * gain * jitter[0] * np.exp(-0.5 * ((at - centre) / (width * wide * jitter[2])) ** 2)
    noisy: _Doubles = made + generator.normal(0, ECG_NOISE, ECG_SAMPLES)
    return noisy


def _at_least_one(counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name}={count} makes no series", hint="at least 1")


def _digest(asked: str) -> str:
    """SHA-256, hex, of what the series depend on: this file, NumPy's version and what is asked for."""
    return hashlib.sha256(Path(__file__).read_bytes() + np.__version__.encode() + asked.encode()).hexdigest()
