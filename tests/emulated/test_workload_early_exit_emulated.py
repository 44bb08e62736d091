"""early-exit on an emulated board: hard images take the exits behind, and CBNet takes as long with every image."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.toolchain import needs_qemu

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads.uncertainty.early_exit import EarlyExit
from measurements.store import Store

pytestmark = needs_qemu


class Beside(EarlyExit):
    """The method beside CBNet."""

    baselines: tuple[str, ...] = ("method=cbnet",)


def test_exits_differ_in_time_and_the_converter_does_not(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    variant = "epochs=1,evaluated=20,threshold=0.4,hard=50"
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(entry, device, Beside(), variant, store, "s", Sizes(), cache_dir())
    method, converted = found.method, found.baselines["method=cbnet"]
    assert method.median("same_exit", "run") == converted.median("same_exit", "run") == 1
    taken = method.record("instructions", "inference").raw
    shares = [method.median(f"exit_share.{n}", "run") for n in (1, 2, 3)]
    assert sum(share > 0 for share in shares) > 1
    assert max(taken) > 1.3 * min(taken)
    assert method.median("instructions_per_sample", "run") == pytest.approx(sum(taken) / len(taken))
    constant = converted.record("instructions", "inference").raw
    assert max(constant) < 1.01 * min(constant)
