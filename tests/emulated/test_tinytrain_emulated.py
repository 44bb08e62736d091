"""TinyTrain on an emulated Cortex-M: a survey runs there first, and what it found is what the second program is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.toolchain import entry, needs_qemu

from lab import runs
from lab.devices.connect import connected
from lab.paths import cache_dir
from lab.workloads.training import tinytrain, tinytrain_host
from lab.workloads.training.tinytrain_arms import MetaPlan, Variant
from measurements.store import Store

pytestmark = needs_qemu

SHORT = "ways=2,shots=1,queries=2,epochs=2"


def test_the_device_surveys_and_is_given_what_it_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class means, Fisher information, training and answers are PyTorch's; the survey has regions of its own."""
    plan = MetaPlan(episodes=2, ways=4, shots=1, queries=1)

    def workshop(variant: Variant, cache: Path) -> tinytrain_host.Workshop:
        return tinytrain_host.Workshop(variant, cache, plan)

    monkeypatch.setattr(tinytrain, "workshop_of", workshop)
    monkeypatch.setattr(tinytrain_host, "TASKS", 1)
    device_entry = entry("m4f")
    with connected(device_entry, cache_dir()) as device, Store(tmp_path / "store") as store:
        deployment = runs.deploy(device_entry, device, "tinytrain", cache_dir(), SHORT)
        done = runs.measure(deployment, store, "test")
    names = [one.name for one in deployment.prepared.model.training.variables]  # type: ignore[union-attr]
    assert any(name.endswith("weight") for name in names)
    assert not any(name.endswith("fisher") for name in names)
    assert done.median("class_mean_error", "run") < 1e-4
    assert done.median("fisher_error", "run") < 1e-3
    assert done.median("update_error", "run") < 0.05
    assert done.median("agreement", "run") == 1.0
    assert done.record("cycles", "survey.step").n == 2
    assert done.median("instructions", "survey.backward") > 0
    assert done.record("cycles", "train.step").n == 4
