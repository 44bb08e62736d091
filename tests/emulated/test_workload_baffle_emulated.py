"""baffle on an emulated board: perturbed passes behind one region, and PyTorch's variables."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads import get
from measurements.store import Store

SMALL = "samples=30,epochs=1,evaluated=40,passes=6,channels=4,target=0.1"


def test_the_device_learns_by_forward_passes(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get("baffle"), SMALL, store, "s", Sizes(), cache_dir(), baselines=False,
        )  # fmt: skip
    found.check()
    method = found.method
    assert method.median("update_error", "run") < 1e-4
    # The last losses may lie in room for more: the end of the arena may be padding, which nothing writes.
    arena = method.median("arena", "run")
    assert arena - 16 < method.median("peak_ram.activations", "run") <= arena
    assert method.median("instructions", "train.forward") == method.median("instructions", "train.step")
    passes = method.median("instructions", "train.step") / method.median("instructions", "inference")
    assert passes > 7, "six perturbed passes and one that is not"
    assert method.median("energy", "train.forward") > 0
    assert not any(one.region in ("train.backward", "train.update") for one in method.run.records)
    (claim,) = found.claims
    inference = method.median("arena.inference", "run")
    assert (claim.metric, claim.baseline, claim.ours) == ("arena", "", arena / inference)


def test_the_device_plays_the_clients_of_a_server(tmp_path: Path) -> None:
    """What went over the wire is K numbers of each client a round, and the server came to PyTorch's weights."""
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    variant = (
        "clients=2,batch=3,passes=12,samples=36,epochs=1,average=0.5,server_rate=0.05,evaluated=40,channels=4,target=0.1"
    )
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(
            entry, device, get("baffle"), variant, store, "s", Sizes(), cache_dir(), baselines=False,
        )  # fmt: skip
    method = found.method
    assert method.median("uplink", "run") == 4 * 12
    assert method.median("bytes_up", "run") == 6 * 2 * 4 * 12
    assert method.median("upload_error", "run") < 1e-3
    assert method.median("update_error", "run") < 1e-3
    (losses,) = [one for one in method.run.records if (one.region, one.metric) == ("train.step", "loss")]
    assert losses.n == 36
