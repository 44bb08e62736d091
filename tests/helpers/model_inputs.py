"""Inputs for MLPerf Tiny's models: half real data, half noise and smooth inputs of all means and contrasts.

Real means: spoken digits for the keyword model and the sound model (not the benchmarks' own front ends), photographs
that come with scikit-learn for the two image models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lab.compiler.model import TensorSpec

Int8 = npt.NDArray[np.int8]
MODELS = ("kws_ref_model", "pretrainedResnet_quant", "vww_96_int8", "ad01_int8")


def model_path(name: str) -> Path:
    """The model's file in ``LAB_DATA``; skips the test where it is not there."""
    folder = os.environ.get("LAB_DATA", "")
    path = Path(folder) / "mlperf-tiny" / f"{name}.tflite"
    if not folder or not path.is_file():
        pytest.skip(f"LAB_DATA does not hold mlperf-tiny/{name}.tflite")
    return path


def model_inputs(name: str, spec: TensorSpec, count: int) -> Int8:
    """``count`` int8 samples of the model's input shape, the first half of them real."""
    rng = np.random.default_rng(0)
    real = _REAL[name](spec, count // 2, rng)
    return np.concatenate([real, _synthetic(rng, spec.shape, count - count // 2)])


def _synthetic(rng: np.random.Generator, shape: Sequence[int], count: int) -> Int8:
    samples = rng.integers(-128, 128, (count, *shape), dtype=np.int8)
    for index in range(count // 2):
        smooth = np.cumsum(rng.normal(0, 1, shape), axis=0) * rng.uniform(0, 20) + rng.uniform(-128, 128)
        samples[index] = np.clip(smooth, -128, 127).astype(np.int8)
    return samples


def _stretched(features: npt.NDArray[np.float64], spec: TensorSpec) -> Int8:
    """Features spread over the whole range of the model's input."""
    low, high = features.min(), features.max()
    quantised = np.rint((features - low) / (high - low) * 255 - 128)
    return quantised.astype(np.int8).reshape(len(features), *spec.shape)


def _clips(count: int) -> npt.NDArray[np.float64]:
    from lab.workloads.data import spoken_digits
    from lab.workloads.data.mfcc import one_second

    recordings = spoken_digits.load(Path(os.environ["LAB_DATA"]))
    step = len(recordings.clips) // count
    return np.stack([one_second(clip) for clip in recordings.clips[::step][:count]]).astype(np.float64)


def _keywords(spec: TensorSpec, count: int, rng: np.random.Generator) -> Int8:
    from lab.workloads.data.mfcc import mfcc

    return _stretched(mfcc(_clips(count).astype(np.float32)).astype(np.float64), spec)


def _sounds(spec: TensorSpec, count: int, rng: np.random.Generator) -> Int8:
    """Five frames of 128 logarithmic power bins."""
    frames = _clips(count)[:, :1280].reshape(count, 5, 256)
    power = np.abs(np.fft.rfft(frames, axis=2))[..., :128] ** 2
    return _stretched(np.log(power + 1e-6), spec)


def _photographs(spec: TensorSpec, count: int, rng: np.random.Generator) -> Int8:
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    height, width, _ = spec.shape
    crops = []
    for index in range(count):
        image = images[index % len(images)]
        top, left = rng.integers(image.shape[0] - height), rng.integers(image.shape[1] - width)
        crops.append(image[top : top + height, left : left + width].astype(np.int16) - 128)
    return np.stack(crops).astype(np.int8)


_REAL: Mapping[str, Callable[[TensorSpec, int, np.random.Generator], Int8]] = {
    "kws_ref_model": _keywords,
    "pretrainedResnet_quant": _photographs,
    "vww_96_int8": _photographs,
    "ad01_int8": _sounds,
}
