"""Jobs under a meter: long windows, how many, triggers and the host's clock, and a meter that never ends.

The bench is a device and a meter in one: each job becomes a scripted load, the meter's stream is what an ideal meter
shows of it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.meter_models import ideal_meter
from lab.errors import ConfigError, MeterError, ProtocolError, WorkloadError
from lab.events import Job, RegionEvent
from lab.metered import MOST_PASSES, EnergyPlan, Metered, class_of, windowed
from lab.power.base import MeterInfo, RangeUncertainty, SampleBlock
from lab.power.recorder import Recorder
from measurements.capture import find_windows
from measurements.record import Record
from measurements.rejection import MeasurementRejected
from measurements.uncertainty import Correction, RangeCorrection

RATE_HZ = 10_000
CLOCK_HZ = 16_000_000
VOLTS, IDLE_A, ACTIVE_A = 3.3, 50e-6, 30e-3
PASS_S = 0.0123
INFO = MeterInfo(
    "scripted", "serial 7", float(RATE_HZ), VOLTS, False, 8, 0.01, False, (RangeUncertainty(1.0, 0.01, 0.0),)
)
NOTHING = SampleBlock(0, np.empty(0, np.float32), np.empty(0, np.uint8))
NET_J = VOLTS * (ACTIVE_A - IDLE_A) * PASS_S


SHARES = {"train.forward": 0.4, "train.backward": 0.5, "train.update": 0.1}
"""Of a step's time."""


def _region(job: Job) -> str:
    if job.name == "infer":
        return "inference"
    return "train.forward" if job.parameters.get("forward") else "train.step"


def _singly(job: Job) -> list[tuple[str, int]]:
    regions = ["inference"] if job.name == "infer" else list(SHARES)
    return [(region, 1) for _ in range(job.count * job.repeats) for region in regions]


@dataclass(frozen=True)
class Told:
    """A driver's report of its stream."""

    notes: tuple[str, ...]


@dataclass
class Bench:
    """A device and its meter.

    Attributes:
        info: what the meter says of itself.
        active_a: current while working, of each job in turn; the last one of all further jobs.
        growth: how much longer each job's passes take than those of the job before.
        saturated: samples at the end of the range, of every capture.
        voltage_v: what the meter measures per sample; None where it does not.
        pass_s: how long a pass takes, seconds.
        asleep: whether it can sleep in the quiet.
        miscounts: passes that its runner tells too few of.
        diverges_after: steps of training in one job after which the loss is no number.
        report: what its driver says of the stream.
        jobs: what was run.
        blocks: of the stream, not read yet.
        sent: samples of the stream up to now, blocks not read yet included; where the device's clock is, too.
        lock: for the stream, which is read beside the job.
    """

    info: MeterInfo = INFO
    active_a: Sequence[float] = (ACTIVE_A,)
    growth: float = 0.0
    saturated: int = 0
    voltage_v: float | None = None
    pass_s: float = PASS_S
    asleep: bool = False
    miscounts: int = 0
    diverges_after: int = 1 << 31
    report: Told = field(default_factory=lambda: Told(()))
    jobs: list[Job] = field(default_factory=list)
    blocks: list[SampleBlock] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, job: Job) -> list[RegionEvent]:
        number = len(self.jobs)
        self.jobs.append(job)
        pass_s = self.pass_s * (1 + self.growth) ** number
        active = self.active_a[min(number, len(self.active_a) - 1)]
        if _region(job) == "train.step" and job.window > self.diverges_after:
            raise WorkloadError("the loss is not a number")
        # Each pulse of the marker: region, passes in it.
        pulses = [(_region(job), job.window)] * job.repeats if job.window else _singly(job)
        quiet_s = job.quiet_us * 1e-6
        triggered = self.info.alignment == "trigger"
        segments = [] if triggered else [Segment(quiet_s + 3.3e-5, IDLE_A, 0, VOLTS)]
        for region, passes in pulses:
            length_s = passes * pass_s * SHARES.get(region, 1.0)
            segments += [*self.work(length_s, active), Segment(1.7e-3, 5e-3, 0, VOLTS)]
        segments.append(Segment(quiet_s + 1.5e-3, IDLE_A, 0, VOLTS))
        load = ScriptedLoad(segments)
        rate = round(self.info.sample_rate_hz)
        shown = ideal_meter(load, rate, load.due(rate))
        logic = shown.logic if self.info.alignment == "logic" else np.zeros_like(shown.logic)
        measured = None if self.voltage_v is None else np.full(logic.size, self.voltage_v, np.float32)
        with self.lock:
            first, self.sent = self.sent, self.sent + logic.size
            self.blocks.append(self.spoilt(SampleBlock(first, shown.current_a, logic, 0, self.saturated, measured)))
        edges = [round((first / rate + time_s) * CLOCK_HZ) for time_s, _ in load.edges_s()]
        told = [
            RegionEvent(region, k // len(set(pulses)), begin, end, passes - self.miscounts)
            for k, ((region, passes), begin, end) in enumerate(zip(pulses, edges[::2], edges[1::2], strict=True))
        ]
        idle = RegionEvent("idle", 0, 0, round(quiet_s * CLOCK_HZ))
        return [idle, *told, replace(idle, index=1)] if self.asleep and job.sleep else told

    def work(self, length_s: float, active_a: float) -> list[Segment]:
        """What flows in a pulse."""
        return [Segment(length_s, active_a, 1, VOLTS)]

    def spoilt(self, block: SampleBlock) -> SampleBlock:
        """What the meter makes of it."""
        return block

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def open(self) -> MeterInfo:
        return self.info

    def start(self) -> None:
        self.blocks, self.sent = [], 0

    def read(self, timeout_s: float) -> SampleBlock:
        with self.lock:
            if self.blocks:
                return self.blocks.pop(0)
            block = self._idle() if self.sent else NOTHING
            self.sent += block.current_a.size
            return block

    def stop(self) -> SampleBlock:
        return self.read(0.0)

    def _idle(self) -> SampleBlock:
        """A tenth of a second after the job; with the lock held."""
        size = int(self.info.sample_rate_hz / 10)
        measured = None if self.voltage_v is None else np.full(size, self.voltage_v, np.float32)
        idle = np.full(size, IDLE_A, np.float32)
        return SampleBlock(self.sent, idle, np.zeros(size, np.uint8), 0, 0, measured)

    def close(self) -> None: ...


def metered(bench: Bench, correction: Correction | None = None) -> Metered:
    return Metered(bench, 0, CLOCK_HZ, VOLTS, bench.run, correction)


def job(count: int = 4) -> Job:
    return Job("infer", bytes(count), count, quiet_us=10_000)


def net(found: Sequence[Record]) -> float:
    return next(one.median for one in found if one.metric == "energy.net")


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("10", EnergyPlan()),
        ("2.5", EnergyPlan(window_s=2.5)),
        ("1,0.05", EnergyPlan(window_s=1.0, ci=0.05)),
        ("1,0.05,9", EnergyPlan(window_s=1.0, ci=0.05, max_windows=9)),
    ],
)
def test_a_plan_as_text(text: str, plan: EnergyPlan) -> None:
    assert EnergyPlan.parse(text) == plan


@pytest.mark.parametrize(
    "text", ["", "ten", "0", "-1", "nan", "inf", "10,0", "10,1", "1,0.1,5", "1,0.1,inf", "1,2,3,4"]
)
def test_a_plan_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"does not say how energy|cannot be measured by"):
        EnergyPlan.parse(text)


PLAN = EnergyPlan(window_s=0.5, ci=0.01, min_windows=6, max_windows=12)


def test_windows_are_as_long_as_asked_and_give_the_energy_of_one_pass() -> None:
    bench = Bench()
    records = {record.metric: record for record in metered(bench).long_records(job(), PASS_S, PLAN)}
    passes = bench.jobs[0].window
    assert {(one.repeats, one.window, one.sleep) for one in bench.jobs} == {(1, passes, False)}
    # One per cent more than the time of one pass asks for, and each of the four samples as often as the others.
    assert 0.505 <= passes * PASS_S < 0.505 + 4 * PASS_S
    assert passes % 4 == 0
    # Narrow at the first look and again at the next one.
    assert len(bench.jobs) == 7
    assert records["energy.net"].n == 7
    assert records["energy.net"].median == pytest.approx(NET_J, rel=1e-4)
    assert records["energy"].median == pytest.approx(VOLTS * ACTIVE_A * PASS_S, rel=1e-4)
    assert records["charge"].median == pytest.approx(ACTIVE_A * PASS_S, rel=1e-4)
    assert records["power"].median == pytest.approx(VOLTS * ACTIVE_A, rel=1e-4)
    assert records["power.idle"].median == pytest.approx(VOLTS * IDLE_A, rel=1e-4)
    note = records["energy"].note
    assert f"median of 7 windows of {passes} passes" in note
    assert "the device waited awake in the quiet" in note
    assert "shorter than the 10 s that MLPerf Tiny asks for" in note
    # The class, and what a sample at each end of the window may be, shared by its passes.
    edges_j = VOLTS * (2 * ACTIVE_A) / RATE_HZ / passes
    stated_j = records["energy.net"].class_uncertainty
    assert stated_j is not None
    assert 0.01 * NET_J < stated_j < 0.0101 * NET_J + edges_j
    assert {record.alignment for record in records.values()} == {"marker"}


def test_ten_seconds_are_not_marked() -> None:
    (record, *_) = metered(Bench()).long_records(job(), PASS_S, replace(PLAN, window_s=10.0))
    assert "shorter" not in record.note
    assert "windows of 10" in record.note


@pytest.mark.parametrize("pass_s", [7e-6, 23e-6, 250e-6])
def test_passes_far_shorter_than_a_sample_fill_a_window(pass_s: float) -> None:
    """At 10 kHz a pass of 7 µs is no sample: only the pulse over all of them is seen."""
    bench = Bench(pass_s=pass_s)
    found = metered(bench).long_records(job(), pass_s, replace(PLAN, window_s=0.2))
    record = next(one for one in found if one.metric == "energy.net")
    assert record.median == pytest.approx(VOLTS * (ACTIVE_A - IDLE_A) * pass_s, rel=1e-4)
    assert bench.jobs[0].window * pass_s >= 0.2
    assert bench.jobs[0].silent_s >= bench.jobs[0].window * pass_s


@given(
    count=st.integers(1, 40),
    pass_s=st.floats(1e-8, 100.0),
    window_s=st.floats(1e-3, 60.0),
    most=st.integers(1, MOST_PASSES),
)
def test_a_window_holds_what_was_asked_of_every_sample_alike(
    count: int, pass_s: float, window_s: float, most: int
) -> None:
    short = Job("infer", bytes(3 * count), count, blobs={"targets": bytes(4 * count)})
    one = windowed(short, pass_s, window_s, most)
    assert one.repeats == 1
    assert one.window % one.count == 0
    assert one.count <= count
    assert (len(one.blob), len(one.blobs["targets"])) == (3 * one.count, 4 * one.count)
    assert one.window < 1 << 32
    assert one.window * pass_s >= window_s or one.window >= most
    assert one.window < max(1.01 * window_s / pass_s, 1.0) + count + 1


def test_a_runner_that_counted_other_passes_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"counted 43 passes through 'inference' in its windows; 44 were asked for"):
        metered(Bench(miscounts=1)).long_records(job(), PASS_S, PLAN)


def test_a_window_whose_pulse_is_cut_in_two_is_rejected() -> None:
    class Torn(Bench):
        def spoilt(self, block: SampleBlock) -> SampleBlock:
            block.logic[block.logic.size // 2] = 0
            return block

    with pytest.raises(MeasurementRejected, match=r"shows 2 marker windows and the device reports 1 passes") as caught:
        metered(Torn()).long_records(job(), PASS_S, PLAN)
    assert [one.reason for one in caught.value.rejections] == ["marker-edges"]


def test_a_device_that_sleeps_in_the_quiet_is_told() -> None:
    bench = Bench(asleep=True)
    one = metered(bench)
    one.sleep = True
    found = one.long_records(job(), PASS_S, PLAN)
    assert {asked.sleep for asked in bench.jobs} == {True}
    assert net(found) == pytest.approx(NET_J, rel=1e-4)
    assert all("the device slept in the quiet" in record.note for record in found)


# Training


def training_job(count: int = 3) -> Job:
    return Job("train", bytes(count), count, warmup=0, quiet_us=10_000, blobs={"targets": bytes(4 * count)})


def long_training(bench: Bench, restarts: list[int]) -> tuple[Metered, dict[tuple[str, str], Record]]:
    one = metered(bench)
    found = one.long_training_records(
        training_job(), PASS_S, 0.4 * PASS_S, PLAN, lambda: restarts.append(len(bench.jobs))
    )
    return one, {(record.region, record.metric): record for record in found}


def test_steps_of_training_and_their_forwards_fill_windows() -> None:
    bench = Bench()
    restarts: list[int] = []
    _, found = long_training(bench, restarts)
    assert found["train.step", "energy.net"].median == pytest.approx(NET_J, rel=1e-4)
    assert found["train.forward", "energy.net"].median == pytest.approx(0.4 * NET_J, rel=1e-4)
    steps = [one for one in bench.jobs if not one.parameters.get("forward")]
    # Every window of steps trains from the first values, and what forwards are measured with are these as well.
    assert restarts == list(range(len(steps) + 1))
    assert {one.window for one in steps} == {windowed(training_job(), PASS_S, PLAN.window_s).window}
    assert all(one.window * 0.4 * PASS_S >= 0.5 for one in bench.jobs[len(steps) :])


def test_a_model_without_a_forward_alone_has_windows_of_steps_only() -> None:
    bench, restarts = Bench(), list[int]()
    found = metered(bench).long_training_records(training_job(), PASS_S, None, PLAN, lambda: restarts.append(1))
    assert {record.region for record in found} == {"train.step"}
    assert not any(one.parameters.get("forward") for one in bench.jobs)
    assert len(restarts) == len(bench.jobs)


def test_training_that_diverges_in_a_long_window_is_measured_in_a_shorter_one() -> None:
    bench = Bench(diverges_after=3)
    one, found = long_training(bench, [])
    assert found["train.step", "energy.net"].median == pytest.approx(NET_J, rel=1e-3)
    assert [asked.window for asked in bench.jobs if not asked.parameters.get("forward")][1:] == [3] * 7
    assert one.notes == [
        "windows of training hold no more steps than the job has, 3: the loss is not a number",
    ]
    assert "windows of 0.0369 s, shorter than the 10 s" in found["train.step", "energy"].note


def test_training_that_diverges_at_once_is_the_workloads_failure() -> None:
    with pytest.raises(WorkloadError, match="not a number"):
        long_training(Bench(diverges_after=2), [])


def test_backward_and_update_are_measured_pass_by_pass() -> None:
    found = metered(Bench()).parts_of_a_step(job(), training_job())
    medians = {record.region: record.median for record in found if record.metric == "energy.net"}
    assert medians == pytest.approx({"train.backward": 0.5 * NET_J, "train.update": 0.1 * NET_J}, rel=1e-3)


# Layers


LAYERS = ("conv", "pool", "dense")
LAYER_SHARES, LAYER_A = (0.5, 0.2, 0.3), (30e-3, 10e-3, 20e-3)


class LayeredBench(Bench):
    """Whose passes are three layers with a current each."""

    def work(self, length_s: float, active_a: float) -> list[Segment]:
        return [Segment(share * length_s, amps, 1, VOLTS) for share, amps in zip(LAYER_SHARES, LAYER_A, strict=True)]


def profiled() -> list[RegionEvent]:
    """Marks make each layer of the profiled pass a little longer, all alike."""
    ends = np.cumsum(np.array(LAYER_SHARES) * PASS_S * 1.02 * CLOCK_HZ).round().astype(int).tolist()
    return [RegionEvent("layer", k, begin, end) for k, (begin, end) in enumerate(pairwise([0, *ends]))]


@pytest.mark.parametrize("captured_before", [True, False])
def test_each_layer_has_a_record_of_its_energy(captured_before: bool) -> None:
    bench = LayeredBench()
    one = metered(bench)
    if captured_before:
        one.short_records(job(8), None)
    found = one.layer_records(job(8), profiled(), LAYERS)
    assert len(bench.jobs) == 1
    assert [(record.region, record.metric) for record in found] == [
        (f"layer/{k:02} {name}", "energy.layer") for k, name in enumerate(LAYERS)
    ]
    for record, share, amps in zip(found, LAYER_SHARES, LAYER_A, strict=True):
        true_j = VOLTS * amps * share * PASS_S
        # Passes come every 140 samples here: where in a sample they begin is not known, and is part of the interval.
        assert record.ci_low <= true_j <= record.ci_high
        assert record.median == pytest.approx(true_j, rel=5e-3)
        assert record.ci_high - record.ci_low < 0.1 * true_j
        assert record.run_uncertainty is not None
        assert record.run_uncertainty > 0
        # The meter's only range is off by 1 %, its clock by 50 ppm.
        assert record.class_uncertainty == pytest.approx((0.01 + 50e-6) * record.median)
        assert record.source == "hardware"
        assert "no interval" not in record.note


@pytest.mark.parametrize(("pass_s", "asked"), [(PASS_S, (8, 25)), (0.8, (8, 2)), (3.0, (4, 1)), (40.0, (1, 1))])
def test_single_passes_are_captured_for_ten_seconds_at_most(pass_s: float, asked: tuple[int, int]) -> None:
    """Or one pass, where that takes longer; (samples, repeats) of the job."""
    jobs: list[Job] = []

    def interrupted(job: Job) -> list[RegionEvent]:
        jobs.append(job)
        raise KeyboardInterrupt

    ends = (np.cumsum(np.array(LAYER_SHARES)) * pass_s * CLOCK_HZ).round().astype(int).tolist()
    marks = [RegionEvent("layer", k, begin, end) for k, (begin, end) in enumerate(pairwise([0, *ends]))]
    with pytest.raises(KeyboardInterrupt):
        Metered(Bench(), 0, CLOCK_HZ, VOLTS, interrupted).layer_records(job(8), marks, LAYERS)
    assert [(one.count, one.repeats) for one in jobs] == [asked]


def test_the_run_keeps_the_trace_of_its_windows_and_reads_layers_off_that_of_single_passes() -> None:
    one = metered(LayeredBench())
    one.long_records(job(8), PASS_S, PLAN)
    window = one.trace
    assert one.pass_trace is window
    one.layer_records(job(8), profiled(), LAYERS)
    assert one.trace is window
    assert one.pass_trace is not None
    assert [len(find_windows(trace)) for trace in (window, one.pass_trace) if trace is not None] == [1, 200]


PARTS = (("conv", "forward", 0.3), ("loss", "forward", 0.1), ("conv.input", "backward", 0.5), ("sgd", "update", 0.1))
"""Parts of a training step: name, phase and share of its time."""


@pytest.mark.parametrize("at_once", [False, True], ids=["updates apart", "updates within the backward"])
def test_each_part_of_a_training_step_has_its_energy(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if at_once:
        monkeypatch.delitem(SHARES, "train.update")
        monkeypatch.setitem(SHARES, "train.backward", 0.6)
    one = metered(Bench())
    one.short_records(job(8), training_job(8))
    ends = np.cumsum([share * PASS_S * CLOCK_HZ for _, _, share in PARTS]).round().astype(int).tolist()
    profile = [RegionEvent("train.layer", k, begin, end) for k, (begin, end) in enumerate(pairwise([0, *ends]))]
    names, phases, shares = zip(*PARTS, strict=True)
    found = one.training_layer_records(profile, names, phases)
    assert [record.region for record in found] == [f"train.layer/{k:02} {name}" for k, name in enumerate(names)]
    for record, share in zip(found, shares, strict=True):
        assert record.metric == "energy.layer"
        true_j = VOLTS * ACTIVE_A * share * PASS_S
        assert record.ci_low <= true_j <= record.ci_high
        assert record.median == pytest.approx(true_j, rel=2e-2)


def test_without_single_steps_their_parts_have_no_energy() -> None:
    one = metered(Bench())
    assert one.training_layer_records([RegionEvent("train.layer", 0, 0, 9)], ["conv"], ["forward"]) == ()


def test_layers_of_a_capture_that_lost_samples_have_no_energy() -> None:
    class Lossy(LayeredBench):
        def spoilt(self, block: SampleBlock) -> SampleBlock:
            block.current_a[300:360] = np.nan
            return block

    with pytest.raises(MeasurementRejected, match="lost-samples"):
        metered(Lossy()).layer_records(job(8), profiled(), LAYERS)


# What the meter says of its stream


def test_what_the_meter_says_of_each_stream_is_kept() -> None:
    bench = Bench(saturated=0, report=Told(("3 words came twice and were left out",)))
    one = metered(bench)
    one.long_records(job(), PASS_S, PLAN)
    assert one.notes == [f"capture {k + 1}: 3 words came twice and were left out" for k in range(len(bench.jobs))]


def test_what_a_meter_without_a_report_lost_is_told_as_well() -> None:
    one = metered(Bench(saturated=2))
    with pytest.raises(MeasurementRejected, match="saturation"):
        one.short_records(job(), None)
    (note,) = one.notes
    assert one.trace is not None
    assert note == f"capture 1: 2 of {one.trace.current_a.size} samples at the end of the highest range"


def test_windows_are_repeated_until_the_interval_is_narrow() -> None:
    random = np.random.default_rng(3)
    unsteady = Bench(active_a=(ACTIVE_A * random.normal(1.0, 0.05, 40)).tolist())
    (record, *_) = metered(unsteady).long_records(job(), PASS_S, replace(PLAN, ci=0.03, max_windows=40))
    assert 7 < record.n <= 40
    assert max(record.ci_high - record.median, record.median - record.ci_low) <= 2 * 0.03 * record.median


def test_the_cap_ends_it_and_the_note_says_so() -> None:
    random = np.random.default_rng(3)
    unsteady = Bench(active_a=(ACTIVE_A * random.normal(1.0, 0.3, 40)).tolist())
    (record, *_) = metered(unsteady).long_records(job(), PASS_S, replace(PLAN, ci=0.001, max_windows=8))
    assert record.n == 8
    assert "the interval was not within ±0.1% at two looks in a row in 8 windows" in record.note


def test_a_device_that_slows_down_is_rejected() -> None:
    bench = Bench(growth=0.02)
    with pytest.raises(MeasurementRejected, match=r"\(thermal-throttling\): the same work took 6\.1% longer") as caught:
        metered(bench).long_records(job(), PASS_S, PLAN)
    assert caught.value.transient


@pytest.mark.parametrize(
    ("bench", "reason"),
    [(Bench(saturated=2), "saturation"), (Bench(voltage_v=2.9), "supply-voltage")],
    ids=["saturated", "voltage"],
)
def test_a_capture_that_is_rejected_is_kept(bench: Bench, reason: str) -> None:
    one = metered(bench)
    with pytest.raises(MeasurementRejected, match=reason):
        one.short_records(job(), None)
    assert one.trace is not None
    assert one.trace.current_a.size > 400


def test_a_measured_voltage_is_what_counts() -> None:
    found = metered(Bench(voltage_v=3.2)).short_records(job(), None)
    assert net(found) == pytest.approx(NET_J * 3.2 / VOLTS, rel=1e-4)


def test_the_labs_own_calibration_is_applied_and_named() -> None:
    correction = Correction("2026-11-21", (RangeCorrection(1.0, 1.05, 0.0, 0.001, 0.0),))
    found = metered(Bench(), correction).short_records(job(), None)
    record = next(one for one in found if one.metric == "energy.net")
    assert record.median == pytest.approx(1.05 * NET_J, rel=1e-4)
    assert "corrected by the calibration of 2026-11-21" in record.note
    assert record.class_uncertainty is not None
    assert record.class_uncertainty < 0.01 * NET_J


def test_a_meter_of_power_alone_tells_no_charge() -> None:
    found = metered(Bench(replace(INFO, measures_current=False))).short_records(job(), None)
    assert {one.metric for one in found} == {"energy", "energy.net", "power", "power.peak", "power.idle"}


def test_a_slow_meter_gets_quiet_that_it_can_see() -> None:
    bench = Bench(replace(INFO, sample_rate_hz=1000.0))
    metered(bench).short_records(replace(job(), quiet_us=2000), None)
    assert [one.quiet_us for one in bench.jobs] == [30_000]


# Without a marker


def test_a_triggered_meter_is_placed_by_the_devices_clock() -> None:
    bench = Bench(replace(INFO, alignment="trigger"))
    found = {one.metric: one for one in metered(bench).short_records(job(), None)}
    assert found["energy.net"].n == 4
    assert found["energy.net"].raw == pytest.approx([NET_J] * 4, rel=1e-2)
    assert "from an instrument trigger" in found["energy"].note
    assert found["energy"].class_uncertainty is not None


def test_a_triggered_meter_has_long_windows_as_well() -> None:
    bench = Bench(replace(INFO, alignment="trigger"))
    found = metered(bench).long_records(job(), PASS_S, PLAN)
    assert {one.window for one in bench.jobs} == {44}
    assert net(found) == pytest.approx(NET_J, rel=1e-3)
    assert all("median of 7 windows of 44 passes" in record.note for record in found)


class HostBench(Bench):
    """Its meter streams in real time and never ends: idle but for the 100 samples that each job takes."""

    def start(self) -> None:
        self.began_s = time.monotonic()
        self.sent = 0
        self.busy: list[tuple[int, int]] = []

    def run(self, job: Job) -> list[RegionEvent]:
        self.jobs.append(job)
        begin = self._now()
        while self._now() < begin + 100:
            pass
        self.busy.append((begin, self._now()))
        return [RegionEvent("inference", k, k * 1000, k * 1000 + 900) for k in range(job.count * job.repeats)]

    def read(self, timeout_s: float) -> SampleBlock:
        first, self.sent = self.sent, max(self.sent, self._now())
        number = np.arange(first, self.sent)
        working = np.zeros(number.size, bool)
        for begin, end in self.busy:
            working |= (number >= begin) & (number < end)
        current = np.where(working, ACTIVE_A, IDLE_A).astype(np.float32)
        return SampleBlock(first, current, np.zeros(number.size, np.uint8))

    def stop(self) -> SampleBlock:
        return self.read(0.0)

    def _now(self) -> int:
        return int((time.monotonic() - self.began_s) * self.info.sample_rate_hz)


def test_by_the_hosts_clock_a_job_is_one_window_and_its_uncertainty_is_stated() -> None:
    info = replace(INFO, sample_rate_hz=1000.0, alignment="host-time", time_uncertainty_s=0.01, logic_inputs=0)
    bench = HostBench(info)
    one = metered(bench)
    found = {record.metric: record for record in one.short_records(job(), None)}
    assert {record.alignment for record in found.values()} == {"host-time"}
    net_j = found["energy.net"]
    assert net_j.n == 1
    # However long the job took: what it drew above idle, by the meter's own count of the samples.
    assert one.trace is not None
    above_j = VOLTS * float((one.trace.current_a.astype(np.float64) - IDLE_A).sum()) / 1000.0
    assert net_j.median == pytest.approx(above_j / 4, rel=1e-3)
    assert "by the host's clock, both ends ±0.011 s" in net_j.note
    # The whole quiet around it is known; so are both ends, to 11 ms of what flows there.
    assert net_j.class_uncertainty is not None
    assert net_j.class_uncertainty >= 0.01 * net_j.median


def test_a_meter_that_streams_for_ever_ends_the_waiting_at_its_bound() -> None:
    bench = HostBench(replace(INFO, sample_rate_hz=1000.0))
    recorder = Recorder(bench)
    with recorder:
        bench.run(job())
        block = recorder.finish(windows=3, quiet_s=0.01, limit_s=0.05)
    assert block.current_a.size >= 100


class ChunkBench(HostBench):
    """Hands out half a second at a time, once it is over; its job ends just before one is."""

    chunk = 500

    def run(self, job: Job) -> list[RegionEvent]:
        events = super().run(job)
        while self._now() % self.chunk < self.chunk - 10:
            pass
        self.ended = self._now()
        return events

    def read(self, timeout_s: float) -> SampleBlock:
        return NOTHING if self._now() < self.sent + self.chunk else super().read(timeout_s)

    def stop(self) -> SampleBlock:
        return HostBench.read(self, 0.0)


def test_quiet_is_waited_for_also_behind_what_a_driver_holds_back() -> None:
    """Half a second that comes as soon as the job has ended is no half a second of quiet."""
    info = replace(INFO, sample_rate_hz=1000.0, alignment="host-time", logic_inputs=0, held_back_s=0.5)
    bench = ChunkBench(info)
    one = metered(bench)
    one.short_records(job(), None)
    assert one.trace is not None
    assert one.trace.current_a.size >= bench.ended + one._quiet_s(job()) * 1000


class HoldingBench(Bench):
    """Hands out nothing before it is stopped, like a driver that waits for a time stamp while time stands still."""

    def read(self, timeout_s: float) -> SampleBlock:
        return NOTHING

    def stop(self) -> SampleBlock:
        return super().read(0.0)


def test_what_an_emulated_meter_holds_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*_: object) -> None:
        raise MeterError("waited for what only stop() brings")

    monkeypatch.setattr(Recorder, "_wait", waits)
    recorder = Recorder(bench := HoldingBench(replace(INFO, emulated=True, held_back_s=1.0)))
    with recorder:
        bench.run(job())
        assert recorder.finish(windows=4, quiet_s=0.01).current_a.size > 400
    recorder = Recorder(HoldingBench(replace(INFO, emulated=True)))
    with recorder, pytest.raises(MeterError, match="waited"):
        recorder.finish(windows=4, quiet_s=0.01)


def test_waiting_for_samples() -> None:
    bench = HostBench(replace(INFO, sample_rate_hz=10_000.0))
    recorder = Recorder(bench)
    assert math.isnan(recorder.started_s)
    with recorder:
        recorder.wait(300)
        assert recorder.samples().current_a.size >= 300
        recorder.wait(10**9, limit_s=0.02)


@pytest.mark.parametrize(
    ("told", "ranges"),
    [
        ((), [(math.inf, 0.01)]),
        ((RangeUncertainty(1e-3, 0.1), RangeUncertainty(1.0, 0.2)), [(1e-3, 0.1), (1.0, 0.2)]),
    ],
)
def test_the_class_a_meter_tells(told: tuple[RangeUncertainty, ...], ranges: list[tuple[float, float]]) -> None:
    found = class_of(replace(INFO, voltage_uncertainty=0.003, ranges=told))
    assert [(one.upto_a, one.relative) for one in found.ranges] == ranges
    assert (found.voltage, found.clock) == (0.003, 50e-6)
