"""``lab store``: look after the local store and its mirror."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab import progress
from lab.errors import ConfigError, StoreError
from lab.paths import store_dir

if TYPE_CHECKING:
    from measurements.store.influx import InfluxConfig
    from measurements.store.selection import Selection

_SHOWN = 10


def _choice(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose runs."""
    options = [
        click.option("--workload", help="Only runs of this workload."),
        click.option("--variant", help="Only runs of this variant."),
        click.option("--device", help="Only runs on this device."),
        click.option("--board", help="Only runs on this kind of board."),
        click.option("--session", help="Only runs of this session."),
        click.option("--status", help="Only runs that passed, failed, error or incomplete."),
        click.option("--since", help="Only runs that start at or after this, such as 2026-11-21 (UTC)."),
        click.option("--until", help="Only runs that start before this."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def store() -> None:
    """Look after the local store (LAB_STORE) and its mirror."""


@store.command()
@click.option("--mirror", "remote", is_flag=True, help="Also ask the mirror whether it has every run.")
@click.option("--resend", is_flag=True, help="With --mirror: put what it lacks into the outbox again.")
def verify(remote: bool, resend: bool) -> None:
    """Check the database, every run, every trace and, if asked, the mirror. Exit status 1 if anything is wrong."""
    from measurements.store import Store
    from measurements.store.remote import missing

    config = _mirror() if remote or resend else None
    with Store(_existing(), mirror_traces=True) as opened, progress.step("verifying", quiet_below_s=2.0) as step:
        check = opened.verify()
        lacking = missing(opened, config, tell=step.update) if config is not None else []
        waiting, refused = opened.outbox_sizes()
        if resend and lacking:
            opened.resend(lacking)
    click.echo(f"{store_dir()}: {check.runs} runs, {check.records} records, {check.traces} traces")
    click.echo(f"outbox: {waiting} blocks wait, {refused} were refused by the mirror")
    if check.leftovers:
        number = len(check.leftovers)
        click.echo(f"{number} files of saves that never finished; `lab store prune --leftovers` deletes them")
    problems = [*check.problems, *(f"run {run_id}: the mirror lacks figures of it" for run_id in lacking)]
    for problem in problems:
        click.echo(f"PROBLEM  {problem}")
    if resend and lacking:
        click.echo(f"{len(lacking)} runs are in the outbox again; `lab store mirror` sends them")
    click.echo("sound" if not problems else f"{len(problems)} problems")
    sys.exit(1 if problems else 0)


@store.command()
@click.argument("others", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def merge(others: tuple[Path, ...]) -> None:
    """Add the runs of the stores OTHERS (their folders). Merging again changes nothing."""
    from measurements.store import Store
    from measurements.store.merge import merge as merge_store

    with Store(store_dir()) as opened:
        for other in others:
            with progress.step(f"merging {other}", quiet_below_s=2.0) as step:
                result = merge_store(opened, other, step.update)
            click.echo(f"{other}: {result.changed} of {result.runs} runs added or brought up to date")


@store.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--format", "kind", type=click.Choice(["parquet", "csv", "jsonl"]), default="parquet", show_default=True)
@click.option("--traces", is_flag=True, help="Also copy the power traces.")
@_choice
def export(folder: Path, kind: Any, traces: bool, **terms: str | None) -> None:
    """Write runs and records as tables to FOLDER, for other programs."""
    from measurements.store import Store
    from measurements.store.export import export as export_store

    with Store(_existing()) as opened, progress.step("exporting", quiet_below_s=2.0):
        result = export_store(opened, folder, kind, _selection(**terms), traces=traces)
    click.echo(f"{result.runs} runs, {result.records} records, {result.traces} traces")
    for file in result.files:
        click.echo(f"  {file}")


@store.command()
@click.option("--older-than", "days", type=click.FloatRange(0), help="Only runs that started so many days ago.")
@click.option("--keep", type=click.IntRange(0), default=0, help="Keep the latest so many of each series in any case.")
@click.option("--traces-only", is_flag=True, help="Keep the runs and remove their power traces.")
@click.option("--unsent", is_flag=True, help="Also remove runs that the mirror has not confirmed.")
@click.option("--leftovers", is_flag=True, help="Remove no run, only files of saves that never finished.")
@click.option("--yes", is_flag=True, help="Remove them. Without it, nothing is removed.")
@_choice
def prune(
    days: float | None, keep: int, traces_only: bool, unsent: bool, leftovers: bool, yes: bool, **terms: str | None
) -> None:
    """Remove runs that match all the options given, or say what would be removed."""
    from measurements.store import Store
    from measurements.store.prune import plan
    from measurements.store.prune import prune as prune_store

    if days is not None:
        if terms["until"] is not None:
            raise click.UsageError("give --older-than or --until, not both")
        terms["until"] = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    if not leftovers and not keep and not any(terms.values()):
        raise click.UsageError("that would remove every run; say which with --older-than, --keep or another option")
    with Store(_existing()) as opened:
        if leftovers:
            files = opened.remove_leftovers() if yes else opened.leftovers()
            click.echo(f"{len(files)} files that no run names {'removed' if yes else 'would go; --yes removes them'}")
            return
        planned = plan(opened, _selection(**terms), keep=keep, traces_only=traces_only, even_unsent=unsent)
        if yes:
            with progress.step("pruning", quiet_below_s=2.0):
                prune_store(opened, planned)
    what = "traces" if traces_only else "runs"
    done = "removed" if yes else "would go; --yes removes them"
    click.echo(f"{len(planned.run_ids)} {what} ({planned.trace_bytes / 1e6:.1f} MB of traces) {done}")
    for run_id in planned.run_ids[:_SHOWN]:
        click.echo(f"  {run_id}")
    if len(planned.run_ids) > _SHOWN:
        click.echo(f"  and {len(planned.run_ids) - _SHOWN} more")
    if planned.unsent:
        click.echo(f"{len(planned.unsent)} runs stay: no mirror has confirmed them; --unsent removes them as well")


@store.command()
@click.option("--retry-refused", is_flag=True, help="Also send again what the mirror refused before.")
def mirror(retry_refused: bool) -> None:
    """Send what waits to the mirror (LAB_INFLUX_*). Exit status 1 if something is still waiting."""
    from measurements.store import Store
    from measurements.store.influx import flush

    config = _mirror()
    with Store(_existing()) as opened, progress.step(f"mirroring to {config.url}", quiet_below_s=2.0):
        if retry_refused:
            opened.retry_refused()
        result = flush(opened, config)
        refused = opened.set_aside(_SHOWN)
    click.echo(f"{result.sent} blocks sent, {result.set_aside} refused, {result.kept} kept")
    for block in refused:
        click.echo(f"REFUSED  run {block.run_id}: {block.answer}")
    if result.problem:
        click.echo(f"PROBLEM  {result.problem}")
    sys.exit(1 if result.problem or refused else 0)


@store.command()
@click.argument("query")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def sql(query: str, as_csv: bool) -> None:
    """Answer an SQL QUERY over the views records, runs and traces (DuckDB)."""
    from measurements.store.sql import sql as ask

    answer = ask(store_dir(), query)
    click.echo(answer.to_csv(index=False) if as_csv else answer.to_string(index=False), nl=not as_csv)


def _existing() -> Path:
    from measurements.store.opening import DATABASE

    if not (store_dir() / DATABASE).is_file():
        raise StoreError(f"{store_dir()}: there is no store", hint="it is made by the first run; LAB_STORE says where")
    return store_dir()


def _mirror() -> InfluxConfig:
    from measurements.store.influx import InfluxConfig

    config = InfluxConfig.from_env()
    if config is None:
        raise ConfigError("no mirror is configured", hint="set LAB_INFLUX_URL, _BUCKET and _TOKEN (docs/store.md)")
    return config


def _selection(**terms: str | None) -> Selection:
    from measurements.store.selection import Selection

    return Selection(**terms)
