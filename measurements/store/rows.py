"""Runs and records as rows of the store's tables and back."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from measurements.claims import ClaimResult
from measurements.environment import Battery, CpuPolicy, Environment, Setting, Snapshot, ThrottleSource, Zone
from measurements.record import ArenaSchedule, Buffer, Layer, PlannedStep, Provenance, Record, Rejection, Run, RunDetail

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
        "class_uncertainty": record.class_uncertainty,
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
        class_uncertainty=row["class_uncertainty"],
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
    records = [_content(record_row("", position, record)) for position, record in enumerate(run.records)]
    content = json.dumps([list(row.values()), records], default=bytes.hex)
    return row | {"digest": hashlib.sha256(content.encode()).hexdigest()}


# Fields that came later are left out where they are empty: the digests of runs stored before stay what they are.
def _content(row: dict[str, Value]) -> list[Value]:
    return [value for name, value in row.items() if name != "class_uncertainty" or value is not None]


def _detail_fields(detail: RunDetail) -> dict[str, object]:
    fields: dict[str, object] = asdict(detail)
    if detail.training is None:
        del fields["training"]
    else:
        fields["training"] = asdict(detail.training) | {"steps": [_step_fields(one) for one in detail.training.steps]}
    if not detail.rejections:
        del fields["rejections"]
    if not detail.meter_notes:
        del fields["meter_notes"]
    if detail.environment is None:
        del fields["environment"]
    if not detail.evidence:
        del fields["evidence"]
    if not detail.claims:
        del fields["claims"]
    if not detail.task:
        del fields["task"]
    if not detail.target_accuracy:
        del fields["target_accuracy"]
    return fields


def _step_fields(step: PlannedStep) -> dict[str, object]:
    late = ("flop", "traffic_bytes")
    return {name: value for name, value in asdict(step).items() if value or name not in late}


def _schedule(fields: dict[str, Any]) -> ArenaSchedule:
    """The schedule in a stored detail; ``Any`` is JSON."""
    steps = tuple(PlannedStep(**step) for step in fields.pop("steps"))
    buffers = tuple(Buffer(**buffer) for buffer in fields.pop("buffers"))
    return ArenaSchedule(steps, buffers, **fields)


def _environment(fields: dict[str, Any]) -> Environment:
    """The environment in a stored detail; ``Any`` is JSON."""
    snapshots = tuple(_snapshot(snapshot) for snapshot in fields.pop("snapshots"))
    settings = tuple(Setting(**setting) for setting in fields.pop("settings"))
    throttled, notes = tuple(fields.pop("throttled")), tuple(fields.pop("notes"))
    return Environment(snapshots, settings, throttled, notes=notes, **fields)


def _policy(fields: dict[str, Any]) -> CpuPolicy:
    cores, residency = tuple(fields.pop("cores")), fields.pop("residency", ())
    return CpuPolicy(cores=cores, residency=tuple((clock_hz, seconds) for clock_hz, seconds in residency), **fields)


def _snapshot(fields: dict[str, Any]) -> Snapshot:
    policies = tuple(_policy(policy) for policy in fields.pop("policies"))
    zones = tuple(Zone(**zone) for zone in fields.pop("zones"))
    throttling = tuple(
        ThrottleSource(**source | {"now": tuple(source["now"]), "since_boot": tuple(source["since_boot"])})
        for source in fields.pop("throttling")
    )
    battery = fields.pop("battery")
    cores = tuple(fields.pop("cores_online"))
    return Snapshot(
        policies=policies,
        zones=zones,
        throttling=throttling,
        cores_online=cores,
        battery=None if battery is None else Battery(**battery),
        **fields,
    )


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
    detail["meter_notes"] = tuple(detail.get("meter_notes", ()))
    if "environment" in detail:
        detail["environment"] = _environment(detail["environment"])
    detail["evidence"] = tuple((str(where), str(text)) for where, text in detail.get("evidence", ()))
    detail["claims"] = tuple(ClaimResult(**claim) for claim in detail.get("claims", ()))
    detail["rejections"] = tuple(Rejection(**rejection) for rejection in detail.get("rejections", ()))
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
