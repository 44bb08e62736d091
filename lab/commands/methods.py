"""``lab methods``: every method of a family on the same devices, in one report with the Pareto front."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.bench import Bench
from lab.commands.device_option import device_option
from lab.errors import ConfigError

if TYPE_CHECKING:
    from lab.workloads.base import Workload


@click.command()
@click.argument("family")
@device_option(default=("m4f,m7,pi",))
@click.option("--only", default="", help="Only these methods: ids, separated by commas.")
@click.option("--variant", default="", help="Variant of all of them; NAME=A|B runs both.")
@click.option("--baselines/--no-baselines", default=True, help="Run what the methods are compared with as well.")
@click.option("--resume", default="", metavar="SESSION", help="Go on with this session; what passed is kept as it is.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1),
              help="Devices side by side in so many processes.")  # fmt: skip
@click.pass_obj
def methods(
    config: Path, family: str, names: str, only: str, variant: str, baselines: bool, resume: str, workers: int
) -> None:
    """Run every method of FAMILY (training, adaptation …; several separated by commas) on the same devices and write
    one report.

    It compares accuracy, peak RAM, energy and time to accuracy, marks the Pareto front, and has the claims of all
    papers in one table. A device whose class a method does not name is left out, and said so; a method that fails
    takes none of the others with it.
    """
    from lab.commands.running import run_everywhere
    from lab.commands.side_by_side import Workers
    from lab.comparison import Sizes
    from lab.workloads import all_workloads
    from measurements.report.method_table import Unmeasured

    asked = chosen_methods(all_workloads(), family, only)
    cells, left_out = [], []
    for entry in Bench.load(config).select(names):
        for method in asked:
            if entry.board.device_class in method.classes:
                cells.append((entry, method))
                continue
            reason = f"{method.id} runs on devices of class {', '.join(method.classes)}"
            click.echo(f"{entry.name}: left out: {reason}")
            left_out.append(Unmeasured(entry.name, method.id, variant, reason, is_failure=False))
    side_by_side = Workers(workers, config)
    status = run_everywhere(
        cells, variant, Sizes(), baselines=baselines, left_out=left_out, resumed=resume, workers=side_by_side
    )
    sys.exit(status)


def chosen_methods(workloads: Sequence[Workload], family: str, only: str) -> tuple[Workload, ...]:
    """The methods of families, or those of them that are asked for.

    Args:
        workloads: all that there are; those with claims are methods.
        family: families, separated by commas.
        only: ids, separated by commas; all where empty.

    Raises:
        ConfigError: no such family, or no such method in it.
    """
    families = _names(family)
    there = sorted({one.family for one in workloads if one.claims})
    for name in families or ("",):
        if name not in there:
            raise ConfigError(f"no method of a family '{name}' has claims", hint=f"there are: {', '.join(there)}")
    known = {one.id: one for one in workloads if one.family in families and one.claims}
    asked = _names(only) or tuple(known)
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(
            f"{family} has no method {', '.join(map(repr, unknown))}", hint=f"there are: {', '.join(known)}"
        )
    return tuple(known[name] for name in asked)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
