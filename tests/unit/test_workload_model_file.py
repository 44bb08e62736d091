"""The workload of a model file: what is found by path, read from a variant, and expected of a device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.tflite_builder import Operator, Tensor, write

from lab.errors import CompileError, ConfigError, WorkloadError
from lab.workloads import get
from lab.workloads.inference.model_file import SAMPLES, ModelFile

pytest.importorskip("tflite", reason="the package that reads .tflite is not installed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    tensors = [
        Tensor("x", [1, 2, 3, 2], scales=[0.5], zero_points=[1]),
        Tensor("w", [4, 12], "int8", [0.01], [0], 0, rng.integers(-99, 99, (4, 12), dtype=np.int8)),
        Tensor("y", [1, 4], scales=[0.1], zero_points=[0]),
    ]
    file = tmp_path / "kws_ref_model.tflite"
    file.write_bytes(write(tensors, [Operator("FULLY_CONNECTED", [0, 1, -1], [2])], [0], [2]))
    return file


def test_a_path_is_a_workload(path: Path) -> None:
    workload = get(str(path))
    assert isinstance(workload, ModelFile)
    assert (workload.id, workload.family) == (str(path), "inference")
    with pytest.raises(ConfigError, match=r"model files \(\.tflite, \.onnx\) by path"):
        get("no-such-workload")


def test_random_inputs_are_seeded(path: Path, tmp_path: Path) -> None:
    first, again = get(str(path)).prepare(tmp_path), get(str(path)).prepare(tmp_path)
    other = get(str(path)).prepare(tmp_path, "seed=3,samples=5")
    assert first.job == again.job
    assert (first.job.count, other.job.count, other.seed) == (SAMPLES, 5, 3)
    assert len(first.job.blob) == SAMPLES * 12
    assert first.reference_outputs.shape == (SAMPLES, 4)
    assert other.job.blob[:12] != first.job.blob[:12]


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_given_inputs(path: Path, tmp_path: Path, dtype: type[np.generic]) -> None:
    given = (np.arange(24).reshape(2, 2, 3, 2) - 9).astype(dtype)
    np.save(tmp_path / "in.npy", given)
    prepared = get(str(path)).prepare(tmp_path, f"inputs={tmp_path / 'in.npy'}")
    expected = given if dtype is np.int8 else np.rint(given / 0.5) + 1
    np.testing.assert_array_equal(np.frombuffer(prepared.job.blob, np.int8), expected.ravel())
    assert prepared.dataset.name == "in.npy"


def test_figures_stand_beside_the_published_reserve(path: Path, tmp_path: Path) -> None:
    prepared = get(str(path)).prepare(tmp_path)
    figures = {figure.metric: (figure.value, figure.unit) for figure in prepared.figures}
    assert figures["macs"] == (48.0, "MAC")
    assert figures["arena.published_reserve"] == (200 * 1024.0, "bytes")
    assert figures["arena"][0] >= figures["arena.lower_bound"][0]
    renamed = path.rename(path.with_name("other.tflite"))
    assert "arena.published_reserve" not in {one.metric for one in get(str(renamed)).prepare(tmp_path).figures}


def test_check_refuses_one_wrong_byte_and_scores_agreement_with_litert(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert, the reference, is not installed")
    prepared = get(str(path)).prepare(tmp_path)
    scores = prepared.check(prepared.reference_outputs)
    assert [(score.metric, score.value, score.reference) for score in scores] == [("litert_agreement", 1.0, 1.0)]
    wrong = prepared.reference_outputs.copy()
    wrong[7, 2] ^= 1
    with pytest.raises(WorkloadError, match=r"1 of 16 outputs differ .* first sample 7"):
        prepared.check(wrong)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("speed=3", "no variant 'speed=3'"),
        ("seed", "no variant 'seed'"),
        ("samples=0", "at least 1"),
        ("seed=-1", "at least 0"),
        ("inputs=/nowhere.npy", "cannot be read"),
    ],
)
def test_bad_variants(path: Path, tmp_path: Path, variant: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get(str(path)).prepare(tmp_path, variant)


def test_bad_inputs(path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.zeros((2, 11), np.int8))
    np.save(tmp_path / "int64.npy", np.zeros((2, 12), np.int64))
    for name, message in (("short", "the model takes NHWC"), ("int64", "int8 or float32")):
        with pytest.raises(ConfigError, match=message):
            get(str(path)).prepare(tmp_path, f"inputs={tmp_path / name}.npy")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="cannot be read"):
        get(str(tmp_path / "none.onnx")).prepare(tmp_path)


def test_a_file_that_litert_refuses_runs_without_the_comparison(tmp_path: Path) -> None:
    """A convolution without bias: the importer takes it, LiteRT does not."""
    tensors = [
        Tensor("x", [1, 2, 2, 1], scales=[0.5], zero_points=[1]),
        Tensor("w", [1, 1, 1, 1], "int8", [0.01], [0], 0, np.ones((1, 1, 1, 1), np.int8)),
        Tensor("y", [1, 2, 2, 1], scales=[0.1], zero_points=[0]),
    ]
    options = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    file = tmp_path / "m.tflite"
    file.write_bytes(write(tensors, [Operator("CONV_2D", [0, 1, -1], [2], options)], [0], [2]))
    prepared = get(str(file)).prepare(tmp_path)
    assert prepared.check(prepared.reference_outputs) == []
