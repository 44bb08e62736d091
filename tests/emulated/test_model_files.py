"""MLPerf Tiny's models on emulated Cortex-M4F and M7: every byte as on the host, and what they cost.

Inputs per board: 4 of the keyword, image and person models (2.7, 12.5 and 7.5 million MACs), 32 of the autoencoder
(0.26 million). The host build's equality with LiteRT on 200 inputs each is shown in tests/unit/test_import_tflite.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lab.bench import Bench
from lab.compiler.host import HostModel
from lab.devices.connect import connected
from lab.paths import cache_dir, config_dir
from lab.runs import deploy, measure
from measurements.store import Store

# Model, inputs, most instructions per MAC (seen: 3.8, 3.0, 4.1, 3.1), most arena bytes (the plan's lower bound).
MODELS = [
    ("kws_ref_model", 4, 4.0, 16064),
    ("pretrainedResnet_quant", 4, 3.2, 49440),
    ("vww_96_int8", 4, 4.3, 55296),
    ("ad01_int8", 32, 3.3, 256),
]


@pytest.mark.parametrize("board", ["m4f", "m7"])
@pytest.mark.parametrize(("name", "samples", "per_mac", "arena_bytes"), MODELS)
def test_model_equals_host(
    tmp_path: Path, board: str, name: str, samples: int, per_mac: float, arena_bytes: int
) -> None:
    pytest.importorskip("tflite", reason="the package that reads .tflite is not installed")
    path = Path(os.environ.get("LAB_DATA", "")) / "mlperf-tiny" / f"{name}.tflite"
    if not os.environ.get("LAB_DATA") or not path.is_file():
        pytest.skip(f"LAB_DATA does not hold mlperf-tiny/{name}.tflite")
    entry = Bench.load(config_dir() / "emulated.yaml").get(board)
    with connected(entry, cache_dir()) as device, Store(tmp_path / "store") as store:
        deployment = deploy(entry, device, str(path), cache_dir(), f"samples={samples}")
        measurement = measure(deployment, store, "test")
    prepared = deployment.prepared
    inputs = np.frombuffer(prepared.job.blob, np.int8).reshape(samples, -1)
    np.testing.assert_array_equal(measurement.outputs, HostModel(prepared.model, tmp_path).run(inputs))
    assert measurement.median("bit_exact", "run") == 1.0
    assert measurement.median("instructions_per_mac") <= per_mac
    assert measurement.median("arena", "run") == measurement.median("arena.lower_bound", "run") == arena_bytes
    assert measurement.median("peak_ram.activations", "run") <= arena_bytes
