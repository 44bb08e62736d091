"""InfluxDB line protocol for runs and traces: what goes into the outbox.

The timestamps come from the run's start alone, so a block that is sent twice overwrites itself instead of counting
double. Tags are few and bounded; the run id and the commit are string fields, since a tag with a new value per run
ends at the server's limit of values per tag. Every number is a float: a field that was once an integer refuses 1.5.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from measurements.record import Record, Run, Source, Trace

BLOCK_LINES = 50_000
BUCKET_S = 1e-3
TRACE_MEASUREMENT = "current"
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
    not sent. The timestamps are the run's start plus the time in the trace.
    """
    per_bucket = max(1, round(BUCKET_S / trace.dt_s))
    head = f"{TRACE_MEASUREMENT}{_tags(run, 'run', source)} "
    tail = f",run={_string(run.run_id)}"
    for start in range(0, trace.current_a.size, per_bucket):
        block: npt.NDArray[np.float64] = trace.current_a[start : start + per_bucket].astype(np.float64)
        seen = block[np.isfinite(block)]
        if seen.size == 0:
            continue
        fields = (
            f"min={float(seen.min())!r},max={float(seen.max())!r},mean={float(seen.mean())!r},"
            f"energy={float(seen.sum()) * trace.voltage_v * trace.dt_s!r}"
        )
        yield f"{head}{fields}{tail} {run.started_ns + round(start * trace.dt_s * 1e9)}"


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
    return "".join(f",{key}={_tag(value)}" for key, value in values.items() if value.strip())


def _measurement(name: str) -> str:
    return _one_line(name).replace(",", r"\,").replace(" ", r"\ ")


def _tag(value: str) -> str:
    text = _one_line(value)
    # A backslash at the end would escape the separator that follows it.
    text = text[:-1] + "/" if text.endswith("\\") else text
    return text.replace(",", r"\,").replace("=", r"\=").replace(" ", r"\ ")


def _string(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_line(text: str) -> str:
    return " ".join(text.split())
