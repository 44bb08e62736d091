"""The command line: the same parts as the pytest plugin, by hand."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from lab.bench import Bench
from lab.commands.baseline import baseline
from lab.commands.bisect import bisect
from lab.commands.compare import compare
from lab.commands.compile import compile_command
from lab.commands.crash import crash
from lab.commands.device_option import device_option
from lab.commands.emulate import emulate
from lab.commands.env import env
from lab.commands.flash import flash
from lab.commands.gdb import gdb
from lab.commands.image import image
from lab.commands.labgrid import labgrid
from lab.commands.lease import lease
from lab.commands.meter import meter
from lab.commands.methods import methods
from lab.commands.nightly import heal, nightly
from lab.commands.power import power
from lab.commands.reset import reset
from lab.commands.ssh import push, ssh
from lab.commands.store import store as store_commands
from lab.commands.table import echo_table
from lab.commands.worker import worker
from lab.ending import OrderlyEnd
from lab.errors import LabError
from lab.mlperf.command import mlperf
from lab.paths import cache_dir, default_config, reports_dir, store_dir

if TYPE_CHECKING:
    from lab.reporting import TextKind



class _Group(click.Group):
    """Shows an error of the lab as one message, not as a traceback; exit status 1 for it, 2 for wrong usage.

    Signal n ends a command in order (:mod:`lab.ending`), with exit status 128 + n.
    """

    def invoke(self, ctx: click.Context) -> object:
        end = OrderlyEnd()
        try:
            return super().invoke(ctx)
        except LabError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            if not end.number:
                raise
            click.echo(f"\nended by {signal.Signals(end.number).name}", err=True)
            ctx.exit(end.status)
        finally:
            end.restore()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Bench file (LAB_CONFIG).")
@click.version_option(package_name="hil-lab")
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Hardware-in-the-loop test and measurement lab for machine learning on devices."""
    ctx.obj = config.absolute() if config is not None else default_config()
    for stream in (sys.stdout, sys.stderr):
        # What goes into a file or pipe on Windows is in the system's code page, which lacks Ω and ≥.
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


@main.command()
@click.pass_obj
def devices(config: Path) -> None:
    """List the devices of the bench."""
    from functools import cache

    from lab.doctor import availability
    from lab.quarantine import quarantined
    from lab.transports.serial_ports import list_ports

    bench = Bench.load(config)
    # Once for all: looking through the ports for each of a thousand devices would take a second.
    attached = cache(list_ports)
    kept_out = quarantined(store_dir())
    rows = [("NAME", "BOARD", "CPU", "SOURCE", "FEATURES", "STATE")]
    for entry in bench.devices:
        source = "emulated" if entry.emulated else "hardware"
        state = availability(entry, attached).split("\n")[0] or "ready"
        if entry.name in kept_out:
            state = str(kept_out[entry.name])
        rows.append((entry.name, entry.board.kind, entry.board.cpu, source, " ".join(entry.features), state))
    echo_table(rows)
    click.echo(f"\nbench: {config}")


@main.group()
def device() -> None:
    """Look after a device of the bench."""


@main.command()
def workloads() -> None:
    """List the workloads: systems of the catalogue that they serve, device classes, whether they are whole."""
    from lab.workloads import all_workloads

    rows = [("ID", "FAMILY", "SYSTEMS", "CLASSES", "STATE", "TITLE")]
    for one in all_workloads():
        state = "partial" if one.missing else "whole"
        rows.append((one.id, one.family, " ".join(one.systems) or "-", " ".join(one.classes), state, one.title))
    echo_table(rows)
    lacking = [f"{one.id} lacks {one.missing}" for one in all_workloads() if one.missing]
    if lacking:
        click.echo("\n" + "\n".join(lacking))


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
@device_option(default=())
@click.option("--variant", default="", help="Variant of the workload; NAME=A|B runs both, one after the other.")
@click.option("--size", type=click.Choice(["ci", "paper"]), help="The workload as CI runs it, or as the paper has it.")
@click.option("--baselines/--no-baselines", default=True, help="Run what the method is compared with beside it.")
@click.option("--rounds", default=1, show_default=True, type=click.IntRange(1),
              help="How often the method and its baselines run, in turn.")  # fmt: skip
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1), help="Timed passes over each sample.")
@click.option("--samples", type=click.IntRange(1), help="Use only the first so many samples.")
@click.option("--energy", metavar="WINDOW[,CI[,MOST]]",
              help="Measure energy in windows of so many seconds until the median's interval is within ±CI, at most so "
                   "many: 10,0.02,20 is what hardware gets. Emulators get one short capture without it.")  # fmt: skip
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1),
              help="Devices side by side in so many processes.")  # fmt: skip
@click.pass_obj
def run(
    config: Path,
    workload: str,
    names: str,
    variant: str,
    size: str | None,
    baselines: bool,
    rounds: int,
    repeats: int,
    samples: int | None,
    energy: str | None,
    workers: int,
) -> None:
    """Run WORKLOAD and its baselines on devices of the bench and write a report."""
    from lab.commands.running import run_everywhere
    from lab.commands.side_by_side import Workers
    from lab.comparison import Sizes, joined
    from lab.metered import EnergyPlan
    from lab.workloads import get

    sizes = Sizes(repeats, samples, rounds, None if energy is None else EnergyPlan.parse(energy))
    method = get(workload)  # an unknown one is said once, not for every device
    variant = joined(variant, "" if size is None else f"size={size}")
    cells = [(entry, method) for entry in Bench.load(config).select(names)]
    sys.exit(run_everywhere(cells, variant, sizes, baselines=baselines, workers=Workers(workers, config)))


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
            echo_table(rows)
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
main.add_command(crash)
main.add_command(emulate)
main.add_command(env)
main.add_command(flash)
main.add_command(gdb)
main.add_command(image)
main.add_command(labgrid)
main.add_command(lease)
main.add_command(meter)
main.add_command(methods)
main.add_command(push)
main.add_command(reset)
main.add_command(ssh)
main.add_command(store_commands)
main.add_command(nightly)
main.add_command(worker)
device.add_command(heal)
device.add_command(power)
