"""sparcl on an emulated board: its masks and weights are PyTorch's, and what they leave out is not executed."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads import get
from measurements.store import Store

SMALL = "samples=6,epochs=2,hidden=64,buffer=8,renew=3,orders=2,target=0.1"


def test_the_device_keeps_pytorchs_blocks_and_executes_less(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    found = []
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        for update in ("sparcl", "dense"):
            found.append(
                run_on(
                    entry, device, get("sparcl"), f"{SMALL},update={update}", store, "s", Sizes(samples=20),
                    cache_dir(), baselines=False,
                ).method
            )  # fmt: skip
    ours, dense = found
    assert ours.median("mask_agreement", "run") == 1.0
    assert ours.median("update_error", "run") < 1e-2
    assert dense.median("update_error", "run") < 1e-2
    assert 1.3 * ours.median("instructions", "train.step") < dense.median("instructions", "train.step")
    saved = dense.median("memory.m4", "run") - ours.median("memory.m4", "run")
    assert dense.median("peak_ram", "run") - ours.median("peak_ram", "run") > 0.9 * saved > 0
