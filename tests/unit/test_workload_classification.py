"""What counts as an acceptable answer of a device: every bound can break, and says by how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.compiler.model import TensorSpec
from lab.errors import WorkloadError
from lab.workloads.classification import Bounds, Expectation

OUTPUT = TensorSpec((3,), scale=0.5, zero_point=-4)
LOOSE = Bounds(min_agreement=0.0, max_logit_error_steps=1000.0, max_accuracy_drop=1.0)
# Four samples, three classes; float32 is right on all four.
LOGITS = np.array([[9.0, 1, 0], [1, 9, 0], [0, 1, 9], [9, 0, 1]], dtype=np.float32)
LABELS = np.array([0, 1, 2, 0])


def expectation(outputs: npt.NDArray[np.int8], bounds: Bounds) -> Expectation:
    return Expectation(LABELS, LOGITS, outputs, OUTPUT, bounds)


def exact() -> npt.NDArray[np.int8]:
    return OUTPUT.quantize(LOGITS)


def one_other_class() -> npt.NDArray[np.int8]:
    """Sample 1 is answered with class 2."""
    outputs = exact()
    outputs[1] = outputs[2]
    return outputs


def test_scores_of_perfect_outputs() -> None:
    bounds = Bounds(min_agreement=1.0, max_logit_error_steps=0.0, max_accuracy_drop=0.0)
    accuracy, agreement, error = expectation(exact(), bounds).check(exact())
    assert (accuracy.metric, accuracy.value, accuracy.reference, accuracy.unit) == ("accuracy", 1.0, 1.0, "1")
    assert (agreement.metric, agreement.value, agreement.reference) == ("agreement", 1.0, 1.0)
    assert (error.metric, error.value, error.unit) == ("logit_error", 0.0, "output step")


def test_scores_of_imperfect_outputs() -> None:
    outputs = one_other_class()
    accuracy, agreement, error = expectation(outputs, LOOSE).check(outputs)
    assert (accuracy.value, accuracy.reference) == (0.75, 1.0)
    assert agreement.value == 0.75
    # Sample 1 is off by |0−1| + |1−9| + |9−0| = 18 of 12 logits, in steps of 0.5.
    assert error.value == pytest.approx(18 / 12 / 0.5)


@pytest.mark.parametrize(("sample", "place"), [(0, 0), (3, 2)])
def test_one_differing_byte_fails(sample: int, place: int) -> None:
    outputs = exact()
    outputs[sample, place] += 1
    with pytest.raises(WorkloadError, match=rf"1 of 4 outputs differ .* first sample {sample}: .* none may differ"):
        expectation(exact(), LOOSE).check(outputs)


@pytest.mark.parametrize(
    "outputs",
    [np.zeros((3, 3), np.int8), np.zeros((4, 2), np.int8), np.zeros(12, np.int8)],
)
def test_wrong_shape_fails(outputs: npt.NDArray[np.int8]) -> None:
    with pytest.raises(WorkloadError, match=r"int8 of shape \(4, 3\) is expected"):
        expectation(exact(), LOOSE).check(outputs)


def test_wrong_type_fails() -> None:
    with pytest.raises(WorkloadError, match="yielded int16 outputs"):
        expectation(exact(), LOOSE).check(exact().astype(np.int16))


def test_agreement_below_its_bound_fails() -> None:
    outputs = one_other_class()
    assert expectation(outputs, replace(LOOSE, min_agreement=0.75)).check(outputs)
    with pytest.raises(WorkloadError, match=r"agrees .* on 75\.00% of 4 samples; at least 76\.00% is allowed"):
        expectation(outputs, replace(LOOSE, min_agreement=0.76)).check(outputs)


def test_logit_error_above_its_bound_fails() -> None:
    outputs = one_other_class()
    assert expectation(outputs, replace(LOOSE, max_logit_error_steps=3.0)).check(outputs)
    with pytest.raises(WorkloadError, match=r"by 3\.00 output steps in the mean; at most 2\.90 is allowed"):
        expectation(outputs, replace(LOOSE, max_logit_error_steps=2.9)).check(outputs)


def test_accuracy_below_its_floor_fails() -> None:
    outputs = one_other_class()
    assert expectation(outputs, replace(LOOSE, max_accuracy_drop=0.25)).check(outputs)
    with pytest.raises(WorkloadError, match=r"is 75\.00%; at least 76\.00% is allowed .*reference's 100\.00%"):
        expectation(outputs, replace(LOOSE, max_accuracy_drop=0.24)).check(outputs)


@given(st.integers(0, 2**32 - 1))
def test_rounding_alone_costs_half_a_step_at_most(seed: int) -> None:
    logits = np.random.default_rng(seed).uniform(-60, 60, (50, 3)).astype(np.float32)
    labels = logits.argmax(axis=1)
    outputs = OUTPUT.quantize(logits)
    judged = Expectation(labels, logits, outputs, OUTPUT, replace(LOOSE, max_logit_error_steps=0.5001))
    assert judged.reference_accuracy == 1.0
    assert 0 <= judged.check(outputs)[2].value <= 0.5001
