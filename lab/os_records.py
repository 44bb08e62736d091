"""Figures that devices with an operating system have besides: of the process, its instructions, peaks of regions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lab.devices.base import Device, Environed, InstructionCounting, MemoryWatched
from lab.environment import EnvironmentLog
from lab.events import Job, MetricEvent
from measurements.environment import MemoryFigure
from measurements.record import Record, Source
from measurements.statistics import make_record

COUNT_NOTE = "instructions of the runner alone, as the kernel counts them (perf_event_open)"
_UNITS = {"peak_ram.process": "bytes", "peak_ram.gpu": "bytes", "kernel_time": "s"}
_NOTES = {
    "peak_ram.process": "VmHWM of the whole process in a pass of its own, set back before it",
    "peak_ram.gpu": "torch.cuda.max_memory_allocated in a pass of its own, reset before it",
    "kernel_time": "of a step, all calls, by PyTorch's profiler, which slows short ones; on a processor by operator",
}


@contextmanager
def environment_of(device: Device) -> Iterator[EnvironmentLog | None]:
    """The device set up for a measurement, where it has something to set up; None where it has not.

    Raises:
        LabError: see :meth:`lab.devices.base.Environed.measuring`.
    """
    if not isinstance(device, Environed):
        yield None
        return
    with device.measuring() as log:
        yield log


def memory_of(device: Device, source: Source) -> list[Record]:
    """Records of region ``run`` with what the running process has used at most; none where nobody watches it."""
    figures: list[MemoryFigure] = device.process_memory() if isinstance(device, MemoryWatched) else []
    return [
        make_record("run", one.metric, "bytes", source, [float(one.size_bytes)], note=one.note) for one in figures
    ]


def instructions_of(device: Device, job: Job, source: Source) -> list[Record]:
    """Records ``instructions`` of the regions of one pass of a job; none where the device's kernel does not count."""
    found = device.instructions(job) if isinstance(device, InstructionCounting) else {}
    return [
        make_record(region, "instructions", "instructions", source, [float(count)], note=COUNT_NOTE)
        for region, count in found.items()
    ]


def reported_of(metrics: Iterable[MetricEvent], source: Source) -> list[Record]:
    """Records of what a runner reported of a region as ``REGION/METRIC`` (docs/wire.md)."""
    parts = [(*one.name.rpartition("/")[::2], one.value) for one in metrics]
    return [
        make_record(region, metric, _UNITS[metric], source, [value], note=_NOTES[metric])
        for region, metric, value in parts
        if metric in _UNITS
    ]
