"""What counts as an acceptable answer of a device: every bound can break, and says by how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lab.compiler
from lab.compiler.model import TensorSpec
from lab.errors import WorkloadError
from lab.workloads import classification
from lab.workloads.classification import Bounds, Expectation, Recipe, Samples
from lab.workloads.fitting import Plan

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


@dataclass
class Blobs:
    """Three clouds of points; counts how often it is read."""

    digest: str = "d"
    dataset_name: str = "blobs"
    note: str = "A note."
    parameters: Mapping[str, str] = field(default_factory=dict)
    reads: int = 0
    network_built: torch.nn.Module | None = None

    def samples(self, seed: int) -> Samples:
        self.reads += 1
        generator = np.random.default_rng(seed)
        labels = np.arange(120) % 3
        points = (4 * np.eye(3)[labels] + generator.standard_normal((120, 3))).astype(np.float32)
        images = points.reshape(120, 3, 1, 1)
        return Samples(images[:90], labels[:90], images[:90], images[90:], labels[90:])

    def network(self) -> torch.nn.Module:
        self.network_built = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3))
        return self.network_built


RECIPE = Recipe(Plan(epochs=3, batch=30, learning_rate=0.1), seed=5, sources=())


def test_reference_logits_are_those_of_the_trained_network(tmp_path: Path) -> None:
    task = Blobs()
    prepared = classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path)
    assert task.network_built is not None
    held_out = task.samples(RECIPE.seed).held_out
    with torch.no_grad():
        logits = task.network_built.eval()(torch.from_numpy(held_out)).numpy()
    accuracy = float(np.mean(logits.argmax(axis=1) == task.samples(RECIPE.seed).held_out_labels))
    scores = {score.metric: score for score in prepared.check(prepared.reference_outputs)}
    assert scores["accuracy"].reference == accuracy
    error = np.abs(prepared.model.output.dequantize(prepared.reference_outputs) - logits).mean()
    assert scores["logit_error"].value == pytest.approx(error / prepared.model.output.scale, rel=1e-5)
    assert prepared.seed == 5
    assert prepared.dataset.samples == prepared.job.count == 30


def test_inputs_go_to_the_device_channels_last(tmp_path: Path) -> None:
    task = Blobs()
    prepared = classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path)
    expected = prepared.model.input.quantize(task.samples(RECIPE.seed).held_out.reshape(30, 3))
    assert prepared.job.blob == expected.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda task, recipe: (replace(task, digest="other"), recipe),
        lambda task, recipe: (replace(task, parameters={"speaker": "x"}), recipe),
        lambda task, recipe: (task, replace(recipe, seed=6)),
        lambda task, recipe: (task, replace(recipe, plan=replace(recipe.plan, epochs=2))),
        lambda task, recipe: (task, replace(recipe, sources=(Path(__file__),))),
    ],
)
def test_whatever_the_result_depends_on_is_in_the_key(
    tmp_path: Path, change: Callable[[Blobs, Recipe], tuple[Blobs, Recipe]]
) -> None:
    task = Blobs()
    classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path)
    classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path)
    assert task.reads == 1
    changed, recipe = change(replace(task, reads=0), RECIPE)
    classification.prepare("blobs", changed, recipe, LOOSE, tmp_path)
    assert changed.reads == 1


@pytest.mark.parametrize("package", ["torch", "numpy", "scipy"])
def test_another_version_of_a_package_is_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    task = Blobs()
    classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path)
    monkeypatch.setattr(classification, "version", lambda name: "0.0" if name == package else version(name))
    classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path)
    assert task.reads == 2


def test_bounds_are_not_part_of_the_key_but_of_the_facts(tmp_path: Path) -> None:
    task = Blobs()
    classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path)
    strict = classification.prepare("blobs", task, RECIPE, Bounds(0.93, 2.25, 0.5), tmp_path)
    assert task.reads == 1
    assert "93.00%" in strict.facts[2]
    assert "2.25" in strict.facts[2]


def test_another_compiler_compiles_the_same_trained_network_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = classification.prepare("blobs", Blobs(), RECIPE, LOOSE, tmp_path / "cache")
    (tmp_path / "changed.py").write_text("")
    monkeypatch.setattr(lab.compiler, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr("lab.workloads.fitting.fit", None)
    task = Blobs()
    again = classification.prepare("blobs", task, RECIPE, LOOSE, tmp_path / "cache")
    assert task.reads == 1
    np.testing.assert_array_equal(again.reference_outputs, first.reference_outputs)
