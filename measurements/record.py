"""The record: one figure of one region of one run, with its spread and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from measurements.claims import ClaimResult
from measurements.environment import Environment

Float32Array: TypeAlias = npt.NDArray[np.float32]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Source = Literal["hardware", "emulated", "modelled"]
Alignment = Literal["marker", "host-time", "whole-run", "none"]


@dataclass(frozen=True)
class Provenance:
    """Where a run's figures come from.

    Attributes:
        device: name in the bench file.
        board: board kind.
        clock: clock kind of the cycle counter (``virtual`` for instruction-counted emulators).
        clock_hz: its rate, Hz.
        emulator: emulator and version, empty on hardware.
        meter: meter and, for an emulated one, the words ``emulated``; empty where nothing was metered.
        meter_uncertainty: class uncertainty of the meter, relative; 0 where nothing was metered.
        energy_model: source of the energy model behind an emulated meter, empty on hardware.
        workload: workload id.
        variant: which variant of it.
        parameters: workload parameters.
        seed: random seed of the preparation.
        dataset: name of the data set.
        dataset_digest: SHA-256 of the data used, hex.
        artifact_digest: SHA-256 of the deployed image, hex.
        build_id: build id reported by the firmware.
        toolchain: compiler and version.
        flags: compiler flags.
        git_commit: commit of the working tree, empty outside a checkout.
        git_dirty: whether the tree had uncommitted changes.
        lab_version: version of the lab.
        temperature_c: device temperature where known.
        throttled: whether the device was throttled, where known.
    """

    device: str
    board: str
    clock: str
    clock_hz: float
    emulator: str
    meter: str
    meter_uncertainty: float
    energy_model: str
    workload: str
    variant: str
    parameters: Mapping[str, str]
    seed: int
    dataset: str
    dataset_digest: str
    artifact_digest: str
    build_id: str
    toolchain: str
    flags: str
    git_commit: str
    git_dirty: bool
    lab_version: str
    temperature_c: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True)
class Record:
    """One (run, region, metric).

    Attributes:
        region: named region (``inference``, ``layer/03 conv1``, ``idle``), or ``run`` for figures of the whole run.
        metric: ``latency``, ``cycles``, ``instructions``, ``energy`` …
        unit: SI unit or ``bytes``, ``cycles``, ``instructions``, ``1``.
        source: where the number comes from.
        raw: every repeat, in order.
        n: number of repeats.
        median, ci_low, ci_high: median and its 95 % confidence interval; of energy widened by what the place of the
            meter's samples in the windows makes of it, which differs from run to run.
        p95, p99, first: percentiles and the first repeat.
        alignment: how the measuring window was found.
        lost_fraction: samples lost inside the windows, 0..1.
        note: anything a reader must know, such as the unit of a virtual clock.
        class_uncertainty: half-width, in ``unit``, of what the instrument's class allows at the median (type B, summed
            linearly, see :mod:`measurements.uncertainty`); None where no instrument stands behind the figure.
    """

    region: str
    metric: str
    unit: str
    source: Source
    raw: tuple[float, ...]
    n: int
    median: float
    ci_low: float
    ci_high: float
    p95: float
    p99: float
    first: float
    alignment: Alignment = "none"
    lost_fraction: float = 0.0
    note: str = ""
    class_uncertainty: float | None = None

    @property
    def run_uncertainty(self) -> float | None:
        """Half-width, in ``unit``, of the 95 % confidence interval of the median (type A); None where it has none."""
        if self.n < 2 and self.ci_low == self.ci_high:
            return None
        return max(self.median - self.ci_low, self.ci_high - self.median)

    @property
    def combined_uncertainty(self) -> float | None:
        """Root of the sum of the squares of both; None where no instrument stands behind the figure."""
        if self.class_uncertainty is None:
            return None
        return math.hypot(self.class_uncertainty, self.run_uncertainty or 0.0)


@dataclass(frozen=True)
class Rejection:
    """Why a measurement was rejected instead of published.

    Attributes:
        reason: one of :data:`measurements.rejection.REASONS`, such as ``lost-samples``.
        message: what was found, where, and what is allowed.
        transient: whether measuring again makes sense.
    """

    reason: str
    message: str
    transient: bool = False


@dataclass(frozen=True)
class Layer:
    """One layer of the deployed model, for the report.

    Attributes:
        index: place in the schedule.
        name: name from the user's module.
        operator: what the layer does.
        macs: multiply-accumulates of one pass.
        weights_bytes: weights and biases in flash, bytes.
        cycles: ticks of the run's clock measured for this layer: cycles, but of the clocks ``monotonic`` and ``guest``
            nanoseconds; None where not profiled.
        instructions, loads, stores: exact counts of the emulator's plug-in, None where not counted.
    """

    index: int
    name: str
    operator: str
    macs: int
    weights_bytes: int
    cycles: float | None = None
    instructions: int | None = None
    loads: int | None = None
    stores: int | None = None


@dataclass(frozen=True)
class Buffer:
    """One buffer of the arena plan: bytes ``[offset, offset+size)`` are its own from layer ``first`` to ``last``."""

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class PlannedStep:
    """One step of a schedule.

    Attributes:
        name: name from the user's module, with what is computed where that is not its forward.
        operator: ``conv2d``, ``conv2d.weight_gradient`` …
        phase: ``forward``, ``backward`` or ``update``.
        macs: multiply-accumulates.
        flop: floating-point operations; 0 where not recorded.
        traffic_bytes: what it reads and writes at the least, each tensor once; 0 where not recorded.
    """

    name: str
    operator: str
    phase: str
    macs: int = 0
    flop: int = 0
    traffic_bytes: int = 0


@dataclass(frozen=True)
class ArenaSchedule:
    """A schedule and the arena it runs in.

    Attributes:
        steps: in the order in which they run.
        buffers: the arena plan; ``first`` and ``last`` count ``steps``.
        arena_bytes: planned arena.
        lower_bound_bytes: most bytes live at once.
        method: how the plan was found; empty where not recorded.
        variables_bytes: RAM of what training changes, outside the arena.
    """

    steps: tuple[PlannedStep, ...]
    buffers: tuple[Buffer, ...]
    arena_bytes: int
    lower_bound_bytes: int
    method: str = ""
    variables_bytes: int = 0


@dataclass(frozen=True)
class RunDetail:
    """What a report shows beyond the records.

    Attributes:
        layers: the schedule.
        buffers: the arena plan.
        arena_bytes: planned arena.
        lower_bound_bytes: most bytes live at once; no plan can be smaller.
        events: region passes as (region, index, begin cycle, end cycle).
        notes: sentences for the reader.
        training: a training step and its arena; ``None`` where the model is not trained on the device.
        rejections: why there are no figures of energy although the device was metered; empty where there are.
        meter_notes: what the meter's driver said of its streams: losses, damage, what it left out; by capture.
        environment: what the device was like and how it was set up; None of devices without an operating system.
        evidence: what was last seen of the device where the run failed, as (where, text): its console, the probe's log.
        claims: what came of the paper's claims, where the method ran beside its baselines.
        task: what is asked of the data set, in words: runs are compared where data and task are the same.
        target_accuracy: accuracy whose time is told of training on the device; 0 where none is.
    """

    layers: tuple[Layer, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    arena_bytes: int = 0
    lower_bound_bytes: int = 0
    events: tuple[tuple[str, int, int, int], ...] = ()
    notes: tuple[str, ...] = ()
    training: ArenaSchedule | None = None
    rejections: tuple[Rejection, ...] = ()
    meter_notes: tuple[str, ...] = ()
    environment: Environment | None = None
    evidence: tuple[tuple[str, str], ...] = ()
    claims: tuple[ClaimResult, ...] = ()
    task: str = ""
    target_accuracy: float = 0.0


@dataclass(frozen=True)
class Run:
    """One run of one workload on one device.

    Attributes:
        run_id: unique, sortable by time.
        session_id: the pytest session or CLI call it belongs to.
        started_ns: wall-clock start, nanoseconds since the epoch.
        status: ``passed``, ``failed``, ``error`` or ``incomplete``.
        error: the error's text where the run ended badly.
        retries: what was tried again, and why.
        provenance: where the figures come from.
        records: the figures.
        detail: layers, plan and events for the report.
        test: pytest node id, empty for a run by hand.
    """

    run_id: str
    session_id: str
    started_ns: int
    status: Literal["passed", "failed", "error", "incomplete"]
    provenance: Provenance
    records: tuple[Record, ...]
    detail: RunDetail = field(default_factory=RunDetail)
    error: str = ""
    retries: tuple[str, ...] = ()
    test: str = ""


@dataclass(frozen=True)
class Trace:
    """A power trace. ``current_a`` and ``logic`` share one index; sample ``k`` stands for ``t0_s + k·dt_s``.

    Attributes:
        t0_s: device time of sample 0, seconds.
        dt_s: sample period, seconds.
        voltage_v: supply voltage (a PPK2 sources it and does not measure it).
        current_a: float32 array, shape (n,), ampere.
        logic: uint8 array, shape (n,), logic inputs D0..D7.
        lost: samples known to be lost inside the trace.
        measured_v: float32 array, shape (n,), volt; None where the meter does not measure the voltage per sample.
    """

    t0_s: float
    dt_s: float
    voltage_v: float
    current_a: Float32Array
    logic: UInt8Array
    lost: int = 0
    measured_v: Float32Array | None = None
