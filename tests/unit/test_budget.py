"""Budgets: what their text means, which figure is compared, and what is said when one is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.budget import Limit, check_budget, parse_budget
from lab.errors import BudgetExceeded, ConfigError
from measurements.record import Provenance, Run
from measurements.statistics import make_record

_PROVENANCE = Provenance(
    device="m4f", board="mps2-an386", clock="virtual", clock_hz=25e6, emulator="QEMU 7.2",
    meter="", meter_uncertainty=0.0, energy_model="",
    workload="w", variant="", parameters={}, seed=0, dataset="d", dataset_digest="",
    artifact_digest="", build_id="", toolchain="", flags="", git_commit="", git_dirty=False, lab_version="0",
)  # fmt: skip


def run_of(metric: str, values: Sequence[float], unit: str, region: str = "inference", device: str = "m4f") -> Run:
    record = make_record(region, metric, unit, "emulated", list(values))
    provenance = replace(_PROVENANCE, device=device)
    return Run("r", "s", 0, "passed", provenance, (record,))


def limits(**texts: object) -> tuple[Limit, ...]:
    return parse_budget(((), texts))


@pytest.mark.parametrize(
    ("metric", "text", "allowed", "unit", "region"),
    [
        ("latency", "20 ms", 0.02, "s", "inference"),
        ("latency", "15 µs", 15e-6, "s", "inference"),
        ("energy", "1 mJ", 1e-3, "J", "inference"),
        ("peak_ram", "256 KiB", 262144, "bytes", "run"),
        ("flash", "1 MB", 1_000_000, "bytes", "run"),
        ("instructions", 1_500_000, 1_500_000, "instructions", "inference"),
        ("instructions", "1_500_000", 1_500_000, "instructions", "inference"),
    ],
)
def test_quantities_are_read_in_their_units(metric: str, text: object, allowed: float, unit: str, region: str) -> None:
    (limit,) = limits(**{metric: text})
    assert (limit.metric, limit.unit, limit.region) == (metric, unit, region)
    assert limit.allowed == pytest.approx(allowed, rel=1e-12)


def test_the_nearer_marker_counts_and_others_add() -> None:
    found = parse_budget(((), {"latency": "1 ms"}), ((), {"latency": "2 ms", "flash": "1 KiB"}))
    assert {limit.metric: limit.allowed for limit in found} == {"latency": 1e-3, "flash": 1024}


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40), st.floats(1e-6, 1.0))
def test_latency_is_judged_by_its_95th_percentile(values: list[float], allowed: float) -> None:
    (limit,) = limits(latency="1 s")
    limit = replace(limit, allowed=allowed)
    over = float(np.percentile(values, 95)) > allowed
    if over:
        with pytest.raises(BudgetExceeded):
            check_budget([limit], [run_of("latency", values, "s")])
    else:
        check_budget([limit], [run_of("latency", values, "s")])


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20))
def test_memory_is_judged_by_its_largest_figure(values: list[int]) -> None:
    run = run_of("peak_ram", values, "bytes", "run")
    check_budget(limits(peak_ram=max(values)), [run])
    with pytest.raises(BudgetExceeded):
        check_budget(limits(peak_ram=max(values) - 1), [run])


def test_energy_is_judged_by_its_median() -> None:
    run = run_of("energy", [1e-3, 2e-3, 90e-3], "J")
    check_budget(limits(energy="2 mJ"), [run])
    with pytest.raises(BudgetExceeded, match=r"energy \(median\) measured 2 mJ, allowed 1\.6 mJ \(\+25\.0 %\)"):
        check_budget(limits(energy="1.6 mJ"), [run])


def test_all_that_is_broken_is_said_with_its_device() -> None:
    seconds = {"m4f": 4e-3, "m7": 1e-3, "m55": 3e-3}
    runs = [run_of("latency", [value], "s", device=name) for name, value in seconds.items()]
    with pytest.raises(BudgetExceeded) as caught:
        check_budget(limits(latency="2 ms"), runs)
    assert str(caught.value).splitlines() == [
        "over budget:",
        "  m4f: latency (p95) measured 4 ms, allowed 2 ms (+100.0 %)",
        "  m55: latency (p95) measured 3 ms, allowed 2 ms (+50.0 %)",
    ]


def test_another_region_is_not_meant() -> None:
    with pytest.raises(ConfigError, match="the budget limits latency, but this test measured none"):
        check_budget(limits(latency="1 s"), [run_of("latency", [1e-3], "s", region="idle")])


def test_nothing_measured_is_an_error_and_no_limit_is_fine() -> None:
    with pytest.raises(ConfigError, match="measured none") as caught:
        check_budget(limits(flash="1 KiB"), [])
    assert "call measure() in the test" in caught.value.hint
    check_budget([], [])


def test_a_limit_of_zero_can_be_broken() -> None:
    with pytest.raises(BudgetExceeded, match=r"allowed 0 B \(\+inf %\)"):
        check_budget(limits(flash=0), [run_of("flash", [1], "bytes", "run")])
