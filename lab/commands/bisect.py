"""``lab bisect``: which commit made a figure worse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.paths import project_root, store_dir

if TYPE_CHECKING:
    from lab.bisect import Answer, Probe, Question


@click.command()
@click.argument("workload")
@click.option("--device", required=True, help="Device of the bench; an emulated one needs nothing but this computer.")
@click.option("--variant", default="", help="Variant of the workload.")
@click.option("--metric", default="instructions", show_default=True, help="The figure that got worse.")
@click.option("--region", default="inference", show_default=True, help="Its region.")
@click.option("--good", help="A commit where it was good (default: from the latest regression in the store).")
@click.option("--bad", help="A commit where it is bad (default: likewise).")
@click.option("--samples", type=click.IntRange(1), help="Use only the first so many samples.")
@click.option("--repository", type=click.Path(path_type=Path), help="The git checkout (default: the lab's own).")
@click.pass_obj
def bisect(
    config: Path,
    workload: str,
    device: str,
    variant: str,
    metric: str,
    region: str,
    good: str | None,
    bad: str | None,
    samples: int | None,
    repository: Path | None,
) -> None:
    """Measure commits between a good and a bad one until the first bad commit is known.

    Each is checked out and measured in a clone; your checkout and your store stay as they are. Exit status 1 where
    commits that cannot be measured leave more than one suspect.
    """
    from lab.bisect import Question, measuring, search

    question = Question(workload, device, metric, region, variant, samples, config)
    if (good is None) != (bad is None):
        raise click.UsageError("--good and --bad go together")
    if good is None or bad is None:
        good, bad = _from_store(question)
    root = repository or project_root()
    with measuring(root, question) as measure:
        answer = search(root, good, bad, measure, _tell)
    _conclude(answer, question)
    sys.exit(0 if len(answer.suspects) == 1 else 1)


def _from_store(question: Question) -> tuple[str, str]:
    """Commits on both sides of the latest regression in the store."""
    from lab.bisect import last_change
    from measurements import load
    from measurements.regression import histories

    change = last_change(histories(load(store_dir())), question)
    click.echo(f"{question.metric} went from {change.before:,.10g} to {change.after:,.10g} ({change.relative:+.2%})")
    return change.last_good_commit, change.first_bad_commit


def _tell(probe: Probe) -> None:
    measured = probe.measured
    value = f"{measured.value:,.10g} {measured.unit}" if measured is not None else probe.reason
    click.echo(f"{probe.commit[:10]}  {probe.verdict:7}  {value}  {probe.subject}")


def _conclude(answer: Answer, question: Question) -> None:
    subjects = {probe.commit: probe.subject for probe in answer.probes}
    if len(answer.suspects) == 1:
        (commit,) = answer.suspects
        click.echo(f"first bad commit: {commit} {subjects[commit]}")
    else:
        click.echo("the first bad commit is one of these; the others could not be measured:")
        for commit in answer.suspects:
            click.echo(f"  {commit} {subjects.get(commit, '')}".rstrip())
    difference = answer.after.value - answer.before.value
    click.echo(
        f"{question.metric} [{question.region}]: {answer.before.value:,.10g} -> {answer.after.value:,.10g} "
        f"{answer.after.unit} ({difference:+,.10g})"
    )
    for layer in answer.layers:
        click.echo(f"  layer {layer.name}: {layer.difference:+,.10g} {layer.unit} per pass")
