"""Methods on devices, one after the other, with what came of them on the terminal and in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from lab.errors import ConfigError, InfrastructureError, LabError
from lab.paths import cache_dir, reports_dir, store_dir
from lab.units import format_quantity

if TYPE_CHECKING:
    from lab.commands.order import Terms
    from lab.commands.side_by_side import Workers
    from lab.comparison import Sizes
    from lab.inventory import Device
    from lab.workloads.base import Workload
    from measurements.record import Run
    from measurements.report.method_table import Unmeasured
    from measurements.store import Store


def run_everywhere(
    cells: Sequence[tuple[Device, Workload]],
    variant: str,
    sizes: Sizes,
    *,
    baselines: bool,
    left_out: Sequence[Unmeasured] | None = None,
    resumed: str = "",
    workers: Workers,
) -> int:
    """Run methods and their baselines on every device that can be had, and write the report.

    What goes wrong with one is told, and the others run all the same. What a passing fault of the bench stopped is
    run once more.

    Args:
        cells: devices of the bench, and what runs on each.
        variant, sizes, baselines: see :class:`lab.commands.order.Terms`.
        left_out: of a comparison of methods, what is not to run and why; its report has a row for each.
        resumed: session to go on with; what passed there beside its baselines is not measured again.
        workers: devices side by side in so many processes; one runs all here, one cell after the other.

    Returns:
        Exit status: 1 where anything failed, or nothing ran.

    Raises:
        ConfigError: there is no session to go on with.
    """
    from lab.commands.order import Terms
    from lab.commands.side_by_side import run_side_by_side
    from lab.reporting import mirror, new_session_id, report_session
    from measurements.store import Store

    terms = Terms(variant, sizes, baselines, resumed or new_session_id(), bool(resumed))
    if resumed:
        with Store(store_dir()) as store:
            if not store.runs(resumed):
                found = f"{store.path} holds no runs of session {resumed!r}"
                raise ConfigError(found, hint="`lab report --list` names them")
    alone = workers.count == 1 or len({entry.name for entry, _ in cells}) < 2
    without = list(run_cells(cells, terms) if alone else run_side_by_side(cells, terms, workers))
    told_of = None if left_out is None else (*left_out, *without)
    page = report_session(store_dir(), terms.session_id, reports_dir(), unmeasured=told_of)
    if page is not None:
        click.echo(f"report: {page}")
    if told := mirror(store_dir()):
        click.echo(told)
    return 1 if page is None or any(one.is_failure for one in without) else 0


def run_cells(cells: Sequence[tuple[Device, Workload]], terms: Terms) -> Iterator[Unmeasured]:
    """Run one cell after the other; yields what did not run, or not to its end, as soon as that is known."""
    from lab.comparison import alternatives
    from lab.doctor import availability
    from measurements.report.method_table import Unmeasured
    from measurements.store import Store

    with Store(store_dir()) as store:
        there = last_runs(store, terms.session_id) if terms.resumed else {}
        for entry, method in cells:
            asks_energy = terms.sizes.energy is not None
            unmetered = "it has no meter, and --energy asks for energy" if asks_energy and entry.meter is None else ""
            reason = unmetered or availability(entry)
            if reason:
                click.echo(f"{entry.name}: skipped: {reason}")
                yield Unmeasured(entry.name, method.id, terms.variant, reason, is_failure=False)
                continue
            for chosen in alternatives(terms.variant):
                if is_compared(there, entry, method, chosen):
                    click.echo(f"{entry.name}: {method.id} passed in this session")
                    continue
                wrong = _run(entry, method, chosen, store, terms)
                if wrong is not None:
                    yield Unmeasured(entry.name, method.id, chosen, wrong.message.splitlines()[0])


def last_runs(store: Store, session_id: str) -> dict[tuple[str, str, str], Run]:
    """The last run of each device, workload and variant in a session."""
    asked = ((run.provenance, run) for run in store.runs(session_id))
    return {(one.device, one.workload, one.variant): run for one, run in asked}


def is_compared(there: Mapping[tuple[str, str, str], Run], entry: Device, method: Workload, variant: str) -> bool:
    """Whether a method passed, its claims were judged, and no baseline that ran beside it was refused."""
    from lab.comparison import baselines_of, joined

    own = there.get((entry.name, method.id, variant))
    if own is None or own.status != "passed" or not own.detail.claims:
        return False
    beside = [there.get((entry.name, method.id, joined(variant, one))) for one in baselines_of(method, variant)]
    return all(run is None or run.status == "passed" for run in beside)


def _run(entry: Device, method: Workload, variant: str, store: Store, terms: Terms) -> LabError | None:
    """Run one method on one device, and once more what a passing fault stopped; what went wrong, None where nothing
    did."""
    wrong = _tried(entry, method, variant, store, terms)
    if isinstance(wrong, InfrastructureError) and wrong.transient:
        click.echo(f"{entry.name}: {method.id} once more", err=True)
        return _tried(entry, method, variant, store, terms)
    return wrong


def _tried(entry: Device, method: Workload, variant: str, store: Store, terms: Terms) -> LabError | None:
    """One try; what went wrong, None where nothing did."""
    from lab.comparison import run_on
    from lab.devices.connect import connected
    from lab.ending import rested
    from lab.lease import held

    try:
        with (
            held(entry, "lab run") as fence,
            connected(entry, cache_dir(), fence) as device,
            rested(entry.name, device, fence),
        ):
            compared = run_on(
                entry, device, method, variant, store, terms.session_id, terms.sizes, cache_dir(),
                baselines=terms.baselines, told=_print_run,
            )  # fmt: skip
            _print_claims(compared.method.run)
            compared.check()
    except LabError as error:
        click.echo("\n".join((f"{entry.name}: {error}", *getattr(error, "__notes__", ()))), err=True)
        return error
    return None


def _print_run(run: Run) -> None:
    click.echo(f"{run.provenance.device}: {run.provenance.workload} {run.status}")
    width = max((len(record.region) for record in run.records), default=0)
    for record in run.records:
        interval = f" [{format_quantity(record.ci_low, record.unit)}, {format_quantity(record.ci_high, record.unit)}]"
        shown = interval if record.ci_low != record.ci_high else ""
        if record.class_uncertainty is not None:
            # The interval alone would pass for all that a figure may be off by.
            shown += f" class ±{format_quantity(record.class_uncertainty, record.unit)}"
        value = format_quantity(record.median, record.unit)
        click.echo(f"  {record.region:{width}} {record.metric:22} {value}{shown}  n={record.n} {record.source}")
    metered = (record.note for record in run.records if record.class_uncertainty is not None and record.note)
    for note in dict.fromkeys(metered):
        click.echo(f"  energy: {note}")


def _print_claims(run: Run) -> None:
    for one in run.detail.claims:
        bound = f", must be {one.bound}" if one.bound and one.enforced else ""
        figures = f"{one.found}; paper {one.said}{bound}: {one.verdict}"
        click.echo(f"  {one.system} {one.metric} [{one.region}] against {one.baseline or 'its own run'}: {figures}")
        click.echo(f"    {one.text} ({one.source}) {one.why}")
