"""LeanTTA in int8 on an emulated board: its integers to the bit, less memory and time than float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers.toolchain import needs_qemu

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads.adaptation.lean_tta import WORKLOAD
from measurements.store import Store

pytestmark = needs_qemu
FLOAT = "precision=float32"


def test_int8_with_partial_fusion_costs_less_than_float32(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    beside = replace(WORKLOAD, baselines=(FLOAT,))
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(entry, device, beside, "length=20", store, "s", Sizes(), cache_dir())
    method = found.method
    assert method.median("adaptations", "run") == 0
    beyond = found.baselines[FLOAT]
    for metric, share in (("instructions_per_sample", 0.9), ("peak_ram.activations", 0.3), ("flash.weights", 0.3)):
        assert method.median(metric, "run") < share * beyond.median(metric, "run")
