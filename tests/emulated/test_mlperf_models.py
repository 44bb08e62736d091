"""The benchmark's own models on emulated boards behind a PTY: every printed number against LiteRT's kernels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from helpers.mlperf_client import MlperfClient

from lab import progress
from lab.bench import Bench
from lab.build import MlperfModel
from lab.cli import main
from lab.errors import ConfigError
from lab.mlperf.benchmarks import IDS, benchmark
from lab.mlperf.serve import served
from lab.paths import cache_dir, config_dir

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT, the reference, is not installed")
Float32Array: TypeAlias = npt.NDArray[np.float32]

FILES = {
    "kws01": "kws_ref_model.tflite",
    "ic01": "pretrainedResnet_quant.tflite",
    "vww01": "vww_96_int8.tflite",
    "ad01": "ad01_int8.tflite",
}
# The last bit of a score is 1/256; three decimals of equal int8 outputs are equal texts.
LOADS = {"kws01": 4, "ic01": 2, "vww01": 1, "ad01": 4}
BENCH = Bench.load(config_dir() / "emulated.yaml")


def model_file(model: str) -> Path:
    folder = os.environ.get("LAB_DATA")
    if not folder or not (Path(folder) / "mlperf-tiny").is_dir():
        pytest.skip("LAB_DATA does not hold the mlperf-tiny models")
    return Path(folder) / "mlperf-tiny" / FILES[model]


class Reference:
    """LiteRT with its reference kernels, fed and read as the benchmark defines for each model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._litert = litert.Interpreter(
            str(model_file(model)),
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
            num_threads=1,
        )
        self._litert.allocate_tensors()
        (self._input,), (self._output,) = self._litert.get_input_details(), self._litert.get_output_details()

    def load(self, generator: np.random.Generator) -> bytes:
        """Random bytes as a client loads them."""
        if self._model == "ad01":
            return generator.normal(-20, 8, 640).astype("<f4").tobytes()
        return generator.bytes(benchmark(self._model).input_bytes)

    def results(self, data: bytes) -> list[float]:
        if self._model == "ad01":
            values = np.frombuffer(data, "<f4")
            outputs = self._run(self._quantized(values))
            return [float(f"{float(np.mean(np.square(outputs - values), dtype=np.float32)):.3f}")]
        levels = np.frombuffer(data, np.uint8)
        tensor = levels.view(np.int8) if self._model == "kws01" else (levels.astype(np.int16) - 128).astype(np.int8)
        return [float(f"{float(score):.3f}") for score in self._run(tensor)]

    def _quantized(self, values: Float32Array) -> npt.NDArray[np.int8]:
        scale, zero_point = self._input["quantization"]
        steps = values / np.float32(scale)
        rounded = np.copysign(np.floor(np.abs(steps) + 0.5), steps) + zero_point
        return np.clip(rounded, -128, 127).astype(np.int8)

    def _run(self, tensor: npt.NDArray[np.int8]) -> Float32Array:
        self._litert.set_tensor(self._input["index"], tensor.reshape(self._input["shape"]))
        self._litert.invoke()
        levels = self._litert.get_tensor(self._output["index"]).reshape(-1).astype(np.int32)
        scale, zero_point = self._output["quantization"]
        return (np.float32(scale) * (levels - zero_point).astype(np.float32)).astype(np.float32)


@pytest.mark.parametrize("device", ["m4f", "m7"])
@pytest.mark.parametrize("model", IDS)
def test_printed_results_are_those_of_litert(model: MlperfModel, device: str) -> None:
    reference, generator = Reference(model), np.random.default_rng(7)
    with (
        served(BENCH.get(device), model_file(model), model, "performance", cache_dir()) as board,
        MlperfClient(board.port) as client,
    ):
        # Start-up lines may have come before the port was opened, which throws them away.
        client.send("profile%")
        lines = [client.line(20)]
        while lines[-1] != f"m-model-[{model}]":
            lines.append(client.line(20))
        assert client.until_ready() == []
        for _ in range(LOADS[model]):
            data = reference.load(generator)
            client.load(data)
            (begin, end), results = client.infer(1, 0)
            # The sum of 640 float32 squares depends on its order.
            assert results == pytest.approx(reference.results(data), abs=0.0011 if model == "ad01" else 0.0)
            assert end > begin


def test_only_emulated_devices_are_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'host' is not emulated"), served(
        BENCH.get("host"), Path("any.tflite"), "kws01", "performance", tmp_path
    ):
        pass


def test_the_command_serves_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_sink", lambda line: None)
    command = ["mlperf", "serve", str(model_file("kws01")), "--model", "kws01", "--mode", "energy", "--seconds", "0"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "port /dev/pts/" in done.output
    assert "timestamp pin on logic input 1" in done.output
