"""sparse-update on emulated boards: the device trains as PyTorch does, beside a baseline, and claims are stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.paths import cache_dir, project_root
from lab.workloads.base import Claim
from lab.workloads.training.sparse_update import SparseUpdate
from measurements.store import Store

SMALL = "samples=32,evaluated=50,target=0.1"


BASELINE = "update=last,precision=float32"
COMPARED = (("train.backward", "instructions"), ("run", "accuracy"), ("train.step", "energy"))


class BesideLast(SparseUpdate):
    """The workload with one baseline, the one that the unit tests prepare as well."""

    baselines: tuple[str, ...] = (BASELINE,)
    claims: tuple[Claim, ...] = tuple(
        Claim("S214", "text", "table", metric, BASELINE, "factor", None, "why", region=region)
        for region, metric in COMPARED
    )


@pytest.mark.parametrize("board", ["m4f", "m7"])
def test_the_device_comes_to_pytorchs_variables_and_sparse_pays_off_in_instructions(
    board: str, tmp_path: Path
) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get(board)
    with Store(tmp_path / "store") as store, connected(entry, cache_dir()) as device:
        found = run_on(entry, device, BesideLast(), SMALL, store, "s", Sizes(), cache_dir())
        kept = store.run(found.method.run.run_id)
    found.check()
    assert kept.detail.claims == found.claims
    method, last = found.method, found.baselines[BASELINE]
    assert method.median("update_error", "run") < 1e-3, "int8, within 32 steps: no stochastic rounding has tipped yet"
    assert last.median("update_error", "run") < 1e-5, "float32"
    assert method.median("accuracy", "run") == method.median("accuracy.reference", "run")
    instructions = found.claims[0]
    assert instructions.ours == method.median("instructions", "train.backward") / last.median(
        "instructions", "train.backward"
    )
    assert method.median("training_time", "run") == pytest.approx(32 * method.median("latency", "train.step"))
    assert method.median("training_energy", "run") == pytest.approx(32 * method.median("energy", "train.step"))
    assert method.median("memory.m4", "run") < last.median("peak_ram", "run")
