"""The three modes and their rules. A run that breaks a rule is a failure with the reason, never a warning.

What is measured is appended to the caller's :class:`Outcome`, so that it is there also when a later step fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab import progress
from lab.errors import MeterError, ProtocolError, WorkloadError
from lab.metered import class_of
from lab.mlperf.benchmarks import WINDOW_S, WINDOWS, Benchmark
from lab.mlperf.client import Dut, Inference
from lab.mlperf.dataset import LabelledSet, Sample
from lab.power.base import Meter, MeterInfo, SampleBlock
from lab.power.recorder import Recorder
from measurements.capture import Window as EdgeWindow
from measurements.energy import measure_windows
from measurements.record import Trace
from measurements.rejection import CaptureFacts, MeasurementRejected, reasons_of_capture
from measurements.uncertainty import Correction, MeterClass, corrected, corrected_class

FloatArray: TypeAlias = npt.NDArray[np.float64]

# A raised count aims this much beyond the least, since a device's speed changes with its temperature.
_AIM = 1.05
_LARGEST_STEP = 1000
_ADAPTATIONS = 8
_TIMESTAMPS = 2
# The stream lags behind the device's last line by what is buffered.
_EDGES_S = 30.0


@dataclass(frozen=True)
class Window:
    """One timed window.

    Attributes:
        iterations: inferences in it.
        elapsed_s: from its first to its last timestamp, seconds of the device's clock (energy mode: of the meter's).
        energy_j: energy in it, joule; None in performance mode.
        class_j: what the meter's class allows of that (type B), joule.
        edge_j: what a sample at either edge makes of it, joule.
    """

    iterations: int
    elapsed_s: float
    energy_j: float | None = None
    class_j: float = 0.0
    edge_j: float = 0.0


@dataclass(frozen=True)
class MeteredTrace:
    """The samples of one window's stream, with the timestamp pin as bit 0 of ``logic``.

    Attributes:
        samples: currents as a calibration corrected them, where there is one.
        dt_s: sample period, seconds.
        voltage_v: of the supply, volt; what the meter measured per sample, where it does, is in ``samples``.
        meter_class: of the meter, or what its calibration leaves of it.
    """

    samples: SampleBlock
    dt_s: float
    voltage_v: float
    meter_class: MeterClass

    @property
    def trace(self) -> Trace:
        """The same as a trace."""
        shown = self.samples
        return Trace(0.0, self.dt_s, self.voltage_v, shown.current_a, shown.logic, shown.lost, shown.voltage_v)


@dataclass
class Outcome:
    """What a run has yielded so far.

    Attributes:
        windows: the valid windows.
        adaptations: windows that were too short and raised the count: (iterations, seconds).
        labels: classes of the samples that were run, in order.
        scores: per sample: one number per class, or one anomaly score.
        trace: of the last valid window in energy mode.
    """

    windows: list[Window] = field(default_factory=list)
    adaptations: list[tuple[int, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    scores: list[tuple[float, ...]] = field(default_factory=list)
    trace: MeteredTrace | None = None


# ---- performance ----------------------------------------------------------------------------------------------------


def run_performance(dut: Dut, benchmark: Benchmark, inputs: Sequence[bytes], outcome: Outcome) -> None:
    """Five windows of at least ten seconds by the device's own timestamps.

    Args:
        dut: an identified device.
        benchmark: which.
        inputs: what is loaded for the windows, in turn.
        outcome: takes the windows.

    Raises:
        WorkloadError: a window is too short, or a timestamp is missing.
        DeviceError: the device failed, or its clock does not advance.
    """

    def measure(count: int, warmups: int) -> Window:
        inference = _infer(dut, benchmark, count, warmups)
        return Window(count, lap_s(inference))

    _run_windows(dut, benchmark, inputs, outcome, measure)


def lap_s(inference: Inference) -> float:
    """Seconds between the two timestamps of an inference.

    Raises:
        WorkloadError: there are not two.
        ProtocolError: the second is not after the first.
    """
    laps = inference.laps_us
    if len(laps) != _TIMESTAMPS:
        raise WorkloadError(
            f"infer gave {len(laps)} timestamps (m-lap-us-…); a window has {_TIMESTAMPS}",
            hint="firmware built for energy mode gives none: it tells time by its timestamp pin",
        )
    begin, end = laps
    if end <= begin:
        raise ProtocolError(
            f"the device's timestamps go from {begin} to {end} µs: its clock stands still or went backwards",
            hint="a counter of 32 bits wraps after 71 minutes: reset the device before a run",
        )
    return (end - begin) * 1e-6


# ---- energy ---------------------------------------------------------------------------------------------------------


def run_energy(
    dut: Dut,
    benchmark: Benchmark,
    inputs: Sequence[bytes],
    outcome: Outcome,
    meter: Meter,
    edge_input: int,
    correction: Correction | None = None,
) -> None:
    """Five windows of at least ten seconds between the two falling edges of ``infer`` on the timestamp pin.

    Args:
        dut, benchmark, inputs, outcome: as for :func:`run_performance`.
        meter: open; its clock is what counts.
        edge_input: logic input the timestamp pin is wired to.
        correction: the lab's own calibration of the meter; None where there is none.

    Raises:
        WorkloadError: a window is too short, or there are not exactly two edges.
        MeterError: the meter failed, lost samples or was saturated, or the supply left its range.
        DeviceError: the device failed.
    """

    def measure(count: int, warmups: int) -> Window:
        with Recorder(meter, edge_input) as recorder:
            inference = _infer(dut, benchmark, count, warmups)
            if inference.laps_us:
                raise WorkloadError(
                    "the device prints its timestamps (m-lap-us-…), so it is not in energy mode",
                    hint="build its firmware for energy mode, or run --mode performance",
                )
            samples = recorder.finish(windows=_TIMESTAMPS, quiet_s=0.0, limit_s=_EDGES_S)
        trace = metered_trace(samples, meter.info, correction)
        window = energy_window(trace, count, edge_input)
        outcome.trace = trace
        return window

    # An emulated meter may not have read the edges of the device's start yet; they belong to no window.
    with Recorder(meter, edge_input) as recorder:
        recorder.stop()
    _run_windows(dut, benchmark, inputs, outcome, measure)


def metered_trace(samples: SampleBlock, info: MeterInfo, correction: Correction | None) -> MeteredTrace:
    """Samples as a meter showed them, corrected by its calibration where there is one.

    Args:
        samples: of one stream.
        info: what the meter says after it: its class follows the ranges that were used.
        correction: from the calibration.
    """
    known = class_of(info)
    if correction is not None:
        samples = replace(samples, current_a=corrected(samples.current_a, correction))
        known = corrected_class(known, correction)
    return MeteredTrace(samples, 1.0 / info.sample_rate_hz, info.voltage_v, known)


def energy_window(trace: MeteredTrace, iterations: int, edge_input: int) -> Window:
    """The window in a trace: the sum of its samples, as the benchmark has it, and what may be wrong with that.

    Raises:
        MeterError: samples were lost, where an edge may have been, or were at the end of the range, or the supply was
            measured to leave its range.
        WorkloadError: there are not exactly two falling edges.
    """
    samples = trace.samples
    if samples.lost or samples.saturated:
        raise MeterError(
            f"the meter lost {samples.lost} of {samples.current_a.size} samples and {samples.saturated} were "
            "saturated; edges and energy of such a window are not known",
            transient=True,
        )
    falls = np.flatnonzero(np.diff((samples.logic & 1).astype(np.int8)) < 0) + 1
    if falls.size != _TIMESTAMPS:
        raise WorkloadError(
            f"{falls.size} falling edges on logic input {edge_input} during infer; there must be {_TIMESTAMPS}",
            hint="is the timestamp pin wired to that input, high when idle, and the firmware built for energy mode?",
        )
    begin, end = int(falls[0]), int(falls[1])
    whole = trace.trace
    if reasons := reasons_of_capture(whole, CaptureFacts(nominal_v=trace.voltage_v)):
        raise MeasurementRejected(reasons)
    power_w = samples.current_a[begin:end].astype(np.float64)
    power_w *= trace.voltage_v if samples.voltage_v is None else samples.voltage_v[begin:end]
    figures = measure_windows(whole, (EdgeWindow(begin, end, 0),), 0.0, meter=trace.meter_class)
    allowed = 0.0 if figures.limits is None else float(figures.limits.energy_j[0])
    energy_j = float(power_w.sum()) * trace.dt_s
    return Window(iterations, (end - begin) * trace.dt_s, energy_j, allowed, float(figures.edge_j[0]))


# ---- windows --------------------------------------------------------------------------------------------------------


def _run_windows(
    dut: Dut,
    benchmark: Benchmark,
    inputs: Sequence[bytes],
    outcome: Outcome,
    measure: Callable[[int, int], Window],
) -> None:
    count = benchmark.iterations
    with progress.step(f"{benchmark.id}: {WINDOWS} windows of at least {WINDOW_S:g} s") as step:
        for number, data in zip(range(1, WINDOWS + 1), itertools.cycle(inputs), strict=False):
            dut.load(data)
            window = measure(count, benchmark.warmups)
            # Only before the first window is the count still open.
            while number == 1 and window.elapsed_s < WINDOW_S and len(outcome.adaptations) < _ADAPTATIONS:
                outcome.adaptations.append((count, window.elapsed_s))
                count = longer_count(count, window.elapsed_s)
                window = measure(count, benchmark.warmups)
            if window.elapsed_s < WINDOW_S:
                raise WorkloadError(
                    f"window {number} of {WINDOWS} lasted {window.elapsed_s:.6f} s with {count} inferences; "
                    f"a window must last at least {WINDOW_S:g} s",
                    hint="does something change the device's speed during the run?",
                )
            outcome.windows.append(window)
            step.update(number, WINDOWS, f"{window.elapsed_s:.3f} s")


def longer_count(count: int, elapsed_s: float) -> int:
    """The count that should last long enough where ``count`` inferences took ``elapsed_s``; always more."""
    wanted = math.ceil(count * WINDOW_S * _AIM / elapsed_s)
    return min(max(wanted, count + 1), count * _LARGEST_STEP)


def _infer(dut: Dut, benchmark: Benchmark, count: int, warmups: int) -> Inference:
    inference = dut.infer(count, warmups)
    if len(inference.results) != benchmark.results:
        raise WorkloadError(f"{benchmark.id} has {benchmark.results} results; the device gave {len(inference.results)}")
    return inference


# ---- accuracy -------------------------------------------------------------------------------------------------------


def run_accuracy(dut: Dut, benchmark: Benchmark, labelled: LabelledSet, outcome: Outcome) -> None:
    """Every file of the set, one inference per load; of several segments the scores are averaged.

    Raises:
        WorkloadError: the device gives another number of results.
        ConfigError: a file cannot be read or has a wrong size.
        DeviceError: the device failed.
    """
    total = len(labelled.samples)
    with progress.step(f"{benchmark.id}: {total} files of {labelled.folder}") as step:
        for done, sample in enumerate(labelled.samples, 1):
            outcome.scores.append(_score(dut, benchmark, sample))
            outcome.labels.append(sample.label)
            step.update(done, total)


def _score(dut: Dut, benchmark: Benchmark, sample: Sample) -> tuple[float, ...]:
    results = []
    for segment in sample.segments():
        dut.load(segment)
        results.append(_infer(dut, benchmark, 1, 0).results)
    return tuple(float(mean) for mean in np.mean(np.array(results), axis=0))


def top_1(outcome: Outcome) -> float:
    """Share of the samples whose highest score is that of their class; the first of equal scores counts."""
    predicted = np.argmax(np.array(outcome.scores), axis=1)
    return float(np.mean(predicted == np.array(outcome.labels)))


def area_under_curve(outcome: Outcome) -> float:
    """Area under the receiver's operating characteristic of an anomaly score, by scikit-learn.

    Raises:
        WorkloadError: all samples are of one class.
    """
    from sklearn.metrics import roc_auc_score

    if len(set(outcome.labels)) < 2:
        raise WorkloadError("all files of the set are of one class; an area under the curve needs both")
    return float(roc_auc_score(outcome.labels, [score[0] for score in outcome.scores]))

