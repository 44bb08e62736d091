"""MLPerf Tiny's models on emulated Cortex-M4F and M7: every byte as LiteRT's reference kernels, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers.model_inputs import model_inputs, model_path
from helpers.toolchain import needs_qemu

from lab.bench import Bench
from lab.compiler.importers import import_model
from lab.devices.connect import connected
from lab.paths import cache_dir, config_dir
from lab.runs import deploy, measure
from lab.workloads.base import Prepared
from lab.workloads.inference.model_file import ModelFile
from measurements.store import Store

pytestmark = needs_qemu

INPUTS = 200
# Model, most instructions per MAC (seen: 1.29, 1.17, 1.36, 1.41), arena bytes (the plan's lower bound; the kernels'
# scratch is in it).
MODELS = [
    ("kws_ref_model", 1.31, 16576),
    ("pretrainedResnet_quant", 1.19, 50320),
    ("vww_96_int8", 1.38, 55360),
    ("ad01_int8", 1.43, 1408),
]


@pytest.fixture(scope="module", autouse=True)
def _prepared_once() -> Iterator[None]:
    """All boards answer to the same integers, which take this computer longer than the boards."""
    known: dict[tuple[str, str], Prepared] = {}
    plain = ModelFile.prepare

    def prepare(model: ModelFile, cache: Path, variant: str = "") -> Prepared:
        if (model.id, variant) not in known:
            known[model.id, variant] = plain(model, cache, variant)
        return known[model.id, variant]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ModelFile, "prepare", prepare)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a model's samples."""

    @cache
    def written(name: str) -> Path:
        file = tmp_path_factory.mktemp(name) / "inputs.npy"
        np.save(file, model_inputs(name, import_model(model_path(name), name=name)[0].input, INPUTS))
        return file

    return written


@pytest.mark.parametrize("board", ["m4f", "m7"])
@pytest.mark.parametrize(("name", "per_mac", "arena_bytes"), MODELS)
def test_model_equals_litert_on_the_board(
    tmp_path: Path, inputs: Callable[[str], Path], board: str, name: str, per_mac: float, arena_bytes: int
) -> None:
    pytest.importorskip("tflite", reason="the package that reads .tflite is not installed")
    pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT, the reference, is not installed")
    path = model_path(name)
    entry = Bench.load(config_dir() / "emulated.yaml").get(board)
    with connected(entry, cache_dir()) as device, Store(tmp_path / "store") as store:
        deployment = deploy(entry, device, str(path), cache_dir(), f"inputs={inputs(name)}")
        measurement = measure(deployment, store, "test")
    assert len(measurement.outputs) == INPUTS
    assert len(np.unique(measurement.outputs, axis=0)) > 8, "the inputs do not exercise the model"
    assert measurement.median("litert_agreement", "run") == 1.0
    assert measurement.median("bit_exact", "run") == 1.0
    assert measurement.median("instructions_per_mac") <= per_mac
    assert measurement.median("arena", "run") == measurement.median("arena.lower_bound", "run") == arena_bytes
    assert measurement.median("peak_ram.activations", "run") <= arena_bytes
