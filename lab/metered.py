"""Jobs under a power meter: which windows are measured, how often, and what becomes a record.

Two ways. A short one, for emulated devices, whose passes are all alike: one capture of the first samples, each pass a
window. A long one, for hardware (:class:`EnergyPlan`): windows of ten seconds of work and more, each one pulse of the
marker over many passes with nothing sent between them, repeated until the confidence interval of the median is narrow
enough. Training is measured likewise: so many steps in one window, from the values as compiled in each of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from lab.errors import ConfigError, ProtocolError, WorkloadError
from lab.events import Job, RegionEvent
from lab.power.base import Meter, MeterInfo, SampleBlock
from lab.power.notes import stream_notes
from lab.power.recorder import Recorder
from measurements.adaptation import stream_energy_records
from measurements.capture import host_window, trigger_windows
from measurements.energy import measure_windows, refuse_unstable_idle, region_energy, window_records
from measurements.layer_energy import layer_energy_records, marked_layer_energies
from measurements.record import Alignment, Record, Source, Trace
from measurements.regions import INFERENCE
from measurements.rejection import CaptureFacts, MeasurementRejected, reasons_of_capture
from measurements.statistics import repeat_until
from measurements.training import REGIONS, STEP, training_energy_records
from measurements.uncertainty import Correction, MeterClass, RangeClass, corrected, corrected_class
from measurements.window_energy import WindowEnergy, joined

MLPERF_WINDOW_S = 10.0
"""MLPerf Tiny's least window: shorter ones are marked."""
QUIET_SAMPLES = 30
"""Samples that the quiet next to the windows must hold, whatever the meter's rate."""
MOST_PASSES = 1 << 31
"""Passes in a window at most: the runner counts to twice as many."""
MARGIN = 1.01
"""How many more passes than the time of one asks for, so that a window is not short for a pass that was timed long."""
IDLE = "idle"
"""Region of the quiet that a runner has slept through."""
FORWARD = "train.forward"
LAYER_PASSES = 200
LAYER_CAPTURE_S = 10.0
"""Single passes from which a board's layers are told apart: so many, or as many as last so long."""
_SILENCE_FACTOR = 2.0
_HARDWARE_LIMIT_S = 10.0
_LATENCY_S = 0.2
"""How long samples may be on their way from a meter."""
_HOST_CLOCK_S = 1e-3
_ALIGNMENTS: dict[str, Alignment] = {"logic": "marker", "trigger": "marker", "host-time": "host-time"}


@dataclass(frozen=True)
class EnergyPlan:
    """How long and how often to measure.

    Attributes:
        window_s: time inside of regions that a window holds at least, seconds.
        ci: half of the confidence interval of the median allowed, relative to it.
        min_windows: windows before the first look, at least six.
        max_windows: windows after which it ends anyway.

    Raises:
        ConfigError: a number that makes no sense.
    """

    window_s: float = MLPERF_WINDOW_S
    ci: float = 0.02
    min_windows: int = 6
    max_windows: int = 20

    def __post_init__(self) -> None:
        if not (0 < self.window_s < math.inf and 0 < self.ci < 1 and 6 <= self.min_windows <= self.max_windows):
            raise ConfigError(
                f"energy cannot be measured by {self}",
                hint="a window lasts longer than 0 s, ci lies between 0 and 1, and 6 <= min_windows <= max_windows",
            )


    @classmethod
    def parse(cls, text: str) -> Self:
        """``WINDOW[,CI[,MOST]]``: seconds, a fraction, and how many windows at most.

        Raises:
            ConfigError: it is not that.
        """
        try:
            window_s, ci, most = map(float, [*text.split(","), *("0.02", "20")[text.count(",") :]])
        except ValueError:
            raise ConfigError(
                f"{text!r} does not say how energy is to be measured",
                hint="seconds, then what the interval may be, then how many windows at most: 10,0.02,20",
            ) from None
        return cls(window_s, ci, max_windows=int(most) if math.isfinite(most) else 0)


@dataclass(frozen=True)
class Shot:
    """One capture.

    Attributes:
        trace: what the meter showed.
        events: what the device reported of its regions.
        asleep: whether it slept in the quiet.
        begin_s, end_s: when the jobs ran, seconds of the host's clock since the stream was started.
        saturated: samples at the end of the highest range.
    """

    trace: Trace
    events: tuple[RegionEvent, ...]
    asleep: bool
    begin_s: float
    end_s: float
    saturated: int


@dataclass
class Metered:
    """A device under a meter. What was captured stays here, whatever fails.

    Attributes:
        meter: open.
        marker_input: logic input that the marker is wired to.
        clock_hz: rate of the device's clock, Hz.
        nominal_v: voltage that the device is to be supplied with; None where any will do.
        run: runs a job and returns the passes it reports.
        correction: the lab's own calibration of the meter; None where there is none.
        sleep: whether the device is to sleep in the quiet, where its board can.
        trace: of the last window, or of the short capture.
        notes: what the meter's driver said of its streams.
    """

    meter: Meter
    marker_input: int
    clock_hz: float
    nominal_v: float | None
    run: Callable[[Job], Sequence[RegionEvent]]
    correction: Correction | None = None
    sleep: bool = False
    trace: Trace | None = field(default=None, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    _captures: int = field(default=0, init=False)
    _single: Shot | None = field(default=None, init=False)

    @property
    def info(self) -> MeterInfo:
        """What the meter says of itself; its class follows the ranges that were used."""
        return self.meter.info

    @property
    def source(self) -> Source:
        """Where its figures come from."""
        return "modelled" if self.info.emulated else "hardware"

    @property
    def by_host(self) -> bool:
        """Whether windows are found by the host's clock alone."""
        return self.info.alignment == "host-time"

    @property
    def pass_trace(self) -> Trace | None:
        """A trace in which the marker shows every pass by itself, where there is one, else the last."""
        return self.trace if self._single is None else self._single.trace

    def short_records(self, job: Job, training: Job | None) -> tuple[Record, ...]:
        """One capture of a job, after one of training where the device is trained; each pass is a window.

        Raises:
            MeasurementRejected: the capture must not be published.
            MeterError, DeviceError: the bench or the device failed.
        """
        if self.by_host:
            # Regions cannot be told apart by the host's clock: one window over the whole job.
            figures, note = self._window(job)
            return self._records(figures, f"{note}; {_length(figures, 1)}")
        jobs = [job] if training is None else [training, job]
        shot = self._shoot(jobs)
        quiet_s = self._quiet_s(job)
        if training is not None:
            records = training_energy_records(
                shot.trace, shot.events, self.clock_hz, self.source, quiet_s, self._class()
            )
        else:
            records = self._records(*self._figures(shot, quiet_s, INFERENCE))
        self._single = shot
        return records

    def stream_records(self, job: Job) -> tuple[Record, ...]:
        """One capture of a stream by a meter that sees the marker: each inference and each adaptation is a window.

        Raises:
            MeasurementRejected: the capture must not be published.
            MeterError, DeviceError: the bench or the device failed.
        """
        shot = self._shoot([job])
        self._single = shot
        return stream_energy_records(
            shot.trace, shot.events, self.clock_hz, self.source, self._quiet_s(job), self._class()
        )

    def long_records(
        self,
        job: Job,
        pass_s: float,
        plan: EnergyPlan,
        region: str = INFERENCE,
        restart: Callable[[], None] | None = None,
        most: int = MOST_PASSES,
    ) -> tuple[Record, ...]:
        """Windows of a job, each long enough, as many as the plan asks; each is one repeat, of the energy per pass.

        Args:
            job: one pass over its samples.
            pass_s: how long a pass takes, seconds.
            plan: how long and how often.
            region: what a pass is: ``inference``, ``train.step`` or ``train.forward``.
            restart: sets the device to what every window is to begin from.
            most: passes in a window at most.

        Raises:
            MeasurementRejected: a window must not be published.
            WorkloadError: a loss in a window of training is no number.
            MeterError, DeviceError: the bench or the device failed.
        """
        long = windowed(job, max(pass_s, 1.0 / self.clock_hz), plan.window_s, most)
        windows: list[WindowEnergy] = []
        note = ""

        def measure() -> float:
            nonlocal note
            if restart is not None:
                restart()
            figures, note = self._window(long, region)
            windows.append(figures)
            growth = float(figures.duration_s[0] / windows[0].duration_s[0] - 1)
            self._refuse(CaptureFacts(growth=None if self.by_host else growth))
            known = figures.net_j if np.isfinite(figures.net_j).all() else figures.energy_j
            return float(known[0])

        done = repeat_until(measure, plan.ci, minimum=plan.min_windows, maximum=plan.max_windows)
        passes = long.window
        said = [note, f"median of {len(windows) - done.warmup} windows of {passes} passes, energy of one pass"]
        if not done.reached:
            said.append(f"the interval was not within ±{plan.ci:.1%} at two looks in a row in {len(windows)} windows")
        figures = joined(windows[done.warmup :])
        said.append(_length(figures, passes))
        return self._records(figures, "; ".join(part for part in said if part), region)

    def long_training_records(
        self, job: Job, step_s: float, forward_s: float | None, plan: EnergyPlan, restart: Callable[[], None]
    ) -> tuple[Record, ...]:
        """Energy of a step of training, and of its forward alone, in long windows.

        A window of steps trains on the job's samples in turn, each step from what the one before has left; every window
        begins with the values as compiled, so all do the same work. A forward changes no variable.

        Args:
            job: a job ``train`` over its samples, once.
            step_s, forward_s: how long a step takes, and its forward, seconds; None for a model that learns on the way
                forward and has none that changes nothing.
            plan: how long and how often.
            restart: sets the variables to what they were compiled with.

        Raises:
            MeasurementRejected, MeterError, DeviceError: as :meth:`long_records`.
            WorkloadError: a loss is no number, even over no more steps than the job has.
        """
        try:
            steps = self.long_records(job, step_s, plan, STEP, restart)
        except WorkloadError as error:
            # So many steps more than were asked for are the measurement's doing, not the workload's.
            self.notes.append(f"windows of training hold no more steps than the job has, {job.count}: {error.message}")
            steps = self.long_records(job, step_s, plan, STEP, restart, job.count)
        if forward_s is None:
            return steps
        restart()
        alone = replace(job, parameters={**job.parameters, "forward": 1})
        return (*steps, *self.long_records(alone, forward_s, plan, FORWARD))

    def parts_of_a_step(self, job: Job, training: Job) -> tuple[Record, ...]:
        """What long windows cannot tell: backward and update, each pass a window of its own.

        Raises:
            MeasurementRejected, MeterError, DeviceError: as :meth:`short_records`.
        """
        found = self.short_records(job, training)
        return tuple(record for record in found if record.region in REGIONS and record.region != FORWARD)

    def layer_records(self, job: Job, profiled: Sequence[RegionEvent], names: Sequence[str]) -> tuple[Record, ...]:
        """Energy of each layer of an inference: the trace of single passes, and when each layer runs in one.

        Args:
            job: one pass over its samples; run unless single passes were captured before.
            profiled: what the device reported of a profiled pass, regions ``layer``.
            names: of the layers.

        Raises:
            MeterError: the passes do not tell the layers apart, or as :meth:`short_records`.
        """
        shot = self._single
        if shot is None:
            pass_s = (profiled[-1].end - profiled[0].begin) / self.clock_hz if profiled else LAYER_CAPTURE_S
            passes = max(1, min(LAYER_PASSES, math.ceil(LAYER_CAPTURE_S / pass_s)))
            before = self.trace
            few = first_passes(job, min(job.count, passes))
            shot = self._shoot([replace(few, repeats=math.ceil(passes / few.count))])
            self.trace = before
            self._figures(shot, self._quiet_s(job), INFERENCE)
            self._single = shot
        energies = marked_layer_energies(shot.trace, shot.events, profiled, self.clock_hz, names)
        return layer_energy_records(energies, self.source, self.info.voltage_v, self._class(), self._calibration_note())

    def training_layer_records(
        self, profiled: Sequence[RegionEvent], names: Sequence[str], phases: Sequence[str]
    ) -> tuple[Record, ...]:
        """Energy of each part of a training step, from the single steps that :meth:`short_records` has captured.

        Args:
            profiled: what the device reported of a profiled step, regions ``train.layer``.
            names: of the parts.
            phases: what each part belongs to: ``forward``, ``backward`` or ``update``.

        Raises:
            MeterError: the steps do not tell the parts apart.
        """
        shot = self._single
        if shot is None:
            return ()
        there = [region for region in REGIONS if any(one.region == region for one in shot.events)]
        found: list[Record] = []
        for region in there:
            own = [one for one in profiled if _home(phases[one.index], there) == region]
            if own:
                parts = marked_layer_energies(shot.trace, shot.events, own, self.clock_hz, names, region)
                note = self._calibration_note()
                found += layer_energy_records(parts, self.source, self.info.voltage_v, self._class(), note)
        return tuple(found)

    def _window(self, job: Job, region: str = INFERENCE) -> tuple[WindowEnergy, str]:
        """One window: all passes of a job as one, per pass.

        Raises:
            ProtocolError: the device counted other passes than it was asked for.
        """
        shot = self._shoot([job])
        figures, note = self._figures(shot, self._quiet_s(job), region)
        passes = sum(event.passes for event in shot.events if event.region == region)
        asked = job.repeats * (job.window or job.count)
        if passes != asked:
            raise ProtocolError(
                f"the device counted {passes} passes through {region!r} in its windows; {asked} were asked for"
            )
        return figures.summed([range(figures.duration_s.size)], [passes]), note

    def _figures(self, shot: Shot, quiet_s: float, region: str) -> tuple[WindowEnergy, str]:
        figures, note = self._aligned(shot, quiet_s, region)
        if self.by_host:
            return figures, note
        idle = "the device slept in the quiet" if shot.asleep else "the device waited awake in the quiet"
        return figures, f"{note}; {idle}"

    def _aligned(self, shot: Shot, quiet_s: float, region: str) -> tuple[WindowEnergy, str]:
        alignment = self.info.alignment
        if alignment == "logic":
            return region_energy(shot.trace, shot.events, self.clock_hz, region, quiet_s, self._class(), framed=True)
        if alignment == "trigger":
            own = [event for event in shot.events if event.region == region]
            windows, edges = trigger_windows(shot.trace, own, self.clock_hz)
            note = "from an instrument trigger; the device's clock places all edges after it, each ±1 sample"
        else:
            uncertainty_s = self.info.time_uncertainty_s + _HOST_CLOCK_S
            window, edges = host_window(shot.trace, shot.begin_s, shot.end_s, uncertainty_s)
            windows = (window,)
            note = (
                f"by the host's clock, both ends ±{uncertainty_s:.3g} s; the window holds what passes between host and "
                "device as well"
            )
        figures = measure_windows(shot.trace, windows, quiet_s, edges, self._class(), framed=True)
        refuse_unstable_idle(figures)
        return figures, note

    def _shoot(self, jobs: Sequence[Job]) -> Shot:
        """Run jobs under the meter.

        Raises:
            MeasurementRejected: the capture as a whole must not be published.
        """
        recorder = Recorder(self.meter, self.marker_input)
        rate = self.info.sample_rate_hz
        quiet_s = min(self._quiet_s(job) for job in jobs)
        limit_s = math.inf if self.info.emulated and not self.by_host else _HARDWARE_LIMIT_S + quiet_s
        events: list[RegionEvent] = []
        asleep = False
        begin_s = end_s = math.nan
        try:
            with recorder:
                if self.by_host:
                    recorder.wait(math.ceil(quiet_s * rate), limit_s=limit_s)
                begin_s = time.monotonic() - recorder.started_s
                for job in jobs:
                    quiet_us = math.ceil(self._quiet_s(job) * 1e6)
                    told = self.run(replace(job, warmup=0, marker_line=True, quiet_us=quiet_us, sleep=self.sleep))
                    events += [event for event in told if event.region != IDLE]
                    asleep |= len(told) > sum(event.region != IDLE for event in told)
                end_s = time.monotonic() - recorder.started_s
                # Where the host's clock places the window, time goes on also for an emulated meter.
                if self.by_host or not self.info.emulated:
                    # The device has said that it is done: it idles in all that is measured from now on.
                    on_their_way_s = _LATENCY_S + self.info.held_back_s
                    recorder.wait(recorder.received + math.ceil((on_their_way_s + quiet_s) * rate), limit_s=limit_s)
                recorder.finish(len(events) if self.info.alignment == "logic" else 0, quiet_s, limit_s=limit_s)
        finally:
            # Also what came before a failure: a supply that breaks down is best seen in its trace.
            samples = recorder.samples()
            trace = self._trace(samples)
            if samples.current_a.size:
                self.trace = trace
                self._note(samples)
        self._refuse(CaptureFacts(samples.saturated, self.nominal_v))
        return Shot(trace, tuple(events), asleep, begin_s, end_s, samples.saturated)

    def _note(self, samples: SampleBlock) -> None:
        """Keep what the driver says of a stream that it has given."""
        self._captures += 1
        self.notes += [f"capture {self._captures}: {text}" for text in stream_notes(self.meter, samples)]

    def _trace(self, samples: SampleBlock) -> Trace:
        info = self.info
        current = samples.current_a if self.correction is None else corrected(samples.current_a, self.correction)
        dt_s = 1.0 / info.sample_rate_hz
        return Trace(0.0, dt_s, info.voltage_v, current, samples.logic, samples.lost, samples.voltage_v)

    def _quiet_s(self, job: Job) -> float:
        """Quiet time next to the windows: the job's, longer where the meter is slow or only the host tells time."""
        samples_s = QUIET_SAMPLES / self.info.sample_rate_hz
        unsure_s = 4 * (self.info.time_uncertainty_s + _HOST_CLOCK_S) if self.by_host else 0.0
        return max(job.quiet_us * 1e-6, samples_s, unsure_s)

    def _class(self) -> MeterClass:
        known = class_of(self.info)
        return known if self.correction is None else corrected_class(known, self.correction)

    def _refuse(self, facts: CaptureFacts) -> None:
        reasons = () if self.trace is None else reasons_of_capture(self.trace, facts)
        if reasons:
            raise MeasurementRejected(reasons)

    def _records(self, figures: WindowEnergy, note: str, region: str = INFERENCE) -> tuple[Record, ...]:
        info = self.info
        said = "; ".join(part for part in (note, self._calibration_note()) if part)
        alignment = _ALIGNMENTS[info.alignment]
        return window_records(region, figures, self.source, said, alignment, charge=info.measures_current)

    def _calibration_note(self) -> str:
        return "" if self.correction is None else f"corrected by the calibration of {self.correction.date}"


def _home(phase: str, there: Sequence[str]) -> str:
    """The region that a part of a step runs in: gradients that are consumed at once are updates within the backward."""
    region = f"train.{phase}"
    return region if region in there else REGIONS[1]


def windowed(job: Job, pass_s: float, window_s: float, most: int = MOST_PASSES) -> Job:
    """A job whose passes share one window of so many seconds or more, with all samples as often as each other.

    A job of fewer passes than samples goes over its first ones.

    Args:
        job: one pass over its samples.
        pass_s: how long a pass takes, seconds.
        window_s: how long the window is to be, seconds.
        most: passes at most, but for what makes their number a multiple of the samples.
    """
    wanted = min(max(1, math.ceil(MARGIN * window_s / pass_s)), most)
    if wanted < job.count:
        job = first_passes(job, wanted)
    passes = -(-wanted // job.count) * job.count
    return replace(job, repeats=1, window=passes, silent_s=_SILENCE_FACTOR * passes * pass_s)


def first_passes(job: Job, count: int) -> Job:
    """The same job over its first ``count`` samples."""
    blobs = {name: data[: len(data) // job.count * count] for name, data in job.blobs.items()}
    return replace(job, blob=job.blob[: len(job.blob) // job.count * count], count=count, blobs=blobs)


def class_of(info: MeterInfo) -> MeterClass:
    """What a meter says of its errors, for :mod:`measurements.uncertainty`."""
    ranges = tuple(RangeClass(one.upto_a, one.relative, one.offset_a) for one in info.ranges)
    whole = (RangeClass(math.inf, info.relative_uncertainty),)
    return MeterClass(ranges or whole, info.voltage_uncertainty, info.clock_uncertainty)


def _length(figures: WindowEnergy, passes: int) -> str:
    """What a reader must know of how long windows were."""
    seconds = float(np.median(figures.duration_s)) * passes
    if seconds >= MLPERF_WINDOW_S:
        return f"windows of {seconds:.3g} s"
    return f"windows of {seconds:.3g} s, shorter than the {MLPERF_WINDOW_S:g} s that MLPerf Tiny asks for"
