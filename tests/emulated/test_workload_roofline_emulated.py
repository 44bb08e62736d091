"""roofline on an emulated board and on this computer: peaks, rates and exact counts of the same device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.toolchain import tiny_model

from lab.bench import Bench
from lab.build import build
from lab.comparison import Sizes, run_on
from lab.devices.connect import connected
from lab.errors import LabError
from lab.inventory import Device as Entry
from lab.measured import Measurement
from lab.paths import cache_dir, project_root
from lab.roofline import measure_peaks
from lab.workloads import get
from measurements.roofline import COPY, MULTIPLY_ADD
from measurements.store import Store

SMALL = "samples=4,evaluated=3,target=0.1"
PHASES = ("train.forward", "train.backward", "train.update")


def measured(entry: Entry, store_folder: Path) -> Measurement:
    with Store(store_folder) as store, connected(entry, cache_dir()) as device:
        found = run_on(entry, device, get("roofline"), SMALL, store, "s", Sizes(), cache_dir(), baselines=False)
    found.check()
    claims = {(claim.metric, claim.region): claim for claim in found.claims}
    assert claims["flop_rate", "train.step"].ours is not None
    assert claims["movement_time", "train.step"].ours == pytest.approx(
        found.method.median("share.movement", "train.step"), rel=1e-6
    )
    return found.method


def board(name: str) -> Entry:
    return Bench.load(project_root() / "device_configs" / "emulated.yaml").get(name)


def this_computer(folder: Path) -> Entry:
    bench = folder / "bench.yaml"
    bench.write_text("devices: {me: {board: host}}")
    return Bench.load(bench).get("me")


def test_rates_of_a_board_are_below_its_peaks_and_counts_are_exact(tmp_path: Path) -> None:
    found = measured(board("m7"), tmp_path / "store")
    clock_hz = found.run.provenance.clock_hz
    peak, copy = found.median("flop_rate", MULTIPLY_ADD), found.median("byte_rate", COPY)
    # An instruction a cycle: at most a fused multiply-add, two operations, or a word read or written, four bytes.
    assert 1.6 * clock_hz < peak <= 2 * clock_hz
    assert 2.8 * clock_hz < copy <= 4 * clock_hz
    for region in PHASES:
        assert found.median("flop_rate", region) * found.median("latency", region) == pytest.approx(
            found.median("flop", region)
        )
        moved = found.median("loads", region) + found.median("stores", region)
        assert found.median("accesses", region) == moved
        assert 0.25 < found.median("share.access", region) < 0.75
        assert 0 < found.median("share.movement", region) <= found.median("share.roof", region) < 1
    assert found.median("traffic", "train.step") == sum(found.median("traffic", region) for region in PHASES)
    training = found.run.detail.training
    assert training is not None
    rates = [one for one in found.run.records if one.metric == "byte_rate" and one.region.startswith("train.layer/")]
    assert len(rates) == len(training.steps)
    assert all(one.median < 4 * clock_hz for one in rates)


def test_this_computer_has_peaks_of_its_own(tmp_path: Path) -> None:
    found = measured(this_computer(tmp_path), tmp_path / "store")
    assert all(found.median("flop_rate", region) > 0 for region in (*PHASES, "train.step", MULTIPLY_ADD))
    assert found.median("share.movement", "train.step") == pytest.approx(
        found.median("byte_rate", "train.step") / found.median("byte_rate", COPY)
    )
    with pytest.raises(LabError, match="accesses"):
        found.median("accesses", "train.step")


@pytest.mark.parametrize(
    ("arena_bytes", "peaks", "told"),
    [(96, False, "this image has no such job"), (32, True, "an arena of 32 bytes has no room for a copy; it takes 64")],
)
def test_an_image_that_cannot_measure_its_peaks_says_so(
    tmp_path: Path, arena_bytes: int, peaks: bool, told: str
) -> None:
    tiny, entry = tiny_model(), this_computer(tmp_path)
    header = tiny.sources["model.h"].replace("ARENA_BYTES 96", f"ARENA_BYTES {arena_bytes}")
    model = replace(tiny, sources={**tiny.sources, "model.h": header}, arena_bytes=arena_bytes)
    with connected(entry, cache_dir()) as device:
        built = build(model, "host", cache=cache_dir(), peaks=peaks)
        hello = device.deploy(built)
        with pytest.raises(LabError, match=told):
            measure_peaks(device, hello, built)
