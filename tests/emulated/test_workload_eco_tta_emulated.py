"""EcoTTA on an emulated Cortex-M4F: what PyTorch comes to, and in what memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.toolchain import needs_qemu

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads.adaptation.eco_tta import WORKLOAD
from measurements.store import Store

pytestmark = needs_qemu

VARIANT = "network=small,length=32,batch=4"


def test_a_board_adapts_meta_networks_to_what_pytorch_comes_to(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    prepared = WORKLOAD.prepare(cache_dir(), VARIANT)
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(entry, device, replace(WORKLOAD, baselines=()), VARIANT, store, "s", Sizes(), cache_dir())
    method = found.method
    assert method.median("adaptations", "run") == 128 / 4
    assert method.median("variable_error", "run") < 0.02
    assert method.median("accuracy", "run") == method.median("accuracy.reference", "run")
    assert method.median("peak_ram.activations", "run") == prepared.model.arena_bytes
    assert method.median("energy", "adapt") > 0
    step = method.median("instructions", "adapt") + method.median("instructions", "inference")
    assert 4 * method.median("instructions_per_sample", "run") == pytest.approx(step, rel=1e-3)
