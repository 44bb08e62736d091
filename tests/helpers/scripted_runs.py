"""A device and a meter that play scripts, and what is deployed on them: runs of the lab without firmware."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from lab import runs
from lab.artifact import Artifact, MemoryUse
from lab.bench import Bench
from lab.compiler.model import BufferPlan, CompiledModel, LayerInfo, TensorSpec
from lab.deployment import Deployment
from lab.devices.base import Identity, RegionCount, ResetKind, Rung
from lab.errors import MeterError
from lab.events import Done, Event, Hello, Job, LogEvent, RegionEvent, ResultEvent
from lab.measured import Measurement
from lab.paths import config_dir
from lab.power.base import Meter, MeterInfo, SampleBlock, join
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
        rest, self._blocks = self._blocks, []
        return join(rest)

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


def deployment(device: ScriptedDevice, *, ready: Prepared | None = None) -> Deployment:
    memory = MemoryUse(9000, 24, 500, 96, 4096)
    artifact = Artifact(Path("/no/image"), "mps2-an386", hello().build_id, "cd" * 32, "gcc 12.2", "-O2", memory)
    entry = Bench.load(config_dir() / "emulated.yaml").get("m4f")
    return Deployment(entry, device, "scripted-job", "small", ready or prepared(), artifact, hello())


def measured(
    store: Store, device: ScriptedDevice, repeats: int = 1, samples: int | None = None
) -> Measurement:
    return runs.measure(
        deployment(device), store, "session", test="test_x[m4f]", repeats=repeats, samples=samples
    )


def kept(store: Store) -> Run:
    """The only run of the store."""
    (run,) = store.runs()
    return run
