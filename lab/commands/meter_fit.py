"""``lab meter fit``: from measurements of a real board to the ``energy_model`` of its board file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lab.errors import ConfigError
from lab.inventory import Device as Entry
from measurements.instruction_energy import Coefficient, EnergyRow, InstructionFit
from measurements.record import Run

COLUMNS = ("duration_s", "instructions", "loads", "stores", "energy_j")
COUNTS = ("instructions", "loads", "stores")
CLASSES = ("multiplies", "divides", "branches", "floats")
"""Columns, and counts of stored runs, that need not be there: nothing of that class was counted then."""


def rows_of_csv(path: Path) -> tuple[EnergyRow, ...]:
    """Measurements of a file with the columns :data:`COLUMNS`, and :data:`CLASSES` where it has them.

    Raises:
        ConfigError: it cannot be read, lacks a column, or holds something that is no number; says where.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(table, start=2):
        try:
            known = {name: float(line[name]) for name in CLASSES if name in line}
            rows.append(EnergyRow(*(float(line[name]) for name in COLUMNS), **known))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}:{number}: {error}; allowed: numbers in the columns {', '.join(COLUMNS)}",
                hint="the first line names the columns",
            ) from error
    return tuple(rows)


def rows_of_runs(runs: Sequence[Run], device: str, counted_on: str) -> tuple[tuple[EnergyRow, ...], float]:
    """Measured energies of a device joined with counts of an emulated board that ran the same; and the class
    uncertainty of the meters, the greatest.

    Args:
        runs: of the store.
        device: name of the measured device.
        counted_on: board kind whose runs hold exact counts.

    Raises:
        ConfigError: nothing fits together; says what is missing.
    """
    counts: dict[tuple[object, ...], dict[str, float]] = {}
    for run in runs:
        figures = {(one.region, one.metric): one.median for one in run.records}
        for region in {one.region for one in run.records}:
            named = {name: figures.get((region, name)) for name in (*COUNTS, *CLASSES)}
            found = {name: value for name, value in named.items() if value is not None}
            if run.provenance.board == counted_on and found.keys() >= set(COUNTS):
                counts[_what(run, region)] = found
    measured = [
        (run, one)
        for run in runs
        for one in run.records
        if run.provenance.device == device and run.status == "passed"
        if (one.metric, one.source) == ("energy", "hardware")
    ]
    rows, uncertainty = [], 0.0
    for run, record in measured:
        latency = [one.median for one in run.records if (one.region, one.metric) == (record.region, "latency")]
        known = counts.get(_what(run, record.region))
        if latency and known is not None:
            rows.append(EnergyRow(duration_s=latency[0], energy_j=record.median, **known))
            uncertainty = max(uncertainty, run.provenance.meter_uncertainty)
    if not rows:
        raise ConfigError(
            f"the store holds {len(measured)} energies measured on {device!r} with a real meter, and counts of "
            f"{len(counts)} programs on {counted_on!r}; no program has both",
            hint="run the same workloads on both, the board that counts with QEMU's plug-in; or give a table (--csv)",
        )
    return tuple(rows), uncertainty


def _what(run: Run, region: str) -> tuple[object, ...]:
    """What was executed, whichever the device."""
    made = run.provenance
    return (made.workload, made.variant, tuple(sorted(made.parameters.items())), region)


def yaml_section(fit: InstructionFit, entry: Entry, origin: str) -> str:
    """The ``energy_model`` for the board file of a device; its two levels follow from the classes.

    Args:
        fit: the fitted model.
        entry: the device; gives clock and voltage.
        origin: where the rows came from.
    """
    voltage_v, clock_hz = entry.meter_voltage_v, entry.board.clock_hz
    idle_a = fit.idle.value / voltage_v
    active_a = (fit.idle.value + fit.instruction.value * clock_hz) / voltage_v
    told = f"fitted by lab meter fit on {datetime.now(UTC):%Y-%m-%d} to {fit.rows} measurements ({origin})"
    lines = [
        "energy_model:",
        f"  idle_current_a: {_number(idle_a)}",
        f"  active_current_a: {_number(active_a)}",
        "  settle_s: 0.0",
        f"  source: {told}; the settling time was not fitted",
        "  classes:",
    ]
    for name, coefficient, factor in (
        ("idle_mw", fit.idle, 1e3),
        ("instruction_nj", fit.instruction, 1e9),
        ("load_nj", fit.load, 1e9),
        ("store_nj", fit.store, 1e9),
    ):
        lines += _figure(name, coefficient, factor)
    for name, coefficient in fit.extra.items():
        lines += _figure(f"{name}_nj", coefficient, 1e9)
    lines += [f"    # no {name}_nj: {why}" for name, why in fit.left_out.items()]
    return "\n".join(lines)


def _figure(name: str, coefficient: Coefficient, factor: float) -> list[str]:
    low, high = (f"{value * factor:.4g}" for value in (coefficient.low, coefficient.high))
    return [
        f"    {name}:",
        f"      value: {_number(coefficient.value * factor)}",
        f"      source: fitted; 95 % interval {low} to {high}",
    ]


def _number(value: float) -> str:
    """Six digits, and a point or exponent that YAML 1.1 takes for a number."""
    text = f"{value:.6g}"
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{mark}{exponent}"
