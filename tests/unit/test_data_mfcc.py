"""MFCCs against their definition: explicit DFT and DCT sums, filters drawn from their corner frequencies."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.workloads.data import augmentation, mfcc

Float64Array = npt.NDArray[np.float64]


def _mel(frequency_hz: float) -> float:
    return 1127.0 * math.log(1 + frequency_hz / 700.0)


def _hz(mel: float) -> float:
    return 700.0 * (math.exp(mel / 1127.0) - 1)


def _filters_by_definition() -> Float64Array:
    low, high = _mel(20.0), _mel(4000.0)
    corners = [low + (high - low) * number / 41 for number in range(42)]
    filters = np.zeros((257, 40))
    for band in range(40):
        left, centre, right = corners[band : band + 3]
        for k in range(257):
            at = _mel(k * 8000 / 512)
            if left < at <= centre:
                filters[k, band] = (at - left) / (centre - left)
            elif centre < at < right:
                filters[k, band] = (right - at) / (right - centre)
    return filters


def _mfcc_by_definition(clip: Float64Array) -> Float64Array:
    n = np.arange(320)
    dft = np.exp(-2j * np.pi * np.outer(n, np.arange(257)) / 512)
    window = scipy.signal.get_window("hann", 320)
    dct = np.array([[math.cos(math.pi * q * (2 * m + 1) / 80) for m in range(40)] for q in range(10)])
    dct *= np.sqrt(np.where(np.arange(10) == 0, 1 / 40, 2 / 40))[:, np.newaxis]
    filters = _filters_by_definition()
    rows = []
    for start in range(0, 8000 - 320 + 1, 160):
        power = np.abs((clip[start : start + 320] * window) @ dft) ** 2
        rows.append(dct @ np.log(power @ filters + mfcc.POWER_FLOOR))
    return np.array(rows)


def _tone(frequency_hz: float) -> Float64Array:
    return np.sin(2 * np.pi * frequency_hz * np.arange(8000) / 8000)


def test_filters_follow_from_their_corner_frequencies() -> None:
    np.testing.assert_allclose(mfcc.mel_filters(), _filters_by_definition(), atol=2e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_definition_on_noise_in_silence(seed: int) -> None:
    generator = np.random.default_rng(seed)
    clip = np.zeros(8000)
    clip[1000:5000] = generator.standard_normal(4000) / 4
    got = mfcc.mfcc(clip[np.newaxis].astype(np.float32))
    assert got.shape == (1, 49, 10)
    np.testing.assert_allclose(got[0], _mfcc_by_definition(clip), atol=5e-3)


def test_padded_frames_are_those_of_a_clip_with_zeros_on_both_sides_and_rates_share_the_definition() -> None:
    clip = np.random.default_rng(3).standard_normal(8000).astype(np.float32)
    centred = mfcc.mfcc(clip[np.newaxis], mfcc.Framing(padded=True))[0]
    assert centred.shape == (51, 10)
    np.testing.assert_allclose(centred[1:-1], mfcc.mfcc(clip[np.newaxis])[0], atol=1e-4)
    first = np.zeros(8000)
    first[160:320] = clip[:160]
    np.testing.assert_allclose(centred[0], _mfcc_by_definition(first)[0], atol=5e-3)
    fast = mfcc.Framing(rate_hz=16_000, padded=True)
    assert (fast.window_samples, fast.hop_samples, fast.fft_samples, fast.frames) == (640, 320, 1024, 51)
    assert mfcc.mel_filters(fast).shape == (513, 40)
    band = np.argmax(mfcc.mel_filters(fast)[3000 * 1024 // 16_000])
    edges = np.linspace(_mel(20.0), _mel(8000.0), 42)
    assert abs(_mel(3000.0) - edges[band + 1]) <= edges[1] - edges[0]


@pytest.mark.parametrize("frequency_hz", [125.0, 1000.0, 3210.0])
def test_equals_definition_on_tones(frequency_hz: float) -> None:
    clip = _tone(frequency_hz)
    got = mfcc.mfcc(clip[np.newaxis].astype(np.float32))[0]
    np.testing.assert_allclose(got, _mfcc_by_definition(clip), atol=5e-3)


def test_silence_is_the_floor() -> None:
    got = mfcc.mfcc(np.zeros((1, 8000), dtype=np.float32))[0]
    np.testing.assert_allclose(got[:, 0], math.sqrt(40) * math.log(mfcc.POWER_FLOOR), rtol=1e-5)
    np.testing.assert_allclose(got[:, 1:], 0, atol=1e-3)


def test_each_clip_is_on_its_own_across_batches() -> None:
    clips = np.random.default_rng(3).standard_normal((300, 8000)).astype(np.float32)
    together = mfcc.mfcc(clips)
    np.testing.assert_allclose(together[[0, 255, 256, 299]], mfcc.mfcc(clips[[0, 255, 256, 299]]), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 7999), (8000,), (1, 8001)])
def test_refuses_other_lengths(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(n, 8000\)"):
        mfcc.mfcc(np.zeros(shape, dtype=np.float32))


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 20000), value=st.integers(-32768, 32767).filter(bool))
def test_one_second_centres_pads_and_crops(length: int, value: int) -> None:
    clip = np.full(length, value, dtype=np.int16)
    placed = mfcc.one_second(clip)
    assert placed.shape == (8000,)
    assert placed.dtype == np.float32
    inside = np.flatnonzero(placed)
    assert len(inside) == min(length, 8000)
    left, right = int(inside[0]), 7999 - int(inside[-1])
    assert 0 <= right - left <= 1
    np.testing.assert_array_equal(placed[inside], np.float32(math.copysign(1.0, value)))


def test_one_second_crops_the_middle() -> None:
    clip = np.arange(1, 8004, dtype=np.int16)
    placed = mfcc.one_second(clip)
    np.testing.assert_allclose(placed, np.arange(2, 8002) / 8001, rtol=1e-6)


def test_one_second_of_silence_is_silent() -> None:
    assert not mfcc.one_second(np.zeros(100, dtype=np.int16)).any()


@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 12000))
@settings(max_examples=30, deadline=None)
def test_augmented_copies_depend_on_the_generator_alone(seed: int, length: int) -> None:
    clip = (np.random.default_rng(length).standard_normal(length) * 3000).astype(np.int16)
    first = augmentation.augmented(clip, np.random.default_rng(seed))
    second = augmentation.augmented(clip, np.random.default_rng(seed))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (8000,)
    assert np.max(np.abs(first)) == pytest.approx(1.0)
    assert not np.array_equal(first, augmentation.augmented(clip, np.random.default_rng(seed + 1)))


def test_augmentation_keeps_a_silent_clip_finite() -> None:
    changed = augmentation.augmented(np.zeros(100, dtype=np.int16), np.random.default_rng(0))
    assert np.isfinite(changed).all()


def test_augmentation_moves_pitch_within_its_range() -> None:
    clip = (20000 * _tone(1000.0)).astype(np.int16)
    generator = np.random.default_rng(5)
    peaks_hz = []
    for _ in range(40):
        spectrum = np.abs(np.fft.rfft(augmentation.augmented(clip, generator)))
        peaks_hz.append(float(np.argmax(spectrum)))
    low, high = augmentation.SPEED_RANGE
    assert 1000 * low - 2 <= min(peaks_hz) < 900
    assert 1100 < max(peaks_hz) <= 1000 * high + 2
