"""LeanTTA in int8 with partial fusion: what is fused, what the device is held to, and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers.toolchain import needs_host_compiler

from lab.compiler.host import HostModel
from lab.compiler.model import TensorSpec
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads.adaptation.expectation import Expectation, Integers
from lab.workloads.adaptation.lean_tta import WORKLOAD
from lab.workloads.adaptation.options import Options, parse
from lab.workloads.base import Int8Array, Prepared

VARIANT = "length=20"
"""The emulated board has the same, and so the same preparation."""
GRID = TensorSpec((10,), 0.1, 0)


@cache
def prepared() -> Prepared:
    return WORKLOAD.prepare(cache_dir(), VARIANT)


def samples() -> Int8Array:
    return np.frombuffer(prepared().job.blob, np.int8).reshape(20, 16, 16, 1)


def expecting(outputs: Int8Array) -> Expectation:
    """Of an int8 network whose float32 form yields the same."""
    count = len(outputs)
    return Expectation(
        labels=np.arange(count, dtype=np.float32), segments=np.zeros(count, np.float32), names=("clean",),
        logits=GRID.dequantize(outputs), adapted=(), states=(), variables={}, initial={}, source_accuracy=0.5,
        integers=Integers(outputs, GRID),
    )  # fmt: skip


def test_the_shallow_half_adapts_and_the_deep_half_is_fused() -> None:
    made = prepared()
    assert [one.operator for one in made.model.layers][:6] == [
        "conv2d", "sample_norm", "conv2d", "sample_norm", "conv2d", "conv2d",
    ]  # fmt: skip
    assert (made.model.input.dtype, made.model.output.dtype, made.job.name) == ("int8", "int8", "infer")
    assert made.model.training is None
    assert made.parameters["precision"] == "int8"
    assert made.facts[0].startswith("Method lean, network of widths 8-16-16-32 trained on clean digits, int8;")
    assert "to the bit" in made.facts[2]


@needs_host_compiler
def test_the_compiled_network_is_its_integers_to_the_bit_and_near_float32(tmp_path: Path) -> None:
    made = prepared()
    outputs = HostModel(made.model, tmp_path).run(samples()).view(np.int8)
    np.testing.assert_array_equal(outputs, made.reference_outputs)
    scores = {score.metric: score for score in made.check(outputs)}
    assert scores["agreement"].value >= 0.7
    assert scores["output_error"].value < 0.1
    assert scores["accuracy"].trials == 20


@needs_host_compiler
def test_every_sample_begins_from_the_source(tmp_path: Path) -> None:
    made = prepared()
    forwards, backwards = (HostModel(made.model, tmp_path).run(one) for one in (samples(), samples()[::-1].copy()))
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_a_byte_that_differs_is_refused_and_named() -> None:
    made = prepared()
    outputs = made.reference_outputs.copy()
    outputs[7, 3] ^= 1
    outputs[11, 0] ^= 1
    with pytest.raises(WorkloadError, match=r"2 of 20 outputs of the int8 network .* the first of them at sample 7;"):
        made.check(outputs)


def test_scores_of_integers_are_read_on_their_grid() -> None:
    outputs = np.full((4, 10), -50, np.int8)
    outputs[np.arange(4), [0, 1, 2, 9]] = 100
    scores = {score.metric: score for score in expecting(outputs).check(outputs.reshape(-1))}
    assert (scores["accuracy"].value, scores["accuracy_gain"].value) == (0.75, 0.25)
    assert (scores["agreement"].value, scores["output_error"].value) == (1.0, 0.0)


def test_float32_may_be_another_class_and_is_told() -> None:
    outputs = np.full((4, 10), -50, np.int8)
    outputs[np.arange(4), np.arange(4)] = 100
    expected = expecting(outputs)
    expected.logits[2, 5] = 99.0
    scores = {score.metric: score for score in expected.check(outputs)}
    assert (scores["agreement"].value, scores["accuracy"].value, scores["accuracy"].reference) == (0.75, 1.0, 0.75)


@pytest.mark.parametrize("method", ["bn", "tent", "od", "eco", "meta", "cema"])
def test_what_is_not_there_in_int8_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=f"method={method} is not there in int8, but none, alpha, lean are") as told:
        parse("lean-tta", f"method={method}", WORKLOAD.defaults)
    assert told.value.hint == f"method={method},precision=float32"
    assert parse("lean-tta", told.value.hint, WORKLOAD.defaults).method == method


def test_other_workloads_stay_in_float32_and_no_other_precision_is_known() -> None:
    assert Options(method="od", stream="shifts", length=8).precision == "float32"
    with pytest.raises(ConfigError, match="precision=int4 is not allowed"):
        parse("lean-tta", "precision=int4", WORKLOAD.defaults)


def test_every_baseline_is_a_variant_and_every_claim_has_its_baseline() -> None:
    precisions = {variant: parse("lean-tta", variant, WORKLOAD.defaults).precision for variant in WORKLOAD.baselines}
    assert [name for name, precision in precisions.items() if precision == "float32"] == [
        "precision=float32", "method=bn,precision=float32", "method=tent,precision=float32",
    ]  # fmt: skip
    assert {claim.baseline for claim in WORKLOAD.claims} <= set(precisions)
