"""pockengine on this computer: the compiled step and PyTorch take the same steps in two processes."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir
from lab.workloads import get
from measurements.store import Store

SMALL = "samples=24,evaluated=40,target=0.1"


def test_both_learn_the_same_and_the_framework_takes_more_memory(tmp_path: Path) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(f"devices: {{me: {{board: host, python: {{venv: {sys.prefix}}}}}}}")
    entry = Bench.load(bench).get("me")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        compiled, framework = (
            run_on(entry, device, get("pockengine"), variant, store, "s", Sizes(), cache_dir(), baselines=False).method
            for variant in (SMALL, f"pytorch,{SMALL}")
        )
    assert compiled.median("update_error", "run") < 1e-5
    assert compiled.median("accuracy", "run") == framework.median("accuracy", "run")
    assert framework.median("peak_ram.process", "run") > 5.6 * compiled.median("peak_ram.process", "run")
    assert all(one.median("latency", "train.step") > 0 for one in (compiled, framework))
