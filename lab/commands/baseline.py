"""``lab baseline``: accepted figures, kept in the repository."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lab.errors import ConfigError
from lab.paths import baselines_dir, store_dir

_FOLDER = click.option("--folder", type=click.Path(path_type=Path), help="Where baselines are (LAB_BASELINES).")


@click.group("baseline")
def baseline() -> None:
    """Figures that were accepted, and how others compare with them."""


@baseline.command()
@click.argument("session", required=False)
@click.option("--failed", is_flag=True, help="Also the figures of tests that failed: these are how it is now.")
@_FOLDER
def accept(session: str | None, failed: bool, folder: Path | None) -> None:
    """Accept the figures of SESSION (default: the latest) as baselines: files to review and commit."""
    from lab.baselines import accept_session
    from measurements.store import Store

    with Store(store_dir()) as store:
        done = accept_session(folder or baselines_dir(), store, session or _latest(store_dir()), failed=failed)
    for path in done.changed:
        click.echo(f"accepted: {path}")
    for name in done.left_out:
        click.echo(f"left out, for it failed: {name} (--failed accepts it)")
    click.echo(f"{len(done.changed)} files changed" if done.changed else "nothing changed")


@baseline.command()
@click.argument("session", required=False)
@_FOLDER
def compare(session: str | None, folder: Path | None) -> None:
    """Compare SESSION (default: the latest) with the baselines. Exit status 1 where a figure is worse than allowed."""
    from lab.baselines import judge, regressions, remarks
    from measurements.store import Store

    chosen = session or _latest(store_dir())
    with Store(store_dir()) as store:
        runs = store.runs(chosen)
    if not runs:
        raise ConfigError(f"{store_dir()} holds no runs of session {chosen!r}", hint="`lab report --list` names them")
    judged = judge(folder or baselines_dir(), runs)
    worse = regressions(judged)
    for line in (*worse, *remarks(judged)):
        click.echo(line)
    if not worse:
        click.echo(f"session {chosen}: no regression in {len(judged)} runs")
    sys.exit(1 if worse else 0)


def _latest(folder: Path) -> str:
    from measurements.store import Store

    with Store(folder) as store:
        found = store.latest_session()
    if found is None:
        raise ConfigError(f"{folder} holds no runs yet", hint="run a test or `lab run` first")
    return found
