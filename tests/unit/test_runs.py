"""Runs against a scripted device: completeness, provenance, what is kept of a failure, and the one retry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from lab import runs
from lab.artifact import Artifact, MemoryUse
from lab.bench import Bench
from lab.compiler.model import BufferPlan, CompiledModel, LayerInfo, TensorSpec
from lab.devices.base import Identity, RegionCount, ResetKind, Rung
from lab.errors import (
    CompileError,
    ConfigError,
    Crash,
    DeviceError,
    EmulatorError,
    InfrastructureError,
    MeterError,
    ProtocolError,
    StoreError,
    ToolMissing,
    TransportError,
    WorkloadError,
)
from lab.events import Done, Event, Hello, Job, LogEvent, RegionEvent, ResultEvent
from lab.paths import config_dir
from lab.power.base import Meter, MeterInfo, SampleBlock
from lab.provenance import checkout, lab_version
from lab.workloads.base import Dataset, Int8Array, Prepared, Score
from measurements.record import Run
from measurements.store import Store

SAMPLES = 40
SAMPLE_BYTES = 4
CLOCK_HZ = 1_000_000
PASS_CYCLES = 500
QUIET_US = 2000
METER_HZ = 100_000.0
HIGH_A, LOW_A, VOLTAGE_V = 3e-3, 1e-3, 3.3

Script = Callable[[Job], Iterator[Event]]
INPUTS = np.random.default_rng(2).integers(-128, 128, (SAMPLES, SAMPLE_BYTES), dtype=np.int8)


def reference(inputs: Int8Array) -> Int8Array:
    return (inputs ^ 0x55).astype(np.int8)


def begins(number: int) -> int:
    return QUIET_US + number * (PASS_CYCLES + 100)


def answers(job: Job) -> Iterator[Event]:
    """What a healthy device sends for a job."""
    outputs = reference(np.frombuffer(job.blob, np.int8).reshape(job.count, SAMPLE_BYTES))
    passes = 0
    for sample in range(job.count):
        for _ in range(job.repeats):
            yield RegionEvent("inference", sample, begins(passes), begins(passes) + PASS_CYCLES)
            passes += 1
        yield ResultEvent(sample, outputs[sample].tobytes())
    layers = 2 * job.count if job.profile else 0
    for layer in range(layers):
        yield RegionEvent("layer", layer % 2, begins(passes), begins(passes) + 10 * (layer % 2 + 1))
    yield LogEvent("all samples done")
    yield Done(stack_high_water=700, arena_high_water=96, cycles=10**6, events=passes + layers, results=job.count)


def stops(after: int, error: Exception) -> Script:
    """A device that fails after so many events."""

    def script(job: Job) -> Iterator[Event]:
        for number, event in enumerate(answers(job)):
            if number == after:
                raise error
            yield event

    return script


def altered(change: Callable[[Event], Event | None]) -> Script:
    """A device whose events are changed on their way, or lost."""

    def script(job: Job) -> Iterator[Event]:
        yield from (new for event in answers(job) if (new := change(event)) is not None)

    return script


@dataclass
class ScriptedDevice:
    """Plays one script a job; the last one again and again."""

    scripts: list[Script] = field(default_factory=lambda: [answers])
    capabilities: frozenset[str] = frozenset()
    recovery: Exception | None = None
    power: Meter | None = None
    jobs: list[Job] = field(default_factory=list)
    recovered: int = 0

    def __post_init__(self) -> None:
        self.identity = Identity(
            "scripted", "mps2-an386", "emulated", "scripted emulator 1.0", self.capabilities
        )

    def deploy(self, artifact: Artifact) -> Hello:
        return hello()

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        self.jobs.append(job)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        yield from script(job)

    def reset(self, kind: ResetKind) -> Hello:
        return hello()

    def recover(self) -> Rung:
        self.recovered += 1
        if self.recovery is not None:
            raise self.recovery
        return "soft-reset"

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        assert (job.count, job.repeats, job.profile) == (1, 1, True)
        return [
            RegionCount("inference", 0, 480, 111, 55),
            RegionCount("layer", 0, 10, 3, 2),
            RegionCount("layer", 1, 20, 5, 4),
        ]

    def meter(self) -> Meter | None:
        return self.power

    def close(self) -> None: ...


class ScriptedMeter:
    """A meter that has seen ``windows`` passes of the scripted device, and breaks after them where it is told to."""

    def __init__(self, windows: int, broken: str = "") -> None:
        last = QUIET_US + windows * (PASS_CYCLES + 100) + QUIET_US
        times_us = np.arange(int(last * METER_HZ / CLOCK_HZ)) * 1e6 / METER_HZ
        level = np.zeros(times_us.size, bool)
        for number in range(windows):
            level |= (times_us >= begins(number)) & (times_us < begins(number) + PASS_CYCLES)
        self._blocks = [
            SampleBlock(0, np.where(level, HIGH_A, LOW_A).astype(np.float32), level.astype(np.uint8)),
        ]
        self._broken = broken
        self.info = MeterInfo("scripted", "serial 7", METER_HZ, VOLTAGE_V, False, 8, 0.02, True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def open(self) -> MeterInfo:
        return self.info

    def start(self) -> None: ...

    def read(self, timeout_s: float) -> SampleBlock:
        if self._blocks:
            return self._blocks.pop(0)
        if self._broken:
            raise MeterError(self._broken)
        return SampleBlock(0, np.empty(0, np.float32), np.empty(0, np.uint8))

    def stop(self) -> SampleBlock:
        return SampleBlock(0, np.empty(0, np.float32), np.empty(0, np.uint8))

    def close(self) -> None: ...


def hello() -> Hello:
    return Hello(1, "0123456789abcdef", "mps2-an386", "virtual", CLOCK_HZ, 512, 4, 0, 65536, 96, 4096, "scripted")


def model() -> CompiledModel:
    spec = TensorSpec((SAMPLE_BYTES,), 0.1, 0)
    layers = (
        LayerInfo("xor", "xor", 4, 8, (SAMPLE_BYTES,), (SAMPLE_BYTES,)),
        LayerInfo("copy", "copy", 0, 16, (SAMPLE_BYTES,), (SAMPLE_BYTES,)),
    )
    return CompiledModel("scripted", {}, spec, spec, layers, (BufferPlan("x", 0, 96, 0, 1),), 96, 90, "00" * 32)


def accept(outputs: Int8Array) -> list[Score]:
    return [Score("accuracy", 0.9, 0.95)]


def prepared(check: Callable[[Int8Array], list[Score]] = accept) -> Prepared:
    return Prepared(
        model=model(),
        job=Job("infer", INPUTS.tobytes(), SAMPLES),
        dataset=Dataset("noise", "ab" * 32, SAMPLES, note="random bytes"),
        reference_outputs=reference(INPUTS),
        seed=17,
        parameters={"width": "4"},
        check=check,
        facts=("a fact",),
    )


def deployment(device: ScriptedDevice, *, ready: Prepared | None = None) -> runs.Deployment:
    memory = MemoryUse(9000, 24, 500, 96, 4096)
    artifact = Artifact(Path("/no/image"), "mps2-an386", hello().build_id, "cd" * 32, "gcc 12.2", "-O2", memory)
    entry = Bench.load(config_dir() / "emulated.yaml").get("m4f")
    return runs.Deployment(entry, device, "scripted-job", "small", ready or prepared(), artifact, hello())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def measured(store: Store, device: ScriptedDevice, **options: int) -> runs.Measurement:
    return runs.measure(deployment(device), store, "session", test="test_x[m4f]", **options)


def kept(store: Store) -> Run:
    """The only run of the store."""
    (run,) = store.runs()
    return run


# The job


@pytest.mark.parametrize("count", [1, 7, SAMPLES])
def test_first_samples_keeps_whole_samples_from_the_front(count: int) -> None:
    job = replace(prepared().job, repeats=3, profile=True)
    shorter = runs.first_samples(job, SAMPLE_BYTES, count)
    assert shorter.blob == INPUTS[:count].tobytes()
    assert replace(shorter, blob=job.blob, count=job.count) == job


@pytest.mark.parametrize("count", [-1, 0, SAMPLES + 1])
def test_first_samples_refuses_what_the_job_does_not_hold(count: int) -> None:
    with pytest.raises(ConfigError, match=f"asked for {count} samples; the job has {SAMPLES}"):
        runs.first_samples(prepared().job, SAMPLE_BYTES, count)


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
    windows = runs.METERED_SAMPLES
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
    measurement = measured(store, ScriptedDevice(power=ScriptedMeter(runs.METERED_SAMPLES)))
    energy = measurement.record("energy")
    assert energy.n == runs.METERED_SAMPLES
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


# What arrives must be complete


def _without(index: int) -> Callable[[Event], Event | None]:
    def change(event: Event) -> Event | None:
        return None if isinstance(event, ResultEvent) and event.index == index else event

    return change


def _one_event_less(event: Event) -> Event | None:
    return None if isinstance(event, RegionEvent) and event.index == 3 else event


def _short(event: Event) -> Event | None:
    return ResultEvent(2, event.data[:-1]) if isinstance(event, ResultEvent) and event.index == 2 else event


def _renumbered(event: Event) -> Event | None:
    """As many results as announced, but one stands in another's place."""
    return ResultEvent(SAMPLES, event.data) if isinstance(event, ResultEvent) and event.index == 5 else event


def _endless(event: Event) -> Event | None:
    return None if isinstance(event, Done) else event


def _backwards(event: Event) -> Event | None:
    return replace(event, end=event.begin - 1) if isinstance(event, RegionEvent) else event


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without(4), rf"sent {SAMPLES} events and {SAMPLES} results; {SAMPLES} and {SAMPLES - 1} arrived"),
        (_one_event_less, rf"sent {SAMPLES} events and {SAMPLES} results; {SAMPLES - 1} and {SAMPLES} arrived"),
        (_short, rf"1 of {SAMPLES} results are missing or not 4 bytes, first: 2"),
        (_renumbered, rf"1 of {SAMPLES} results are missing or not 4 bytes, first: 5"),
        (_endless, "ended its job without saying that it is done"),
        (_backwards, "clock went backwards"),
    ],
    ids=["result lost", "event lost", "short result", "wrong number", "no end", "clock backwards"],
)
def test_an_incomplete_capture_is_a_protocol_error_and_kept(
    store: Store, change: Callable[[Event], Event | None], told: str
) -> None:
    with pytest.raises(ProtocolError, match=told) as caught:
        measured(store, ScriptedDevice([altered(change)]))
    run = kept(store)
    assert (run.status, run.error) == ("failed", str(caught.value))


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
    meter = ScriptedMeter(runs.METERED_SAMPLES - 1, broken="the meter was unplugged")
    with pytest.raises(MeterError, match="unplugged"):
        measured(store, ScriptedDevice(power=meter))
    run = kept(store)
    assert run.status == "error"
    assert run.provenance.meter == "emulated scripted (serial 7)"
    trace = store.trace(run.run_id)
    assert trace is not None
    assert np.count_nonzero(np.diff(trace.logic.astype(int)) > 0) == runs.METERED_SAMPLES - 1


def test_a_device_that_dies_under_the_meter_keeps_the_trace_and_the_latency(store: Store) -> None:
    device = ScriptedDevice([answers, stops(3, Crash("brown-out"))], power=ScriptedMeter(2))
    with pytest.raises(Crash):
        measured(store, device)
    run = kept(store)
    assert "latency" in {record.metric for record in run.records}
    assert "energy" not in {record.metric for record in run.records}
    assert run.provenance.meter == "emulated scripted (serial 7)"


def test_ctrl_c_keeps_what_came_before_it(store: Store) -> None:
    def interrupted(job: Job) -> Iterator[Event]:
        yield from list(answers(job))[:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(store, ScriptedDevice([interrupted]))
    run = kept(store)
    assert (run.status, run.error) == ("incomplete", "KeyboardInterrupt")
    assert {record.n for record in run.records} == {3}


def test_a_store_that_fails_does_not_hide_why_the_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, run: Run, trace: object = None) -> None:
        raise StoreError("the disk is full")

    with Store(tmp_path / "store") as store:
        monkeypatch.setattr(Store, "save", full)
        with pytest.raises(Crash, match="hard fault") as caught:
            measured(store, ScriptedDevice([stops(4, Crash("hard fault"))]))
    assert caught.value.__notes__ == ["what was captured could not be stored: the disk is full"]


# Retries


def test_a_transient_failure_of_the_bench_is_tried_once_more_and_written_down(store: Store) -> None:
    device = ScriptedDevice([stops(7, EmulatorError("QEMU died\nlast words", transient=True)), answers])
    measurement = measured(store, device)
    assert device.recovered == 1
    assert measurement.run.retries == ("QEMU died (recovered by soft-reset)",)
    assert measurement.record("latency").n == SAMPLES, "nothing of the first attempt is mixed into the second"
    assert kept(store) == measurement.run


def test_a_second_failure_is_final(store: Store) -> None:
    first, second = (TransportError(text, transient=True) for text in ("first break", "second break"))
    device = ScriptedDevice([stops(7, first), stops(9, second), answers])
    with pytest.raises(TransportError, match="second break"):
        measured(store, device)
    assert device.recovered == 1
    assert len(device.jobs) == 2
    run = kept(store)
    assert (run.status, run.error) == ("error", "second break")
    assert run.retries == ("first break (recovered by soft-reset)",)


def test_a_retry_that_meets_a_crash_is_the_devices_failure(store: Store) -> None:
    device = ScriptedDevice([stops(7, TransportError("break", transient=True)), stops(3, Crash("hard fault"))])
    with pytest.raises(Crash):
        measured(store, device)
    assert kept(store).status == "failed"
    assert kept(store).retries == ("break (recovered by soft-reset)",)


def test_a_device_that_cannot_be_recovered_keeps_the_first_attempt(store: Store) -> None:
    first, worse = TransportError("break", transient=True), DeviceError("stays dead")
    with pytest.raises(TransportError, match="break") as caught:
        measured(store, ScriptedDevice([stops(10, first)], recovery=worse))
    assert caught.value.__cause__ is worse
    run = kept(store)
    assert (run.status, run.error) == ("error", "break")
    assert {record.n for record in run.records} == {5}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InfrastructureError("x"), "error"),
        (MeterError("x"), "error"),
        (DeviceError("x"), "failed"),
        (WorkloadError("x"), "failed"),
        (AssertionError("x"), "failed"),
    ],
)
def test_status_of(error: Exception, status: str) -> None:
    assert runs.status_of(error) == status


# Deploying


@dataclass
class _Workload:
    ready: Prepared
    id: str = "w"
    title: str = "w"
    family: str = "inference"
    systems: tuple[str, ...] = ()

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        return self.ready


def _deploy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ready: Prepared, name: str = "m4f") -> runs.Deployment:
    monkeypatch.setattr(runs, "get", lambda _: _Workload(ready))
    entry = Bench.load(config_dir() / "emulated.yaml").get(name)
    return runs.deploy(entry, ScriptedDevice(), "w", tmp_path)


def test_a_model_too_large_for_the_arena_is_refused_with_its_layers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = replace(prepared(), model=replace(model(), arena_bytes=300 * 1024))
    with pytest.raises(CompileError) as caught:
        _deploy(monkeypatch, tmp_path, ready)
    told = str(caught.value)
    assert "the arena of 'scripted' need 307200 bytes, the arena limit is 262144 bytes" in told
    assert all(layer.name in told for layer in model().layers)
    assert "choose a board with more memory" in told


def test_a_model_too_large_for_the_flash_is_refused_with_its_layers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = replace(model().layers[0], name="huge", weights_bytes=5 << 20)
    ready = replace(prepared(), model=replace(model(), layers=(large, model().layers[1])))
    with pytest.raises(CompileError, match="the flash is 4194304 bytes") as caught:
        _deploy(monkeypatch, tmp_path, ready)
    row = next(line.split() for line in str(caught.value).splitlines() if "huge" in line)
    assert str(5 << 20) in row


def test_a_board_without_firmware_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = Bench.load(config_dir() / "bench.example.yaml").devices[0]
    board = entry.board.model_copy(update={"firmware_board": None})
    with pytest.raises(ConfigError, match=f"board '{board.kind}' has no firmware yet") as caught:
        runs.deploy(replace(entry, board=board), ScriptedDevice(), "w", tmp_path)
    assert "firmware/boards" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "package"), [("m4f", "gcc-arm-none-eabi"), ("host", "gcc")], ids=["cross compiler", "host compiler"]
)
def test_a_missing_toolchain_names_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="is not installed; building firmware needs it") as caught:
        _deploy(monkeypatch, tmp_path / "cache", prepared(), name)
    assert f"apt-get install {package}" in caught.value.hint
