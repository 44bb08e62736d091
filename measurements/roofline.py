"""Achieved rates of a training step beside the peaks of its device: the roofline model.

S. Williams, A. Waterman and D. Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", Communications of the ACM 52(4), 2009: what computes F operations on B bytes takes at least the longer
of F / peak rate of arithmetic and B / peak rate of memory.

F and B are the compiler's: operations as :meth:`lab.compiler.program.Operation.flop` counts them, and every tensor of a
kernel once, which is the least that it can move. Both peaks are measured on the device itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lab.errors import ProtocolError
from measurements.record import PlannedStep, Record, Source
from measurements.regions import TRAINING_LAYER, RegionPass
from measurements.statistics import make_record
from measurements.training import REGIONS, STEP

COPY, MULTIPLY_ADD, TRANSFER = "peak.copy", "peak.multiply_add", "peak.transfer"
"""Regions of the loops that find the peaks; the last one only where there is an accelerator, under PyTorch."""
FLOP_RATE, BYTE_RATE = "flop_rate", "byte_rate"
"""Metrics, FLOP/s and B/s; bytes read and bytes written both count."""
MOVEMENT_SHARE, ROOF_SHARE, ACCESS_SHARE = "share.movement", "share.roof", "share.access"
"""Of the time: what the bytes would take at the peak rate, and what the roofline says is the least. Of the
instructions: loads and stores."""
TRANSFER_SHARE = "share.transfer"
"""Of the time of a step, that of its copies between host and accelerator; of a copy's own, what its bytes would take at
the peak rate."""
_RATES = {COPY: (BYTE_RATE, "B/s"), MULTIPLY_ADD: (FLOP_RATE, "FLOP/s"), TRANSFER: (BYTE_RATE, "B/s")}
NATIVE_NOTES = {
    COPY: "copy of half of the arena to the other half, in words; what is read and what is written",
    MULTIPLY_ADD: "multiplications with additions in float32 without loads and stores, built as the kernels are",
}
TORCH_NOTES = {
    COPY: "PyTorch's copy of float32 in the accelerator's own memory; what is read and what is written",
    MULTIPLY_ADD: "PyTorch's product of two square matrices in float32",
    TRANSFER: "PyTorch's copy of pageable memory of the host to the accelerator's",
}
_WORK_NOTE = "from the plan: multiply-accumulates count two, plain SGD two for each value; of bytes each tensor once"


class PeakPass(RegionPass, Protocol):
    """Passes through a loop that share a region."""

    @property
    def passes(self) -> int:
        """How many."""


@dataclass(frozen=True)
class Peaks:
    """What a device does at most.

    Attributes:
        flop_per_s: in float32.
        bytes_per_s: read or written, in the memory it computes in.
        transfer_per_s: bytes from the host's memory to that one; None where no accelerator has its own.
    """

    flop_per_s: float
    bytes_per_s: float
    transfer_per_s: float | None = None

    @property
    def ridge(self) -> float:
        """FLOP per byte below which memory bounds, and from which on arithmetic does."""
        return self.flop_per_s / self.bytes_per_s


@dataclass(frozen=True)
class Work:
    """What a part of a training step computes, and moves at the least."""

    flop: int
    traffic_bytes: int

    @property
    def intensity(self) -> float:
        """FLOP per byte; 0 where nothing is moved."""
        return self.flop / self.traffic_bytes if self.traffic_bytes else 0.0


@dataclass(frozen=True)
class Accesses:
    """Exact counts of an emulator for one pass through a region."""

    instructions: int
    loads: int
    stores: int


def peak_records(
    passes: Sequence[PeakPass],
    per_pass: Mapping[str, float],
    clock_hz: float,
    source: Source,
    notes: Mapping[str, str] = NATIVE_NOTES,
) -> tuple[Record, ...]:
    """``byte_rate`` of the copies and ``flop_rate`` of the multiply-add: of the fastest window, since what disturbs one
    makes it slower and never faster.

    Args:
        passes: what the device reported of its job ``peaks``.
        per_pass: by region, what one pass moves (bytes, read and written) or computes (FLOP).
        clock_hz: rate of its clock, Hz.
        source: as of the run.
        notes: what each loop does, by region: those that must have been measured.

    Raises:
        ProtocolError: a loop was not measured, or took no time.
    """
    records = []
    for region, words in notes.items():
        metric, unit = _RATES[region]
        windows = [one for one in passes if one.region == region]
        if not windows or region not in per_pass:
            raise ProtocolError(f"the device reported nothing of {region!r}", hint="was it built with its peaks?")
        if any(one.end <= one.begin for one in windows):
            raise ProtocolError(f"a window of {region!r} took no time", hint="the device's clock is too coarse for it")
        rates = [per_pass[region] * one.passes * clock_hz / (one.end - one.begin) for one in windows]
        note = f"{words}; the fastest of {len(rates)} windows"
        records.append(make_record(region, metric, unit, source, [max(rates)], note=note))
    return tuple(records)


def peaks_of(records: Iterable[Record]) -> Peaks | None:
    """The peaks among a run's records; None where they were not measured."""
    rates = {one.region: one.median for one in records if one.metric == _RATES.get(one.region, ("",))[0]}
    if not {MULTIPLY_ADD, COPY} <= rates.keys():
        return None
    return Peaks(rates[MULTIPLY_ADD], rates[COPY], rates.get(TRANSFER))


def total(steps: Iterable[PlannedStep]) -> Work:
    """What steps of a schedule compute and move together."""
    parts = tuple(steps)
    return Work(sum(one.flop for one in parts), sum(one.traffic_bytes for one in parts))


def layer_region(index: int, step: PlannedStep) -> str:
    """Region of a single step of the schedule."""
    return f"{TRAINING_LAYER}/{index:02} {step.name}".rstrip()


def roofline_records(
    records: Sequence[Record], steps: Sequence[PlannedStep], accesses: Mapping[str, Accesses]
) -> tuple[Record, ...]:
    """What was achieved, of each phase, of the whole step and of each of its parts.

    Of phases and the step: ``flop``, ``traffic``, ``intensity``, ``compute_time`` and ``movement_time`` (what they take
    at the peaks) and ``accesses`` (loads and stores). Of parts as well: ``flop_rate``, ``byte_rate``,
    ``share.movement``, ``share.roof``, ``share.access``. What was not measured, or takes no time on the device's clock,
    is left out.

    Args:
        records: of the run: latencies of the regions, and the peaks where they were measured.
        steps: the schedule.
        accesses: by region, exact counts; of parts as ``train.layer/NUMBER NAME``.
    """
    latencies = {one.region: one for one in records if one.metric == "latency" and one.median > 0}
    peaks = peaks_of(records)
    phases = {region: total(one for one in steps if f"train.{one.phase}" == region) for region in REGIONS}
    whole = {region: work for region, work in (*phases.items(), (STEP, total(steps))) if region in latencies}
    parts = {layer_region(index, one): total([one]) for index, one in enumerate(steps)}
    found: list[Record] = []
    for region, work in whole.items():
        found += _plan_records(region, work)
        found += () if peaks is None else _time_records(region, work, peaks, latencies[region].source)
    for region, work in (*whole.items(), *parts.items()):
        if region in latencies:
            found += _rate_records(region, work, latencies[region], peaks)
        if region in accesses:
            found += _access_records(region, accesses[region], counted=region in whole)
    return tuple(found)


def transfer_records(records: Sequence[Record], copied: Mapping[str, int]) -> tuple[Record, ...]:
    """What a step's copies between host and accelerator take; nothing of a run that has none.

    Of each copy ``traffic``, ``byte_rate`` and, where the peak was measured, ``share.transfer``; of the step
    ``transfer_time``, their sum, and ``share.transfer``.

    Args:
        records: of the run: latencies of the regions, and the peaks where they were measured.
        copied: bytes of each copy, by region.
    """
    latencies = {one.region: one for one in records if one.metric == "latency" and one.median > 0}
    if not {*copied, STEP} <= latencies.keys():
        return ()
    peaks = peaks_of(records)
    found: list[Record] = []
    for region, size in copied.items():
        seconds, source = latencies[region].median, latencies[region].source
        found.append(make_record(region, "traffic", "bytes", "modelled", [float(size)], note="of what is copied"))
        found.append(make_record(region, BYTE_RATE, "B/s", source, [size / seconds]))
        if peaks is not None and peaks.transfer_per_s is not None:
            least = size / peaks.transfer_per_s
            found.append(make_record(region, TRANSFER_SHARE, "1", source, [least / seconds],
                                     note="of its time: its bytes at the peak rate of a transfer"))  # fmt: skip
    each = [sum(parts) for parts in zip(*(latencies[region].raw for region in copied), strict=True)]
    step = latencies[STEP]
    taken = make_record(STEP, "transfer_time", "s", step.source, each, note="copies of sample, label and loss")
    share = make_record(STEP, TRANSFER_SHARE, "1", step.source, [taken.median / step.median], note="of its time")
    return (*found, taken, share)


def with_step(accesses: Mapping[str, Accesses]) -> dict[str, Accesses]:
    """Counts of the phases, and of the whole step as their sum, where there are any."""
    known = [accesses[region] for region in REGIONS if region in accesses]
    if not known:
        return dict(accesses)
    summed = Accesses(*(sum(getattr(one, name) for one in known) for name in ("instructions", "loads", "stores")))
    return {**accesses, STEP: summed}


def _plan_records(region: str, work: Work) -> Iterator[Record]:
    figures = (("flop", "FLOP", work.flop), ("traffic", "bytes", work.traffic_bytes),
               ("intensity", "FLOP/byte", work.intensity))  # fmt: skip
    for metric, unit, value in figures:
        yield make_record(region, metric, unit, "modelled", [float(value)], note=_WORK_NOTE)


def _time_records(region: str, work: Work, peaks: Peaks, source: Source) -> Iterator[Record]:
    times = (("compute_time", work.flop / peaks.flop_per_s, "arithmetic"),
             ("movement_time", work.traffic_bytes / peaks.bytes_per_s, "bytes"))  # fmt: skip
    for metric, seconds, what in times:
        yield make_record(region, metric, "s", source, [seconds], note=f"its {what} at the peak measured here")


def _rate_records(region: str, work: Work, latency: Record, peaks: Peaks | None) -> Iterator[Record]:
    seconds, source = latency.median, latency.source
    if work.flop:
        yield make_record(region, FLOP_RATE, "FLOP/s", source, [work.flop / seconds])
    if not work.traffic_bytes:
        return
    yield make_record(region, BYTE_RATE, "B/s", source, [work.traffic_bytes / seconds])
    if peaks is not None:
        movement, compute = work.traffic_bytes / peaks.bytes_per_s, work.flop / peaks.flop_per_s
        yield make_record(region, MOVEMENT_SHARE, "1", source, [movement / seconds],
                          note="of the time: its bytes, each tensor once, at the rate of the copy")  # fmt: skip
        yield make_record(region, ROOF_SHARE, "1", source, [max(movement, compute) / seconds],
                          note="the least that the roofline allows, as a share of the time it took")  # fmt: skip


def _access_records(region: str, count: Accesses, *, counted: bool) -> Iterator[Record]:
    moved, note = count.loads + count.stores, "loads and stores, exact counts of one pass"
    if counted:
        yield make_record(region, "accesses", "instructions", "emulated", [float(moved)], note=note)
    if count.instructions:
        share = moved / count.instructions
        yield make_record(region, ACCESS_SHARE, "1", "emulated", [share], note=f"of the instructions: {note}")


def bound_of(work: Work, peaks: Peaks) -> str:
    """Which roof is the lower one: ``movement`` or ``arithmetic``."""
    return "movement" if work.intensity < peaks.ridge else "arithmetic"
