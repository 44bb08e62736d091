"""Corrupted digits: seeded, bounded, and what each corruption is, against PyTorch, SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from lab.errors import ConfigError
from lab.workloads.data import corruptions, digits
from lab.workloads.data.corruptions import CLEAN, CORRUPTIONS, SEVERITIES, Segment, corrupt, enlarged, mixed, stream

IMAGES = digits.load()
LARGE = enlarged(IMAGES.pixels[:64])
LABELS = IMAGES.digits[:64]


def test_images_are_enlarged_as_pytorch_enlarges_them() -> None:
    pixels = torch.from_numpy(IMAGES.pixels[:64])[:, None]
    theirs = torch.nn.functional.interpolate(pixels, size=(16, 16), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(LARGE, theirs, atol=1e-6)


@given(st.sampled_from(CORRUPTIONS), st.sampled_from(SEVERITIES), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_seed_draws_the_same_images_and_all_are_in_range(kind: str, severity: int, seed: int) -> None:
    first, again = (corrupt(LARGE, kind, severity, np.random.default_rng(seed)) for _ in range(2))
    assert first.dtype == np.float32
    assert first.shape == LARGE.shape
    assert np.array_equal(first, again)
    assert first.min() >= 0
    assert first.max() <= 1.5
    assert np.array_equal(corrupt(LARGE, CLEAN, severity, np.random.default_rng(seed)), LARGE)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_images_of_other_sizes_keep_theirs(kind: str) -> None:
    wide = np.random.default_rng(2).random((3, 12, 28), np.float32)
    found = corrupt(wide, kind, 4, np.random.default_rng(1))
    assert found.shape == (3, 12, 28)
    assert (found != wide).any((0, 1))[1:].all(), "to its last column"


@pytest.mark.parametrize("kind", [one for one in CORRUPTIONS if one != "pixelate"])
def test_the_most_severe_is_further_from_the_image_than_the_least(kind: str) -> None:
    far, near = (corrupt(LARGE, kind, severity, np.random.default_rng(1)) for severity in (5, 1))
    assert np.abs(far - LARGE).mean() > np.abs(near - LARGE).mean() > 0


def test_a_blur_is_a_gaussian_of_its_width() -> None:
    sigma = 0.35 * 4
    reach = int(np.ceil(3 * sigma))
    theirs = gaussian_filter1d(LARGE.astype(np.float64), sigma, axis=1, mode="nearest", radius=reach)
    theirs = gaussian_filter1d(theirs, sigma, axis=2, mode="nearest", radius=reach)
    np.testing.assert_allclose(corrupt(LARGE, "blur", 4, np.random.default_rng(0)), theirs, atol=1e-6)


def test_contrast_and_pixelation_keep_the_mean_and_gain_and_light_move_it_as_they_say() -> None:
    means = {
        kind: corrupt(LARGE, kind, 2, np.random.default_rng(0)).mean(axis=(1, 2)) for kind in ("contrast", "pixelate")
    }
    for mean in means.values():
        np.testing.assert_allclose(mean, LARGE.mean(axis=(1, 2)), rtol=1e-5)
    lighter = corrupt(LARGE, "brightness", 3, np.random.default_rng(0))
    np.testing.assert_allclose(lighter, LARGE + 0.36, atol=1e-6)
    stronger = corrupt(LARGE, "gain", 1, np.random.default_rng(0))
    np.testing.assert_allclose(stronger, np.minimum(1.5 * LARGE, 1.5), atol=1e-6)


def test_motion_is_the_mean_of_shifts() -> None:
    moved = corrupt(LARGE, "motion", 2, np.random.default_rng(0))
    np.testing.assert_allclose(moved[:, :, 5], LARGE[:, :, 3:6].mean(axis=2), atol=1e-6)


def test_noise_has_the_spread_it_says() -> None:
    grey = np.full((200, 16, 16), 0.7, np.float32)
    noisy = corrupt(grey, "gauss", 1, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(0.12, rel=0.02)
    struck = corrupt(grey, "impulse", 2, np.random.default_rng(0)) != np.float32(0.7)
    assert np.mean(struck) == pytest.approx(0.2, abs=0.01)
    counted = corrupt(grey, "shot", 1, np.random.default_rng(0))
    assert counted.std() == pytest.approx((0.7 / 60) ** 0.5, rel=0.03)


def test_what_is_unknown_is_refused_by_name() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="there is no corruption 'rain'"):
        corrupt(LARGE, "rain", 1, generator)
    with pytest.raises(ConfigError, match="severity 6 of 'fog' is not allowed"):
        corrupt(LARGE, "fog", 6, generator)


def test_a_stream_goes_through_its_segments_and_returns_with_labels_that_belong_to_its_images() -> None:
    parts = (Segment(CLEAN, 1, 40), Segment("gain", 1, 30), Segment(CLEAN, 1, 20))
    found = stream(LARGE, LABELS, parts, 3)
    assert found.names == ("clean", "gain 1", "clean")
    assert [int(np.sum(found.segments == number)) for number in range(3)] == [40, 30, 20]
    assert found.images.shape == (90, 1, 16, 16)
    for index in (0, 39, 70, 89):
        matches = [place for place in range(len(LARGE)) if np.array_equal(LARGE[place], found.images[index, 0])]
        assert found.labels[index] in LABELS[matches]
    again, other = stream(LARGE, LABELS, parts, 3), stream(LARGE, LABELS, parts, 4)
    assert np.array_equal(found.images, again.images)
    assert not np.array_equal(found.images, other.images)
    assert len(found) == 90


def test_a_pool_is_gone_through_before_an_image_comes_again() -> None:
    found = stream(LARGE, LABELS, (Segment(CLEAN, 1, 64),), 0)
    assert len(np.unique(found.images.reshape(64, -1), axis=0)) == len(np.unique(LARGE.reshape(64, -1), axis=0))


def test_a_mixed_stream_has_the_same_samples_in_another_order() -> None:
    parts = (Segment("fog", 1, 20), Segment("blur", 2, 30))
    shuffled = mixed(parts, 0)
    assert sorted(one.corruption for one in shuffled) == ["blur"] * 30 + ["fog"] * 20
    assert {one.samples for one in shuffled} == {1}
    assert shuffled[:20] != mixed(parts, 1)[:20]


def test_streams_without_images_or_segments_are_refused() -> None:
    with pytest.raises(ConfigError, match="no images to take"):
        stream(LARGE[:0], LABELS[:0], (Segment(CLEAN, 1, 4),), 0)
    for parts in ((), (Segment("fog", 1, 0),)):
        with pytest.raises(ConfigError, match="segments of at least one sample"):
            stream(LARGE, LABELS, parts, 0)


def test_every_corruption_has_its_function() -> None:
    assert set(corruptions._CORRUPTIONS) == set(CORRUPTIONS)
