"""Sessions of the store against the baselines in the repository: what the command line and the pytest plugin share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import ConfigError
from lab.units import format_quantity
from measurements.baseline import Compared, Row, accept, baseline_path, compare_run, read_baseline, write_baseline
from measurements.record import Run
from measurements.regression import higher_is_better
from measurements.store import Store

_COLUMNS = ("FIGURE", "MEASURED", "BASELINE", "ALLOWED", "CHANGE")
_WORDS = {"regression": "worse", "improvement": "better"}


@dataclass(frozen=True)
class Judged:
    """A run and what its baseline says of it."""

    run: Run
    compared: Compared

    @property
    def name(self) -> str:
        """``m4f: spoken-digits``, with the variant where there is one."""
        return _name(self.run)


@dataclass(frozen=True)
class Accepted:
    """What :func:`accept_session` did: the files that changed, and the runs left out because they failed."""

    changed: tuple[Path, ...]
    left_out: tuple[str, ...]


def judge(folder: Path, runs: Iterable[Run]) -> list[Judged]:
    """Compare runs with the baselines in ``folder``; those that broke off are left out.

    Raises:
        ConfigError: a baseline cannot be used.
    """
    return [
        Judged(run, compare_run(read_baseline(baseline_path(folder, run)), run))
        for run in runs
        if run.status in ("passed", "failed")
    ]


def accept_session(folder: Path, store: Store, session: str, *, failed: bool) -> Accepted:
    """Write the figures of a session as baselines.

    Args:
        folder: where baselines are.
        store: holds the session.
        session: its id.
        failed: also accept runs of tests that failed, such as those that failed for being worse than the baseline.

    Raises:
        ConfigError: the session has nothing to accept, or a baseline cannot be read or written.
    """
    runs = store.runs(session)
    wanted = ("passed", "failed") if failed else ("passed",)
    by_file: dict[Path, list[Run]] = {}
    for run in runs:
        if run.status in wanted:
            by_file.setdefault(baseline_path(folder, run), []).append(run)
    if not by_file:
        refused = f"{len(runs)} runs, none of which passed" if runs else "no runs"
        raise ConfigError(
            f"session {session!r} of {store.path} has {refused}: there is nothing to accept",
            hint="--failed accepts the figures of failed tests too" if runs else "`lab report --list` names sessions",
        )
    # All are worked out before the first is written: a refusal leaves the folder as it is.
    accepted = {path: accept(read_baseline(path), group) for path, group in by_file.items()}
    changed = [path for path, baseline in accepted.items() if read_baseline(path) != baseline]
    for path in changed:
        write_baseline(path, accepted[path])
    left_out = dict.fromkeys(_name(run) for run in runs if run.status == "failed" and not failed)
    return Accepted(tuple(changed), tuple(left_out))


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as lines of text: figure, measured, baseline, allowed, change."""
    cells = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def regressions(judged: Sequence[Judged]) -> list[str]:
    """What is worse than its baseline, as lines of text; none where nothing is."""
    lines: list[str] = []
    for one in judged:
        worse = one.compared.of("regression")
        if worse:
            lines += [f"{one.name}: {_count(worse, 'regression')}", *(f"  {line}" for line in table(worse))]
    return lines


def remarks(judged: Sequence[Judged]) -> Iterator[str]:
    """What else there is to say: improvements, new series, figures that are new or gone."""
    for one in judged:
        better, new, gone = (one.compared.of(verdict) for verdict in ("improvement", "new", "gone"))
        if better:
            yield f"{one.name}: {_count(better, 'improvement')}"
            yield from (f"  {line}" for line in table(better))
        if one.compared.note:
            yield f"{one.name}: {one.compared.note}; `lab baseline accept` accepts these figures"
        elif new:
            yield f"{one.name}: no baseline for {_names(new)}; `lab baseline accept` accepts them"
        if gone:
            yield f"{one.name}: not measured any more: {_names(gone)}"


def _name(run: Run) -> str:
    provenance = run.provenance
    return f"{provenance.device}: {provenance.workload}{f' ({provenance.variant})' if provenance.variant else ''}"


def _count(rows: Sequence[Row], what: str) -> str:
    return f"{len(rows)} {what}{'' if len(rows) == 1 else 's'}"


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.metric} [{row.region}]" for row in rows)


def _cells(row: Row) -> tuple[str, ...]:
    change = f"{_WORDS.get(row.verdict, row.verdict)} ({_change(row)})"
    allowed = f"= {_quantity(row, row.allowed)}" if row.exact else f"{_side(row)} {_quantity(row, row.allowed)}"
    return (
        f"{row.metric} [{row.region}]",
        _quantity(row, row.measured),
        _quantity(row, row.baseline),
        allowed,
        change,
    )


def _side(row: Row) -> str:
    return ">=" if higher_is_better(row.metric) else "<="


def _change(row: Row) -> str:
    """Counts by how many, everything else by how much."""
    if row.exact and row.unit != "s":
        return f"{row.measured - row.baseline:+,.10g}"
    return f"{row.relative:+.2%}" if math.isfinite(row.relative) else "from nothing"


def _quantity(row: Row, value: float) -> str:
    """Every digit of what repeats exactly: a difference of one must be seen."""
    if row.exact and math.isfinite(value):
        return f"{value:,.12g} {row.unit}".removesuffix(" 1")
    return format_quantity(value, row.unit)
