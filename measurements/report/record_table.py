"""The records of a run as rows of a table, and their repeats as stored."""

from __future__ import annotations

from dataclasses import dataclass

from measurements.record import Record
from measurements.report.units import exact, quantity, scale_for

_RAW_SHOWN = 64


@dataclass(frozen=True)
class RecordRow:
    """One record, formatted; spread is left empty for a single repeat and where all repeats are equal."""

    region: str
    metric: str
    unit: str
    n: int
    median: str
    interval: str
    p95: str
    p99: str
    first: str
    source: str
    alignment: str
    lost: str
    note: str
    title: str
    uncertainty: str = ""


@dataclass(frozen=True)
class RawRow:
    """The repeats of one record as stored; ``left_out`` counts those not written here."""

    name: str
    unit: str
    values: str
    left_out: int


def record_row(record: Record) -> RecordRow:
    """The row of one record."""
    scale = scale_for(record.median, record.unit, record.metric)
    equal = record.n > 1 and len(set(record.raw)) == 1
    spread = record.n > 1 and not equal
    return RecordRow(
        region=record.region,
        metric=record.metric,
        unit=record.unit,
        n=record.n,
        median=scale.text(record.median),
        interval="all equal" if equal else interval_text(record) if spread else "",
        p95=scale.number(record.p95) if spread else "",
        p99=scale.number(record.p99) if spread else "",
        first=scale.number(record.first) if spread else "",
        source=record.source,
        alignment="" if record.alignment == "none" else record.alignment,
        lost=f"{100.0 * record.lost_fraction:.3g}\u00a0%" if record.lost_fraction > 0.0 else "",
        note=record.note,
        title=f"median {exact(record.median, record.unit)}; 95 % CI {exact(record.ci_low, record.unit)} to "
        f"{exact(record.ci_high, record.unit)}",
        uncertainty=_uncertainty(record),
    )


def raw_row(record: Record) -> RawRow:
    """The repeats of one record, the first ones where there are many."""
    shown = ", ".join(exact(value, "1") for value in record.raw[:_RAW_SHOWN])
    return RawRow(f"{record.region} · {record.metric}", record.unit, shown, max(0, len(record.raw) - _RAW_SHOWN))


def interval_text(record: Record) -> str:
    """The confidence interval of a record's median in the unit that its median is shown in."""
    scale = scale_for(record.median, record.unit, record.metric)
    return f"[{scale.number(record.ci_low)}, {scale.number(record.ci_high)}]"


def _uncertainty(record: Record) -> str:
    """Both kinds apart, and combined; empty where no instrument stands behind the figure."""
    by_class, by_runs, both = record.class_uncertainty, record.run_uncertainty, record.combined_uncertainty
    if by_class is None or both is None:
        return ""
    runs = "" if by_runs is None else f", runs ±{quantity(by_runs, record.unit, record.metric)}"
    said = f"class ±{quantity(by_class, record.unit, record.metric)}{runs}"
    return said if by_runs is None else f"{said}, combined ±{quantity(both, record.unit, record.metric)}"
