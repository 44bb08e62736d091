"""What a store refuses to take: each refusal names the run and the figure, and nothing is overwritten."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable

import numpy as np

from lab.errors import StoreError
from measurements.record import Record, Run, Trace
from measurements.store.rows import text

CLOCK_SLACK_NS = 10**9
_FIGURES = ("median", "ci_low", "ci_high", "p95", "p99", "first", "lost_fraction")


def check_names(run: Run) -> None:
    """Every record has a (region, metric) of its own.

    Raises:
        StoreError: two records share one.
    """
    seen: set[tuple[str, str]] = set()
    for record in run.records:
        if (name := (record.region, record.metric)) in seen:
            raise StoreError(
                f"run {run.run_id} has two records of region {name[0]!r} and metric {name[1]!r}; it was not saved",
                hint="a run holds one record per region and metric; put repeats into one record",
            )
        seen.add(name)


def check_finite(run_id: str, records: Iterable[Record]) -> None:
    """Every figure is a finite number.

    Raises:
        StoreError: one is NaN or infinite.
    """
    for record in records:
        broken = [name for name in _FIGURES if not math.isfinite(getattr(record, name))]
        broken += ["class_uncertainty"] if not math.isfinite(record.class_uncertainty or 0.0) else []
        broken += [f"repeat {index}" for index, value in enumerate(record.raw) if not math.isfinite(value)]
        if broken:
            raise StoreError(
                f"run {run_id}: {record.metric} of region {record.region!r} is not a finite number in "
                f"{', '.join(broken[:5])}; it was not saved",
                hint="leave out what could not be measured, and say in the run's error why",
            )


def check_trace(run_id: str, trace: Trace) -> None:
    """A trace's clock and supply are numbers and no current is infinite; NaN stands for a lost sample.

    Raises:
        StoreError: one is not.
    """
    facts = {"t0_s": trace.t0_s, "dt_s": trace.dt_s, "voltage_v": trace.voltage_v}
    for name, value in facts.items():
        if not math.isfinite(value) or (name == "dt_s" and value <= 0):
            raise StoreError(
                f"run {run_id}: {name} of its trace is {value}; it was not saved",
                hint="a trace needs a finite start and voltage, and a sample period above 0",
            )
    endless = np.flatnonzero(np.isinf(trace.current_a))
    if endless.size:
        raise StoreError(
            f"run {run_id}: {endless.size} samples of its trace are infinite, the first is sample {endless[0]}; "
            "it was not saved",
            hint="write NaN for a sample that was lost or out of the meter's range, and count it in `lost`",
        )


def check_units(db: sqlite3.Connection, run_id: str, records: Iterable[Record]) -> None:
    """Every metric has the unit that the store knows it in; call inside the transaction that saves the records.

    Raises:
        StoreError: the store, or the run itself, knows the metric in another unit only.
        sqlite3.Error: the store cannot be read.
    """
    here: dict[str, str] = {}
    for record in records:
        if here.setdefault(record.metric, record.unit) != record.unit:
            known = [here[record.metric]]
        else:
            query = "SELECT DISTINCT unit FROM records WHERE metric = ?"
            known = [row[0] for row in db.execute(query, (record.metric,))]
        if known and record.unit not in known:
            raise StoreError(
                f"run {run_id}: {record.metric} of region {record.region!r} is in {record.unit!r}, the store has "
                f"{record.metric} in {' and '.join(repr(unit) for unit in known)}; it was not saved",
                hint="convert it, or give the figure a metric name of its own: one metric has one unit",
            )


def check_clock(db: sqlite3.Connection, run: Run, now_ns: int) -> None:
    """The run starts before now, now is after the saves before it, and no run of its series has its start.

    The store sorts runs by their start, and two runs with one start would overwrite each other in the mirror. Call
    inside the transaction that saves the run. A second is let pass: clocks are set by less while they run.

    Raises:
        StoreError: this host's clock went backwards, or stands still. Transient: measured again, a run starts later.
        sqlite3.Error: the store cannot be read.
    """
    if run.started_ns > now_ns + CLOCK_SLACK_NS:
        _refuse_clock(run, f"starts {(run.started_ns - now_ns) * 1e-9:.3f} s after now")
    latest = db.execute("SELECT run_id, saved_ns FROM runs ORDER BY saved_ns DESC LIMIT 1").fetchone()
    if latest is not None and latest["saved_ns"] > now_ns + CLOCK_SLACK_NS:
        ahead_s = (latest["saved_ns"] - now_ns) * 1e-9
        _refuse_clock(run, f"comes after run {latest['run_id']}, which was saved here {ahead_s:.3f} s after now")
    provenance = run.provenance
    series = tuple(text(name) for name in (provenance.device, provenance.workload, provenance.variant))
    for row in db.execute("SELECT run_id, provenance FROM runs WHERE started_ns = ?", (run.started_ns,)):
        other = json.loads(row["provenance"])
        if (other["device"], other["workload"], other["variant"]) == series:
            _refuse_clock(run, f"starts at the very nanosecond of run {row['run_id']} of the same workload")


def _refuse_clock(run: Run, found: str) -> None:
    raise StoreError(
        f"run {run.run_id} of device {run.provenance.device!r} {found}: the clock of this host went backwards; "
        "the run was not saved",
        hint="set the clock (timedatectl) and measure again; if it was ahead before, `lab store prune --since` removes "
        "what was saved then",
        transient=True,
    )
