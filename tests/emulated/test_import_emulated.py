"""Small built model files on emulated boards, without LAB_DATA: by measurement, and by the command line alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.onnx_builder import Builder
from helpers.tflite_builder import Operator, Tensor, write

from lab.bench import Bench
from lab.compiler.host import HostModel
from lab.devices.connect import connected
from lab.paths import cache_dir, config_dir, project_root
from lab.runs import deploy, measure
from measurements.store import Store

pytest.importorskip("tflite", reason="the package that reads .tflite is not installed")
pytest.importorskip("onnx", reason="the package that reads .onnx is not installed")

CLASSES = 5
SAMPLES = 6


def small_tflite() -> bytes:
    """Grouped and dilated (general kernel), depthwise and linear layers, a sum, a pool and a softmax."""
    rng = np.random.default_rng(7)

    def weights(name: str, shape: list[int], axis: int, scale: float) -> Tensor:
        scales = (scale * 2.0 ** rng.uniform(-1, 1, shape[axis])).tolist()
        return Tensor(name, shape, "int8", scales, [0] * shape[axis], axis, rng.integers(-128, 128, shape, np.int8))

    tensors = [
        Tensor("x", [1, 8, 8, 4], scales=[0.05], zero_points=[-5]),
        weights("w0", [4, 3, 3, 2], 0, 0.01),
        Tensor("a", [1, 8, 8, 4], scales=[0.04], zero_points=[-20]),
        weights("w1", [1, 3, 3, 4], 3, 0.01),
        Tensor("b", [1, 8, 8, 4], scales=[0.03], zero_points=[3]),
        Tensor("c", [1, 8, 8, 4], scales=[0.06], zero_points=[-20]),
        Tensor("d", [1, 2, 2, 4], scales=[0.06], zero_points=[-20]),
        weights("w2", [CLASSES, 16], 0, 0.02),
        Tensor("e", [1, CLASSES], scales=[0.1], zero_points=[10]),
        Tensor("y", [1, CLASSES], scales=[1 / 256], zero_points=[-128]),
        Tensor("o", [4], "int32", [0.0005], [0], 0, rng.integers(-900, 900, 4).astype(np.int32)),
    ]
    conv = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    pool = {"StrideH": 4, "StrideW": 4, "FilterHeight": 4, "FilterWidth": 4}
    operators = [
        Operator("CONV_2D", [0, 1, 10], [2], {**conv, "DilationHFactor": 2, "DilationWFactor": 2}),
        Operator("DEPTHWISE_CONV_2D", [2, 3, 10], [4], {**conv, "DepthMultiplier": 1}),
        Operator("ADD", [2, 4], [5]),
        Operator("AVERAGE_POOL_2D", [5], [6], pool),
        Operator("FULLY_CONNECTED", [6, 7, -1], [8]),
        Operator("SOFTMAX", [8], [9], {"Beta": 1.0}),
    ]
    return write(tensors, operators, [0], [9])


def small_onnx() -> bytes:
    """A convolution, a pool and a linear layer behind a flattened image, in QDQ form."""
    rng = np.random.default_rng(8)
    build = Builder()
    scales = rng.uniform(0.005, 0.01, 6).astype(np.float32)
    kernel = build.weights(rng.integers(-127, 128, (6, 3, 3, 3), np.int8), scales)
    value = build.node("Relu", build.node("Conv", build.quantized("x", 0.03, 2), kernel, pads=[1, 1, 1, 1]))
    value = build.node("MaxPool", build.quantized(value, 0.1, -128), kernel_shape=[2, 2], strides=[2, 2])
    flat = build.quantized(build.node("Flatten", build.quantized(value, 0.1, -128)), 0.1, -128)
    linear = build.weights(rng.integers(-127, 128, (CLASSES, 96), np.int8), np.full(1, 0.01, np.float32))
    output = build.quantized(build.node("Gemm", flat, linear, transB=1), 1.0, 0)
    return bytes(build.model([1, 3, 8, 8], output, CLASSES).SerializeToString())


@pytest.fixture(params=["tflite", "onnx"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / f"small.{request.param}"
    file.write_bytes(small_tflite() if request.param == "tflite" else small_onnx())
    return file


@pytest.mark.parametrize("board", ["m4f", "m7"])
def test_small_model_equals_host(path: Path, tmp_path: Path, board: str) -> None:
    entry = Bench.load(config_dir() / "emulated.yaml").get(board)
    with connected(entry, cache_dir()) as device, Store(tmp_path / "store") as store:
        deployment = deploy(entry, device, str(path), cache_dir(), f"samples={SAMPLES}")
        measurement = measure(deployment, store, "test")
    prepared = deployment.prepared
    inputs = np.frombuffer(prepared.job.blob, np.int8).reshape(SAMPLES, -1)
    np.testing.assert_array_equal(measurement.outputs, HostModel(prepared.model, tmp_path).run(inputs))
    assert len(np.unique(measurement.outputs, axis=0)) > 1, "the inputs do not exercise the model"
    assert measurement.median("bit_exact", "run") == 1.0
    assert measurement.median("instructions_per_mac") > 1.0


def lab(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, its store and reports under ``folder``."""
    places = {name: str(folder / name) for name in ("LAB_STORE", "LAB_REPORTS", "LAB_STATE")}
    kept = {name: value for name, value in os.environ.items() if name != "LAB_CONFIG"}
    return subprocess.run(
        [sys.executable, "-c", "from lab.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**kept, **places, "PYTHONPATH": str(project_root())},
    )


def test_command_line_runs_a_model_file(tmp_path: Path) -> None:
    """``lab run model.tflite --device m7``: no Python, a passed run and a report; a damaged file is an error."""
    path = tmp_path / "model.tflite"
    path.write_bytes(small_tflite())
    done = lab(tmp_path, "run", str(path), "--device", "m7", "--variant", "samples=3")
    assert done.returncode == 0, done.stderr
    for expected in ("model.tflite passed", "instructions_per_mac", "arena.lower_bound", "report: "):
        assert expected in done.stdout
    path.write_bytes(small_tflite()[:100])
    damaged = lab(tmp_path, "run", str(path), "--device", "m7")
    assert damaged.returncode == 1
    assert "is damaged" in damaged.stderr
    assert "Traceback" not in damaged.stderr
