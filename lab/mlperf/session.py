"""One run of the benchmark against a device on a serial port, from the port to the record in the store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lab.calibrations import Usable, usable
from lab.errors import ConfigError, LabError, StoreError, WorkloadError
from lab.meter_config import MeterConfig
from lab.mlperf.benchmarks import BAUD, BYTES_PER_COMMAND, WINDOWS, Benchmark, Mode
from lab.mlperf.client import INFER_S, Dut, Identity
from lab.mlperf.dataset import LabelledSet, read_set
from lab.mlperf.modes import Outcome, area_under_curve, run_accuracy, run_energy, run_performance, top_1
from lab.paths import store_dir
from lab.power.base import Meter, MeterInfo
from lab.provenance import checkout, lab_version
from lab.run_records import without_host_times
from lab.runs import status_of
from lab.transports.serial import SerialPort
from lab.transports.serial_ports import is_remote
from measurements.latency import VIRTUAL, VIRTUAL_NOTE
from measurements.record import Provenance, Record, Run, RunDetail, Source, Trace
from measurements.statistics import make_record
from measurements.store import Store, new_run_id

_REGION = "inference"
_PATTERN_SEED = 0


@dataclass(frozen=True)
class Request:
    """What is to be run.

    Attributes:
        port: path or URL of the device's serial port.
        benchmark: which the device must say it is.
        mode: performance, accuracy or energy.
        data: folder of the labelled set; None where the mode can do without.
        emulated: whether the device behind the port is emulated, so that its clock is virtual.
        baud: bits per second; None takes the benchmark's for the mode.
        infer_s: how long ``infer`` may take, seconds of this host.
        meter: for energy mode, not yet open.
        edge_input: the meter's logic input on the timestamp pin.
        meter_config: as a bench file has the meter, by which its calibration is found; None where nothing says.
    """

    port: str
    benchmark: Benchmark
    mode: Mode
    data: Path | None = None
    emulated: bool = False
    baud: int | None = None
    infer_s: float = INFER_S
    meter: Meter | None = None
    edge_input: int = 0
    meter_config: MeterConfig | None = None


def run(request: Request, store: Store, session_id: str) -> Run:
    """Run a mode; the run is stored before it is returned, and also where it fails.

    Raises:
        ConfigError: the request lacks what its mode needs, or the set is not as it should be; nothing was run.
        WorkloadError: a rule is broken; the run is stored as failed with what was measured.
        DeviceError, InfrastructureError: the device or the bench failed; the run is stored as well.
    """
    labelled = _check(request)
    attempt = _Attempt(request, labelled, session_id)
    try:
        attempt.measure()
    except LabError as error:
        _save(store, replace(attempt.run(), status=status_of(error), error=str(error)), attempt.trace(), error)
        raise
    except BaseException as error:
        # Ctrl-C is no error of the lab; what was measured is kept all the same.
        _save(store, replace(attempt.run(), status="incomplete", error=type(error).__name__), attempt.trace(), error)
        raise
    done = attempt.run()
    store.save(done, attempt.trace())
    return done


def _check(request: Request) -> LabelledSet | None:
    if request.mode == "energy" and request.meter is None:
        raise ConfigError("energy mode needs a meter", hint="name its port with --meter-port")
    if request.data is None and request.mode == "accuracy":
        raise ConfigError("accuracy mode needs the labelled set", hint="name its folder with --data")
    return None if request.data is None else read_set(request.data, request.benchmark)


def _save(store: Store, run: Run, trace: Trace | None, error: BaseException) -> None:
    try:
        store.save(run, trace)
    except StoreError as lost:
        error.add_note(f"what was measured could not be stored: {lost}")


def inputs_of(benchmark: Benchmark, labelled: LabelledSet | None) -> list[bytes]:
    """What the timed windows load: the first five files of the set (ad01: their first segments), or a fixed pattern."""
    if labelled is not None:
        return [sample.segments()[0] for sample in labelled.samples[:WINDOWS]]
    generator = np.random.default_rng(_PATTERN_SEED)
    if benchmark.is_anomaly_detection:
        return [generator.normal(size=benchmark.input_bytes // 4).astype("<f4").tobytes() for _ in range(WINDOWS)]
    return [generator.bytes(benchmark.input_bytes) for _ in range(WINDOWS)]


class _Attempt:
    """A run under way; its parts stay here so that a failure keeps them."""

    def __init__(self, request: Request, labelled: LabelledSet | None, session_id: str) -> None:
        self._request = request
        self._labelled = labelled
        self._session_id = session_id
        self._run_id = new_run_id()
        self._started_ns = time.time_ns()
        self._outcome = Outcome()
        self._identity = Identity("", "", "")
        self._meter: MeterInfo | None = None
        self._calibration = Usable(None)

    def measure(self) -> None:
        """Find the device and run the mode."""
        request = self._request
        with ExitStack() as stack:
            if request.meter is not None:
                # First: a meter that is the supply switches the device on.
                self._meter = stack.enter_context(request.meter).info
                if request.meter_config is not None:
                    self._calibration = usable(store_dir(), request.meter_config, self._meter)
            stream = SerialPort(request.port, request.baud or BAUD[request.mode])
            stack.callback(stream.close)
            dut = Dut(stream, bytes_per_command=BYTES_PER_COMMAND[request.mode], infer_s=request.infer_s)
            self._identity = dut.identify()
            found, wanted = self._identity.model, request.benchmark.id
            if found != wanted:
                raise WorkloadError(
                    f"{request.port}: the device says it is {found!r}; asked for {wanted!r}",
                    hint="flash the firmware of that benchmark, or name the other one with --model",
                )
            self._run_mode(dut)

    def _run_mode(self, dut: Dut) -> None:
        request, outcome = self._request, self._outcome
        if request.mode == "accuracy" and self._labelled is not None:
            run_accuracy(dut, request.benchmark, self._labelled, outcome)
            if request.benchmark.is_anomaly_detection:
                area_under_curve(outcome)
            return
        inputs = inputs_of(request.benchmark, self._labelled)
        if request.meter is None:
            run_performance(dut, request.benchmark, inputs, outcome)
            return
        try:
            run_energy(
                dut, request.benchmark, inputs, outcome, request.meter, request.edge_input, self._calibration.correction
            )
        finally:
            # Its uncertainty follows the ranges that were used.
            self._meter = request.meter.info

    def run(self) -> Run:
        """What there is so far, as a passed run."""
        remote = is_remote(self._request.port) and not self._request.emulated
        records, refusals = without_host_times(self._records(), remote=remote)
        return Run(
            run_id=self._run_id,
            session_id=self._session_id,
            started_ns=self._started_ns,
            status="passed",
            provenance=self._provenance(),
            records=records,
            detail=RunDetail(notes=(*self._notes(), *refusals)),
        )

    def trace(self) -> Trace | None:
        """The meter's samples of the last window."""
        kept = self._outcome.trace
        return None if kept is None else kept.trace

    @property
    def _source(self) -> Source:
        return "emulated" if self._request.emulated else "hardware"

    def _records(self) -> list[Record]:
        outcome = self._outcome
        records: list[Record] = []
        if outcome.windows:
            records += self._window_records()
        if outcome.labels and self._request.benchmark.is_anomaly_detection:
            # One class only is an error when the run is judged, not when what it yielded is stored.
            if len(set(outcome.labels)) == 2:
                records.append(make_record("run", "auc", "1", self._source, [area_under_curve(outcome)]))
        elif outcome.labels:
            records.append(make_record("run", "accuracy", "1", self._source, [top_1(outcome)]))
        return records

    def _window_records(self) -> list[Record]:
        windows = self._outcome.windows
        note = VIRTUAL_NOTE if self._request.emulated else ""
        per_inference = [window.elapsed_s / window.iterations for window in windows]
        rates = [window.iterations / window.elapsed_s for window in windows]
        elapsed = [window.elapsed_s for window in windows]
        records = [
            make_record(_REGION, "latency", "s", self._source, per_inference, note=note),
            make_record(_REGION, "throughput", "Hz", self._source, rates, note=note),
            make_record("window", "duration", "s", self._source, elapsed, note=note),
        ]
        if windows[0].energy_j is not None:
            records.append(self._energy_record("energy", "J", [float(window.iterations) for window in windows]))
            records.append(self._energy_record("power", "W", elapsed))
        return records

    def _energy_record(self, metric: str, unit: str, per: Sequence[float]) -> Record:
        """Energy of the windows, each over its ``per``, with what the meter's class allows of the median window."""
        windows = self._outcome.windows
        source: Source = "modelled" if self._meter is not None and self._meter.emulated else "hardware"
        values, class_, edge = (
            [value / size for value, size in zip(series, per, strict=True)]
            for series in (
                [window.energy_j or 0.0 for window in windows],
                [window.class_j for window in windows],
                [window.edge_j for window in windows],
            )
        )
        correction = self._calibration.correction
        note = "" if correction is None else f"corrected by the calibration of {correction.date}"
        return make_record(
            _REGION, metric, unit, source, values, alignment="marker", note=note,
            class_uncertainty=float(np.median(class_)), unsure=float(np.median(edge)),
        )  # fmt: skip

    def _notes(self) -> list[str]:
        request, outcome = self._request, self._outcome
        notes = [f"MLPerf Tiny {request.benchmark.id} ({request.benchmark.title}), {request.mode} mode, rules of v1.4"]
        if self._labelled is None:
            notes.append("no labelled set was named: the windows ran on a fixed pattern")
        if outcome.adaptations:
            counts = ", ".join(f"{count} ({elapsed_s:.3f} s)" for count, elapsed_s in outcome.adaptations)
            notes.append(f"counts that were too short and were raised: {counts}")
        if self._calibration.warning:
            notes.append(self._calibration.warning)
        if self._identity.profile:
            notes.append(f"the device's profile: {self._identity.profile}")
        return notes

    def _provenance(self) -> Provenance:
        request, tree, meter = self._request, checkout(), self._meter
        labelled = self._labelled
        return Provenance(
            device=self._identity.name or request.port,
            board=self._identity.name or "unknown",
            clock=VIRTUAL if request.emulated else "device",
            clock_hz=1e6,
            emulator="the user says that the port is an emulator's" if request.emulated else "",
            meter="" if meter is None else f"{'emulated ' if meter.emulated else ''}{meter.kind} ({meter.identity})",
            meter_uncertainty=0.0 if meter is None else meter.relative_uncertainty,
            energy_model="that of the emulated meter" if meter is not None and meter.emulated else "",
            workload=f"mlperf-tiny/{request.benchmark.id}",
            variant=request.mode,
            parameters=self._parameters(),
            seed=_PATTERN_SEED,
            dataset="fixed pattern" if labelled is None else labelled.folder.name,
            dataset_digest=_digest_of(inputs_of(request.benchmark, None)) if labelled is None else labelled.digest,
            artifact_digest="",
            build_id="",
            toolchain="",
            flags="",
            git_commit=tree.commit,
            git_dirty=tree.dirty,
            lab_version=lab_version(),
        )

    def _parameters(self) -> dict[str, str]:
        windows = self._outcome.windows
        count = {"iterations": str(windows[0].iterations)} if windows else {}
        return {**count, "warmups": str(self._request.benchmark.warmups), "port": self._request.port}


def _digest_of(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()

