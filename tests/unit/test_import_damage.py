"""Damaged and adversarial model files: one clear error or a model, in bounded time and memory, never anything else."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.onnx_builder import Builder
from helpers.tflite_builder import Operator, Tensor, write

pytest.importorskip("tflite", reason="the package that reads .tflite is not installed")
onnx = pytest.importorskip("onnx", reason="the package that reads .onnx is not installed")

CASES = 150
MEMORY_BYTES = 4 << 30
# What one file may take; a good one of this size takes some 30 ms.
SECONDS_PER_FILE = 5.0

# Runs in a process of its own: imports every file and says what became of each.
PROGRAM = """
import json, sys, time, warnings
from pathlib import Path
from lab.compiler.importers import import_model
from lab.errors import CompileError

warnings.simplefilter("ignore")
results = []
for path in sorted(Path(sys.argv[1]).iterdir()):
    begin = time.process_time()
    try:
        import_model(path)
        outcome = "imported"
    except CompileError as error:
        outcome = "refused: " + error.message
    except BaseException as error:
        outcome = f"LEAKED {type(error).__name__}: {error}"
    results.append((path.name, outcome, time.process_time() - begin))
print(json.dumps(results))
"""


def run_all(folder: Path) -> list[tuple[str, str, float]]:
    """Import every file of a folder under a limit of memory; name, outcome and seconds of CPU of each."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        preexec_fn=limit,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [(name, outcome, seconds) for name, outcome, seconds in json.loads(done.stdout)]


def check(results: list[tuple[str, str, float]]) -> None:
    assert [one for one in results if one[1].startswith("LEAKED")] == []
    assert max(seconds for _, _, seconds in results[1:]) < SECONDS_PER_FILE


def good_tflite() -> bytes:
    rng = np.random.default_rng(0)
    tensors = [
        Tensor("x", [1, 6, 6, 2], scales=[0.05], zero_points=[1]),
        Tensor("w", [4, 3, 3, 2], "int8", [0.01] * 4, [0] * 4, 0, rng.integers(-99, 99, (4, 3, 3, 2), dtype=np.int8)),
        Tensor("b", [4], "int32", [0.0005] * 4, [0] * 4, 0, rng.integers(-99, 99, 4).astype(np.int32)),
        Tensor("a", [1, 6, 6, 4], scales=[0.05], zero_points=[-128]),
        Tensor("v", [3, 144], "int8", [0.01], [0], 0, rng.integers(-99, 99, (3, 144), dtype=np.int8)),
        Tensor("f", [1, 3], scales=[0.1], zero_points=[0]),
        Tensor("y", [1, 3], scales=[1 / 256], zero_points=[-128]),
    ]
    conv = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1, "FusedActivationFunction": 1}
    operators = [
        Operator("CONV_2D", [0, 1, 2], [3], conv),
        Operator("FULLY_CONNECTED", [3, 4, -1], [5]),
        Operator("SOFTMAX", [5], [6], {"Beta": 1.0}),
    ]
    return write(tensors, operators, [0], [6])


def good_onnx() -> bytes:
    rng = np.random.default_rng(0)
    build = Builder()
    weights = build.weights(rng.integers(-99, 99, (4, 2, 3, 3), dtype=np.int8), np.full(4, 0.01, np.float32))
    value = build.node("Conv", build.quantized("x", 0.05, 1), weights, pads=[1, 1, 1, 1])
    value = build.quantized(build.node("Relu", value), 0.05, -128)
    flat = build.quantized(build.node("Flatten", value), 0.05, -128)
    linear = build.weights(rng.integers(-99, 99, (3, 144), dtype=np.int8), np.full(1, 0.01, np.float32))
    output = build.quantized(build.node("Gemm", flat, linear, transB=1), 0.1, 0)
    return bytes(build.model([1, 2, 6, 6], output, 3).SerializeToString())


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, with bits flipped, with a word overwritten by an extreme one, or with a piece moved."""
    data = bytearray(good)
    kind = int(rng.integers(0, 4))
    if kind == 0:
        return good[: int(rng.integers(0, len(good)))]
    if kind == 1:
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    elif kind == 2:
        word = rng.choice([0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x10000, 0xFFFF])
        place = int(rng.integers(0, len(data) - 4))
        data[place : place + 4] = int(word).to_bytes(4, "little")
    else:
        source, target, size = (int(value) for value in rng.integers(0, len(data) - 64, 3))
        data[target : target + size % 64] = data[source : source + size % 64]
    return bytes(data)


@pytest.mark.parametrize(("suffix", "good"), [("tflite", good_tflite()), ("onnx", good_onnx())])
def test_mutated_files(tmp_path: Path, suffix: str, good: bytes) -> None:
    rng = np.random.default_rng(11)
    (tmp_path / f"000.{suffix}").write_bytes(good)
    for index in range(1, CASES):
        (tmp_path / f"{index:03}.{suffix}").write_bytes(mutated(good, rng))
    results = run_all(tmp_path)
    assert results[0][1] == "imported"
    check(results)
    assert sum(outcome.startswith("refused") for _, outcome, _ in results) > CASES // 5


def adversarial_tflite() -> dict[str, tuple[bytes, str]]:
    """File name to file and what its refusal must say."""
    int8 = {"scales": [0.1], "zero_points": [0]}
    pair = [Tensor("x", [1, 8], **int8), Tensor("y", [1, 8], **int8)]
    conv = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    one = np.ones((1, 1, 1, 1), np.int8)

    def image(**changes: object) -> bytes:
        size = changes.get("size", [1, 4, 4, 1])
        weight = changes.get("weight", Tensor("w", [1, 1, 1, 1], "int8", [0.1], [0], 0, one))
        tensors = [Tensor("x", size, **int8), weight, Tensor("y", size, **int8)]  # type: ignore[arg-type,list-item]
        return write(tensors, [Operator("CONV_2D", [0, 1], [2], {**conv, **changes.get("options", {})})], [0], [2])  # type: ignore[dict-item]

    chain = [Operator("RELU", [0], [1])] * 600
    nan = [Tensor("x", [1, 8], scales=[float("nan")], zero_points=[0]), pair[1]]
    far = Tensor("x", [1, 8], scales=[3e38], zero_points=[0])
    return {
        "huge": (image(size=[1, 1 << 20, 1 << 20, 1]), "together at most"),
        "huge-32": (image(size=[1, 0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF]), "together at most"),
        "negative": (image(size=[1, -4, 4, 1]), "at least 1"),
        "batch": (image(size=[0, 4, 4, 1]), "batch of 1"),
        "no-buffer": (image(weight=Tensor("w", [1, 1, 1, 1], "int8", [0.1], [0])), "no data"),
        "small-buffer": (image(weight=Tensor("w", [64, 9, 9, 1], "int8", [0.1], [0], 0, one)), "damaged"),
        "zero-stride": (image(options={"StrideH": 0}), "stride"),
        "huge-dilation": (image(options={"DilationHFactor": 1 << 30}), "dilation"),
        "cycle": (write(pair, [Operator("RELU", [1], [1])], [0], [1]), "nothing before it computes"),
        "backwards": (
            write(
                [*pair, Tensor("z", [1, 8], **int8)], [Operator("RELU", [2], [1]), Operator("RELU", [0], [2])], [0], [1]
            ),
            "nothing before it computes",
        ),
        "twice": (write(pair, [Operator("RELU", [0], [1])] * 2, [0], [1]), "written twice"),
        "long": (write(pair, chain, [0], [1]), "600 operators"),
        "no-such-tensor": (write(pair, [Operator("RELU", [99], [1])], [0], [1]), "tensor number 99"),
        "nan-scale": (write(nan, [Operator("RELU", [0], [1])], [0], [1]), "nan"),
        "far-apart": (
            write([far, pair[1]], [Operator("QUANTIZE", [0], [1])], [0], [1]),
            "multiplier must be below",
        ),
        "no-output": (write(pair, [Operator("RELU", [0], [1])], [0], []), "0 outputs"),
        "nothing": (write(pair, [], [0], [0]), "computes nothing"),
        "int16": (
            write([Tensor("x", [1, 8], "int16", [0.1], [0]), pair[1]], [Operator("RELU", [0], [1])], [0], [1]),
            "int8",
        ),
    }


def adversarial_onnx() -> dict[str, tuple[bytes, str]]:
    """The same for ONNX."""
    big = Builder()
    output = big.node("MatMul", "x", big.constant(np.ones((4, 4), np.float32)))
    huge = big.model([1, 4], output, 4)
    huge.graph.initializer[0].dims[0] = 1 << 40
    negative = big.model([1, 4], output, 4)
    negative.graph.initializer[0].dims[0] = -4
    short = big.model([1, 4], output, 4)
    short.graph.initializer[0].dims[0] = 64
    cycle = Builder()
    looped = cycle.node("Relu", cycle.node("Relu", "x"))
    cycled = cycle.model([1, 4], looped, 4)
    cycled.graph.node[0].input[0] = looped
    wide = Builder()
    return {
        "huge": (huge.SerializeToString(), "beyond the limit"),
        "negative": (negative.SerializeToString(), "beyond the limit"),
        "short": (short.SerializeToString(), "damaged"),
        "cycle": (cycled.SerializeToString(), "nothing before it computes"),
        "wide": (
            wide.model([1, 1 << 20, 1 << 20, 3], wide.node("Relu", "x"), 4).SerializeToString(),
            "together at most",
        ),
        "empty": (b"", "no graph"),
        "noise": (bytes(range(256)), "no ONNX model"),
    }


@pytest.mark.parametrize(
    ("suffix", "files"), [("tflite", adversarial_tflite()), ("onnx", adversarial_onnx())], ids=["tflite", "onnx"]
)
def test_adversarial_files(tmp_path: Path, suffix: str, files: dict[str, tuple[bytes, str]]) -> None:
    for name, (data, _) in files.items():
        (tmp_path / f"{name}.{suffix}").write_bytes(data)
    results = run_all(tmp_path)
    check(results)
    told = {Path(name).stem: outcome for name, outcome, _ in results}
    for name, (_, expected) in files.items():
        assert told[name].startswith("refused"), (name, told[name])
        assert expected in told[name], (name, told[name])
