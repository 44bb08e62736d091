"""SMOTE against its definition: every made sample lies between one of its class and one of the five nearest of it."""

from __future__ import annotations

import numpy as np

from lab.workloads.data import smote


def test_rare_classes_are_filled_up_by_samples_between_neighbours() -> None:
    generator = np.random.default_rng(1)
    samples = generator.standard_normal((30, 2, 4)).astype(np.float32)
    labels = np.array([0] * 18 + [1] * 8 + [2] * 3 + [3])
    made, of = smote.balanced(samples, labels, np.random.default_rng(2))
    np.testing.assert_array_equal(made[:30], samples)
    assert np.bincount(of).tolist() == [18] * 4
    for label in (1, 2):
        own = samples[labels == label].reshape(-1, 8).astype(np.float64)
        new = made[30:][of[30:] == label].reshape(-1, 8)
        assert len({row.tobytes() for row in new}) == len(new), "each is another one"
        for one in new:
            assert min(distance(one, first, second) for first, second in pairs(own)) < 1e-5
    assert (made[30:][of[30:] == 3] == samples[29]).all(), "a class of one is repeated"
    again, _ = smote.balanced(samples, labels, np.random.default_rng(2))
    np.testing.assert_array_equal(again, made)


def pairs(own: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[
    tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], np.ndarray[tuple[int, ...], np.dtype[np.float64]]]
]:  # fmt: skip
    """Each sample with each of its five nearest."""
    found = []
    for place, one in enumerate(own):
        far = np.linalg.norm(own - one, axis=1)
        found += [(one, own[other]) for other in np.argsort(far)[1:6] if other != place]
    return found


def distance(
    point: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    begin: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    end: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> float:
    """From a line's part between two points."""
    along = end - begin
    share = np.clip((point - begin) @ along / (along @ along), 0, 1)
    return float(np.linalg.norm(point - begin - share * along))
