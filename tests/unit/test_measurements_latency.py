"""Latency and memory records from what a device tells."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ProtocolError
from lab.events import RegionEvent
from measurements.latency import latency_records
from measurements.memory import memory_records


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**32)), min_size=1, max_size=30),
    st.sampled_from([25_000_000, 168_000_000, 1_000_000_000]),
)
def test_figures_follow_from_the_edges(edges: list[tuple[int, int]], clock_hz: int) -> None:
    passes = [RegionEvent("inference", k, begin, begin + length) for k, (begin, length) in enumerate(edges)]
    cycles, latency = latency_records(passes, clock_hz, "dwt", "hardware")
    assert (cycles.metric, cycles.unit, latency.metric, latency.unit) == ("cycles", "cycles", "latency", "s")
    assert cycles.raw == tuple(float(length) for _, length in edges)
    assert latency.median == pytest.approx(statistics.median(cycles.raw) / clock_hz)
    assert (latency.n, latency.source, latency.note.count("virtual")) == (len(edges), "hardware", 0)


def test_a_virtual_clock_also_counts_instructions_and_says_what_it_is() -> None:
    records = latency_records([RegionEvent("inference", 0, 10, 110)] * 6, 25e6, "virtual", "emulated")
    assert [record.metric for record in records] == ["cycles", "instructions", "latency"]
    assert all("one cycle is one instruction" in record.note for record in records)
    assert all(record.source == "emulated" for record in records)
    assert records[1].ci_low == records[1].median == records[1].ci_high == 100.0


def test_regions_and_layers_are_kept_apart() -> None:
    passes = [
        RegionEvent("inference", 0, 0, 100),
        RegionEvent("layer", 0, 5, 40),
        RegionEvent("layer", 1, 40, 90),
        RegionEvent("inference", 1, 200, 310),
        RegionEvent("layer", 0, 205, 245),
        RegionEvent("layer", 12, 250, 251),
    ]
    records = latency_records(passes, 1e6, "systick", "hardware", ("conv1", "fc"))
    cycles = {record.region: record.raw for record in records if record.metric == "cycles"}
    assert cycles == {
        "inference": (100.0, 110.0),
        "layer/00 conv1": (35.0, 40.0),
        "layer/01 fc": (50.0,),
        "layer/12": (1.0,),
    }


def test_no_pass_gives_no_record() -> None:
    assert latency_records([], 1e6, "dwt", "hardware") == ()


def test_a_clock_that_went_backwards_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"'inference' pass 3 begins at 50 and ends at 49: .* went backwards"):
        latency_records([RegionEvent("inference", 3, 50, 49)], 1e6, "dwt", "hardware")


@pytest.mark.parametrize("clock_hz", [0, -1, float("nan")])
def test_a_clock_without_a_rate_is_named(clock_hz: float) -> None:
    with pytest.raises(ProtocolError, match="dwt clock runs at"):
        latency_records([RegionEvent("inference", 0, 0, 1)], clock_hz, "dwt", "hardware")


@pytest.mark.parametrize(
    ("high_water", "words"),
    [
        (4096, "equals the plan of 4096 bytes"),
        (4000, "touched 96 bytes less than the plan"),
        (4100, "TOUCHED 4 BYTES MORE THAN THE PLAN"),
    ],
)
def test_memory_is_split_and_compared_with_the_plan(high_water: int, words: str) -> None:
    records = {
        record.metric: record
        for record in memory_records(
            arena_high_water=high_water, stack_high_water=900, planned_arena_bytes=4096, static_ram_bytes=2048,
            flash_bytes=60000, weights_bytes=45000, source="emulated",
        )
    }  # fmt: skip
    assert {name: record.median for name, record in records.items()} == {
        "peak_ram": high_water + 900 + 2048,
        "peak_ram.activations": high_water,
        "peak_ram.stack": 900,
        "peak_ram.static": 2048,
        "flash": 60000,
        "flash.weights": 45000,
    }
    assert words in records["peak_ram.activations"].note
    assert {(record.unit, record.region, record.n) for record in records.values()} == {("bytes", "run", 1)}
