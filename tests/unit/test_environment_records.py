"""The environment of a run in the store and on the page, and what becomes of a throttled device's figures."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.store_runs import make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.cli import main
from lab.paths import config_dir
from measurements.environment import (
    Battery,
    CpuPolicy,
    Environment,
    Moment,
    Setting,
    Snapshot,
    ThrottleSource,
    Zone,
)
from measurements.record import Record, RunDetail, Source
from measurements.report import render
from measurements.report.environment import environment_view
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.rows import run_row
from measurements.throttled import mark_throttled

REASON = "throttled, during the run (vcgencmd)"


def snapshot(moment: Moment, time_s: float, temperature_c: float = 48.3) -> Snapshot:
    return Snapshot(
        moment=moment,
        time_s=time_s,
        uptime_s=100.0 + time_s,
        clock_s=1.7e9,
        policies=(CpuPolicy("policy0", (0, 1, 2, 3), "performance", 1.5e9, 1.5e9, 1.5e9, 1.8e9),),
        cores_online=(0, 1, 2, 3),
        zones=(Zone("cpu-thermal", temperature_c), Zone("gpu", 20.0)),
        throttling=(ThrottleSource("vcgencmd", ("throttled",), ("under-voltage",)), ThrottleSource("oc", events=2)),
        load_1min=0.25,
        memory_available_bytes=3 << 30,
        power_mode="1 (25W)",
        clocks_locked=True,
        battery=Battery(54.0, 31.5, "discharging", False),
        screen_on=False,
        airplane_mode=True,
    )


WHOLE = Environment(
    snapshots=(snapshot("before", 0.0), snapshot("during", 2.5, 61.0), snapshot("after", 9.0)),
    settings=(
        Setting("governor of policy0", "ondemand", "performance", restored=True),
        Setting("screen", "on", "off", restored=False),
    ),
    throttled=(REASON,),
    background_load=0.04,
    notes=("waited 12 s until it was at most 50 °C", "<b>not markup</b>"),
)

_texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
_several = st.lists(_texts, max_size=2).map(tuple)
_numbers = st.none() | st.floats(0, 1e12)
_snapshots = st.builds(
    Snapshot,
    moment=st.sampled_from(["before", "during", "after"]),
    time_s=st.floats(0, 1e6),
    uptime_s=_numbers,
    policies=st.lists(
        st.builds(
            CpuPolicy,
            name=_texts,
            cores=st.lists(st.integers(0, 99)).map(tuple),
            max_hz=_numbers,
            residency=st.lists(st.tuples(st.floats(0, 1e10), st.floats(0, 1e6)), max_size=3).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    cores_online=st.lists(st.integers(0, 255), max_size=4).map(tuple),
    zones=st.lists(st.builds(Zone, _texts, st.floats(-50, 150)), max_size=3).map(tuple),
    throttling=st.lists(
        st.builds(ThrottleSource, _texts, _several, _several), max_size=2
    ).map(tuple),
    battery=st.none() | st.builds(Battery, _numbers, _numbers, _texts, st.none() | st.booleans()),
    screen_on=st.none() | st.booleans(),
)
_environments = st.builds(
    Environment,
    snapshots=st.lists(_snapshots, max_size=3).map(tuple),
    settings=st.lists(st.builds(Setting, _texts, _texts, _texts, st.booleans()), max_size=3).map(tuple),
    throttled=st.lists(_texts, max_size=2).map(tuple),
    background_load=_numbers,
    notes=st.lists(_texts, max_size=2).map(tuple),
)


@settings(max_examples=20)
@given(st.lists(_environments, min_size=1, max_size=3))
def test_the_store_gives_back_what_it_was_given(environments: list[Environment]) -> None:
    runs = [
        replace(make_run(number), detail=RunDetail(environment=environment))
        for number, environment in enumerate([WHOLE, *environments])
    ]
    with tempfile.TemporaryDirectory(prefix="lab-test-store-") as folder, Store(Path(folder)) as store:
        for run in runs:
            store.save(run)
        assert [store.run(run.run_id) for run in runs] == runs
        assert store.verify().problems == ()


def test_runs_without_an_environment_are_stored_as_before() -> None:
    """Digests of stored runs cover the detail's text: a new field must not be in it."""
    row = run_row(make_run(1))
    assert "environment" not in json.loads(str(row["detail"]))
    with_one = run_row(replace(make_run(1), detail=RunDetail(environment=WHOLE)))
    assert "environment" in json.loads(str(with_one["detail"]))


# The page.


def test_the_table_has_a_row_for_all_that_is_known() -> None:
    view = environment_view(WHOLE)
    assert view.heads == ("before, 0.0 s", "between passes, 2.5 s", "after, 9.0 s")
    plain = {name: [" ".join(value.split()) for value in values] for name, values in view.rows}
    assert plain["policy0 (cores 0-3)"] == ["performance, 1.5 GHz of 1.5 GHz to 1.5 GHz"] * 3
    assert plain["hottest"] == ["48.3 °C (cpu-thermal)", "61.0 °C (cpu-thermal)", "48.3 °C (cpu-thermal)"]
    assert plain["throttling"][0] == "throttled (vcgencmd), 2 events since boot (oc)"
    assert plain["battery"][0] == "54 %, 31.5 °C, discharging, on battery"
    assert plain["power mode"][0] == "1 (25W)"
    assert plain["screen"] == ["off"] * 3
    assert plain["airplane mode"] == ["yes"] * 3
    assert plain["background load, per core"][0] == "0.04"
    assert view.settings == (
        "governor of policy0: ondemand → performance, put back", "screen: on → off, NOT put back",
    )  # fmt: skip


def test_the_mean_clock_is_that_of_the_time_between_two_snapshots() -> None:
    before = CpuPolicy("policy0", (0,), residency=((600e6, 100.0), (1500e6, 20.0)))
    after = CpuPolicy("policy0", (0,), residency=((600e6, 101.0), (1500e6, 23.0), (1800e6, 6.0)))
    assert after.mean_hz_since(before) == pytest.approx((600e6 * 1 + 1500e6 * 3 + 1800e6 * 6) / 10)
    assert before.mean_hz_since(before) is None
    snapshots = (Snapshot("before", 0.0, policies=(before,)), Snapshot("after", 10.0, policies=(after,)))
    rows = dict(environment_view(Environment(snapshots)).rows)
    assert " ".join(rows["policy0, mean since the column before"][1].split()) == "1.590 GHz"
    bare = replace(snapshots[0], policies=(CpuPolicy("policy0", (0,)),))
    assert "policy0, mean since the column before" not in dict(environment_view(Environment((bare, bare))).rows)


def test_what_nobody_knows_has_no_row() -> None:
    bare = Environment((Snapshot("before", 0.0, cores_online=(0, 1)), Snapshot("after", 1.0)))
    assert [name for name, _ in environment_view(bare).rows] == ["cores that run"]
    assert environment_view(Environment()).rows == ()


def test_a_throttled_run_is_marked_on_the_page() -> None:
    run = make_run(1)
    marked = replace(
        run, detail=RunDetail(environment=WHOLE), provenance=replace(run.provenance, throttled=True, temperature_c=61.0)
    )
    page = render([marked], {})
    assert "The device was throttled" in page
    assert f'title="{REASON}"' in page
    assert "61.0 °C" in page
    assert "&lt;b&gt;not markup&lt;/b&gt;" in page
    assert "<b>not markup</b>" not in page
    assert "The device was throttled" not in render([run], {})


# Figures of a throttled device.


def record(metric: str, unit: str, source: Source = "hardware") -> Record:
    return make_record("inference", metric, unit, source, [1.0, 2.0], note="a note")


def test_energy_of_a_throttled_device_is_rejected_and_latency_marked() -> None:
    records = [
        record("latency", "s"), record("energy", "J"), record("energy.net", "J"), record("power", "W"),
        record("charge", "C"), record("accuracy", "1"), record("energy", "J", "modelled"),
    ]  # fmt: skip
    kept, reasons = mark_throttled(records, WHOLE)
    assert [(one.metric, one.source) for one in kept] == [
        ("latency", "hardware"), ("accuracy", "hardware"), ("energy", "modelled"),
    ]  # fmt: skip
    assert kept[0].note == f"{records[0].note}; THROTTLED: {REASON}"
    assert (kept[1], kept[2]) == (records[5], records[6])
    (reason,) = reasons
    assert (reason.reason, reason.transient) == ("thermal-throttling", True)
    assert reason.message == f"the device was held back: {REASON}"


def test_without_energy_nothing_is_rejected_and_without_throttling_nothing_marked() -> None:
    records = [record("latency", "s"), record("energy", "J")]
    assert mark_throttled(records[:1], WHOLE)[1] == ()
    for environment in (None, replace(WHOLE, throttled=())):
        assert mark_throttled(records, environment) == (tuple(records), ())


# lab env


def test_lab_env_shows_this_computer() -> None:
    result = CliRunner().invoke(main, ["--config", str(config_dir() / "emulated.yaml"), "env", "host"])
    assert result.exit_code == 0, result.output
    cores = [line for line in result.output.splitlines() if line.startswith("cores that run")]
    assert len(cores) == 1
    for word in ("memory available", "rights", "memory of a process by", "set while it measures: nothing"):
        assert word in result.output


def test_lab_env_tells_what_the_bench_file_asks(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        "devices:\n  host:\n    board: host\n    environment: {governor: performance, cores: [0, 1], max_load: 0.5}\n"
    )
    result = CliRunner().invoke(main, ["--config", str(path), "env", "host"])
    assert result.exit_code == 0, result.output
    assert "set while it measures: governor: performance, cores: 0, 1, max_load: 0.5" in result.output


def test_lab_env_of_a_microcontroller_is_refused() -> None:
    result = CliRunner().invoke(main, ["--config", str(config_dir() / "emulated.yaml"), "env", "m4f"])
    assert result.exit_code == 1
    assert "m4f is a mps2-an386, which has no operating system to set up" in result.output
