"""lifelearner on an emulated board: the device's own classifier and store come to the reference's."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads import get
from measurements.store import Store

SMALL = "classes=3,shots=4,questions=4,meta=4,dimension=8"
TRANSFORMER = "network=vit,classes=3,shots=4,questions=4,meta=2,dimension=8"


def test_attentive_units_are_learnt_on_the_device_as_in_pytorch(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    variant = f"{SMALL},method=oml+aim,units=6,active=3,rate=0.3"
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get("metacl-bench"), variant, store, "s", Sizes(), cache_dir(), baselines=False
        )
    found.check()
    assert found.method.median("units_error", "run") < 1e-4
    assert found.method.median("agreement", "run") == 1


def test_a_transformer_extracts_in_float32_and_the_classifier_behind_it_is_pytorchs(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get("metacl-bench"), TRANSFORMER, store, "s", Sizes(), cache_dir(), baselines=False
        )
    found.check()
    method = found.method
    assert method.median("update_error", "run") < 1e-3
    assert method.median("replay.unlike", "run") <= 1
    assert method.median("agreement", "run") == 1
    assert method.median("peak_ram.activations", "run") <= method.median("arena", "run")


def test_the_device_learns_rehearses_and_packs_as_the_reference_does(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get("lifelearner"), SMALL, store, "s", Sizes(), cache_dir(), baselines=False
        )
    found.check()
    method = found.method
    assert method.median("update_error", "run") < 1e-5
    assert method.median("replay.bytes", "run") == method.median("replay.bytes.reference", "run")
    assert method.median("agreement", "run") == 1
    assert method.median("peak_ram.activations", "run") <= method.median("arena", "run")
    # Extraction is the same in every step; a class more is rehearsed in each.
    rehearsed = method.record("instructions", "train.update").raw
    assert list(rehearsed) == sorted(set(rehearsed))
