"""InfluxDB line protocol for runs and traces: what goes into the outbox.

The timestamps come from the run's start alone, so a block that is sent twice overwrites itself instead of counting
double. Tags are few, bounded and always all there; the run id and the commit are string fields, since a tag with a
new value per run ends at the server's limit of values per tag. Every number is a float: a field that was once an
integer refuses 1.5.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator

import numpy as np

from lab.errors import MeterError, StoreError
from measurements.buckets import bucketed
from measurements.record import Record, Run, Source, Trace

# InfluxDB parses blocks in flight on separate cores; larger blocks leave one of them idle at the end.
BLOCK_LINES = 10_000
TRACE_MEASUREMENT = "current"
RUN_REGION = "run"
NO_VALUE = "-"
_FIGURES = ("n", "median", "ci_low", "ci_high", "p95", "p99", "first", "lost_fraction")


def run_lines(run: Run) -> Iterator[str]:
    """One line per record; the measurement is the record's metric. Numbers that are not finite are left out."""
    for record in run.records:
        figures = [
            f"{name}={value!r}"
            for name in _FIGURES
            if math.isfinite(value := float(getattr(record, name)))
        ]
        fields = ",".join((*figures, *_context(run), f"unit={_string(record.unit)}"))
        series = f"{_measurement(record.metric)}{_tags(run, record.region, record.source)}"
        yield f"{series} {fields} {run.started_ns}"


def trace_lines(run: Run, trace: Trace, source: Source) -> Iterator[str]:
    """One line per millisecond of a trace: least, greatest and mean current (A) and energy (J).

    Lost samples (NaN) are left out and the energy of their bucket is that of the samples seen; a bucket without any is
    not sent. Currents have nine digits, which tell every float32 from its neighbours, energies twelve. The
    timestamps are the run's start plus the time in the trace.

    Raises:
        StoreError: a power so large that its energy cannot be added (:func:`measurements.buckets.bucketed`).
    """
    line = (
        f"{_escaped(f'{TRACE_MEASUREMENT}{_tags(run, RUN_REGION, source)}')} "
        f"min=%.9g,max=%.9g,mean=%.9g,energy=%.12g,run={_escaped(_string(run.run_id))} %d"
    )
    try:
        buckets = bucketed(trace)
    except MeterError as error:
        raise StoreError(f"run {run.run_id}: {error.message}", hint=error.hint) from error
    full = buckets.samples > 0
    begins = np.arange(full.size) * buckets.samples_per_bucket * trace.dt_s * 1e9
    columns = (
        buckets.least_a[full],
        buckets.greatest_a[full],
        buckets.mean_a[full],
        buckets.energy_j[full],
        run.started_ns + np.rint(begins[full]).astype(np.int64),
    )
    for values in zip(*(column.tolist() for column in columns), strict=True):
        yield line % values


def blocks(lines: Iterator[str]) -> Iterator[bytes]:
    """Pack lines into blocks of at most :data:`BLOCK_LINES`; gzip level 9 would cost ten times the CPU of level 1."""
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) == BLOCK_LINES:
            yield _pack(batch)
            batch = []
    if batch:
        yield _pack(batch)


def trace_source(records: tuple[Record, ...]) -> Source:
    """Where a run's trace comes from: the source of its energy records, ``emulated`` where it has none."""
    return next((record.source for record in records if record.metric == "energy"), "emulated")


def _pack(batch: list[str]) -> bytes:
    return gzip.compress("\n".join(batch).encode("utf-8", "backslashreplace"), compresslevel=1, mtime=0)


def _context(run: Run) -> tuple[str, str]:
    return f"run={_string(run.run_id)}", f"commit={_string(run.provenance.git_commit)}"


def _tags(run: Run, region: str, source: Source) -> str:
    values = {
        "board": run.provenance.board,
        "device": run.provenance.device,
        "region": region,
        "source": source,
        "variant": run.provenance.variant,
        "workload": run.provenance.workload,
    }
    # InfluxDB 3 fixes the tags of a table with its first line: all six are always there.
    return "".join(f",{key}={_tag(value)}" for key, value in values.items())


def measurement(metric: str) -> str:
    """Name of a metric on the server."""
    return _one_line(metric) or NO_VALUE


def _measurement(metric: str) -> str:
    return measurement(metric).replace(",", r"\,").replace(" ", r"\ ")


def _tag(value: str) -> str:
    text = _one_line(value) or NO_VALUE
    # A backslash at the end would escape the separator that follows it.
    text = text[:-1] + "/" if text.endswith("\\") else text
    return text.replace(",", r"\,").replace("=", r"\=").replace(" ", r"\ ")


def _string(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """Text for a template of the % operator."""
    return text.replace("%", "%%")


def _one_line(text: str) -> str:
    return " ".join(text.split())
