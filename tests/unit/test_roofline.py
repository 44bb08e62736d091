"""The roofline model: rates, shares and times against closed forms, and what is left out where nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers.store_runs import make_run
from hypothesis import given
from hypothesis import strategies as st

from lab.devices.base import RegionCount
from lab.errors import ProtocolError
from lab.roofline import accesses_of
from measurements.record import ArenaSchedule, Buffer, PlannedStep, Record, RunDetail
from measurements.report import render
from measurements.report.roofline_table import roofline_table
from measurements.roofline import (
    COPY,
    MULTIPLY_ADD,
    TORCH_NOTES,
    TRANSFER,
    Accesses,
    Peaks,
    Work,
    bound_of,
    peak_records,
    peaks_of,
    roofline_records,
    transfer_records,
    with_step,
)
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.rows import run_row
from measurements.training import COPY_IN, COPY_OUT

CLOCK_HZ = 1e6
STEPS = (
    PlannedStep("fc", "matmul", "forward", 640, 1280, 2896),
    PlannedStep("loss", "softmax", "forward", 0, 0, 80),
    PlannedStep("fc.mm", "matmul", "backward", 640, 1280, 2856),
    PlannedStep("fc.weight.update", "sgd", "update", 0, 1280, 7680),
)
SECONDS = {"train.forward": 4e-3, "train.backward": 5e-3, "train.update": 2e-3, "train.step": 11e-3}
PARTS_S = (3e-3, 1e-3, 5e-3, 2e-3)
PEAKS = Peaks(flop_per_s=1e6, bytes_per_s=8e6)


@dataclass(frozen=True)
class Window:
    """A window of passes, as a device reports it."""

    region: str
    begin: int
    end: int
    passes: int
    index: int = 0


def latency(region: str, seconds: float) -> Record:
    return make_record(region, "latency", "s", "emulated", [seconds])


def measured(*, peaks: bool = True) -> list[Record]:
    """Latencies of every region, and the peaks."""
    found = [latency(region, seconds) for region, seconds in SECONDS.items()]
    found += [latency(f"train.layer/{n:02} {one.name}", PARTS_S[n]) for n, one in enumerate(STEPS)]
    if peaks:
        found += [make_record(MULTIPLY_ADD, "flop_rate", "FLOP/s", "emulated", [PEAKS.flop_per_s]),
                  make_record(COPY, "byte_rate", "B/s", "emulated", [PEAKS.bytes_per_s])]  # fmt: skip
    return found


def figures(records: tuple[Record, ...]) -> dict[tuple[str, str], float]:
    return {(one.region, one.metric): one.median for one in records}


def test_copies_are_judged_by_the_rate_of_a_transfer_and_the_step_by_its_copies() -> None:
    copied = {COPY_IN: 1032, COPY_OUT: 4}
    assert transfer_records(measured(), copied) == (), "no device without an accelerator's memory"
    seconds = {COPY_IN: (1e-3, 3e-3), COPY_OUT: (1e-3, 0.5e-3)}
    taken = [make_record(region, "latency", "s", "hardware", each) for region, each in seconds.items()]
    known = [*measured(), *taken]
    found = figures(transfer_records(known, copied))
    assert found["train.step", "transfer_time"] == pytest.approx((2e-3 + 3.5e-3) / 2), "of each step, then the median"
    assert found["train.step", "share.transfer"] == pytest.approx(2.75e-3 / 11e-3)
    assert found[COPY_IN, "byte_rate"] == pytest.approx(1032 / 2e-3)
    assert (COPY_IN, "share.transfer") not in found
    bus = make_record(TRANSFER, "byte_rate", "B/s", "hardware", [1e6])
    found = figures(transfer_records([*known, bus], copied))
    assert found[COPY_IN, "share.transfer"] == pytest.approx(1032 / 1e6 / 2e-3)
    assert peaks_of([*known, bus]) == replace(PEAKS, transfer_per_s=1e6)
    records = (*known, bus, *roofline_records(known, STEPS, {}), *transfer_records([*known, bus], copied))
    table = roofline_table(replace(make_run(1), records=records))
    assert table is not None
    rows = {row.name: row for row in table.rows}
    assert list(rows)[:2] == ["copy_in", "forward"]
    assert (rows["copy_in"].movement, rows["copy_in"].bound) == ("51.6\u00a0%", "transfer")
    assert "Copies between host and accelerator are judged by 1" in table.summary


def test_peaks_of_pytorch_need_a_transfer_and_name_their_accelerator() -> None:
    windows = [Window(region, 0, 1000, 2) for region in (COPY, MULTIPLY_ADD, TRANSFER)]
    per_pass = {COPY: 8.0, MULTIPLY_ADD: 6.0, TRANSFER: 4.0}
    records = peak_records(windows, per_pass, CLOCK_HZ, "hardware", TORCH_NOTES)
    assert figures(records)[TRANSFER, "byte_rate"] == pytest.approx(2 * 4 * CLOCK_HZ / 1000)
    with pytest.raises(ProtocolError, match=r"nothing of 'peak\.transfer'"):
        peak_records(windows[:2], per_pass, CLOCK_HZ, "hardware", TORCH_NOTES)


def test_rates_are_work_by_time_and_times_are_work_by_peaks() -> None:
    found = figures(roofline_records(measured(), STEPS, {}))
    assert found["train.forward", "flop"] == 1280
    assert found["train.forward", "traffic"] == 2976
    assert found["train.forward", "intensity"] == pytest.approx(1280 / 2976)
    assert found["train.forward", "flop_rate"] == pytest.approx(1280 / 4e-3)
    assert found["train.forward", "byte_rate"] == pytest.approx(2976 / 4e-3)
    assert found["train.update", "movement_time"] == pytest.approx(7680 / 8e6)
    assert found["train.update", "compute_time"] == pytest.approx(1280 / 1e6)
    assert found["train.update", "share.movement"] == pytest.approx(7680 / 8e6 / 2e-3)
    assert found["train.update", "share.roof"] == pytest.approx(1280 / 1e6 / 2e-3)
    assert found["train.step", "flop"] == 3840
    assert found["train.step", "share.movement"] == pytest.approx(13512 / 8e6 / 11e-3)
    assert found["train.layer/02 fc.mm", "flop_rate"] == pytest.approx(1280 / 5e-3)
    assert found["train.layer/01 loss", "byte_rate"] == pytest.approx(80 / 1e-3)
    assert ("train.layer/01 loss", "flop_rate") not in found, "it computes nothing that counts"
    assert ("train.layer/02 fc.mm", "flop") not in found, "the schedule has it"


def test_what_was_not_measured_is_left_out() -> None:
    found = figures(roofline_records(measured(peaks=False), STEPS, {}))
    assert found["train.step", "flop_rate"] == pytest.approx(3840 / 11e-3)
    assert not [metric for _, metric in found if metric.startswith("share") or metric.endswith("_time")]
    without = [one for one in measured() if one.region != "train.update"]
    at_once = figures(roofline_records(without, STEPS[:3], {}))
    assert not [region for region, _ in at_once if region == "train.update"]
    assert roofline_records([], STEPS, {}) == ()
    standing = [latency("train.step", 0.0), *measured()[-2:]]
    assert roofline_records(standing, STEPS, {}) == (), "a region too short for the clock has no rate"


@given(
    flop=st.integers(1, 10**9), moved=st.integers(1, 10**9), seconds=st.floats(1e-6, 1e3),
    peak=st.floats(1e3, 1e12), copy=st.floats(1e3, 1e12),
)  # fmt: skip
def test_the_roof_is_the_higher_of_both_bounds(
    flop: int, moved: int, seconds: float, peak: float, copy: float
) -> None:
    records = [latency("train.forward", seconds), make_record(MULTIPLY_ADD, "flop_rate", "FLOP/s", "emulated", [peak]),
               make_record(COPY, "byte_rate", "B/s", "emulated", [copy])]  # fmt: skip
    found = figures(roofline_records(records, [PlannedStep("x", "conv2d", "forward", 0, flop, moved)], {}))
    times = found["train.forward", "compute_time"], found["train.forward", "movement_time"]
    assert found["train.forward", "share.roof"] * seconds == pytest.approx(max(times))
    assert found["train.forward", "share.movement"] <= found["train.forward", "share.roof"]
    bound = bound_of(Work(flop, moved), Peaks(peak, copy))
    assert bound == ("movement" if flop / moved < peak / copy else "arithmetic")


def test_peaks_are_those_of_the_fastest_window() -> None:
    windows = [Window(COPY, 0, 100, 4), Window(COPY, 200, 250, 4), Window(COPY, 300, 500, 4),
               Window(MULTIPLY_ADD, 600, 700, 2)]  # fmt: skip
    records = peak_records(windows, {COPY: 64.0, MULTIPLY_ADD: 4096.0}, CLOCK_HZ, "emulated")
    assert [(one.region, one.metric, one.unit, one.n) for one in records] == [
        (COPY, "byte_rate", "B/s", 1), (MULTIPLY_ADD, "flop_rate", "FLOP/s", 1),
    ]  # fmt: skip
    found = peaks_of(records)
    assert found is not None
    assert found.bytes_per_s == pytest.approx(4 * 64 * CLOCK_HZ / 50)
    assert found.flop_per_s == pytest.approx(2 * 4096 * CLOCK_HZ / 100)
    assert found.ridge == pytest.approx(2 * 4096 / (2 * 4 * 64))
    assert peaks_of(records[:1]) is None


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        ([Window(COPY, 0, 100, 4)], "reported nothing of 'peak.multiply_add'"),
        ([Window(COPY, 7, 7, 4), Window(MULTIPLY_ADD, 8, 9, 1)], "a window of 'peak.copy' took no time"),
    ],
)
def test_peaks_that_make_no_sense_are_refused(windows: list[Window], told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        peak_records(windows, {COPY: 64.0, MULTIPLY_ADD: 4096.0}, CLOCK_HZ, "emulated")


def test_loads_and_stores_are_counted_by_phase_by_part_and_in_all() -> None:
    counts = [
        RegionCount("train.forward", 0, 100, 30, 10), RegionCount("train.backward", 0, 200, 50, 30),
        RegionCount("train.layer", 0, 80, 24, 8), RegionCount("train.layer", 9, 1, 1, 0),
        RegionCount("inference", 0, 5, 1, 1),
    ]  # fmt: skip
    found = accesses_of(counts, STEPS)
    assert found == {
        "train.forward": Accesses(100, 30, 10), "train.backward": Accesses(200, 50, 30),
        "train.layer/00 fc": Accesses(80, 24, 8), "train.step": Accesses(300, 80, 40),
    }  # fmt: skip
    told = figures(roofline_records(measured(), STEPS, found))
    assert told["train.step", "accesses"] == 120
    assert told["train.step", "share.access"] == pytest.approx(0.4)
    assert told["train.layer/00 fc", "share.access"] == pytest.approx(0.4)
    assert ("train.layer/00 fc", "accesses") not in told
    assert with_step({}) == {}


def test_the_table_sums_kernels_by_kind_and_says_what_bounds_each(tmp_path: Path) -> None:
    records = measured()
    counts = {"train.step": Accesses(1000, 250, 150)}
    detail = RunDetail(training=ArenaSchedule(STEPS, (Buffer("x", 0, 16, 0, 3),), 16, 16))
    run = replace(make_run(1, records=[*records, *roofline_records(records, STEPS, counts)]), detail=detail)
    with Store(tmp_path) as store:
        store.save(run)
        (stored,) = store.runs()
    assert stored.detail == detail
    table = roofline_table(stored)
    assert table is not None
    assert (table.has_peaks, table.has_counts) == (True, True)
    rows = {(row.name, row.detail): row for row in table.rows}
    assert [row.name for row in table.rows] == ["forward", "backward", "update", "step", "matmul", "matmul", "sgd",
                                               "softmax"]  # fmt: skip
    assert rows["step", ""].share == "100.0\u00a0%"
    assert rows["step", ""].accesses == "40.0\u00a0%"
    assert rows["update", "phase"].bound == "arithmetic", "1/6 FLOP a byte, above a ridge of 1/8"
    assert rows["softmax", "forward, 1 kernel"].bound == "movement"
    assert rows["softmax", "forward, 1 kernel"].flop == rows["softmax", "forward, 1 kernel"].flop_rate == ""
    assert rows["matmul", "backward, 1 kernel"].flop_rate == "256.0\u00a0kFLOP/s"
    page = render([stored], {})
    assert "Roofline of a training step" in page
    assert "1.000\u00a0MFLOP/s of multiplications" in page
    assert "Roofline of a training step" not in render([make_run(2)], {})


def test_without_peaks_and_counts_the_table_has_no_such_columns() -> None:
    records = measured(peaks=False)
    run = make_run(1, records=[*records, *roofline_records(records, STEPS, {})])
    table = roofline_table(run)
    assert table is not None
    assert (table.has_peaks, table.has_counts) == (False, False)
    assert [row.name for row in table.rows] == ["forward", "backward", "update", "step"], "no schedule, no kernels"
    assert "were not measured" in table.summary
    page = render([run], {})
    assert "Bound by" not in page
    assert "Loads, stores" not in page
    assert roofline_table(make_run(2, records=records)) is None


def test_schedules_without_work_are_stored_as_before() -> None:
    old = ArenaSchedule((PlannedStep("conv", "conv2d", "forward", 9),), (), 16, 16)
    new = ArenaSchedule(STEPS, (), 16, 16)
    rows = [str(run_row(replace(make_run(1), detail=RunDetail(training=one)))["detail"]) for one in (old, new)]
    assert "traffic_bytes" not in rows[0]
    assert '"traffic_bytes":2896' in rows[1]
