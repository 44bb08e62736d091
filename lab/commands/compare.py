"""``lab compare``: two sessions of the store side by side."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import click

from lab.errors import ConfigError
from lab.paths import store_dir
from lab.units import format_quantity

if TYPE_CHECKING:
    from measurements.differences import Difference
    from measurements.record import Run
    from measurements.store import Store


def _share(_: click.Context, __: click.Parameter, text: str) -> float:
    """A share of one: ``1 %`` or ``0.01``."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise click.BadParameter(f"{text!r} is no share; for example '1 %' or 0.01")
    return share


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--minimum-effect", default="1 %", show_default=True, callback=_share,
              help="Smallest change of a noisy figure to tell.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Also show what did not change.")
def compare(before: str, after: str, minimum_effect: float, everything: bool) -> None:
    """Compare sessions BEFORE and AFTER: counts exactly, noisy figures by test, effect and correction.

    Exit status 1 where something is worse.
    """
    from measurements.differences import compare_runs, name_of
    from measurements.store import Store

    with Store(store_dir()) as store:
        old, new = _runs(store, before), _runs(store, after)
    found = compare_runs(old, new, minimum_effect=minimum_effect)
    shown = [*found.of("worse"), *found.of("better"), *(found.of("same") if everything else ())]
    for subject in dict.fromkeys(one.subject for one in shown):
        click.echo(name_of(subject))
        for one in shown:
            if one.subject == subject:
                click.echo(f"  {_line(one)}")
        for layer in found.layers.get(subject, ()):
            click.echo(f"    layer {layer.name}: {layer.difference:+,.10g} {layer.unit} per pass")
    for note in found.notes:
        click.echo(note)
    worse, better = len(found.of("worse")), len(found.of("better"))
    click.echo(f"{len(found.figures)} figures compared: {worse} worse, {better} better")
    sys.exit(1 if worse else 0)


def _runs(store: Store, session: str) -> list[Run]:
    runs = store.runs(session)
    if not runs:
        raise ConfigError(f"{store.path} holds no runs of session {session!r}", hint="`lab report --list` names them")
    return runs


def _line(one: Difference) -> str:
    values = (
        f"{one.before:,.12g} -> {one.after:,.12g} {one.unit}"
        if one.exact
        else f"{format_quantity(one.before, one.unit)} -> {format_quantity(one.after, one.unit)}"
    )
    words = f"{one.verdict:6}  {one.metric} [{one.region}]  {values}  ({one.relative:+.2%})"
    statistics = one.statistics
    if statistics is None:
        return words
    known = math.isfinite(statistics.ratio_low)
    interval = f", ratio {statistics.ratio_low:.4g} to {statistics.ratio_high:.4g}" if known else ""
    return f"{words}  p={one.adjusted_p:.2g}, effect {statistics.delta:+.2f} ({statistics.effect}){interval}"
