"""``lab meter``: what is attached, what it shows, how right it is, and what its traces are turned into."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.bench import Bench
from lab.commands.flash import DEFAULT_WORKLOAD
from lab.commands.table import echo_table
from lab.errors import ConfigError, LabError
from lab.lease import held
from lab.paths import cache_dir, store_dir
from lab.units import format_quantity

if TYPE_CHECKING:
    from lab.calibrations import Usable
    from lab.commands.meter_calibrate import Resistor
    from lab.inventory import Device as Entry
    from measurements.uncertainty import Correction

_TO_RUN = "What an emulated board runs meanwhile."


@click.group()
def meter() -> None:
    """Look after the power meters of the bench."""


@meter.command("list")
@click.option("--open", "opening", is_flag=True, help="Open each one, which may switch its supply on, and ask it.")
@click.pass_obj
def list_command(config: Path, opening: bool) -> None:
    """List the meters of the bench: kind, where, rate, ranges, how windows are found, calibration."""
    from lab.doctor import availability

    bench = Bench.load(config)
    metered = [entry for entry in bench.devices if entry.meter is not None]
    if not metered:
        raise ConfigError(f"{config}: no device has a meter", hint="add `meter:` to a device; docs/meters.md")
    rows = [_row(entry, availability(entry).split("\n")[0] or "ready") for entry in metered]
    echo_table([("DEVICE", "METER", "WHERE", "VOLTAGE", "CALIBRATION", "STATE"), *rows])
    failed = False
    for entry in metered if opening else ():
        if availability(entry):
            continue
        try:
            click.echo(f"\n{entry.name}: {_asked(entry)}")
        except LabError as error:
            failed = True
            click.echo(f"\n{entry.name}: {error}")
    sys.exit(1 if failed else 0)


def _row(entry: Entry, state: str) -> tuple[str, ...]:
    from lab.calibrations import history, places_of
    from lab.commands.meter_stream import meter_of

    settings = meter_of(entry)
    known = history(store_dir(), settings)
    where = "emulated" if settings.emulated else " ".join(places_of(settings)) or "-"
    # A computer has no one voltage.
    voltage = format_quantity(entry.meter_voltage_v, "V") if entry.meter_voltage_v else "-"
    calibrated = known[-1].date[:10] if known else "none"
    return (entry.name, settings.kind, where, voltage, calibrated, state)


def _asked(entry: Entry) -> str:
    """What an open meter says of itself."""
    from contextlib import ExitStack

    from lab.calibrations import usable
    from lab.commands.meter_stream import meter_of
    from lab.devices.connect import emulated_meter, meter_at
    from lab.power.registry import make_meter

    settings = meter_of(entry)
    with ExitStack() as stack:
        stack.enter_context(held(entry, "lab meter list"))
        if settings.emulated:
            found_meter = make_meter(emulated_meter(entry, stack).config, entry.meter_voltage_v)
        else:
            found_meter = meter_at(entry, cache_dir(), stack)
        info = stack.enter_context(found_meter).info
        found = usable(store_dir(), settings, info)
    ranges = [
        f"up to {format_quantity(one.upto_a, 'A')}: ±{100 * one.relative:g} % ±{format_quantity(one.offset_a, 'A')}"
        for one in info.ranges
    ]
    lines = [
        info.identity,
        f"{format_quantity(info.sample_rate_hz, 'Hz')}, windows found by {info.alignment}, {info.logic_inputs} logic "
        f"inputs, voltage {'measured' if info.measures_voltage else 'told'}",
        *(ranges or [f"±{100 * info.relative_uncertainty:g} %"]),
        *([f"calibrated {found.calibration.date[:10]}"] if found.calibration else []),
        *([f"WARNING  {found.warning}"] if found.warning else []),
    ]
    return "\n  ".join(lines)


@meter.command()
@click.argument("device")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Of the meter's time (default: for ever).")
@click.option("--every", default=0.5, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Seconds of the meter's time between lines.")  # fmt: skip
@click.option("--workload", default=DEFAULT_WORKLOAD, show_default=True, help=_TO_RUN)
@click.pass_obj
def watch(config: Path, device: str, seconds: float | None, every: float, workload: str) -> None:
    """Show current, voltage, power and energy at DEVICE as they come. Ctrl-C ends it.

    The board behind an emulated meter is started and runs a workload again and again, in its own virtual time. On
    hardware the meter is opened, which switches on the supply of one that has one; the device does what it does.
    """
    from lab.commands.meter_stream import opened
    from lab.commands.meter_watch import watch_stream

    with opened(config, device, workload) as stream:
        _tell(stream.usable)
        try:
            watch_stream(stream, seconds, every)
        except KeyboardInterrupt:
            click.echo("")


@meter.command()
@click.argument("device")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Of the meter's time.")  # fmt: skip
@click.option("--workload", default=DEFAULT_WORKLOAD, show_default=True, help=_TO_RUN)
@click.pass_obj
def record(config: Path, device: str, file: Path, seconds: float, workload: str) -> None:
    """Record the meter at DEVICE into FILE, whose ending says the format: .parquet, .csv, .ppk2, .jls."""
    from lab.commands.meter_stream import opened
    from lab.power.base import join
    from measurements.record import Trace
    from measurements.traces_io import suffixes, write_trace

    if file.suffix.lower() not in suffixes():
        raise ConfigError(f"{file}: no format of traces ends so; allowed: {', '.join(suffixes())}")
    if not file.parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}", hint="make it first, or name another file")
    with opened(config, device, workload) as stream:
        _tell(stream.usable)
        info = stream.meter.info
        block = join(list(stream.blocks(seconds)))
    dt_s = 1.0 / info.sample_rate_hz
    trace = Trace(0.0, dt_s, info.voltage_v, block.current_a, block.logic, block.lost, block.voltage_v)
    write_trace(file, trace)
    _tell_trace(file, trace.current_a.size, dt_s, block.lost)
    if info.emulated:
        click.echo(f"{device} is emulated: its current is modelled, which the file does not say")


@meter.command()
@click.argument("run_id")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(run_id: str, file: Path) -> None:
    """Write the power trace of the stored run RUN_ID to FILE, whose ending says the format."""
    from measurements.store import Store
    from measurements.traces_io import write_trace

    with Store(store_dir()) as store:
        trace = store.trace(run_id)
    if trace is None:
        raise ConfigError(f"run {run_id!r} has no power trace", hint="`lab report --list` names the runs")
    write_trace(file, trace)
    _tell_trace(file, trace.current_a.size, trace.dt_s, trace.lost)


@meter.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("output", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--voltage", type=click.FloatRange(min=0, min_open=True), help="Of the supply, where FILE tells none.")
def import_command(file: Path, output: Path | None, voltage: float | None) -> None:
    """Read FILE, a trace of this lab or another program, say what is in it, and write it to OUTPUT if that is given.

    The endings say the formats, so that this also turns one format into another.
    """
    from lab.commands.meter_trace import described
    from measurements.traces_io import read_trace, write_trace

    trace = read_trace(file, voltage)
    for line in described(trace):
        click.echo(line)
    if output is not None:
        write_trace(output, trace)
        _tell_trace(output, trace.current_a.size, trace.dt_s, trace.lost)


@meter.command()
@click.argument("device")
@click.option("--resistor", "texts", multiple=True, required=True, help="Value and tolerance, such as 1k:0.1%; repeat.")
@click.option("--volts", default="1.0,2.0,3.0", show_default=True, help="Voltages to supply, with commas between.")
@click.option("--voltage-uncertainty", required=True, type=click.FloatRange(min=0, max=0.5, min_open=True),
              help="How far off a voltage may be, relative: 0.001 by a multimeter of 0.1 %.")  # fmt: skip
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="How long each point is measured.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask before each resistor (there is only one, or it is emulated).")
@click.pass_obj
def calibrate(
    config: Path, device: str, texts: tuple[str, ...], volts: str, voltage_uncertainty: float, seconds: float, yes: bool
) -> None:
    """Measure known resistors in place of DEVICE and store the correction of its meter, with date and identity."""
    from lab.calibrations import save
    from lab.commands.meter_calibrate import calibrate as measure
    from lab.commands.meter_calibrate import must_take_resistors, parse_resistor
    from lab.commands.meter_stream import meter_of

    entry = Bench.load(config).get(device)
    settings = meter_of(entry)
    must_take_resistors(entry, settings)
    resistors = [parse_resistor(text) for text in texts]
    voltages_v = _voltages(volts)

    def connect(resistor: Resistor) -> None:
        if not (yes or settings.emulated):
            click.confirm(f"connect {resistor} in place of {entry.name}; ready?", abort=True)

    with held(entry, "lab meter calibrate"):
        found, info = measure(settings, resistors, voltages_v, voltage_uncertainty, seconds, connect)
    path = save(store_dir(), settings, found)
    click.echo(f"{entry.name}: {info.kind} ({info.identity}), {found.date}")
    _print_correction(found.correction)
    click.echo(f"stored in {path}; used from the next measurement on")


def _voltages(text: str) -> list[float]:
    try:
        values = [float(one) for one in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise ConfigError(f"--volts: found {text!r}; allowed: voltages above 0 with commas between, such as 1.0,3.0")
    return values


def _print_correction(correction: Correction) -> None:
    rows = [("UP TO", "GAIN", "UNCERTAINTY", "OFFSET", "UNCERTAINTY")]
    for one in correction.ranges:
        rows.append(
            (
                format_quantity(one.upto_a, "A"),
                f"{one.gain:.6f}",
                f"±{100 * one.gain_uncertainty:.3g} %",
                format_quantity(one.offset_a, "A"),
                f"±{format_quantity(one.offset_uncertainty_a, 'A')}",
            )
        )
    echo_table(rows)


@meter.command()
@click.argument("device")
@click.pass_obj
def selftest(config: Path, device: str) -> None:
    """Check the driver and the method of DEVICE's kind of meter against its emulated peer. Exit status 1 if wrong.

    The peer speaks the meter's own protocol and draws a scripted load whose charge and energy are known in closed form.
    """
    from lab.commands.meter_selftest import emulated_twin
    from lab.commands.meter_selftest import selftest as check
    from lab.commands.meter_stream import meter_of

    entry = Bench.load(config).get(device)
    settings = emulated_twin(meter_of(entry))
    checks = check(settings, entry.meter_voltage_v)
    rows = [("LOAD", "FIGURE", "MEASURED", "TRUE", "ERROR", "BOUND", "")]
    for one in checks:
        bound = f"±{100 * one.bound / one.true:.3g} %"
        measured, true = format_quantity(one.measured, one.unit), format_quantity(one.true, one.unit)
        verdict = "pass" if one.passed else "FAIL"
        rows.append((one.load, one.metric, measured, true, f"{100 * one.error:+.4f} %", bound, verdict))
    echo_table(rows)
    failed = sum(not one.passed for one in checks)
    click.echo(f"{settings.kind}: {f'{failed} of {len(checks)} FAILED' if failed else 'passed'}")
    sys.exit(1 if failed else 0)


@meter.command()
@click.argument("device")
@click.option("--csv", "table", type=click.Path(path_type=Path, dir_okay=False),
              help="Rows of duration_s, instructions, loads, stores, energy_j, and classes where known.")  # fmt: skip
@click.option("--counts-from", help="Board whose runs in the store hold the counts of what DEVICE ran.")
@click.option("--meter-uncertainty", "class_", type=click.FloatRange(0, 1),
              help="Class of the meter, relative (default: as stored).")  # fmt: skip
@click.pass_obj
def fit(config: Path, device: str, table: Path | None, counts_from: str | None, class_: float | None) -> None:
    """Fit nJ per instruction, by class, and the idle power of DEVICE's board to measurements of it.

    Rows are the stored energies of DEVICE joined with --counts-from's counts of the same programs, or a table. What is
    printed goes into the board file. Data that cannot tell the four apart are refused with the reason.
    """
    from lab.commands.meter_fit import rows_of_csv, rows_of_runs, yaml_section
    from measurements.instruction_energy import fit_instruction_energy
    from measurements.store import Store

    if (table is None) == (counts_from is None):
        raise click.UsageError("name one of --csv and --counts-from")
    entry = Bench.load(config).get(device)
    stored = 0.0
    if table is not None:
        rows, origin = rows_of_csv(table), table.name
    else:
        with Store(store_dir()) as store:
            rows, stored = rows_of_runs(store.runs(), device, str(counts_from))
        origin = f"{device}, counts of {counts_from}"
    found = fit_instruction_energy(rows, stored if class_ is None else class_)
    click.echo(yaml_section(found, entry, origin))
    click.echo(
        f"# {found.rows} measurements, furthest from the model by {100 * found.worst_residual:.2g} %; condition number "
        f"{found.condition:.3g}; intervals hold the meter's ±{100 * found.meter_uncertainty:g} %"
    )


def _tell(found: Usable) -> None:
    if found.calibration is not None:
        click.echo(f"corrected by the calibration of {found.calibration.date[:10]}")
    if found.warning:
        click.echo(f"WARNING  {found.warning}", err=True)


def _tell_trace(file: Path, samples: int, dt_s: float, lost: int) -> None:
    click.echo(f"{file}: {samples} samples, {format_quantity(samples * dt_s, 's')}, {lost} lost")
