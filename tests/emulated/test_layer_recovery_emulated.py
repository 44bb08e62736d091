"""S086 on an emulated Cortex-M: the network runs, the emulated meter records, the trace gives its layers away."""

from __future__ import annotations

from pathlib import Path

from helpers.toolchain import entry, needs_qemu

from lab import runs
from lab.devices.connect import connected
from lab.paths import cache_dir
from measurements.store import Store

pytestmark = needs_qemu


def test_layers_of_the_running_network_are_recovered(tmp_path: Path) -> None:
    """All of them, and their kinds more often than by calling all the most frequent one; the report says so."""
    device_entry = entry("m4f")
    with connected(device_entry, cache_dir()) as device, Store(tmp_path / "store") as store:
        deployment = runs.deploy(device_entry, device, "layer-recovery", cache_dir())
        done = runs.measure(deployment, store, "test", samples=8)
    figures = {record.metric: record for record in done.run.records if record.metric.startswith("layers.")}
    assert figures["layers.true"].median == figures["layers.found"].median == 7
    assert figures["layers.kind_rate"].median > figures["layers.kind_rate.majority"].median == 3 / 7
    assert {record.source for record in figures.values()} == {"modelled"}
    warnings = [note for note in done.run.detail.notes if note.startswith("This trace shows 7 layers of 7 (conv2d, ")]
    assert len(warnings) == 1
    assert "modelled" in warnings[0]
