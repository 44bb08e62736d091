"""ur2m on an emulated board: it leaves where PyTorch's steps do, and what it then does not compute is not paid for."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.toolchain import needs_qemu

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads.uncertainty.ur2m import Ur2m
from measurements.store import Store

pytestmark = needs_qemu


class Beside(Ur2m):
    """The method beside its deepest exit alone."""

    baselines: tuple[str, ...] = ("threshold=0",)


def test_a_board_pays_for_the_exits_it_takes(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(entry, device, Beside(), "epochs=1,evaluated=20", store, "s", Sizes(), cache_dir())
    method, deep = found.method, found.baselines["threshold=0"]
    assert method.median("same_exit", "run") == deep.median("same_exit", "run") == 1
    assert method.median("output_error", "run") < 1e-4
    assert deep.median("exit_share.3", "run") == 1
    shares = [method.median(f"exit_share.{n}", "run") for n in (1, 2, 3)]
    assert shares[2] < 1, "some leave early"
    instructions = {float(one) for one in method.record("instructions", "inference").raw}
    assert max(instructions) == pytest.approx(deep.median("instructions", "inference"), rel=0.01)
    assert min(instructions) < 0.75 * max(instructions)
    for metric in ("instructions_per_sample", "energy_per_sample"):
        assert method.median(metric, "run") < deep.median(metric, "run")
    layers = [one for one in method.run.detail.layers if one.operator == "leave"]
    assert len(layers) == 3
    assert all(one.cycles for one in layers), "a profiled pass goes through every exit"
