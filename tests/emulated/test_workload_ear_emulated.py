"""ear on an emulated board: the device's bundles decide on its adaptors, which come to PyTorch's."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads import get
from measurements.store import Store


def test_the_device_enrols_domains_and_trains_their_adaptors(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m7")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get("ear"), "shots=4,epochs=4,rate=0.1,evaluated=10,target=0.1", store, "s", Sizes(),
            cache_dir(), baselines=False,
        )  # fmt: skip
    method = found.method
    assert method.median("bundle_error", "run") < 1e-3
    assert method.median("update_error", "run") < 1e-3
    for metric in ("accuracy", "accuracy.source", "routing", "auroc"):
        assert method.median(metric, "run") == method.median(f"{metric}.reference", "run")
    assert 20 * method.median("instructions", "train.backward") < method.median("instructions", "train.forward")
