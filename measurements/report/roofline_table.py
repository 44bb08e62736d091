"""The roofline of a training step as a table: its phases, and its kernels by kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from measurements.record import PlannedStep, Record, Run
from measurements.report.units import quantity
from measurements.roofline import ACCESS_SHARE, FLOP_RATE, Peaks, Work, bound_of, layer_region, peaks_of, total
from measurements.training import COPY_IN, COPY_OUT, REGIONS, STEP, TRANSFERS


@dataclass(frozen=True)
class RooflineRow:
    """A phase, or all kernels of one kind in a phase, formatted; empty texts where nothing was measured."""

    name: str
    detail: str
    flop: str
    traffic: str
    intensity: str
    time: str
    share: str
    flop_rate: str
    byte_rate: str
    movement: str
    bound: str
    accesses: str


@dataclass(frozen=True)
class RooflineTable:
    """The rows: phases in order and the whole step, then kinds of kernels, those that take longest first."""

    rows: tuple[RooflineRow, ...]
    summary: str
    has_peaks: bool
    has_counts: bool


@dataclass(frozen=True)
class Part:
    """What stands in a row.

    Attributes:
        access_share: loads and stores among the instructions; None where they were not counted.
        transfers: whether it copies between host and accelerator, to which another peak applies.
    """

    name: str
    detail: str
    work: Work
    seconds: float
    access_share: float | None = None
    transfers: bool = False


def roofline_table(run: Run) -> RooflineTable | None:
    """The table of a run whose rates were recorded; None of any other."""
    known = {(one.region, one.metric): one for one in run.records}
    step = known.get((STEP, "latency"))
    if step is None or (STEP, FLOP_RATE) not in known:
        return None
    steps = () if run.detail.training is None else run.detail.training.steps
    peaks = peaks_of(run.records)
    parts = [*_phases(known), *kinds(steps, known)]
    return RooflineTable(
        rows=tuple(_row(part, step.median, peaks) for part in parts),
        summary=_summary(peaks),
        has_peaks=peaks is not None,
        has_counts=any(part.access_share is not None for part in parts),
    )


def kinds(steps: Sequence[PlannedStep], known: Mapping[tuple[str, str], Record]) -> list[Part]:
    """The kernels of a schedule that were timed, by operator and phase, those that take longest first.

    Args:
        steps: the schedule.
        known: records by region and metric.
    """
    timed: dict[tuple[str, str], list[tuple[int, PlannedStep]]] = {}
    for index, one in enumerate(steps):
        if (layer_region(index, one), "latency") in known:
            timed.setdefault((one.operator, one.phase), []).append((index, one))
    found = []
    for (operator, phase), members in timed.items():
        regions = [layer_region(index, one) for index, one in members]
        times = [known[region, "latency"].median for region in regions]
        detail = f"{phase}, {len(members)} kernel{'s' if len(members) > 1 else ''}"
        found.append(
            Part(operator, detail, total(one for _, one in members), sum(times), _access_share(regions, known))
        )
    return sorted(found, key=lambda part: -part.seconds)


def _access_share(regions: Sequence[str], known: Mapping[tuple[str, str], Record]) -> float | None:
    """Of several regions together, by the instructions of each."""
    if not all({(region, ACCESS_SHARE), (region, "instructions")} <= known.keys() for region in regions):
        return None
    instructions = [known[region, "instructions"].median for region in regions]
    moved = [known[region, ACCESS_SHARE].median * count for region, count in zip(regions, instructions, strict=True)]
    return sum(moved) / sum(instructions) if sum(instructions) else None


def _phases(known: Mapping[tuple[str, str], Record]) -> Iterator[Part]:
    for region in (COPY_IN, *REGIONS, COPY_OUT, STEP):
        if not {(region, "latency"), (region, "traffic")} <= known.keys():
            continue
        flop = known.get((region, "flop"))
        work = Work(0 if flop is None else int(flop.median), int(known[region, "traffic"].median))
        share = known.get((region, ACCESS_SHARE))
        yield Part(
            region.removeprefix("train."), "" if region == STEP else "phase", work, known[region, "latency"].median,
            None if share is None else share.median, transfers=region in TRANSFERS,
        )  # fmt: skip


def _row(part: Part, step_s: float, peaks: Peaks | None) -> RooflineRow:
    work, seconds = part.work, part.seconds
    rate = None if peaks is None else peaks.transfer_per_s if part.transfers else peaks.bytes_per_s
    movement = "" if rate is None or not seconds else _percent(work.traffic_bytes / rate / seconds)
    return RooflineRow(
        name=part.name,
        detail=part.detail,
        flop=quantity(work.flop, "FLOP") if work.flop else "",
        traffic=quantity(work.traffic_bytes, "bytes"),
        intensity=f"{work.intensity:.3g}" if work.flop else "",
        time=quantity(seconds, "s"),
        share=_percent(seconds / step_s) if step_s else "",
        flop_rate=quantity(work.flop / seconds, "FLOP/s") if work.flop and seconds else "",
        byte_rate=quantity(work.traffic_bytes / seconds, "B/s") if seconds else "",
        movement=movement,
        bound="" if peaks is None else "transfer" if part.transfers else bound_of(work, peaks),
        accesses="" if part.access_share is None else _percent(part.access_share),
    )


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f}\u00a0%"


def _summary(peaks: Peaks | None) -> str:
    counted = "Bytes count each tensor of a kernel once, the least that it can move."
    if peaks is None:
        return f"{counted} The device's peaks were not measured."
    transfer = ""
    if peaks.transfer_per_s is not None:
        transfer = f" Copies between host and accelerator are judged by {quantity(peaks.transfer_per_s, 'B/s')}."
    return (
        f"Peaks, measured on this device: {quantity(peaks.flop_per_s, 'FLOP/s')} of multiplications and additions in "
        f"float32, {quantity(peaks.bytes_per_s, 'B/s')} of a copy; below {peaks.ridge:.2g} FLOP/byte the copy's is the "
        f"lower roof.{transfer} {counted} Movement is the time that they take at the copy's rate, as a share of the "
        "time."
    )
