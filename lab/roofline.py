"""What a device does at most, and what a training step made of it: the runner's job ``peaks`` and the counts beside it.

``docs/wire.md`` describes the job; :mod:`measurements.roofline` makes records of what it reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lab.artifact import Artifact
from lab.devices.base import Device, RegionCount
from lab.events import Hello, Job
from lab.os_records import reported_of
from lab.passes import Capture, collect
from lab.training import LAYER, first_steps
from measurements.record import PlannedStep, Record
from measurements.roofline import NATIVE_NOTES, TORCH_NOTES, Accesses, layer_region, peak_records, with_step
from measurements.training import COPY_IN, COPY_OUT, REGIONS

WINDOWS = 5
LEAST_US = 2000
"""Of a window: long beside the resolution of any clock here, and 50,000 instructions of the slowest emulated core."""


def measure_peaks(device: Device, hello: Hello, artifact: Artifact) -> tuple[Record, ...]:
    """Run the loops on a device whose image has them, or its PyTorch, and make records of their rates.

    The arena is written over; variables stay.

    Args:
        device: has the artifact.
        hello: what it said.
        artifact: under PyTorch its flags are the accelerator's name and clock, which the records say, too.

    Raises:
        ProtocolError: the device reported no peaks.
        DeviceError, InfrastructureError: the job did not come to its end, or the image has no such job.
    """
    job = Job("peaks", b"", 0, warmup=0, repeats=WINDOWS, marker_line=False, parameters={"least": LEAST_US})
    capture = Capture()
    for _ in collect(device, job, capture):
        pass
    per_pass = {one.name.partition("/")[0]: one.value for one in capture.metrics}
    notes = NATIVE_NOTES
    if artifact.runtime == "pytorch":
        notes = {region: f"{words}; {artifact.flags}" for region, words in TORCH_NOTES.items()}
    return peak_records(capture.events, per_pass, hello.clock_hz, device.identity.source, notes)


def measure_kernels(device: Device, training: Job) -> tuple[Record, ...]:
    """What each kernel of a training step takes under PyTorch on a device, by its profiler; changes no variable.

    Args:
        device: runs the program.
        training: its training, of which the first sample is taken.

    Raises:
        DeviceError, InfrastructureError: the job did not come to its end.
    """
    first = first_steps(training, 1)
    job = replace(first, name="kernels", repeats=WINDOWS, parameters={"lr": 0.0}, marker_line=False)
    capture = Capture()
    for _ in collect(device, job, capture):
        pass
    return tuple(reported_of(capture.metrics, device.identity.source))


def copied_bytes(sample_bytes: int) -> dict[str, int]:
    """What a step under PyTorch copies, by region: the sample with its class, an int64, and the loss, a float32."""
    return {COPY_IN: sample_bytes + 8, COPY_OUT: 4}


def accesses_of(counts: Iterable[RegionCount], steps: Sequence[PlannedStep]) -> dict[str, Accesses]:
    """Exact counts of a profiled training step by region: of its phases, of all of it, and of its parts."""
    found: dict[str, Accesses] = {}
    for one in counts:
        if one.region in REGIONS:
            found.setdefault(one.region, Accesses(one.instructions, one.loads, one.stores))
        elif one.region == LAYER and one.index < len(steps):
            found[layer_region(one.index, steps[one.index])] = Accesses(one.instructions, one.loads, one.stores)
    return with_step(found)
