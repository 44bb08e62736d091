"""Totals of a stream: time, instructions and energy per sample, adaptation apart from inference."""

from __future__ import annotations

import numpy as np
import pytest

from lab.errors import MeterError
from lab.events import RegionEvent
from measurements.adaptation import adapted, energy_per_sample, stream_energy_records, stream_records
from measurements.record import Record, Trace
from measurements.statistics import make_record

PASSES = (
    RegionEvent("inference", 0, 0, 1000),
    RegionEvent("inference", 1, 2000, 3000),
    RegionEvent("adapt", 1, 4000, 10_000),
    RegionEvent("inference", 2, 11_000, 12_000),
)


def values(records: tuple[Record, ...]) -> dict[str, float]:
    return {record.metric: record.median for record in records}


def test_what_a_sample_takes_includes_the_adaptations() -> None:
    found = values(stream_records(PASSES, 6, 1e6, "virtual", "emulated"))
    assert found == {
        "latency_per_sample": pytest.approx(9000 / 1e6 / 6),
        "instructions_per_sample": pytest.approx(1500),
        "adaptation_share": pytest.approx(6000 / 9000),
    }
    assert "instructions_per_sample" not in values(stream_records(PASSES, 6, 1e6, "dwt", "hardware"))
    assert values(stream_records(PASSES[:2], 2, 1e6, "dwt", "hardware"))["adaptation_share"] == 0
    assert adapted(PASSES) == (1,)


def test_switches_count_as_adaptations_do() -> None:
    passes = (RegionEvent("switch", 0, 0, 500), *PASSES[:2])
    found = values(stream_records(passes, 2, 1e6, "virtual", "emulated"))
    assert found["instructions_per_sample"] == pytest.approx(1250)
    assert found["switch_share"] == pytest.approx(0.2)
    assert "adaptation_share" not in found
    energy = {one: make_record(one, "energy", "J", "modelled", [joules]) for one, joules in
              (("inference", 2e-3), ("switch", 1e-3))}  # fmt: skip
    assert values(energy_per_sample(passes, energy, 2))["energy_per_sample"] == pytest.approx(2.5e-3)


def test_energy_per_sample_is_passes_times_their_energy_and_none_where_one_is_unknown() -> None:
    energy = {
        region: make_record(region, "energy", "J", "modelled", [joules, joules])
        for region, joules in (("inference", 2e-3), ("adapt", 0.03))
    }
    assert values(energy_per_sample(PASSES, energy, 3))["energy_per_sample"] == pytest.approx((3 * 2e-3 + 0.03) / 3)
    assert energy_per_sample(PASSES, {"inference": energy["inference"]}, 3) == ()
    assert energy_per_sample(PASSES, {}, 3) == ()
    alone = energy_per_sample(PASSES[:2], {"inference": energy["inference"]}, 2)
    assert values(alone)["energy_per_sample"] == pytest.approx(2e-3)
    early = make_record("inference", "energy", "J", "modelled", [1e-3, 1e-3, 7e-3])
    mixed = energy_per_sample(PASSES[:2], {"inference": early}, 2)
    assert values(mixed)["energy_per_sample"] == pytest.approx(3e-3), "where passes differ their mean adds up"


def test_windows_of_both_regions_are_told_apart_in_a_trace() -> None:
    rate, clock = 100e3, 1e6
    samples = int(0.04 * rate)
    current, marker = np.full(samples, 1e-3), np.zeros(samples, np.uint8)
    passes = []
    for begin_s, end_s, region, amps in ((0.010, 0.014, "inference", 5e-3), (0.018, 0.026, "adapt", 9e-3)):
        window = slice(round(begin_s * rate), round(end_s * rate))
        current[window], marker[window] = amps, 1
        passes.append(RegionEvent(region, 0, round(begin_s * clock), round(end_s * clock)))
    trace = Trace(0.0, 1 / rate, 3.0, current.astype(np.float32), marker)
    records = {(one.region, one.metric): one.median for one in stream_energy_records(trace, passes, clock, "hardware")}
    assert records["inference", "energy"] == pytest.approx(3 * 5e-3 * 0.004, rel=1e-3)
    assert records["adapt", "energy"] == pytest.approx(3 * 9e-3 * 0.008, rel=1e-3)
    assert records["adapt", "energy.net"] == pytest.approx(3 * 8e-3 * 0.008, rel=1e-3)
    with pytest.raises(MeterError, match="no pass of its stream"):
        stream_energy_records(trace, [], clock, "hardware")
