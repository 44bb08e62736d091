"""The command line: the same parts as the pytest plugin, by hand."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from lab.bench import Bench
from lab.commands.baseline import baseline
from lab.commands.bisect import bisect
from lab.commands.compare import compare
from lab.commands.compile import compile_command
from lab.commands.nightly import heal, nightly
from lab.commands.store import store as store_commands
from lab.errors import LabError
from lab.inventory import Device
from lab.mlperf.command import mlperf
from lab.paths import cache_dir, default_config, reports_dir, store_dir
from lab.units import format_quantity

if TYPE_CHECKING:
    from lab.reporting import TextKind
    from measurements.record import Run

LEASE_WAIT_S = 60.0


class _Group(click.Group):
    """Shows an error of the lab as one message, not as a traceback; exit status 1 for it, 2 for wrong usage."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except LabError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Bench file (LAB_CONFIG).")
@click.version_option(package_name="hil-lab")
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Hardware-in-the-loop test and measurement lab for machine learning on devices."""
    ctx.obj = config.absolute() if config is not None else default_config()


@main.command()
@click.pass_obj
def devices(config: Path) -> None:
    """List the devices of the bench."""
    from lab.doctor import availability
    from lab.quarantine import quarantined

    bench = Bench.load(config)
    kept_out = quarantined(store_dir())
    rows = [("NAME", "BOARD", "CPU", "SOURCE", "FEATURES", "STATE")]
    for entry in bench.devices:
        source = "emulated" if entry.emulated else "hardware"
        state = availability(entry).split("\n")[0] or "ready"
        if entry.name in kept_out:
            state = str(kept_out[entry.name])
        rows.append((entry.name, entry.board.kind, entry.board.cpu, source, " ".join(entry.features), state))
    _table(rows)
    click.echo(f"\nbench: {config}")


@main.group()
def device() -> None:
    """Look after a device of the bench."""


@main.command()
def workloads() -> None:
    """List the workloads and the systems of the catalogue that they serve."""
    from lab.workloads import all_workloads

    rows = [("ID", "FAMILY", "SYSTEMS", "TITLE")]
    rows += [(one.id, one.family, " ".join(one.systems) or "-", one.title) for one in all_workloads()]
    _table(rows)


@main.command()
@click.pass_obj
def doctor(config: Path) -> None:
    """Say what is installed and attached, what is missing and how to get it. Exit status 1 if anything is missing."""
    from lab.doctor import diagnose
    from lab.inventory import load_bench

    missing = False
    area = ""
    marks = {"ok": "ok     ", "off": "off    ", "warning": "WARNING", "missing": "MISSING"}
    for finding in diagnose(load_bench(config)):
        if finding.area != area:
            area = finding.area
            click.echo(f"\n{area}")
        click.echo(f"  {marks[finding.status]}  {finding.name}: {finding.detail}")
        if finding.remedy:
            click.echo(f"           -> {finding.remedy}")
        missing = missing or finding.status == "missing"
    sys.exit(1 if missing else 0)


@main.command()
@click.argument("workload")
@click.option("--device", "names", default="", help="Devices: names, or terms such as class:mcu+feature:meter.")
@click.option("--variant", default="", help="Variant of the workload.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1), help="Timed passes over each sample.")
@click.option("--samples", type=click.IntRange(1), help="Use only the first so many samples.")
@click.pass_obj
def run(config: Path, workload: str, names: str, variant: str, repeats: int, samples: int | None) -> None:
    """Run WORKLOAD on devices of the bench and write a report."""
    from lab.devices.connect import connected
    from lab.doctor import availability
    from lab.reporting import mirror, new_session_id, report_session
    from lab.runs import deploy, measure
    from lab.workloads import get
    from measurements.store import Store

    get(workload)  # an unknown one is said once, not for every device
    session_id = new_session_id()
    failures = []
    with Store(store_dir()) as store:
        for entry in Bench.load(config).select(names):
            reason = availability(entry)
            if reason:
                click.echo(f"{entry.name}: skipped: {reason}")
                continue
            try:
                with _held(entry), connected(entry, cache_dir()) as device:
                    deployment = deploy(entry, device, workload, cache_dir(), variant)
                    measurement = measure(deployment, store, session_id, repeats=repeats, samples=samples)
            except LabError as error:
                failures.append(entry.name)
                click.echo("\n".join((f"{entry.name}: {error}", *getattr(error, "__notes__", ()))), err=True)
                continue
            _print_run(measurement.run)
    page = report_session(store_dir(), session_id, reports_dir())
    if page is not None:
        click.echo(f"report: {page}")
    if told := mirror(store_dir()):
        click.echo(told)
    sys.exit(1 if failures or page is None else 0)


@main.command()
@click.argument("session", required=False)
@click.option("--list", "listing", is_flag=True, help="List the sessions of the store instead.")
@click.option("--as", "kind", default="html", show_default=True, help="What to write.",
              type=click.Choice(["html", "markdown", "junit", "csv", "latex"]))  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where (default: standard output).")
@click.option("--nights", default=60, show_default=True, type=click.IntRange(0), help="Compare with so many before.")
def report(
    session: str | None, listing: bool, kind: Literal["html"] | TextKind, output: Path | None, nights: int
) -> None:
    """Write the report of SESSION (default: the latest) again from the store.

    HTML goes to the reports folder; everything else to standard output or --output: Markdown for a comment on a pull
    request, JUnit XML for CI, CSV with every figure, a LaTeX table for a paper.
    """
    from lab.reporting import report_session, session_text
    from measurements.report import write_text
    from measurements.store import Store

    with Store(store_dir()) as store:
        if listing:
            rows = [("SESSION", "RUN", "DEVICE", "WORKLOAD", "STATUS")]
            for one in store.runs():
                provenance = one.provenance
                rows.append((one.session_id, one.run_id, provenance.device, provenance.workload, one.status))
            _table(rows)
            return
        chosen = session or store.latest_session() or ""
    if kind == "html":
        page = report_session(store_dir(), chosen, reports_dir(), nights)
        told = f"report: {page}" if page is not None else None
    else:
        text = session_text(store_dir(), chosen, kind, nights)
        told = text if output is None or text is None else f"report: {write_text(output, text)}"
    if told is None:
        found = f"no runs of session {chosen!r}; `lab report --list` names them" if chosen else "no runs yet"
        raise click.ClickException(f"{store_dir()} holds {found}")
    click.echo(told, nl=not told.endswith("\n"))


@main.command()
@click.argument("device")
@click.option("--workload", default="spoken-digits", show_default=True, help="What to start on an emulated device.")
@click.option("--seconds", type=float, help="Stop after so long (default: until Ctrl-C).")
@click.pass_obj
def console(config: Path, device: str, workload: str, seconds: float | None) -> None:
    """Show what DEVICE says: frames of the runner as JSON, everything else as text."""
    from lab.console import listen

    entry = Bench.load(config).get(device)
    try:
        for line in listen(entry, workload, cache_dir(), seconds):
            click.echo(line)
    except KeyboardInterrupt:
        click.echo("")


main.add_command(mlperf)
main.add_command(baseline)
main.add_command(bisect)
main.add_command(compare)
main.add_command(compile_command)
main.add_command(store_commands)
main.add_command(nightly)
device.add_command(heal)


def _held(entry: Device) -> contextlib.AbstractContextManager[object]:
    """The lease of a device, where it is one of its kind."""
    from lab.lease import lease

    return lease(entry.name, "lab run", LEASE_WAIT_S) if entry.needs_lease else contextlib.nullcontext()


def _print_run(run: Run) -> None:
    click.echo(f"{run.provenance.device}: {run.provenance.workload} {run.status}")
    for record in run.records:
        interval = f" [{format_quantity(record.ci_low, record.unit)}, {format_quantity(record.ci_high, record.unit)}]"
        shown = interval if record.ci_low != record.ci_high else ""
        value = format_quantity(record.median, record.unit)
        click.echo(f"  {record.region:10} {record.metric:22} {value}{shown}  n={record.n} {record.source}")


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
