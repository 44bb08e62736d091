"""What a store refuses to take: each refusal names the run and the figure, and nothing is overwritten."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable

import numpy as np

from lab.errors import StoreError
from measurements.record import Record, Run, Trace
from measurements.store.rows import text

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


def check_clock(db: sqlite3.Connection, run: Run) -> None:
    """The run starts before now and after the runs before it; call inside the transaction that saves it.

    The store sorts runs by their start, and two runs with one start would overwrite each other in the mirror.

    Raises:
        StoreError: it does not: this host's clock went backwards. Transient: another run starts later.
        sqlite3.Error: the store cannot be read.
    """
    ahead_ns = run.started_ns - time.time_ns()
    if ahead_ns > 0:
        _refuse_clock(run, f"starts {ahead_ns * 1e-9:.3f} s after now")
    query = (
        "SELECT run_id, started_ns FROM runs WHERE session_id = ? AND json_extract(provenance, '$.device') = ? "
        "ORDER BY started_ns DESC LIMIT 1"
    )
    before = db.execute(query, (text(run.session_id), text(run.provenance.device))).fetchone()
    if before is not None and run.started_ns <= before["started_ns"]:
        early_s = (before["started_ns"] - run.started_ns) * 1e-9
        _refuse_clock(run, f"starts {early_s:.9g} s before run {before['run_id']}, which was measured before it")


def _refuse_clock(run: Run, found: str) -> None:
    raise StoreError(
        f"run {run.run_id} of device {run.provenance.device!r} {found}: the clock of this host went backwards; "
        "the run was not saved",
        hint="let NTP set the clock (timedatectl), then measure again",
        transient=True,
    )
