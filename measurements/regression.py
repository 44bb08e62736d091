"""Regressions over nights: histories of one figure each, where their level changed, and which commit did it.

Counted figures of an instruction-counted emulator repeat to the instruction, so any difference is a change. Everything
else is noisy and goes through :mod:`measurements.changepoints`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from lab.errors import StoreError, WorkloadError
from measurements.changepoints import exact_changes, splits
from measurements.record import Layer, RunDetail
from measurements.statistics import summarize

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["regression", "improvement"]

MINIMUM_EFFECT = 0.01

# Figures whose larger value is the better one; of everything else, less is better.
_HIGHER_IS_BETTER = frozenset(
    {"accuracy", "auc", "bit_exact", "agreement", "litert_agreement", "throughput", "coverage", "lifetime",
     "flop_rate", "byte_rate"}
)
# What an instruction-counted emulator yields the same every time.
_COUNTED = frozenset(
    {
        "cycles", "instructions", "instructions_per_mac", "loads", "stores", "multiplies", "divides", "branches",
        "floats", "latency", "peak_ram", "flash", "accuracy", "auc", "bit_exact", "agreement",
    }
)  # fmt: skip
# Of these, what an emulated operating system does not disturb.
_COUNTED_IN_GUESTS = frozenset(
    {"instructions", "instructions_per_mac", "flash", "accuracy", "auc", "bit_exact", "agreement"}
)
# Whose interval also holds what the place of a meter's samples makes of it.
_METERED = frozenset({"energy", "charge", "power"})
# What comes from the image itself, whatever it runs on.
_FROM_IMAGE = frozenset({"flash", "flash.weights", "peak_ram.static", "bit_exact"})


@dataclass(frozen=True)
class SeriesKey:
    """What makes two figures comparable. Figures whose keys differ are never in one series.

    Attributes:
        device, workload, variant, region, metric, source: as in :mod:`measurements.record`.
        board: board kind; a new revision of a board is a kind of its own.
        toolchain: compiler and version.
        emulator: emulator and version, the revision of a board that is emulated; empty on hardware.
        repeats: for counted figures, how many repeats a run has: other repeats are other inputs; 0 for all else.
        unit: unit of the values.
    """

    device: str
    workload: str
    variant: str
    region: str
    metric: str
    source: str
    board: str
    toolchain: str
    emulator: str = ""
    repeats: int = 0
    unit: str = ""

    @property
    def subject(self) -> tuple[str, ...]:
        """What is measured, without what it was measured with: device, workload, variant, region, metric, source."""
        return (self.device, self.workload, self.variant, self.region, self.metric, self.source)


@dataclass(frozen=True)
class History:
    """One figure over nights, the oldest first; all tuples are of one length.

    Attributes:
        key: which figure.
        values: one per night: the median over the night's runs of their medians; for counted figures of the mean
            over a run's repeats, so that a change of any repeat shows.
        runs: id of the night's last run.
        commits: commit of that run, with ``-dirty`` where the tree had uncommitted changes; may be empty.
        started_ns: start of that run, nanoseconds since the epoch.
        exact: whether any difference counts.
        note: says why this series starts where it does, where an older one of the same subject ended.
        unsure: one per night, in the unit of the values: how far the place of a meter's samples may have moved each
            (:func:`measurements.statistics.unsure_of`); empty where no meter stands behind them.
    """

    key: SeriesKey
    values: tuple[float, ...]
    runs: tuple[str, ...]
    commits: tuple[str, ...]
    started_ns: tuple[int, ...]
    exact: bool
    note: str = ""
    unsure: tuple[float, ...] = ()

    def beyond_samples(self, index: int, difference: float) -> bool:
        """Whether a change of level at a night is more than the samples' places can have made on either side of it."""
        if not self.unsure:
            return True
        return abs(difference) > float(np.median(self.unsure[:index]) + np.median(self.unsure[index:]))


@dataclass(frozen=True)
class Change:
    """A lasting change of level.

    Attributes:
        index: first night of the new level.
        before, after: median level on either side, in the unit of the history.
        relative: ``after / before - 1``; infinite where ``before`` is zero.
        first_bad_commit: commit of night ``index``.
        last_good_commit: commit of the night before. The culprit is the first of these two or lies between them.
        kind: whether the new level is worse or better.
        p_value: how often noise alone does as much; 0 for counted figures.
    """

    index: int
    before: float
    after: float
    relative: float
    first_bad_commit: str
    last_good_commit: str
    kind: Kind
    p_value: float = 0.0


@dataclass(frozen=True)
class Culprit:
    """What one pair of nights brought, over all histories of a store.

    Attributes:
        first_bad_commit, last_good_commit: as in :class:`Change`.
        found: every history that changed there and how, the largest relative change first.
    """

    first_bad_commit: str
    last_good_commit: str
    found: tuple[tuple[History, Change], ...]

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that moved, the one that moved most first."""
        return tuple(dict.fromkeys(history.key.region for history, _ in self.found))


@dataclass(frozen=True)
class MovedLayer:
    """A layer of the deployed model that costs something else than before.

    Attributes:
        name: place and name in the schedule, such as ``02 conv1``.
        unit: ``instructions`` where both runs counted them, else ``cycles``.
        before, after: cost of one pass; None where the layer is not in that run.
    """

    name: str
    unit: str
    before: float | None
    after: float | None

    @property
    def difference(self) -> float:
        """What it costs more than before; a layer that is missing costs nothing."""
        return (self.after or 0.0) - (self.before or 0.0)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of ``metric`` is the better one."""
    return metric.split(".")[0] in _HIGHER_IS_BETTER


def is_exact(metric: str, source: str, clock: str) -> bool:
    """Whether a figure repeats exactly, so that any difference is a change of what was measured.

    True for what an instruction-counted emulator counts (``clock`` is ``virtual``), and for what is read from the
    image wherever it runs.
    """
    if metric in _FROM_IMAGE:
        return source != "modelled"
    counted = {"virtual": _COUNTED, "guest": _COUNTED_IN_GUESTS}.get(clock, frozenset())
    return source == "emulated" and metric.split(".")[0] in counted


def detect(history: History, *, minimum_effect: float = MINIMUM_EFFECT) -> tuple[Change, ...]:
    """Changes of level in a history, the oldest first.

    Args:
        history: the nights.
        minimum_effect: smallest relative change that is reported of a noisy figure; counted figures have none.

    Raises:
        WorkloadError: a value is NaN or infinite.
    """
    values = np.asarray(history.values, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(values))
    if broken.size:
        raise WorkloadError(
            f"{describe(history.key)}: night {broken[0]} (run {history.runs[broken[0]]}) is {values[broken[0]]}",
            hint="a figure that could not be measured has to be left out, not recorded as NaN",
        )
    if history.exact:
        return tuple(
            _change(history, index, float(values[index - 1]), float(values[index]), 0.0)
            for index in exact_changes(values)
        )
    return tuple(
        _change(history, split.index, split.before, split.after, split.p_value)
        for split in splits(values, minimum_effect)
        if history.beyond_samples(split.index, split.after - split.before)
    )


def culprits(known: Sequence[History], *, minimum_effect: float = MINIMUM_EFFECT) -> tuple[Culprit, ...]:
    """Changes of all histories by the nights between which they happened, the oldest first.

    Raises:
        WorkloadError: a value is NaN or infinite.
    """
    groups: dict[tuple[str, str], list[tuple[History, Change]]] = {}
    for history in known:
        for change in detect(history, minimum_effect=minimum_effect):
            groups.setdefault((change.first_bad_commit, change.last_good_commit), []).append((history, change))
    ordered = sorted(groups.items(), key=lambda group: min(found.started_ns[one.index] for found, one in group[1]))
    return tuple(
        Culprit(bad, good, tuple(sorted(found, key=lambda one: -abs(one[1].relative))))
        for (bad, good), found in ordered
    )


def moved_layers(before: RunDetail, after: RunDetail) -> tuple[MovedLayer, ...]:
    """Layers whose cost differs between two runs of one workload, the largest difference first.

    Exact instruction counts are compared where both runs have them, else cycles; layers that were not profiled in both
    runs are left out. On an instruction-counted emulator any difference is one; elsewhere cycles of one pass are noisy.
    """
    old, new = ({f"{one.index:02} {one.name}": one for one in detail.layers} for detail in (before, after))
    moved = []
    for name in dict.fromkeys((*old, *new)):
        unit = "instructions" if _counted(old.get(name)) and _counted(new.get(name)) else "cycles"
        layer = MovedLayer(name, unit, _cost(old.get(name), unit), _cost(new.get(name), unit))
        measured = all(one is None or _cost(one, unit) is not None for one in (old.get(name), new.get(name)))
        if measured and layer.difference:
            moved.append(layer)
    return tuple(sorted(moved, key=lambda layer: -abs(layer.difference)))


def _counted(layer: Layer | None) -> bool:
    return layer is None or layer.instructions is not None


def _cost(layer: Layer | None, unit: str) -> float | None:
    if layer is None:
        return None
    if unit == "instructions":
        return None if layer.instructions is None else float(layer.instructions)
    return layer.cycles


def describe(key: SeriesKey) -> str:
    """A series in words: ``m4f: spoken-digits: latency [inference]``."""
    return _words(*key.subject)


def _words(device: str, workload: str, variant: str, region: str, metric: str, _source: str) -> str:
    return f"{device}: {workload}{f' ({variant})' if variant else ''}: {metric} [{region}]"


def _change(history: History, index: int, before: float, after: float, p_value: float) -> Change:
    better = (after > before) == higher_is_better(history.key.metric)
    return Change(
        index=index,
        before=before,
        after=after,
        relative=relative_change(before, after),
        first_bad_commit=history.commits[index],
        last_good_commit=history.commits[index - 1],
        kind="improvement" if better else "regression",
        p_value=p_value,
    )


def relative_change(before: float, after: float) -> float:
    """``after / before - 1`` with the sign of the difference; infinite where only ``before`` is zero."""
    if before == after:
        return 0.0
    return (after - before) / abs(before) if before else float(np.copysign(np.inf, after))


# ---- histories from the store's table -----------------------------------------------------------------------------


def histories(frame: pd.DataFrame) -> list[History]:
    """Histories of all figures in a table from :func:`measurements.load`, one night per session.

    Runs that the bench broke off are left out; those that failed a test count where they are complete, for a regression
    is what makes a test fail.

    Args:
        frame: one row per record.

    Raises:
        StoreError: one figure was stored in two units.
    """
    if frame.empty:
        return []
    table = frame[frame["status"].isin(["passed", "failed"])].copy()
    table["exact"] = [is_exact(*row) for row in zip(table["metric"], table["source"], table["clock"], strict=True)]
    table["repeats"] = table["n"].where(table["exact"], 0)
    table["value"] = [
        float(np.mean(raw)) if exact else float(median)
        for raw, median, exact in zip(table["raw"], table["median"], table["exact"], strict=True)
    ]
    table["unsure"] = [
        max(0.0, summarize(raw).ci_low - low) if metric.split(".")[0] in _METERED else 0.0
        for metric, raw, low in zip(table["metric"], table["raw"], table["ci_low"], strict=True)
    ]
    table["commit"] = table["git_commit"] + np.where(table["git_dirty"] & (table["git_commit"] != ""), "-dirty", "")
    table["started_ns"] = table["started"].astype("datetime64[ns, UTC]").astype("int64")
    table = _complete(table)
    _check_units(table)
    columns = [one.name for one in fields(SeriesKey)]
    found = [
        _history(_key(columns, values), rows)
        for values, rows in table.groupby(columns, sort=False)
        if isinstance(values, tuple)
    ]
    found.sort(key=lambda one: (one.key.subject, one.started_ns[0]))
    return _with_notes(found)


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """Without the records of failed runs that have fewer repeats than the passed ones: those broke off."""
    subject = ["device", "workload", "variant", "region", "metric", "source"]
    passed = table[table["status"] == "passed"]
    whole = set(passed[[*subject, "n"]].itertuples(index=False, name=None))
    rows = table[[*subject, "n"]].itertuples(index=False, name=None)
    kept = [status == "passed" or row in whole for status, row in zip(table["status"], rows, strict=True)]
    return table[kept]


def _check_units(table: pd.DataFrame) -> None:
    subject = ["device", "workload", "variant", "region", "metric", "source"]
    for values, rows in table.groupby(subject):
        units = sorted(set(rows["unit"]))
        if len(units) > 1:
            other = rows.loc[rows["unit"] != rows["unit"].iloc[0]].iloc[0]
            what = _words(*map(str, values))
            raise StoreError(
                f"{what}: stored in {' and '.join(units)} (run {other['run_id']}): units do not mix",
                hint="rename the metric where its unit changes, or prune the runs with the wrong unit",
            )


def _key(columns: Sequence[str], values: tuple[Hashable, ...]) -> SeriesKey:
    named = dict(zip(columns, values, strict=True))
    repeats = int(str(named.pop("repeats")))
    return SeriesKey(**{name: str(value) for name, value in named.items()}, repeats=repeats)


def _history(key: SeriesKey, rows: pd.DataFrame) -> History:
    rows = rows.sort_values(["started_ns", "run_id"])
    nights = rows.groupby("session_id", sort=False)
    last = nights.last().sort_values(["started_ns", "run_id"])
    values, unsure = (nights[name].median().loc[last.index] for name in ("value", "unsure"))
    return History(
        key=key,
        values=tuple(float(value) for value in values),
        runs=tuple(last["run_id"]),
        commits=tuple(last["commit"]),
        started_ns=tuple(int(value) for value in last["started_ns"]),
        exact=bool(rows["exact"].iloc[0]),
        unsure=tuple(float(value) for value in unsure) if unsure.any() else (),
    )


def _with_notes(ordered: Sequence[History]) -> list[History]:
    """Say of every series but the first of its subject what changed when it started."""
    noted: list[History] = []
    for history in ordered:
        older = noted[-1] if noted and noted[-1].key.subject == history.key.subject else None
        noted.append(history if older is None else _with_note(history, older))
    return noted


def _with_note(history: History, older: History) -> History:
    changed = "; ".join(
        f"{name} was {getattr(older.key, name) or 'none'}, now {getattr(history.key, name) or 'none'}"
        for name in ("board", "toolchain", "emulator", "repeats")
        if getattr(older.key, name) != getattr(history.key, name)
    )
    note = f"new series since run {history.runs[0]}: {changed}; not compared with the {len(older.values)} nights before"
    return History(**{**{one.name: getattr(history, one.name) for one in fields(History)}, "note": note})
