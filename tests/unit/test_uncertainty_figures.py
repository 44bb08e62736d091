"""Figures of uncertainty, the evidential loss and the images asked, against other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution
from sklearn.metrics import log_loss, roc_auc_score
from torch.distributions import Beta, kl_divergence

from lab.workloads.data import corruptions, digits
from lab.workloads.uncertainty import quality
from lab.workloads.uncertainty.evidence import PRIOR, beta, evidential_loss
from lab.workloads.uncertainty.scenes import CLEAN, SHIFTED, UNKNOWN, asked, training

KNOWN = 8


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_that_of_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    scores, wrong = np.array([one for one, _ in pairs], float), np.array([one for _, one in pairs])
    if wrong.all() or not wrong.any():
        assert quality.auroc(scores, wrong) == 0.5
    else:
        assert quality.auroc(scores, wrong) == pytest.approx(roc_auc_score(wrong, scores))


def test_scores_of_shares() -> None:
    generator = np.random.default_rng(1)
    shares, labels = generator.dirichlet(np.ones(4), 50), generator.integers(0, 4, 50)
    assert quality.log_loss(shares, labels) == pytest.approx(log_loss(labels, shares, labels=range(4)))
    assert quality.brier(shares, labels) == pytest.approx(
        np.mean([((row - np.eye(4)[label]) ** 2).sum() for row, label in zip(shares, labels, strict=True)])
    )
    assert quality.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-6))


def test_calibration_error_is_the_gap_of_each_bin_by_its_size() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 1.0])
    right = np.array([True, True, False, True, True, True])
    expected = (5 / 6) * abs(4.8 / 5 - 0.8) + (1 / 6) * 0.45
    assert quality.calibration_error(confidence, right) == pytest.approx(expected)


def test_the_loss_is_the_expectation_under_beta_and_the_divergence_from_uniform() -> None:
    logits = torch.tensor([[0.7, -1.2, 0.4, 1.1]], dtype=torch.float64)
    alpha, against = (one[0].tolist() for one in beta(logits))
    total = 0.0
    for event, there in enumerate((True, False)):
        drawn = beta_distribution(alpha[event], against[event])
        total += quad(lambda p, d=drawn, t=there: -np.log(p if t else 1 - p) * d.pdf(p), 0, 1)[0]
        wrong = Beta(1.0, against[event]) if there else Beta(alpha[event], 1.0)
        total += PRIOR * float(kl_divergence(wrong, Beta(1.0, 1.0)))
    assert float(evidential_loss(logits, torch.tensor([0]))) == pytest.approx(total, rel=1e-4)


def test_evidence_stays_between_bounds_whatever_the_logits() -> None:
    alpha, against = beta(torch.tensor([[1e6, -1e6]]))
    assert float(alpha) == pytest.approx(1 + np.exp(6))
    assert float(against) == pytest.approx(1 + np.exp(-8))


def test_what_is_asked_was_never_trained_on_and_kinds_are_mixed() -> None:
    trained_on, labels = training(KNOWN)
    scene = asked(KNOWN, (40, 30, 20))
    assert set(labels) == set(range(KNOWN))
    assert [int((scene.kinds == kind).sum()) for kind in (CLEAN, SHIFTED, UNKNOWN)] == [40, 30, 20]
    np.testing.assert_array_equal(scene.labels == -1, scene.kinds == UNKNOWN)
    seen = {one.tobytes() for one in trained_on}
    assert not any(one.tobytes() in seen for one in scene.images)
    assert len(set(scene.kinds[:12])) == 3, "in random order"
    held_out = corruptions.enlarged(digits.load().pixels)
    known = {one.tobytes() for one in held_out}
    assert all((one.tobytes() in known) == (kind != SHIFTED) for one, kind in zip(
        np.ascontiguousarray(scene.images[:, 0]), scene.kinds, strict=True))  # fmt: skip
    np.testing.assert_array_equal(asked(KNOWN, (40, 30, 20)).images, scene.images)
