"""One workload on one device, from preparation to records: what the pytest plugin and the command line share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab import progress
from lab.artifact import Artifact
from lab.build import build, check_fits
from lab.compiler.model import CompiledTraining
from lab.devices.base import Counting, Device, RegionCount
from lab.errors import ConfigError, InfrastructureError, LabError, ProtocolError, StoreError
from lab.events import Done, Hello, Job, MetricEvent, RegionEvent, ResultEvent
from lab.inventory import Device as Entry
from lab.power.base import MeterInfo, SampleBlock
from lab.power.recorder import Recorder
from lab.provenance import checkout, lab_version
from lab.training import LAYER, LOSS, checkpoint, first_steps, forget, restore
from lab.workloads import get
from lab.workloads.base import Prepared, Score, TrainingPlan
from measurements.energy import energy_records
from measurements.latency import latency_records
from measurements.memory import memory_records
from measurements.record import (
    ArenaSchedule,
    Buffer,
    Layer,
    PlannedStep,
    Provenance,
    Record,
    Run,
    RunDetail,
    Source,
    Trace,
)
from measurements.regions import INFERENCE
from measurements.statistics import make_record
from measurements.store import Store, new_run_id
from measurements.training import (
    REGIONS,
    STEP,
    loss_record,
    training_energy_records,
    training_latency_records,
    unbroken,
)

METERED_SAMPLES = 32
SHOWN_EVENTS = 200
Status: TypeAlias = Literal["failed", "error", "incomplete"]


@dataclass(frozen=True)
class Deployment:
    """A workload that runs on a device.

    Attributes:
        entry: the bench entry.
        device: the connected device.
        workload, variant: what was deployed.
        prepared: the prepared workload.
        artifact: the image.
        hello: what the image said of itself.
    """

    entry: Entry
    device: Device
    workload: str
    variant: str
    prepared: Prepared
    artifact: Artifact
    hello: Hello


@dataclass
class Capture:
    """What one pass of a job delivered, kept even where the pass broke off."""

    events: list[RegionEvent] = field(default_factory=list)
    results: dict[int, bytes] = field(default_factory=dict)
    metrics: list[MetricEvent] = field(default_factory=list)
    done: Done | None = None


@dataclass(frozen=True)
class Measurement:
    """A finished measurement.

    Attributes:
        run: records and provenance, as stored.
        outputs: int8, shape (count, output bytes): what the device computed.
        scores: the workload's own figures.
        trace: the power trace, None where the device is not metered.
    """

    run: Run
    outputs: npt.NDArray[np.int8]
    scores: tuple[Score, ...]
    trace: Trace | None = None

    def record(self, metric: str, region: str = "inference") -> Record:
        """The record of a metric.

        Raises:
            ConfigError: there is none; lists what was measured.
        """
        for record in self.run.records:
            if record.metric == metric and record.region == region:
                return record
        there = ", ".join(sorted({f"{record.metric} [{record.region}]" for record in self.run.records}))
        raise ConfigError(f"nothing measured {metric!r} in region {region!r}; measured: {there}")

    def median(self, metric: str, region: str = "inference") -> float:
        """Median of a metric in its own unit."""
        return self.record(metric, region).median

    @property
    def accuracy(self) -> float:
        """Accuracy on the device."""
        return self.median("accuracy", "run")


def deploy(entry: Entry, device: Device, workload: str, cache: Path, variant: str = "") -> Deployment:
    """Prepare a workload, build it for a device and put it there; everything that was done before is cached.

    Raises:
        ConfigError: unknown workload, no firmware for the board, or the model does not fit.
        DeviceError, InfrastructureError: the image does not start.
    """
    board = entry.board
    if board.firmware_board is None:
        raise ConfigError(
            f"board {board.kind!r} has no firmware yet",
            hint="add a folder in firmware/boards and name it in the board file",
        )
    prepared = get(workload).prepare(cache, variant)
    memory = board.memory
    check_fits(prepared.model, memory.flash_bytes, memory.ram_bytes, memory.arena_limit_bytes)
    with progress.step(f"building {workload} for {board.kind}", quiet_below_s=2.0):
        artifact = build(prepared.model, board.firmware_board, cache=cache)
    hello = device.deploy(artifact)
    return Deployment(entry, device, workload, variant, prepared, artifact, hello)


def measure(
    deployment: Deployment,
    store: Store,
    session_id: str,
    *,
    repeats: int = 1,
    test: str = "",
    samples: int | None = None,
) -> Measurement:
    """Run the deployed workload and turn what comes back into records; stored before it is returned.

    Passes: all samples for latency, memory and results; the first 32 with the power meter; one sample layer by layer;
    one with the emulator's exact counts. Where the workload is trained on the device, training comes first in each of
    them, and the device is left with the values of the first. A transient failure of the bench is tried again once on
    the recovered device.

    Args:
        deployment: from :func:`deploy`.
        store: where the run goes, whatever becomes of it.
        session_id: what the run belongs to.
        repeats: timed passes over each sample.
        test: pytest node id.
        samples: use only the first so many samples.

    Raises:
        LabError: what went wrong; the run is stored with what was captured and the error's text. Where the store fails
            as well, a note on the error says so.
    """
    retries: list[str] = []
    while True:
        attempt = _Attempt(deployment, session_id, test, tuple(retries))
        try:
            measurement = attempt.measure(repeats, samples)
        except LabError as error:
            if retries or not (isinstance(error, InfrastructureError) and error.transient):
                attempt.keep(store, error, status_of(error))
                raise
            try:
                rung = deployment.device.recover()
            except LabError as worse:
                attempt.keep(store, error, status_of(error))
                raise error from worse
            retries.append(f"{error.message.splitlines()[0]} (recovered by {rung})")
        except BaseException as error:
            # Ctrl-C and the time-outs of pytest are no errors of the lab; what was captured is kept all the same.
            attempt.keep(store, error, "incomplete")
            raise
        else:
            store.save(measurement.run, measurement.trace)
            return measurement


class _Attempt:
    """One attempt at a measurement; its parts stay here so that a failure keeps what was captured."""

    def __init__(self, deployment: Deployment, session_id: str, test: str, retries: tuple[str, ...]) -> None:
        self._deployment = deployment
        self._session_id = session_id
        self._test = test
        self._retries = retries
        self._run_id = new_run_id()
        self._started_ns = time.time_ns()
        self._main = Capture()
        self._training = Capture()
        self._records: list[Record] = []
        self._detail = _plan(deployment)
        self._meter = ("", 0.0)
        self._trace: Trace | None = None

    def measure(self, repeats: int, samples: int | None) -> Measurement:
        prepared = self._deployment.prepared
        count = prepared.job.count if samples is None else samples
        job = first_samples(prepared.job, prepared.model.input.size, count)
        job = replace(job, repeats=repeats, marker_line=False)
        plan = prepared.training
        scores = [] if plan is None else self._run_training(plan)
        trained = None if plan is None else checkpoint(self._deployment.device)
        self._run_main(job)
        outputs = _outputs(self._main, job.count, self._deployment.prepared.model.output.size)
        self._run_metered(job)
        self._run_layers(job)
        if plan is not None and trained is not None:
            self._run_training_layers(plan)
            restore(self._deployment.device, trained)
        for figure in prepared.figures:
            record = make_record("run", figure.metric, figure.unit, "modelled", [figure.value], note=figure.note)
            self._records.append(record)
        self._records += _per_mac(self._records, prepared)
        scores += _check(prepared, outputs, job)
        for score in scores:
            self._records.append(make_record("run", score.metric, score.unit, self._source, [score.value]))
            reference = make_record("run", f"{score.metric}.reference", score.unit, "modelled", [score.reference])
            self._records.append(replace(reference, note="computed on the host by PyTorch"))
        return Measurement(self._run(), outputs, tuple(scores), self._trace)

    def keep(self, store: Store, error: BaseException, status: Status) -> None:
        """Store what was captured before ``error``."""
        recorded = {record.region for record in self._records}
        # Passes that make no sense may be what went wrong: then they yield no records.
        with contextlib.suppress(ProtocolError):
            if STEP not in recorded and (steps := unbroken(self._training.events)):
                self._training.events = self._training.events[:steps]
                self._add_training()
            if INFERENCE not in recorded and self._main.events:
                self._add_latency()
        run = replace(self._run(), status=status, error=str(error) or type(error).__name__)
        try:
            store.save(run, self._trace)
        except StoreError as lost:
            error.add_note(f"what was captured could not be stored: {lost}")

    @property
    def _source(self) -> Source:
        return self._deployment.device.identity.source

    def _run_main(self, job: Job) -> None:
        title = f"{self._deployment.workload} on {self._deployment.entry.name}: {job.count} samples"
        with progress.step(title, quiet_below_s=2.0) as step:
            for _ in _collect(self._deployment.device, job, self._main):
                step.update(len(self._main.results), job.count)
        self._add_latency()
        done = [one.done for one in (self._main, self._training) if one.done is not None]
        memory = self._deployment.artifact.memory
        self._records += memory_records(
            flash_bytes=memory.flash_bytes,
            weights_bytes=memory.weights_bytes,
            static_ram_bytes=memory.static_ram_bytes,
            planned_arena_bytes=memory.arena_bytes,
            arena_high_water=max(one.arena_high_water for one in done),
            stack_high_water=max(one.stack_high_water for one in done),
            source=self._source,
            variables_bytes=memory.variables_bytes,
        )

    def _add_latency(self) -> None:
        hello = self._deployment.hello
        passes = self._main.events
        self._records += latency_records(passes, hello.clock_hz, hello.clock, self._source)
        shown = [(one.region, one.index, one.begin, one.end) for one in passes[:SHOWN_EVENTS]]
        self._detail = replace(self._detail, events=tuple(shown))

    def _run_training(self, plan: TrainingPlan) -> list[Score]:
        device = self._deployment.device
        forget(device)
        job = replace(plan.job, marker_line=False)
        count = job.count * job.repeats
        title = f"{self._deployment.workload} on {self._deployment.entry.name}: {count} training steps"
        with progress.step(title, quiet_below_s=2.0) as step:
            for _ in _collect(device, job, self._training):
                step.update(len(self._training.metrics), count)
        self._add_training()
        return plan.check(np.array(self._losses, np.float32), checkpoint(device).variables)

    @property
    def _losses(self) -> list[float]:
        return [metric.value for metric in self._training.metrics if metric.name == LOSS]

    def _add_training(self) -> None:
        hello = self._deployment.hello
        self._records += training_latency_records(
            self._training.events, hello.clock_hz, hello.clock, self._source
        )
        # A last one that is no number ended the training, and its error says so.
        self._records.append(loss_record([loss for loss in self._losses if np.isfinite(loss)], self._source))

    def _run_metered(self, job: Job) -> None:
        meter = self._deployment.device.meter()
        config = self._deployment.entry.meter
        if meter is None or config is None:
            return
        plan = self._deployment.prepared.training
        jobs = [first_samples(job, self._deployment.prepared.model.input.size, min(job.count, METERED_SAMPLES))]
        if plan is not None:
            forget(self._deployment.device)
            jobs.insert(0, first_steps(plan.job, min(plan.job.count, METERED_SAMPLES)))
        captures = [Capture() for _ in jobs]
        title = f"{self._deployment.workload} on {self._deployment.entry.name}: power"
        quiet_s = min(metered.quiet_us for metered in jobs) * 1e-6
        with progress.step(title, quiet_below_s=2.0), meter:
            recorder = Recorder(meter, config.marker_input)
            try:
                with recorder:
                    for metered, capture in zip(jobs, captures, strict=True):
                        marked = replace(metered, warmup=0, marker_line=True)
                        for _ in _collect(self._deployment.device, marked, capture):
                            pass
                    recorder.finish(sum(len(capture.events) for capture in captures), quiet_s)
            finally:
                # Also what came before a failure: a supply that breaks down is best seen in its trace.
                info = meter.info
                trace = self._keep_trace(recorder.samples(), info)
        source: Source = "modelled" if info.emulated else "hardware"
        clock_hz = self._deployment.hello.clock_hz
        events = [event for capture in captures for event in capture.events]
        energy = energy_records if plan is None else training_energy_records
        self._records += energy(trace, events, clock_hz, source, quiet_s=quiet_s)

    def _keep_trace(self, samples: SampleBlock, info: MeterInfo) -> Trace:
        name = f"{'emulated ' if info.emulated else ''}{info.kind} ({info.identity})"
        self._meter = (name, info.relative_uncertainty)
        dt_s = 1.0 / info.sample_rate_hz
        trace = Trace(0.0, dt_s, info.voltage_v, samples.current_a, samples.logic, samples.lost)
        self._trace = trace if samples.current_a.size else None
        return trace

    def _run_layers(self, job: Job) -> None:
        device = self._deployment.device
        one = replace(first_samples(job, self._deployment.prepared.model.input.size, 1), profile=True, repeats=1)
        capture = Capture()
        for _ in _collect(device, one, capture):
            pass
        cycles = {event.index: float(event.cycles) for event in capture.events if event.region == "layer"}
        counts: Mapping[int, RegionCount] = {}
        if isinstance(device, Counting) and "counts" in device.identity.capabilities:
            counted = device.count(self._deployment.artifact, one)
            counts = {count.index: count for count in counted if count.region == "layer"}
            self._records += _count_records(counted)
        plan = self._detail.layers
        layers = [_with_counts(layer, cycles.get(layer.index), counts.get(layer.index)) for layer in plan]
        self._detail = replace(self._detail, layers=tuple(layers))

    def _run_training_layers(self, plan: TrainingPlan) -> None:
        device, hello = self._deployment.device, self._deployment.hello
        forget(device)
        one = replace(first_steps(plan.job, 1), profile=True, marker_line=False)
        capture = Capture()
        for _ in _collect(device, one, capture):
            pass
        training = self._deployment.prepared.model.training
        names = [] if training is None else [step.name for step in training.steps]
        parts = [event for event in capture.events if event.region == LAYER]
        self._records += latency_records(parts, hello.clock_hz, hello.clock, self._source, names)
        if isinstance(device, Counting) and "counts" in device.identity.capabilities:
            self._records += _count_records(device.count(self._deployment.artifact, one))

    def _run(self) -> Run:
        return Run(
            run_id=self._run_id,
            session_id=self._session_id,
            started_ns=self._started_ns,
            status="passed",
            provenance=self._provenance(),
            records=tuple(self._records),
            detail=self._detail,
            retries=self._retries,
            test=self._test,
        )

    def _provenance(self) -> Provenance:
        deployment = self._deployment
        tree = checkout()
        model = deployment.entry.board.energy_model
        emulated_meter = self._meter[0].startswith("emulated")
        return Provenance(
            device=deployment.entry.name,
            board=deployment.entry.board.kind,
            clock=deployment.hello.clock,
            clock_hz=float(deployment.hello.clock_hz),
            emulator=deployment.device.identity.emulator,
            meter=self._meter[0],
            meter_uncertainty=self._meter[1],
            energy_model=model.source if model is not None and emulated_meter else "",
            workload=deployment.workload,
            variant=deployment.variant,
            parameters=deployment.prepared.parameters,
            seed=deployment.prepared.seed,
            dataset=deployment.prepared.dataset.name,
            dataset_digest=deployment.prepared.dataset.digest,
            artifact_digest=deployment.artifact.digest,
            build_id=deployment.hello.build_id,
            toolchain=deployment.artifact.toolchain,
            flags=deployment.artifact.flags,
            git_commit=tree.commit,
            git_dirty=tree.dirty,
            lab_version=lab_version(),
        )


def status_of(error: BaseException) -> Status:
    """``error`` when the bench failed, ``failed`` when the device, the workload or the test did."""
    return "error" if isinstance(error, InfrastructureError) else "failed"


def outputs_of(deployment: Deployment, job: Job) -> npt.NDArray[np.int8]:
    """Run a job and return nothing but what the device computed: int8, shape (count, output bytes).

    Raises:
        DeviceError, InfrastructureError: the job did not come to its end.
    """
    capture = Capture()
    for _ in _collect(deployment.device, job, capture):
        pass
    return _outputs(capture, job.count, deployment.prepared.model.output.size)


def first_samples(job: Job, sample_bytes: int, count: int) -> Job:
    """The same job over its first ``count`` samples."""
    if not 0 < count <= job.count:
        raise ConfigError(f"asked for {count} samples; the job has {job.count}", hint=f"1 to {job.count}")
    return replace(job, blob=job.blob[: count * sample_bytes], count=count)


def _collect(device: Device, job: Job, capture: Capture) -> Iterator[None]:
    """Run a job into ``capture``, yielding after every event; checks that nothing was lost."""
    for event in device.run(job):
        match event:
            case RegionEvent():
                capture.events.append(event)
            case ResultEvent():
                capture.results[event.index] = event.data
            case MetricEvent():
                capture.metrics.append(event)
            case Done():
                capture.done = event
        yield
    done = capture.done
    if done is None:
        raise ProtocolError(f"{device.identity.name} ended its job without saying that it is done")
    if (done.events, done.results) != (len(capture.events), len(capture.results)):
        raise ProtocolError(
            f"{device.identity.name} sent {done.events} events and {done.results} results; "
            f"{len(capture.events)} and {len(capture.results)} arrived"
        )


def _outputs(capture: Capture, count: int, size: int) -> npt.NDArray[np.int8]:
    """Results in sample order, shape (count, size)."""
    missing = [index for index in range(count) if len(capture.results.get(index, b"")) != size]
    if missing:
        raise ProtocolError(f"{len(missing)} of {count} results are missing or not {size} bytes, first: {missing[0]}")
    joined = b"".join(capture.results[index] for index in range(count))
    return np.frombuffer(joined, np.int8).reshape(count, size)


def _check(prepared: Prepared, outputs: npt.NDArray[np.int8], job: Job) -> list[Score]:
    """The workload's own verdict, and how many samples equal the integer reference bit for bit."""
    reference = prepared.reference_outputs[: job.count]
    equal = float(np.mean(np.all(reference == outputs, axis=1)))
    scores = prepared.check(outputs) if job.count == prepared.job.count else []
    return [*scores, Score("bit_exact", equal, 1.0)]


def _plan(deployment: Deployment) -> RunDetail:
    model = deployment.prepared.model
    layers = [
        Layer(index, layer.name, layer.operator, layer.macs, layer.weights_bytes)
        for index, layer in enumerate(model.layers)
    ]
    buffers = [Buffer(plan.name, plan.offset, plan.size, plan.first, plan.last) for plan in model.buffers]
    facts, note = deployment.prepared.facts, deployment.prepared.dataset.note
    notes = facts if any(note in fact for fact in facts) else (*facts, note)
    return RunDetail(
        tuple(layers),
        tuple(buffers),
        model.arena_bytes,
        model.lower_bound_bytes,
        notes=notes,
        training=None if model.training is None else training_schedule(model.training),
    )


def training_schedule(training: CompiledTraining) -> ArenaSchedule:
    """A training step and its arena, as the report draws them."""
    return ArenaSchedule(
        tuple(PlannedStep(step.name, step.operator, step.phase, step.macs) for step in training.steps),
        tuple(Buffer(plan.name, plan.offset, plan.size, plan.first, plan.last) for plan in training.buffers),
        training.arena_bytes,
        training.lower_bound_bytes,
        training.method,
        training.variables_bytes,
    )


def _with_counts(layer: Layer, cycles: float | None, count: RegionCount | None) -> Layer:
    if count is None:
        return replace(layer, cycles=cycles)
    return replace(
        layer, cycles=cycles, instructions=count.instructions, loads=count.loads, stores=count.stores
    )


def _per_mac(records: list[Record], prepared: Prepared) -> list[Record]:
    """Instructions of an inference and of training per multiply-accumulate, where instructions were counted."""
    macs = {"inference": prepared.model.macs}
    if prepared.model.training is not None:
        macs |= {f"train.{phase}": prepared.model.training.macs(phase) for phase in ("forward", "backward", "update")}
        macs[STEP] = sum(macs[region] for region in REGIONS)
    unit = "instructions/MAC"
    return [
        make_record(one.region, "instructions_per_mac", unit, one.source, [one.median / macs[one.region]])
        for one in records
        if one.metric == "instructions" and macs.get(one.region)
    ]


def _count_records(counts: list[RegionCount]) -> list[Record]:
    note = "exact counts of QEMU's plug-in, the few of the region's own edges included"
    records = []
    for count in counts:
        if count.region in ("inference", *REGIONS):
            for metric, value in (("loads", count.loads), ("stores", count.stores)):
                records.append(make_record(count.region, metric, metric, "emulated", [float(value)], note=note))
    return records
