"""Corrupted digits in a stream that shifts and returns: scikit-learn's digits, 16×16 pixels, ten corruptions.

The kinds and the scale of severities 1 to 5 follow Hendrycks and Dietterich, "Benchmarking neural network robustness to
common corruptions and perturbations" (ICLR 2019), made small for digits of 16×16 pixels. Everything is drawn from one
seed; images are 0 (paper) … 1 (ink).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError

FloatArray: TypeAlias = npt.NDArray[np.float32]
_Doubles: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
Corruption: TypeAlias = Literal[
    "gauss", "shot", "impulse", "blur", "motion", "contrast", "brightness", "fog", "pixelate", "gain"
]


IMAGE = 16
CLEAN = "clean"
CORRUPTIONS: tuple[str, ...] = get_args(Corruption)
SEVERITIES = (1, 2, 3, 4, 5)
CONTRAST = (0.6, 0.45, 0.3, 0.2, 0.12)
PIXELATE = (1, 2, 2, 4, 4)
FOG_STEPS = 3


@dataclass(frozen=True)
class Segment:
    """A part of a stream: ``samples`` images under one corruption, ``clean`` for none."""

    corruption: str
    severity: int
    samples: int


@dataclass(frozen=True)
class Stream:
    """A stream of single images in order.

    Attributes:
        images: float32 (n, channels, height, width); of digits (n, 1, 16, 16), 0 … 1 and what a corruption adds.
        labels: int64 (n,).
        segments: int64 (n,), the number of the segment each belongs to.
        names: of the segments, in order: the corruption and its severity.
    """

    images: FloatArray
    labels: IntArray
    segments: IntArray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def corrupt(images: FloatArray, corruption: str, severity: int, generator: np.random.Generator) -> FloatArray:
    """Images under one corruption.

    Args:
        images: float32 (n, height, width), 0 … 1; sides of a multiple of four pixels.
        corruption: one of :data:`CORRUPTIONS`, or ``clean``.
        severity: 1 to 5.
        generator: what is random is drawn from it.

    Raises:
        ConfigError: an unknown corruption or severity.
    """
    if corruption == CLEAN:
        return images.astype(np.float32)
    if corruption not in _CORRUPTIONS:
        raise ConfigError(
            f"there is no corruption '{corruption}'", hint=f"there are: {', '.join((CLEAN, *CORRUPTIONS))}"
        )
    if severity not in SEVERITIES:
        raise ConfigError(f"severity {severity} of '{corruption}' is not allowed", hint="1 to 5")
    made = _CORRUPTIONS[corruption](images.astype(np.float64), severity, generator)
    return np.clip(made, 0.0, 1.5).astype(np.float32)


def _gauss(images: _Doubles, severity: int, generator: np.random.Generator) -> _Doubles:
    noise: _Doubles = generator.normal(0, 0.12 * severity, images.shape)
    return images + noise


def _shot(images: _Doubles, severity: int, generator: np.random.Generator) -> _Doubles:
    rate = 60.0 / math.pow(severity, 1.8)
    counts = generator.poisson(images * rate).astype(np.float64)
    return counts / rate


def _impulse(images: _Doubles, severity: int, generator: np.random.Generator) -> _Doubles:
    drawn, share = generator.random(images.shape), 0.05 * severity
    return np.where(drawn < share, 1.0, np.where(drawn > 1 - share, 0.0, images))


def _blurred(images: _Doubles, sigma: float) -> _Doubles:
    reach = max(1, int(np.ceil(3 * sigma)))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        widths = [(0, 0), (0, 0), (0, 0)]
        widths[axis] = (reach, reach)
        padded = np.pad(images, widths, mode="edge")
        along = np.arange(images.shape[axis])
        shifted = [tap * np.take(padded, along + place, axis) for place, tap in enumerate(taps)]
        images = np.sum(shifted, axis=0, dtype=np.float64)
    return images


def _blur(images: _Doubles, severity: int, _: np.random.Generator) -> _Doubles:
    return _blurred(images, 0.35 * severity)


def _motion(images: _Doubles, severity: int, _: np.random.Generator) -> _Doubles:
    padded = np.pad(images, ((0, 0), (0, 0), (severity, 0)), mode="edge")
    shifted = [padded[:, :, place : place + images.shape[2]] for place in range(severity + 1)]
    made: _Doubles = np.mean(shifted, axis=0, dtype=np.float64)
    return made


def _contrast(images: _Doubles, severity: int, _: np.random.Generator) -> _Doubles:
    mean: _Doubles = images.mean(axis=(1, 2), keepdims=True)
    made: _Doubles = mean + CONTRAST[severity - 1] * (images - mean)
    return made


def _brightness(images: _Doubles, severity: int, _: np.random.Generator) -> _Doubles:
    return images + 0.12 * severity


def _fog(images: _Doubles, severity: int, generator: np.random.Generator) -> _Doubles:
    noise = generator.random(images.shape)
    for _ in range(FOG_STEPS):
        noise = _blurred(noise, 1.0)
    low, high = noise.min(axis=(1, 2), keepdims=True), noise.max(axis=(1, 2), keepdims=True)
    haze: _Doubles = (noise - low) / (high - low)
    return (1 - 0.12 * severity) * images + 0.14 * severity * haze


def _pixelate(images: _Doubles, severity: int, _: np.random.Generator) -> _Doubles:
    side = PIXELATE[severity - 1]
    count, height, width = images.shape
    blocks: _Doubles = images.reshape(count, height // side, side, width // side, side).mean(axis=(2, 4))
    return np.asarray(blocks.repeat(side, axis=1).repeat(side, axis=2), np.float64)


def _gain(images: _Doubles, severity: int, _: np.random.Generator) -> _Doubles:
    return images * (1 + 0.5 * severity)


_Function: TypeAlias = Callable[[_Doubles, int, np.random.Generator], _Doubles]
_CORRUPTIONS: Mapping[str, _Function] = {
    "gauss": _gauss,
    "shot": _shot,
    "impulse": _impulse,
    "blur": _blur,
    "motion": _motion,
    "contrast": _contrast,
    "brightness": _brightness,
    "fog": _fog,
    "pixelate": _pixelate,
    "gain": _gain,
}


def enlarged(pixels: FloatArray) -> FloatArray:
    """Images of 8×8 pixels as 16×16, bilinear: float32 (n, 16, 16)."""
    # Pixel centres of the larger image lie at a quarter and three quarters of the smaller one's pixels.
    enlarge = np.zeros((IMAGE, IMAGE // 2), np.float32)
    for row in range(IMAGE):
        neighbour = row // 2 + (1 if row % 2 else -1)
        enlarge[row, row // 2] += 0.75
        enlarge[row, min(max(neighbour, 0), IMAGE // 2 - 1)] += 0.25
    return np.ascontiguousarray(enlarge @ pixels @ enlarge.T, np.float32)


def stream(images: FloatArray, labels: IntArray, segments: Sequence[Segment], seed: int) -> Stream:
    """A stream: each segment takes the next images of a shuffled pool, again from its beginning when that ends.

    Args:
        images: float32 (n, 16, 16), 0 … 1.
        labels: int64 (n,).
        segments: what the stream goes through.
        seed: of the order and of what corruptions draw.

    Raises:
        ConfigError: no images, no segments, an empty segment, or what :func:`corrupt` refuses.
    """
    if len(images) == 0:
        raise ConfigError("a stream has no images to take", hint="is the class it is held to there at all?")
    if not segments or any(one.samples < 1 for one in segments):
        raise ConfigError(f"a stream goes through segments of at least one sample, found {list(segments)}")
    generator = np.random.default_rng(seed)
    total = sum(one.samples for one in segments)
    order = np.concatenate([generator.permutation(len(images)) for _ in range(-(-total // len(images)))])[:total]
    parts: list[FloatArray] = []
    begin = 0
    for one in segments:
        chosen = images[order[begin : begin + one.samples]]
        parts.append(corrupt(chosen, one.corruption, one.severity, generator))
        begin += one.samples
    numbers = np.repeat(np.arange(len(segments)), [one.samples for one in segments])
    names = tuple(one.corruption if one.corruption == CLEAN else f"{one.corruption} {one.severity}" for one in segments)
    return Stream(np.concatenate(parts)[:, None], labels[order], numbers.astype(np.int64), names)


def mixed(segments: Sequence[Segment], seed: int) -> tuple[Segment, ...]:
    """The same samples one by one, in an order drawn from ``seed``: every sample may be another shift (abrupt)."""
    single = [Segment(one.corruption, one.severity, 1) for one in segments for _ in range(one.samples)]
    return tuple(single[place] for place in np.random.default_rng(seed).permutation(len(single)))
