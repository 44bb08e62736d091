"""An attempt against a scripted device: its passes, its figures, and what is kept of a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.scripted_runs import (
    CLOCK_HZ,
    HIGH_A,
    INPUTS,
    PASS_CYCLES,
    SAMPLES,
    VOLTAGE_V,
    ScriptedDevice,
    ScriptedMeter,
    answers,
    deployment,
    kept,
    measured,
    prepared,
    reference,
    stops,
)

from lab import runs
from lab.attempt import METERED_SAMPLES
from lab.environment import EnvironmentLog
from lab.errors import (
    ConfigError,
    Crash,
    EmulatorError,
    MeterError,
    ProtocolError,
    StoreError,
    TransportError,
    WorkloadError,
)
from lab.events import Event, Job, RegionEvent
from lab.power.recorder import Recorder
from lab.provenance import checkout, lab_version
from lab.workloads.base import Int8Array, Score
from measurements.environment import MemoryFigure, Snapshot, Zone
from measurements.record import Run
from measurements.rejection import MeasurementRejected
from measurements.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


# The job


def test_no_samples_is_not_all_samples(store: Store) -> None:
    with pytest.raises(ConfigError, match="asked for 0 samples"):
        measured(store, ScriptedDevice(), samples=0)


def test_the_passes_of_a_measurement(store: Store) -> None:
    device = ScriptedDevice()
    measured(store, device, repeats=3, samples=9)
    main, layers = device.jobs
    assert (main.count, main.repeats, main.profile, main.blob) == (9, 3, False, INPUTS[:9].tobytes())
    assert (layers.count, layers.repeats, layers.profile, layers.blob) == (1, 1, True, INPUTS[:1].tobytes())


# A good run


def test_outputs_records_and_detail(store: Store) -> None:
    measurement = measured(store, ScriptedDevice(), repeats=2)
    np.testing.assert_array_equal(measurement.outputs, reference(INPUTS))
    assert measurement.record("cycles").raw == (float(PASS_CYCLES),) * (2 * SAMPLES)
    assert measurement.median("latency") == pytest.approx(PASS_CYCLES / CLOCK_HZ)
    assert measurement.median("peak_ram", "run") == 96 + 700 + 500
    assert measurement.median("flash", "run") == 9000
    assert measurement.median("bit_exact", "run") == 1.0
    assert (measurement.accuracy, measurement.median("accuracy.reference", "run")) == (0.9, 0.95)
    assert measurement.record("accuracy.reference", "run").source == "modelled"
    assert [layer.cycles for layer in measurement.run.detail.layers] == [10.0, 20.0]
    assert [layer.instructions for layer in measurement.run.detail.layers] == [None, None]
    assert measurement.run.detail.arena_bytes == 96
    assert measurement.run.detail.notes == ("a fact", "random bytes")
    assert kept(store) == measurement.run


def test_a_device_that_counts_adds_loads_and_stores(store: Store) -> None:
    measurement = measured(store, ScriptedDevice(capabilities=frozenset({"counts"})))
    assert (measurement.median("loads"), measurement.median("stores")) == (111, 55)
    counted = [(layer.instructions, layer.loads, layer.stores) for layer in measurement.run.detail.layers]
    assert counted == [(10, 3, 2), (20, 5, 4)]


def test_a_few_samples_are_not_judged_by_the_workload(store: Store) -> None:
    def never(outputs: Int8Array) -> list[Score]:
        raise AssertionError("a bound over all samples says nothing about five")

    few = runs.measure(deployment(ScriptedDevice(), ready=prepared(never)), store, "session", samples=5)
    assert few.median("bit_exact", "run") == 1.0
    with pytest.raises(ConfigError, match="nothing measured 'accuracy' in region 'run'; measured: bit_exact"):
        _ = few.accuracy


def test_provenance_names_everything_the_figures_depend_on(store: Store) -> None:
    windows = METERED_SAMPLES
    run = measured(store, ScriptedDevice(power=ScriptedMeter(windows))).run
    found = run.provenance
    tree = checkout()
    assert (found.device, found.board, found.emulator) == ("m4f", "mps2-an386", "scripted emulator 1.0")
    assert (found.clock, found.clock_hz, found.build_id) == ("virtual", CLOCK_HZ, "0123456789abcdef")
    assert (found.workload, found.variant, found.parameters, found.seed) == (
        "scripted-job",
        "small",
        {"width": "4"},
        17,
    )
    assert (found.dataset, found.dataset_digest) == ("noise", "ab" * 32)
    assert (found.artifact_digest, found.toolchain, found.flags) == ("cd" * 32, "gcc 12.2", "-O2")
    assert (found.meter, found.meter_uncertainty) == ("emulated scripted (serial 7)", 0.02)
    assert "Illustrative model" in found.energy_model
    assert (found.git_commit, found.git_dirty, found.lab_version) == (tree.commit, tree.dirty, lab_version())
    unknown = {name.name for name in fields(found) if getattr(found, name.name) in ("", None)}
    assert unknown <= {"temperature_c", "throttled"} | ({"git_commit"} if not tree.commit else set())
    assert (run.session_id, run.test, run.status) == ("session", "test_x[m4f]", "passed")
    assert (run.error, run.retries) == ("", ())
    assert run.started_ns > 1_700_000_000 * 10**9


def test_energy_of_a_metered_device_is_the_closed_form(store: Store) -> None:
    measurement = measured(store, ScriptedDevice(power=ScriptedMeter(METERED_SAMPLES)))
    energy = measurement.record("energy")
    assert energy.n == METERED_SAMPLES
    assert energy.source == "modelled"
    assert energy.median == pytest.approx(VOLTAGE_V * HIGH_A * PASS_CYCLES / CLOCK_HZ, rel=1e-6)
    assert measurement.trace is not None
    stored = store.trace(measurement.run.run_id)
    assert stored is not None
    np.testing.assert_array_equal(stored.current_a, measurement.trace.current_a)


def test_an_unmetered_run_names_no_meter_and_no_energy_model(store: Store) -> None:
    measurement = measured(store, ScriptedDevice())
    found = measurement.run.provenance
    assert (found.meter, found.meter_uncertainty, found.energy_model) == ("", 0.0, "")
    assert measurement.trace is None
    assert not [record for record in measurement.run.records if record.metric == "energy"]


# Failures keep what was captured


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TransportError("the cable fell out", hint="push it in"), "error"),
        (EmulatorError("QEMU has no such machine"), "error"),
        (Crash("hard fault"), "failed"),
        (ProtocolError("a gap"), "failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_failure_keeps_the_passes_before_it(store: Store, error: Exception, status: str) -> None:
    device = ScriptedDevice([stops(10, error)])
    with pytest.raises(type(error)) as caught:
        measured(store, device)
    assert caught.value is error
    run = kept(store)
    assert (run.status, run.error, run.retries) == (status, str(error), ())
    assert {record.metric: record.n for record in run.records} == {"cycles": 5, "instructions": 5, "latency": 5}
    assert len(run.detail.events) == 5
    assert run.provenance.artifact_digest == "cd" * 32
    assert device.recovered == 0


def test_a_failure_before_the_first_event_still_leaves_a_run(store: Store) -> None:
    with pytest.raises(Crash):
        measured(store, ScriptedDevice([stops(0, Crash("at once"))]))
    assert (kept(store).status, kept(store).records) == ("failed", ())


def test_a_failure_of_a_later_pass_keeps_the_records_of_the_first(store: Store) -> None:
    with pytest.raises(Crash):
        measured(store, ScriptedDevice([answers, stops(1, Crash("in the layers"))]))
    metrics = {record.metric for record in kept(store).records}
    assert {"latency", "peak_ram", "flash"} <= metrics
    assert "bit_exact" not in metrics


def test_a_verdict_of_the_workload_keeps_all_figures(store: Store) -> None:
    def refuse(outputs: Int8Array) -> list[Score]:
        raise WorkloadError("accuracy 12 % is below its floor of 90 %")

    with pytest.raises(WorkloadError):
        runs.measure(deployment(ScriptedDevice(), ready=prepared(refuse)), store, "session")
    run = kept(store)
    assert (run.status, run.error) == ("failed", "accuracy 12 % is below its floor of 90 %")
    assert {"latency", "peak_ram"} <= {record.metric for record in run.records}


def test_a_meter_that_breaks_keeps_its_trace(store: Store) -> None:
    meter = ScriptedMeter(METERED_SAMPLES - 1, broken="the meter was unplugged")
    with pytest.raises(MeterError, match="unplugged"):
        measured(store, ScriptedDevice(power=meter))
    run = kept(store)
    assert run.status == "error"
    assert run.provenance.meter == "emulated scripted (serial 7)"
    trace = store.trace(run.run_id)
    assert trace is not None
    assert np.count_nonzero(np.diff(trace.logic.astype(int)) > 0) == METERED_SAMPLES - 1


class TellingMeter(ScriptedMeter):
    """It says what it left out of its stream."""

    @dataclass(frozen=True)
    class Told:
        notes: tuple[str, ...] = ("2 words came twice and were left out",)

    report = Told()


def test_what_the_meter_said_of_its_stream_is_stored(store: Store) -> None:
    measured(store, ScriptedDevice(power=TellingMeter(METERED_SAMPLES)))
    assert kept(store).detail.meter_notes == ("capture 1: 2 words came twice and were left out",)


def test_a_stream_that_came_whole_says_nothing(store: Store) -> None:
    measured(store, ScriptedDevice(power=ScriptedMeter(METERED_SAMPLES)))
    assert kept(store).detail.meter_notes == ()


def test_layers_that_no_profile_tells_of_have_no_energy_and_the_run_says_why(store: Store) -> None:
    measurement = measured(store, ScriptedDevice([answers, answers, flat], power=ScriptedMeter(METERED_SAMPLES)))
    assert not [record for record in measurement.run.records if record.metric == "energy.layer"]
    (note,) = [note for note in measurement.run.detail.notes if note.startswith("no energy per layer: ")]
    assert "0 layers" in note


def flat(job: Job) -> Iterator[Event]:
    """A profiled pass that tells of no layer."""
    for event in answers(job):
        is_layer = isinstance(event, RegionEvent) and event.region == "layer"
        yield RegionEvent("elsewhere", 0, 0, 1) if is_layer else event


def test_a_device_that_dies_under_the_meter_keeps_the_trace_and_the_latency(store: Store) -> None:
    device = ScriptedDevice([answers, stops(3, Crash("brown-out"))], power=ScriptedMeter(2))
    with pytest.raises(Crash):
        measured(store, device)
    run = kept(store)
    assert "latency" in {record.metric for record in run.records}
    assert "energy" not in {record.metric for record in run.records}
    assert run.provenance.meter == "emulated scripted (serial 7)"


def spoiled(meter: ScriptedMeter, *, saturated: int = 0, lost: slice = slice(0)) -> ScriptedMeter:
    """The same with samples at the end of its range, or lost ones."""
    (block,) = meter._blocks
    block.current_a[lost] = np.nan
    meter._blocks = [replace(block, saturated=saturated, lost=len(range(*lost.indices(block.current_a.size))))]
    return meter


@pytest.mark.parametrize(
    ("meter", "reason", "retries"),
    [
        (lambda: spoiled(ScriptedMeter(METERED_SAMPLES), saturated=3), "saturation", 0),
        (lambda: spoiled(ScriptedMeter(METERED_SAMPLES), lost=slice(210, 214)), "lost-samples", 1),
        (lambda: ScriptedMeter(METERED_SAMPLES - 1), "marker-edges", 0),
        (lambda: ScriptedMeter(METERED_SAMPLES + 1), "marker-edges", 0),
    ],
    ids=["saturated", "lost", "an edge too few", "an edge too many"],
)
def test_a_rejected_measurement_of_energy_keeps_everything_else(
    store: Store, meter: Callable[[], ScriptedMeter], reason: str, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "finish", lambda recorder, *_, **__: recorder.stop())
    device = ScriptedDevice()
    monkeypatch.setattr(ScriptedDevice, "meter", lambda _: meter())
    with pytest.raises(MeasurementRejected, match=rf"energy is rejected \({reason}\)"):
        measured(store, device)
    run = kept(store)
    assert (run.status, len(run.retries)) == ("error", retries)
    assert [one.reason for one in run.detail.rejections] == [reason]
    found = {record.metric for record in run.records}
    assert {"latency", "peak_ram", "accuracy", "bit_exact"} <= found
    assert not {metric for metric in found if metric.startswith(("energy", "power", "charge"))}
    assert [layer.cycles for layer in run.detail.layers] == [10.0, 20.0]
    assert store.trace(run.run_id) is not None


def test_an_emulated_device_is_not_measured_by_the_hosts_clock(store: Store) -> None:
    meter = ScriptedMeter(METERED_SAMPLES)
    meter.info = replace(meter.info, alignment="host-time")
    run = measured(store, ScriptedDevice(power=meter)).run
    assert not [record for record in run.records if record.metric.startswith(("energy", "power"))]
    assert run.detail.notes[-1].startswith("no energy: windows of a scripted are found by this computer's clock")


def test_a_store_that_fails_does_not_hide_why_the_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, run: Run, trace: object = None) -> None:
        raise StoreError("the disk is full")

    with Store(tmp_path / "store") as store:
        monkeypatch.setattr(Store, "save", full)
        with pytest.raises(Crash, match="hard fault") as caught:
            measured(store, ScriptedDevice([stops(4, Crash("hard fault"))]))
    assert caught.value.__notes__ == ["what was captured could not be stored: the disk is full"]


# A device with an operating system


@dataclass
class Computer(ScriptedDevice):
    """One that is set up for a measurement, and whose process has a memory use of its own."""

    throttled: tuple[str, ...] = ()
    contexts: int = 0

    @contextmanager
    def measuring(self) -> Iterator[EnvironmentLog]:
        log = EnvironmentLog(lambda moment: Snapshot(moment, 0.0, zones=(Zone("cpu", 61.5),)))
        self.contexts += 1
        log.add("before")
        try:
            yield log
        finally:
            log.add("after")
            log.environment = replace(log.environment, throttled=self.throttled)

    def process_memory(self) -> list[MemoryFigure]:
        return [MemoryFigure("peak_ram.process", 4 << 20, "memory.peak")]


def test_the_environment_is_part_of_the_run(store: Store) -> None:
    device = Computer()
    run = measured(store, device).run
    environment = run.detail.environment
    assert environment is not None
    assert [one.moment for one in environment.snapshots] == ["before", "during", "after"]
    assert (run.provenance.temperature_c, run.provenance.throttled) == (61.5, False)
    assert device.contexts == 1
    (process,) = (one for one in run.records if one.metric == "peak_ram.process")
    assert (process.median, process.unit) == (4 << 20, "bytes")
    assert process.note.startswith("memory.peak")
    assert kept(store) == run


def test_a_throttled_run_is_marked(store: Store) -> None:
    run = measured(store, Computer(throttled=("throttled, during the run (vcgencmd)",))).run
    assert run.provenance.throttled is True
    (latency,) = (one for one in run.records if one.metric == "latency" and one.region == "inference")
    assert latency.note.endswith("THROTTLED: throttled, during the run (vcgencmd)")
    assert not any("THROTTLED" in one.note for one in run.records if one.metric == "peak_ram")
    assert kept(store) == run


def test_a_run_that_breaks_off_keeps_its_environment(store: Store) -> None:
    with pytest.raises(Crash):
        measured(store, Computer([stops(7, Crash("the runner died"))]))
    run = kept(store)
    assert run.detail.environment is not None
    assert [one.moment for one in run.detail.environment.snapshots] == ["before", "after"]
    assert run.provenance.temperature_c == 61.5
