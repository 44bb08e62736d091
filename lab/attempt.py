"""One attempt at a measurement: all passes of a deployed workload, and the run they make."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab import progress
from lab.calibrations import usable
from lab.deployment import Deployment, evidence_of
from lab.devices.base import Counting, RegionCount
from lab.environment import EnvironmentLog
from lab.errors import ConfigError, MeterError, ProtocolError, StoreError
from lab.events import Job, RegionEvent
from lab.layer_probe import probe_records
from lab.measured import Measurement
from lab.metered import EnergyPlan, Metered
from lab.os_records import environment_of, instructions_of, memory_of, reported_of
from lab.passes import Capture, collect, collect_rounds, first_samples, joined_outputs
from lab.paths import store_dir
from lab.provenance import checkout, lab_version
from lab.roofline import accesses_of, copied_bytes, measure_kernels, measure_peaks
from lab.run_records import (
    clock_notes,
    count_records,
    per_mac,
    plan_of,
    planned_step,
    scores_of,
    with_counts,
    without_host_times,
)
from lab.training import LAYER, LOSS, checkpoint, first_steps, forget, restore
from lab.workloads.base import FILTER, Prepared, Score, StreamPlan, TrainingPlan
from measurements.adaptation import ADAPT, SWITCH, adapted, energy_per_sample, stream_records
from measurements.environment import Environment
from measurements.latency import latency_records
from measurements.layer_recovery import warning_of
from measurements.memory import memory_records
from measurements.record import Provenance, Record, Run, Source, Trace
from measurements.regions import INFERENCE
from measurements.rejection import MeasurementRejected
from measurements.roofline import roofline_records, transfer_records
from measurements.statistics import make_record
from measurements.store import Store, new_run_id
from measurements.throttled import mark_throttled
from measurements.training import REGIONS, STEP, loss_record, training_latency_records, unbroken, whole_training

METERED_SAMPLES = 32
SHOWN_EVENTS = 200
ONCE = (ADAPT, SWITCH, FILTER)
"""Jobs that go through a stream once, since each of its samples counts in what is done with the next."""
Status: TypeAlias = Literal["failed", "error", "incomplete"]


class Attempt:
    """One attempt at a measurement; its parts stay here so that a failure keeps what was captured."""

    def __init__(
        self,
        deployment: Deployment,
        session_id: str,
        test: str,
        retries: tuple[str, ...],
        energy: EnergyPlan | None,
    ) -> None:
        self._deployment = deployment
        self._energy = energy
        self._session_id = session_id
        self._test = test
        self._retries = retries
        self._run_id = new_run_id()
        self._started_ns = time.time_ns()
        self._main = Capture()
        self._training = Capture()
        self._training_counts: list[RegionCount] = []
        self._records: list[Record] = list(deployment.survey)
        self._detail = plan_of(deployment)
        self._meter = ("", 0.0)
        self._trace: Trace | None = None
        self._pass_trace: Trace | None = None
        self._notes: list[str] = clock_notes(deployment)
        self._rejected: MeasurementRejected | None = None
        self._log: EnvironmentLog | None = None

    def measure(self, repeats: int, samples: int | None) -> Measurement:
        """Run all that the workload asks for, and make records of it.

        Args:
            repeats: passes over each sample, beside those that warm up.
            samples: how many of the job's; all where None.

        Raises:
            DeviceError, InfrastructureError: the device or the way to it failed.
            WorkloadError: what the device computed is not acceptable.
            MeasurementRejected: the energy cannot be believed; all else is kept.
        """
        with environment_of(self._deployment.device) as self._log:
            outputs, scores = self._measure(repeats, samples)
        self._judge_environment()
        if self._rejected is not None:
            raise self._rejected
        return Measurement(self._run(), outputs, tuple(scores), self._trace)

    def _judge_environment(self) -> None:
        """Mark what a throttled device measured, and reject its energy."""
        kept, reasons = mark_throttled(self._records, self._environment)
        self._records = list(kept)
        if reasons:
            earlier = () if self._rejected is None else self._rejected.rejections
            self._rejected = MeasurementRejected((*earlier, *reasons))

    @property
    def _environment(self) -> Environment | None:
        return None if self._log is None else self._log.environment

    def _measure(self, repeats: int, samples: int | None) -> tuple[npt.NDArray[np.int8], list[Score]]:
        prepared = self._deployment.prepared
        count = prepared.job.count if samples is None else samples
        job = first_samples(prepared.job, prepared.model.input.size, count)
        job = replace(job, repeats=1 if job.name in ONCE else repeats, marker_line=False)
        plan = prepared.training
        scores = [] if plan is None else self._run_training(plan)
        trained = None if plan is None else checkpoint(self._deployment.device)
        scores += self._run_main(job)
        outputs = joined_outputs(self._main, job.count, self._deployment.prepared.model.output.size)
        if prepared.stream is not None:
            scores += self._judge_stream(prepared.stream, job)
        self._run_metered(job if prepared.stream is None else prepared.stream.metered)
        if prepared.stream is not None:
            self._add_stream_energy(_samples_of(prepared.stream, prepared, job))
        self._run_layers(replace(job, name="infer") if job.name in ONCE else job)
        self._probe_layers()
        if plan is not None and trained is not None:
            self._run_training_layers(plan)
            restore(self._deployment.device, trained)
        for figure in prepared.figures:
            record = make_record("run", figure.metric, figure.unit, "modelled", [figure.value], note=figure.note)
            self._records.append(record)
        self._records += per_mac(self._records, prepared)
        self._add_roofline()
        if plan is not None:
            steps, target = plan.job.count * plan.job.repeats, plan.target_accuracy
            self._records += whole_training(self._records, steps, target, plan.steps_to_accuracy)
        scores += scores_of(prepared, outputs, job)
        if self._deployment.artifact.runtime == "pytorch" or prepared.stream is not None:
            # Float sums of other kernels than the reference's are near, and never to be equal.
            scores = [score for score in scores if score.metric != "bit_exact"]
        for score in scores:
            self._records.append(make_record("run", score.metric, score.unit, self._source, [score.value]))
            reference = make_record("run", f"{score.metric}.reference", score.unit, "modelled", [score.reference])
            self._records.append(replace(reference, note="computed on the host by PyTorch"))
        return outputs, scores

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
        self._detail = replace(self._detail, evidence=evidence_of(self._deployment.device))
        run = replace(self._run(), status=status, error=str(error) or type(error).__name__)
        try:
            store.save(run, self._trace)
        except StoreError as lost:
            error.add_note(f"what was captured could not be stored: {lost}")

    @property
    def _source(self) -> Source:
        return self._deployment.device.identity.source

    def _run_main(self, job: Job) -> list[Score]:
        """The job, or the rounds of a stream that is sent in several, which yield scores."""
        device, stream = self._deployment.device, self._deployment.prepared.stream
        scores: list[Score] = []
        if stream is None or stream.rounds is None:
            events = collect(device, job, self._main)
        else:
            events = collect_rounds(device, stream.rounds(job), self._main, scores)
        title = f"{self._deployment.workload} on {self._deployment.entry.name}: {job.count} samples"
        with progress.step(title, quiet_below_s=2.0) as step:
            for _ in events:
                step.update(len(self._main.results), job.count)
        self._add_latency()
        done = [one.done for one in (self._main, self._training) if one.done is not None]
        artifact = self._deployment.artifact
        memory = artifact.memory
        if artifact.runtime == "native":
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
        self._records += memory_of(self._deployment.device, self._source)
        if self._log is not None:
            self._log.during()
        return scores

    def _add_latency(self) -> None:
        hello = self._deployment.hello
        passes = self._main.events
        self._records += latency_records(passes, hello.clock_hz, hello.clock, self._source)
        shown = [(one.region, one.index, one.begin, one.end) for one in passes[:SHOWN_EVENTS]]
        self._detail = replace(self._detail, events=tuple(shown))

    def _judge_stream(self, stream: StreamPlan, job: Job) -> list[Score]:
        """What the stream took as a whole, and where and to what the network has changed."""
        deployment, prepared, passes = self._deployment, self._deployment.prepared, self._main.events
        samples, hello = _samples_of(stream, prepared, job), deployment.hello
        self._records += stream_records(passes, samples, hello.clock_hz, hello.clock, self._source)
        changes = prepared.model.training is not None and job.name in ONCE
        variables = checkpoint(deployment.device).variables if changes else {}
        return stream.check(adapted(passes), variables) if job.count == prepared.job.count else []

    def _add_stream_energy(self, samples: int) -> None:
        """Energy per sample of the whole stream, where a pass was measured."""
        energy = {record.region: record for record in self._records if record.metric == "energy"}
        self._records += energy_per_sample(self._main.events, energy, samples)

    def _run_training(self, plan: TrainingPlan) -> list[Score]:
        device = self._deployment.device
        forget(device)
        job = replace(plan.job, marker_line=False)
        count, scores = job.count * job.repeats, list[Score]()
        if plan.rounds is None:
            events = collect(device, job, self._training)
        else:
            events = collect_rounds(device, plan.rounds(job), self._training, scores)
        title = f"{self._deployment.workload} on {self._deployment.entry.name}: {count} training steps"
        with progress.step(title, quiet_below_s=2.0) as step:
            for _ in events:
                step.update(len(self._training.metrics), count)
        self._add_training()
        return [*scores, *plan.check(np.array(self._losses, np.float32), checkpoint(device).variables)]

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
        entry = self._deployment.entry
        if meter is None or entry.meter is None:
            return
        prepared = self._deployment.prepared
        few = first_samples(job, prepared.model.input.size, min(job.count, METERED_SAMPLES))
        title = f"{self._deployment.workload} on {entry.name}: power"
        # A battery's voltage is what it is.
        nominal_v = None if entry.meter.kind == "android" else entry.meter_voltage_v
        with progress.step(title, quiet_below_s=2.0), meter:
            calibration = usable(store_dir(), entry.meter, meter.info)
            self._notes += [calibration.warning] if calibration.warning else []
            clock_hz = self._deployment.hello.clock_hz
            # Emulators pass time in a sleep by the clock of this computer, and no meter shows them drawing less.
            sleeps = self._source == "hardware"
            metered = Metered(
                meter, entry.meter.marker_input, clock_hz, nominal_v, self._passes, calibration.correction, sleeps
            )
            few = replace(few, repeats=1)
            try:
                self._records += self._energy_records(metered, few)
            except MeasurementRejected as rejection:
                self._rejected = rejection
            else:
                if prepared.stream is None:
                    self._measure_layers(metered, few)
            finally:
                self._keep_trace(metered)

    def _energy_records(self, metered: Metered, job: Job) -> tuple[Record, ...]:
        """By the plan that was asked for, else long windows on hardware and short ones on emulators.

        Passes of an emulator are all alike.
        """
        if metered.by_host and self._source == "emulated":
            self._notes.append(
                f"no energy: windows of a {metered.info.kind} are found by this computer's clock, and an emulated "
                "device lives in a time of its own"
            )
            return ()
        if self._deployment.prepared.stream is not None and metered.info.alignment != "logic":
            self._notes.append(
                f"no energy: inferences and adaptations are told apart by the marker, which a {metered.info.kind} does "
                "not record"
            )
            return ()
        if self._deployment.prepared.stream is not None:
            return metered.stream_records(job)
        plan = self._deployment.prepared.training
        training = None if plan is None else first_steps(plan.job, min(plan.job.count, METERED_SAMPLES))
        if training is not None:
            forget(self._deployment.device)
        if self._energy is None and (metered.info.emulated or self._source == "emulated"):
            return metered.short_records(job, training)
        energy = self._energy or EnergyPlan()
        records = metered.long_records(job, self._latency_s(INFERENCE), energy)
        if training is None:
            return records
        return (*records, *self._long_training(metered, job, training, energy))

    def _long_training(self, metered: Metered, job: Job, training: Job, energy: EnergyPlan) -> tuple[Record, ...]:
        """Steps and forwards in long windows; what is left of a step pass by pass, where a marker shows it."""
        device = self._deployment.device
        step_s, compiled = self._latency_s(STEP), self._deployment.prepared.model.training
        learns_forward = compiled is not None and compiled.learns_forward
        forward_s = None if learns_forward else self._latency_s(REGIONS[0])
        records = metered.long_training_records(training, step_s, forward_s, energy, lambda: forget(device))
        if metered.info.alignment != "logic":
            return records
        forget(device)
        try:
            return (*records, *metered.parts_of_a_step(job, training))
        except MeasurementRejected as error:
            self._notes.append(f"no energy of the parts of a training step: {error.message}")
            return records

    def _latency_s(self, region: str) -> float:
        """Median time of a pass, seconds."""
        found = next(record for record in self._records if (record.region, record.metric) == (region, "latency"))
        return found.median

    def _measure_layers(self, metered: Metered, job: Job) -> None:
        """Energy of each layer, and of each part of a training step, where passes can be told apart; why not, else."""
        if metered.info.alignment != "logic":
            return
        prepared = self._deployment.prepared
        first = first_samples(job, prepared.model.input.size, 1)
        try:
            if len(names := [layer.name for layer in self._detail.layers]) > 1:
                self._records += metered.layer_records(job, self._profiled(first, "layer"), names)
            if prepared.training is not None and prepared.model.training is not None:
                parts = prepared.model.training.steps
                profiled = self._profiled(first_steps(prepared.training.job, 1), LAYER)
                self._records += metered.training_layer_records(
                    profiled, [one.name for one in parts], [one.phase for one in parts]
                )
        except (MeterError, ConfigError) as error:
            self._notes.append(f"no energy per layer: {error.message.splitlines()[0]}")

    def _profiled(self, job: Job, region: str) -> list[RegionEvent]:
        """What a profiled pass over the job's only sample reports of each layer."""
        profiled = self._passes(replace(job, profile=True, repeats=1, marker_line=False))
        return [event for event in profiled if event.region == region]

    def _passes(self, job: Job) -> list[RegionEvent]:
        capture = Capture()
        for _ in collect(self._deployment.device, job, capture):
            pass
        return capture.events

    def _keep_trace(self, metered: Metered) -> None:
        info = metered.info
        name = f"{'emulated ' if info.emulated else ''}{info.kind} ({info.identity})"
        self._meter = (name, info.relative_uncertainty)
        self._trace, self._pass_trace = metered.trace, metered.pass_trace
        self._detail = replace(self._detail, meter_notes=tuple(metered.notes))

    def _run_layers(self, job: Job) -> None:
        device = self._deployment.device
        one = replace(first_samples(job, self._deployment.prepared.model.input.size, 1), profile=True, repeats=1)
        capture = Capture()
        for _ in collect(device, one, capture):
            pass
        self._records += reported_of(capture.metrics, self._source)
        self._records += instructions_of(device, one, self._source)
        cycles = {event.index: float(event.cycles) for event in capture.events if event.region == "layer"}
        counts: Mapping[int, RegionCount] = {}
        if isinstance(device, Counting) and "counts" in device.identity.capabilities:
            counted = device.count(self._deployment.artifact, one)
            counts = {count.index: count for count in counted if count.region == "layer"}
            self._records += count_records(counted)
        plan = self._detail.layers
        layers = [with_counts(layer, cycles.get(layer.index), counts.get(layer.index)) for layer in plan]
        self._detail = replace(self._detail, layers=tuple(layers))

    def _probe_layers(self) -> None:
        """Say what the run's trace gives away of the network; probe it where the workload asks and all was counted."""
        layers, model = self._detail.layers, self._deployment.entry.board.energy_model
        if self._pass_trace is not None:
            warning = warning_of(self._pass_trace, len(layers), 0.0 if model is None else model.settle_s)
            self._notes += [warning] if warning else []
        probe = self._deployment.prepared.layer_probe
        if probe is not None and model is not None and all(layer.instructions for layer in layers):
            hello, voltage_v = self._deployment.hello, self._deployment.entry.meter_voltage_v
            records, note = probe_records(layers, model, hello.clock_hz, voltage_v, probe)
            self._records += records
            self._notes.append(note)

    def _run_training_layers(self, plan: TrainingPlan) -> None:
        device, hello = self._deployment.device, self._deployment.hello
        forget(device)
        one = replace(first_steps(plan.job, 1), profile=True, marker_line=False)
        capture = Capture()
        for _ in collect(device, one, capture):
            pass
        training = self._deployment.prepared.model.training
        names = [] if training is None else [step.name for step in training.steps]
        parts = [event for event in capture.events if event.region == LAYER]
        self._records += latency_records(parts, hello.clock_hz, hello.clock, self._source, names)
        self._records += reported_of(capture.metrics, self._source)
        self._records += instructions_of(device, one, self._source)
        if isinstance(device, Counting) and "counts" in device.identity.capabilities:
            self._training_counts = device.count(self._deployment.artifact, one)
            self._records += count_records(self._training_counts)

    def _add_roofline(self) -> None:
        """Rates of the training step beside the device's peaks, where the workload asks for them."""
        deployment = self._deployment
        roofline = deployment.prepared.roofline
        if roofline is None:
            return
        self._records += measure_peaks(deployment.device, deployment.hello, deployment.artifact)
        self._records += transfer_records(self._records, copied_bytes(deployment.prepared.model.input.size))
        if deployment.artifact.runtime == "pytorch" and deployment.prepared.training is not None:
            self._records += measure_kernels(deployment.device, deployment.prepared.training.job)
        steps = [planned_step(step) for step in roofline.steps]
        self._records += roofline_records(self._records, steps, accesses_of(self._training_counts, steps))

    def _run(self) -> Run:
        kept, notes = without_host_times(self._records, remote=self._deployment.device.identity.remote)
        notes = (*self._detail.notes, *self._notes, *notes)
        rejections = () if self._rejected is None else self._rejected.rejections
        return Run(
            run_id=self._run_id,
            session_id=self._session_id,
            started_ns=self._started_ns,
            status="passed",
            provenance=self._provenance(),
            records=kept,
            detail=replace(self._detail, notes=notes, rejections=rejections, environment=self._environment),
            retries=self._retries,
            test=self._test,
        )

    def _provenance(self) -> Provenance:
        deployment = self._deployment
        tree = checkout()
        environment = self._environment
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
            temperature_c=None if environment is None else environment.hottest_c,
            throttled=None if environment is None else bool(environment.throttled),
        )


def _samples_of(stream: StreamPlan, prepared: Prepared, job: Job) -> int:
    """Single samples of the part of a stream that a job goes through."""
    return stream.samples * job.count // prepared.job.count
