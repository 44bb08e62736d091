"""Baselines: accepted figures, kept in the repository as small files that a person reads, edits and reviews.

One file per device, workload and variant: ``<folder>/<emulated|hardware>/<device>/<workload>[@<variant>].yaml``. It
holds one series for each set of conditions (board, toolchain, emulator, repeats) that figures were accepted under;
figures are only ever compared with those of the same conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from lab.errors import ConfigError
from measurements.record import Record, Run
from measurements.regression import higher_is_better, is_exact, relative_change

Origin = Literal["hardware", "emulated"]
Verdict = Literal["regression", "improvement", "same", "new", "gone"]
Tolerance = Literal["exact", "ignored"] | Annotated[FiniteFloat, Field(ge=0)]

# A single run says nothing of how nights differ: below this, differences of noisy figures are not judged.
LEAST_TOLERANCE = 0.03
_INTERVALS = 2.0

_HEADER = """\
# Accepted figures: `lab baseline accept` writes them, `pytest -m hil --lab-compare` compares with them.
# tolerance: how much worse a figure may be, relative (0.03 is 3 %); exact: not at all; ignored: never compared.
# Tolerances are yours to edit: accepting new figures keeps them.
"""


class Figure(BaseModel):
    """One accepted figure: its value in ``unit``, and how much worse it may become."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: FiniteFloat
    unit: str
    tolerance: Tolerance


class Series(BaseModel):
    """Figures that were accepted under the same conditions.

    Attributes:
        board: board kind; a new revision of a board is a kind of its own.
        toolchain: compiler and version.
        emulator: emulator and version; empty on hardware.
        repeats: repeats of the most repeated figure of the run.
        commit, run: where the figures come from.
        figures: region to metric to figure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    board: str
    toolchain: str
    emulator: str
    repeats: Annotated[int, Field(ge=0)]
    commit: str
    run: str
    figures: Mapping[str, Mapping[str, Figure]]

    @property
    def conditions(self) -> tuple[str, str, str, int]:
        """What has to be the same for figures to be compared."""
        return (self.board, self.toolchain, self.emulator, self.repeats)


class Baseline(BaseModel):
    """What one file holds; ``source`` says which kind of device the figures are from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    workload: str
    variant: str
    source: Origin
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Row:
    """One figure of a run against its baseline.

    Attributes:
        device, workload, variant, region, metric, unit: which figure.
        measured: NaN where it is gone.
        baseline: NaN where it is new.
        allowed: the worst value that is no regression; NaN where there is no baseline.
        exact: whether any difference counts.
        verdict: ``regression``, ``improvement``, ``same``, ``new`` (no baseline) or ``gone`` (not measured any more).
    """

    device: str
    workload: str
    variant: str
    region: str
    metric: str
    unit: str
    measured: float
    baseline: float
    allowed: float
    exact: bool
    verdict: Verdict

    @property
    def relative(self) -> float:
        """Measured against baseline: 0.05 is 5 % more."""
        return relative_change(self.baseline, self.measured)


@dataclass(frozen=True)
class Compared:
    """A run against its baseline.

    Attributes:
        rows: one per figure of either.
        note: why there is nothing to compare with, where that is so; empty otherwise.
    """

    rows: tuple[Row, ...]
    note: str = ""

    def of(self, verdict: Verdict) -> tuple[Row, ...]:
        """Rows of one verdict, the largest relative change first."""
        return tuple(sorted((one for one in self.rows if one.verdict == verdict), key=lambda one: -abs(one.relative)))


# ---- files --------------------------------------------------------------------------------------------------------


def origin(run: Run) -> Origin:
    """Whether a run is from a real device or an emulated one, meter and all."""
    return "emulated" if run.provenance.emulator or run.provenance.clock == "virtual" else "hardware"


def baseline_path(folder: Path, run: Run) -> Path:
    """The file that holds the baseline of a run's device, workload and variant."""
    provenance = run.provenance
    variant = f"@{quote(provenance.variant, safe='')}" if provenance.variant else ""
    name = f"{quote(provenance.workload, safe='')}{variant}.yaml"
    return folder / origin(run) / quote(provenance.device, safe="") / name


def read_baseline(path: Path) -> Baseline | None:
    """The baseline in a file; None where there is no such file.

    Raises:
        ConfigError: it cannot be read, holds something else, or lies in the folder of the other kind of device.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the baseline cannot be read: {error}") from error
    hint = "`git checkout` it, or delete it and run `lab baseline accept` again"
    try:
        found = Baseline.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a baseline: {error}", hint=hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {place}: {first['msg']}", hint=hint) from error
    if path.parent.parent.name != found.source:
        raise ConfigError(
            f"{path}: holds figures of {found.source} devices in the folder for {path.parent.parent.name} ones: "
            "the two never mix",
            hint=hint,
        )
    return found


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline for people and for small diffs: one line per figure, in a fixed order.

    Raises:
        ConfigError: the file cannot be written.
    """
    plain = baseline.model_dump()
    plain["series"] = [{**series, "figures": _plain_figures(series["figures"])} for series in plain["series"]]
    text = _HEADER + yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True, width=200)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the baseline cannot be written: {error}") from error


def _plain_figures(figures: Mapping[str, Mapping[str, Mapping[str, object]]]) -> dict[str, object]:
    return {
        region: {metric: {**figure, "value": _short(figure["value"])} for metric, figure in sorted(metrics.items())}
        for region, metrics in sorted(figures.items())
    }


def _short(value: object) -> object:
    """Whole numbers without a decimal point: counts are read by people."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


# ---- accept -------------------------------------------------------------------------------------------------------


def accept(known: Baseline | None, runs: Sequence[Run]) -> Baseline:
    """The baseline with the figures of runs of one device, workload and variant taken in.

    A series of the same conditions is replaced, its tolerances are kept; other series stay as they are.

    Args:
        known: what there is so far.
        runs: at least one, of one file (:func:`baseline_path`). Of noisy figures the median over runs is taken.

    Raises:
        ConfigError: runs of the same conditions disagree on a counted figure, or measured nothing.
    """
    first = runs[0]
    series = {one.conditions: one for one in known.series} if known is not None else {}
    groups: dict[tuple[str, str, str, int], list[Run]] = {}
    for run in runs:
        if not run.records:
            raise ConfigError(f"run {run.run_id} measured nothing: it cannot be a baseline")
        groups.setdefault(_conditions(run), []).append(run)
    for conditions, group in groups.items():
        series[conditions] = _series(conditions, group, series.get(conditions))
    return Baseline(
        device=first.provenance.device,
        workload=first.provenance.workload,
        variant=first.provenance.variant,
        source=origin(first),
        series=tuple(series[key] for key in sorted(series)),
    )


def _conditions(run: Run) -> tuple[str, str, str, int]:
    provenance = run.provenance
    repeats = max((record.n for record in run.records), default=0)
    return (provenance.board, provenance.toolchain, provenance.emulator, repeats)


def _series(conditions: tuple[str, str, str, int], runs: Sequence[Run], known: Series | None) -> Series:
    board, toolchain, emulator, repeats = conditions
    last = runs[-1]
    figures: dict[str, dict[str, Figure]] = {}
    for (region, metric), records in _by_figure(runs).items():
        before = known.figures.get(region, {}).get(metric) if known is not None else None
        figures.setdefault(region, {})[metric] = _figure(records, last, before)
    commit = last.provenance.git_commit + ("-dirty" if last.provenance.git_dirty else "")
    return Series(
        board=board, toolchain=toolchain, emulator=emulator, repeats=repeats, commit=commit, run=last.run_id,
        figures=figures,
    )  # fmt: skip


def _by_figure(runs: Sequence[Run]) -> dict[tuple[str, str], list[Record]]:
    """Records by region and metric; what the host computed as a reference is no figure of the device."""
    found: dict[tuple[str, str], list[Record]] = {}
    for run in runs:
        for record in run.records:
            if not record.metric.endswith(".reference"):
                found.setdefault((record.region, record.metric), []).append(record)
    return found


def _figure(records: Sequence[Record], run: Run, known: Figure | None) -> Figure:
    record = records[-1]
    exact = is_exact(record.metric, record.source, run.provenance.clock)
    values = [figure_of(one, exact) for one in records]
    if exact and len(set(values)) > 1:
        raise ConfigError(
            f"{run.provenance.device}: {run.provenance.workload}: runs of this session disagree on {record.metric} "
            f"[{record.region}], which repeats exactly: {', '.join(f'{value:.12g}' for value in sorted(set(values)))}",
            hint="accept a session whose tests measure the workload in one way",
        )
    tolerance: Tolerance = known.tolerance if known is not None else "exact" if exact else _tolerance(records)
    return Figure(value=float(np.median(values)), unit=record.unit, tolerance=tolerance)


def figure_of(record: Record, exact: bool) -> float:
    """What is compared of a record: the mean over all repeats of a count, so that each one matters, else the median."""
    return float(np.mean(record.raw)) if exact else record.median


def _tolerance(records: Sequence[Record]) -> float:
    """Twice the half-width of the median's confidence interval, relative, rounded up to a tenth of a percent."""
    widths = [(one.ci_high - one.ci_low) / 2 / abs(one.median) for one in records if one.median]
    wanted = max((_INTERVALS * width for width in widths), default=0.0)
    return max(LEAST_TOLERANCE, math.ceil(wanted * 1000) / 1000)


# ---- compare ------------------------------------------------------------------------------------------------------


def compare_run(known: Baseline | None, run: Run) -> Compared:
    """Compare a run with the accepted figures of the same conditions.

    Args:
        known: the baseline of the run's device, workload and variant; None where there is none.
        run: what was measured.

    Raises:
        ConfigError: a figure was accepted in another unit, or the baseline is of the other kind of device.
    """
    if known is not None and known.source != origin(run):
        raise ConfigError(
            f"{run.provenance.device}: a run of {_article(origin(run))} device cannot be compared with figures of "
            f"{known.source} ones"
        )
    conditions = _conditions(run)
    series = next((one for one in known.series if one.conditions == conditions), None) if known is not None else None
    records = _by_figure([run])
    compared = [_row(run, one[-1], None if series is None else _known(series, one[-1])) for one in records.values()]
    rows = [row for row in compared if row is not None]
    if series is None:
        return Compared(tuple(rows), _why_new(known, conditions))
    gone = [
        _gone(run, region, metric, figure)
        for region, metrics in series.figures.items()
        for metric, figure in metrics.items()
        if (region, metric) not in records and figure.tolerance != "ignored"
    ]
    return Compared((*rows, *gone))


def _known(series: Series, record: Record) -> Figure | None:
    return series.figures.get(record.region, {}).get(record.metric)


def _why_new(known: Baseline | None, conditions: tuple[str, str, str, int]) -> str:
    if known is None or not known.series:
        return "no baseline yet"
    # The series that shares most is the one this one continues.
    nearest = max(known.series, key=lambda one: sum(a == b for a, b in zip(one.conditions, conditions, strict=True)))
    names = ("board", "toolchain", "emulator", "repeats")
    changed = "; ".join(
        f"{name} was {before or 'none'}, now {now or 'none'}"
        for name, before, now in zip(names, nearest.conditions, conditions, strict=True)
        if before != now
    )
    return f"new series: {changed}"


def _row(run: Run, record: Record, figure: Figure | None) -> Row | None:
    if figure is not None and figure.tolerance == "ignored":
        return None
    exact = figure.tolerance == "exact" if figure is not None else is_exact(
        record.metric, record.source, run.provenance.clock
    )  # fmt: skip
    measured = figure_of(record, exact)
    if figure is None:
        return _make_row(run, record.region, record.metric, record.unit, measured, math.nan, math.nan, exact, "new")
    if figure.unit != record.unit:
        raise ConfigError(
            f"{run.provenance.device}: {record.metric} [{record.region}] is measured in {record.unit}, its baseline is "
            f"in {figure.unit}: units do not mix",
            hint="`lab baseline accept` takes the new unit",
        )
    allowed, verdict = _judge(figure, measured, higher_is_better(record.metric))
    return _make_row(
        run, record.region, record.metric, record.unit, measured, figure.value, allowed, exact, verdict
    )


def _judge(figure: Figure, measured: float, higher: bool) -> tuple[float, Verdict]:
    """The worst value allowed, and what a measured one is worth."""
    margin = figure.tolerance * abs(figure.value) if isinstance(figure.tolerance, float) else 0.0
    worse = figure.value - measured if higher else measured - figure.value
    allowed = figure.value - margin if higher else figure.value + margin
    if worse > margin:
        return allowed, "regression"
    return allowed, "improvement" if -worse > margin else "same"


def _gone(run: Run, region: str, metric: str, figure: Figure) -> Row:
    exact = figure.tolerance == "exact"
    return _make_row(run, region, metric, figure.unit, math.nan, figure.value, math.nan, exact, "gone")


def _make_row(
    run: Run,
    region: str,
    metric: str,
    unit: str,
    measured: float,
    baseline: float,
    allowed: float,
    exact: bool,
    verdict: Verdict,
) -> Row:
    provenance = run.provenance
    return Row(
        device=provenance.device,
        workload=provenance.workload,
        variant=provenance.variant,
        region=region,
        metric=metric,
        unit=unit,
        measured=measured,
        baseline=baseline,
        allowed=allowed,
        exact=exact,
        verdict=verdict,
    )


def _article(source: Origin) -> str:
    return "an emulated" if source == "emulated" else "a hardware"
