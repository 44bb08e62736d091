"""Runs and records as rows of the store's tables and back."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from measurements.record import ArenaSchedule, Buffer, Layer, PlannedStep, Provenance, Record, Run, RunDetail

Value: TypeAlias = str | int | float | bytes | None


def text(value: str) -> str:
    """Text that SQLite can hold: half surrogates, which come from undecodable device output, are spelled out."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _real(value: float) -> float | None:
    """SQLite has no NaN; NULL stands for it."""
    return None if math.isnan(value) else float(value)


def _number(stored: float | None) -> float:
    return math.nan if stored is None else float(stored)


def record_row(run_id: str, position: int, record: Record) -> dict[str, Value]:
    """The row of ``records`` for the record at ``position`` of a run."""
    return {
        "run_id": run_id,
        "position": position,
        "region": text(record.region),
        "metric": text(record.metric),
        "unit": text(record.unit),
        "source": record.source,
        "raw": np.asarray(record.raw, dtype="<f8").tobytes(),
        "n": int(record.n),
        "median": _real(record.median),
        "ci_low": _real(record.ci_low),
        "ci_high": _real(record.ci_high),
        "p95": _real(record.p95),
        "p99": _real(record.p99),
        "first": _real(record.first),
        "alignment": record.alignment,
        "lost_fraction": _real(record.lost_fraction),
        "note": text(record.note),
    }


def record_from_row(row: sqlite3.Row) -> Record:
    """The record in a row of ``records``."""
    return Record(
        region=row["region"],
        metric=row["metric"],
        unit=row["unit"],
        source=row["source"],
        raw=tuple(np.frombuffer(row["raw"], dtype="<f8").tolist()),
        n=row["n"],
        median=_number(row["median"]),
        ci_low=_number(row["ci_low"]),
        ci_high=_number(row["ci_high"]),
        p95=_number(row["p95"]),
        p99=_number(row["p99"]),
        first=_number(row["first"]),
        alignment=row["alignment"],
        lost_fraction=_number(row["lost_fraction"]),
        note=row["note"],
    )


def run_row(run: Run) -> dict[str, Value]:
    """The row of ``runs`` for a run, without its trace; ``digest`` covers the run and all its records."""
    row: dict[str, Value] = {
        "run_id": run.run_id,
        "session_id": text(run.session_id),
        "started_ns": int(run.started_ns),
        "status": run.status,
        "test": text(run.test),
        "error": text(run.error),
        "retries": json.dumps(run.retries),
        "provenance": json.dumps(asdict(run.provenance) | {"parameters": dict(run.provenance.parameters)}),
        "detail": json.dumps(_detail_fields(run.detail), separators=(",", ":")),
    }
    records = [list(record_row("", position, record).values()) for position, record in enumerate(run.records)]
    content = json.dumps([list(row.values()), records], default=bytes.hex)
    return row | {"digest": hashlib.sha256(content.encode()).hexdigest()}


def _detail_fields(detail: RunDetail) -> dict[str, object]:
    fields: dict[str, object] = asdict(detail)
    if detail.training is None:
        # Left out where there is none: the digests of runs stored before this field existed stay what they are.
        del fields["training"]
    return fields


def _schedule(fields: dict[str, Any]) -> ArenaSchedule:
    """The schedule in a stored detail; ``Any`` is JSON."""
    steps = tuple(PlannedStep(**step) for step in fields.pop("steps"))
    buffers = tuple(Buffer(**buffer) for buffer in fields.pop("buffers"))
    return ArenaSchedule(steps, buffers, **fields)


def run_from_row(row: sqlite3.Row, records: tuple[Record, ...]) -> Run:
    """The run in a row of ``runs`` and its records.

    Raises:
        TypeError, KeyError, ValueError: the row holds fields that this lab does not know, or lacks some.
    """
    detail = json.loads(row["detail"])
    detail["layers"] = tuple(Layer(**layer) for layer in detail["layers"])
    detail["buffers"] = tuple(Buffer(**buffer) for buffer in detail["buffers"])
    detail["events"] = tuple((str(region), *rest) for region, *rest in detail["events"])
    detail["notes"] = tuple(detail["notes"])
    if "training" in detail:
        detail["training"] = _schedule(detail["training"])
    return Run(
        run_id=row["run_id"],
        session_id=row["session_id"],
        started_ns=row["started_ns"],
        status=row["status"],
        provenance=Provenance(**json.loads(row["provenance"])),
        records=records,
        detail=RunDetail(**detail),
        error=row["error"],
        retries=tuple(json.loads(row["retries"])),
        test=row["test"],
    )
