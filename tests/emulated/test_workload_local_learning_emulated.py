"""lls and tpsgd on an emulated board: a step is one region, and the device comes to PyTorch's variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads import get
from measurements.store import Store

PERCEPTRON = "samples=40,evaluated=40,depth=2,width=32,target=0.1"
RECURRENT = "network=rnn,layers=one-by-one,rate=0.02,samples=24,evaluated=24,depth=1,width=32,target=0.1"


@pytest.mark.parametrize(("workload", "variant"), [("lls", PERCEPTRON), ("tpsgd", RECURRENT)])
def test_the_device_learns_on_the_way_forward(workload: str, variant: str, tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get(workload), variant, store, "s", Sizes(), cache_dir(), baselines=False,
        )  # fmt: skip
    found.check()
    method = found.method
    assert method.median("update_error", "run") < 1e-5
    # Ten logits lie in room for twelve: the last bytes of the arena may be padding, which nothing writes.
    arena = method.median("arena", "run")
    assert arena - 16 < method.median("peak_ram.activations", "run") <= arena
    assert method.median("instructions", "train.forward") == method.median("instructions", "train.step")
    assert method.median("energy", "train.forward") > 0
    assert not any(one.region in ("train.backward", "train.update") for one in method.run.records)
    assert not found.claims, "every claim is against a baseline"
