"""gradient-filtering and rep-net on an emulated board: the device comes to PyTorch's variables, and patches pay off."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.measured import Measurement
from lab.paths import cache_dir, project_root
from lab.workloads import get
from measurements.store import Store

SMALL = "image=16,samples=24,evaluated=40,target=0.1"


def measured(workload: str, variants: tuple[str, ...], store_folder: Path) -> list[Measurement]:
    """Variants of a workload on one m7."""
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m7")
    with Store(store_folder) as store, connected(entry, cache_dir()) as device:
        found = [
            run_on(entry, device, get(workload), variant, store, "s", Sizes(), cache_dir(), baselines=False)
            for variant in variants
        ]
    for one in found:
        one.check()
    return [one.method for one in found]


def test_a_side_network_on_the_device_comes_to_pytorchs_variables(tmp_path: Path) -> None:
    (found,) = measured("rep-net", (SMALL,), tmp_path / "store")
    assert found.median("update_error", "run") < 1e-5
    assert found.median("accuracy", "run") == found.median("accuracy.reference", "run")
    assert found.median("peak_ram.activations", "run") == found.median("arena", "run")


def test_patches_save_instructions_and_arena_on_the_device(tmp_path: Path) -> None:
    two = f"{SMALL},blocks=2"
    filtered, exact = measured("gradient-filtering", (two, f"{two},update=exact"), tmp_path / "store")
    for one in (filtered, exact):
        assert one.median("update_error", "run") < 1e-5
        assert one.median("peak_ram.activations", "run") == one.median("arena", "run")
    assert filtered.median("instructions", "train.backward") < exact.median("instructions", "train.backward") / 1.5
    assert filtered.median("peak_ram.activations", "run") < exact.median("peak_ram.activations", "run")
