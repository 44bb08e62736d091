"""tinytl on an emulated board: the device's branches and biases come to PyTorch's."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads import get
from measurements.store import Store


def test_the_device_comes_to_pytorchs_variables(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m7")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get("tinytl"), "samples=24,evaluated=40,target=0.1", store, "s", Sizes(), cache_dir(),
            baselines=False,
        )  # fmt: skip
    found.check()
    assert found.method.median("update_error", "run") < 1e-5
    assert found.method.median("accuracy", "run") == found.method.median("accuracy.reference", "run")
    assert found.method.median("peak_ram.activations", "run") == found.method.median("arena", "run")
    assert not found.claims, "every claim is against a baseline"
