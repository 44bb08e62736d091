"""``lab nightly``, the matrix by itself, and ``lab device heal``, for the devices that it keeps out."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.errors import ConfigError, InfrastructureError, LabError
from lab.paths import cache_dir, reports_dir, store_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.nightly.config import Notify, Plan
    from lab.nightly.finish import Ending

BENCH_FAILED = 3


class _WrongUsage(click.ClickException):
    exit_code = 2


class _BenchFailed(click.ClickException):
    exit_code = BENCH_FAILED


@click.command()
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="What to run: a nightly.yaml.")
@click.option("--fresh", is_flag=True, help="Begin a new night, even if the last one broke off.")
@click.option("--list", "listing", is_flag=True, help="List the cells instead of running them.")
@click.pass_obj
def nightly(bench: Path, file: Path, fresh: bool, listing: bool) -> None:
    """Run a matrix of workloads and devices by itself, and write one report.

    A night that broke off goes on at the cell where it stopped. Exit status: 0 all passed, 1 the product failed or
    regressed, 2 wrong usage, 3 the bench failed, 4 the time ran out.
    """
    from lab.nightly.config import load_plan

    try:
        plan = load_plan(file, bench)
        if listing:
            for cell in plan.cells:
                click.echo(cell.key)
            return
        status = _run(plan, fresh=fresh)
    except (ConfigError, InfrastructureError) as error:
        raise (_WrongUsage if isinstance(error, ConfigError) else _BenchFailed)(str(error)) from error
    sys.exit(status)


def _run(plan: Plan, *, fresh: bool) -> int:
    """Run a night to its end; its exit status."""
    from lab.nightly.bench_worker import BenchWorker
    from lab.nightly.finish import finish
    from lab.nightly.night import Night, only_one, open_night, unreached_before
    from lab.provenance import checkout
    from lab.reporting import mirror, new_session_id

    tree, store = checkout(), store_dir()
    commit = tree.commit + "+" * tree.dirty
    with only_one(store):
        first = unreached_before(store)
        journal, found = open_night(store, plan, commit, new_session_id(), fresh=fresh, now_s=time.time())
        if found:
            click.echo(found)
        state = journal.progress
        Night(plan, BenchWorker(store, cache_dir(), state.night), journal, store, first).run()
        ending = finish(plan, state, store, reports_dir(), [found] if found else [])
    click.echo(ending.headline)
    click.echo(f"report: {ending.page}")
    steps: tuple[Callable[[], str], ...] = (lambda: mirror(store), lambda: _tell(plan.config.notify, ending))
    troubles = sum(not _done(step) for step in steps)
    return ending.status or (BENCH_FAILED if troubles else 0)


def _done(step: Callable[[], str]) -> bool:
    """Do one of the last steps, all of which are tried; says what came of it."""
    try:
        told = step()
    except LabError as error:
        click.echo(str(error), err=True)
        return False
    if told:
        click.echo(told)
    return True


def _tell(config: Notify | None, ending: Ending) -> str:
    """Tell whoever wants to be told; says so."""
    from lab.nightly.notify import notify

    if config is None or (config.when == "trouble" and ending.status == 0):
        return ""
    body = (ending.page.parent / "summary.md").read_text("utf-8")
    notify(config, ending.headline, body, good=ending.status == 0)
    return f"told {len(config.urls)} addresses"


@click.command()
@click.argument("name")
def heal(name: str) -> None:
    """Take the device NAME out of quarantine."""
    from lab import health
    from lab.quarantine import quarantined, set_quarantine

    kept_out = quarantined(store_dir())
    if name not in kept_out:
        known = ", ".join(sorted(kept_out)) or "none"
        raise click.ClickException(f"{name!r} is not in quarantine; those are: {known}")
    set_quarantine(store_dir(), name, None)
    health.note(store_dir(), health.healed(name))
    click.echo(f"{name} takes part again")
