"""Two sets of runs side by side: which of their common figures differ, beyond noise and beyond chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from measurements.baseline import figure_of, origin
from measurements.comparison import SIGNIFICANCE, Comparison, benjamini_hochberg, compare
from measurements.record import Record, Run
from measurements.regression import (
    MINIMUM_EFFECT,
    MovedLayer,
    higher_is_better,
    is_exact,
    moved_layers,
    relative_change,
)
from measurements.statistics import unsure_of

Verdict = Literal["better", "worse", "same"]
Subject: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class Difference:
    """One figure of two sets of runs.

    Attributes:
        subject: device, workload, variant.
        region, metric, unit: which figure.
        exact: whether it repeats exactly; then any difference counts.
        before, after: medians; of exact figures the means, which show a difference in any repeat.
        statistics: of the repeats of noisy figures; None for exact ones.
        adjusted_p: by Benjamini and Hochberg over all noisy figures compared; 0 for exact ones.
        verdict: ``same`` where nothing is shown.
    """

    subject: Subject
    region: str
    metric: str
    unit: str
    exact: bool
    before: float
    after: float
    statistics: Comparison | None
    adjusted_p: float
    verdict: Verdict

    @property
    def relative(self) -> float:
        """After against before: 0.05 is 5 % more."""
        return relative_change(self.before, self.after)


@dataclass(frozen=True)
class Differences:
    """What two sets of runs have in common.

    Attributes:
        figures: those measured under the same conditions.
        layers: layers of the model that cost something else, on instruction-counted emulators.
        notes: what was not compared, and why.
    """

    figures: tuple[Difference, ...]
    layers: Mapping[Subject, tuple[MovedLayer, ...]]
    notes: tuple[str, ...]

    def of(self, verdict: Verdict) -> tuple[Difference, ...]:
        """Figures of one verdict, the largest relative change first."""
        return tuple(
            sorted((one for one in self.figures if one.verdict == verdict), key=lambda one: -abs(one.relative))
        )


@dataclass(frozen=True)
class _Pair:
    subject: Subject
    before: Sequence[Record]
    after: Sequence[Record]
    exact: bool


def compare_runs(
    before: Sequence[Run], after: Sequence[Run], *, minimum_effect: float = MINIMUM_EFFECT
) -> Differences:
    """Compare what two sets of runs have in common.

    A noisy figure differs where its adjusted p-value is below 0.05 and its medians differ by the minimum effect, and by
    more than the runs say that the place of the meter's samples may have moved them (:func:`unsure_of`). That
    says that these repeats differ; whether one commit is slower than another night after night, only a history tells
    (:mod:`measurements.regression`). Hardware is never compared with emulators, nor one compiler, board or emulator
    with another.

    Args:
        before, after: runs, such as those of two sessions; what the bench broke off is left out.
        minimum_effect: smallest relative change of a noisy figure that counts.
    """
    old, new = _by_subject(before), _by_subject(after)
    notes = [f"{name_of(subject)}: only in the first" for subject in old.keys() - new.keys()]
    notes += [f"{name_of(subject)}: only in the second" for subject in new.keys() - old.keys()]
    pairs: list[_Pair] = []
    layers: dict[Subject, tuple[MovedLayer, ...]] = {}
    for subject in sorted(old.keys() & new.keys()):
        first, second = old[subject], new[subject]
        changed = _changed_conditions(first[-1], second[-1])
        if changed:
            notes.append(f"{name_of(subject)}: not compared: {changed}")
            continue
        pairs += _pairs(subject, first, second)
        moved = moved_layers(first[-1].detail, second[-1].detail)
        if moved and second[-1].provenance.clock == "virtual":
            layers[subject] = moved
    return Differences(_judged(pairs, minimum_effect), layers, tuple(sorted(notes)))


def name_of(subject: Subject) -> str:
    """``m4f: spoken-digits``, with the variant where there is one."""
    device, workload, variant = subject
    return f"{device}: {workload}{f' ({variant})' if variant else ''}"


def _by_subject(runs: Sequence[Run]) -> dict[Subject, list[Run]]:
    found: dict[Subject, list[Run]] = {}
    for run in runs:
        if run.status in ("passed", "failed"):
            provenance = run.provenance
            found.setdefault((provenance.device, provenance.workload, provenance.variant), []).append(run)
    return found


def _changed_conditions(before: Run, after: Run) -> str:
    if origin(before) != origin(after):
        return f"the device was {origin(before)}, now {origin(after)}"
    return "; ".join(
        f"{name} was {getattr(before.provenance, name) or 'none'}, now {getattr(after.provenance, name) or 'none'}"
        for name in ("board", "toolchain", "emulator")
        if getattr(before.provenance, name) != getattr(after.provenance, name)
    )


def _pairs(subject: Subject, before: Sequence[Run], after: Sequence[Run]) -> Iterator[_Pair]:
    """Figures of both; exact ones only where both have as many repeats, since other repeats are other inputs."""
    old, new = _records(before), _records(after)
    for name, records in old.items():
        others = new.get(name, [])
        if not others or records[-1].unit != others[-1].unit or name[1].endswith(".reference"):
            continue
        exact = is_exact(name[1], records[-1].source, after[-1].provenance.clock)
        if not exact or records[-1].n == others[-1].n:
            yield _Pair(subject, records, others, exact)


def _records(runs: Sequence[Run]) -> dict[tuple[str, str, str], list[Record]]:
    found: dict[tuple[str, str, str], list[Record]] = {}
    for run in runs:
        for record in run.records:
            found.setdefault((record.region, record.metric, record.source), []).append(record)
    return found


def _judged(pairs: Sequence[_Pair], minimum_effect: float) -> tuple[Difference, ...]:
    compared = [None if pair.exact else compare(_repeats(pair.before), _repeats(pair.after)) for pair in pairs]
    adjusted = iter(benjamini_hochberg([one.p_value for one in compared if one is not None]))
    return tuple(
        _difference(pair, one, 0.0 if one is None else next(adjusted), minimum_effect)
        for pair, one in zip(pairs, compared, strict=True)
    )


def _difference(pair: _Pair, statistics: Comparison | None, adjusted_p: float, minimum_effect: float) -> Difference:
    record = pair.after[-1]
    if statistics is None:
        before, after = figure_of(pair.before[-1], True), figure_of(record, True)
        differs = before != after
    else:
        before, after = statistics.before, statistics.after
        differs = adjusted_p < SIGNIFICANCE and abs(relative_change(before, after)) >= minimum_effect
        # Repeats of a run share what the place of the meter's samples makes of them: they cannot tell it from a change.
        unsure = [max(unsure_of(one) for one in records) for records in (pair.before, pair.after)]
        differs = differs and abs(after - before) > sum(unsure)
    better = (after > before) == higher_is_better(record.metric)
    return Difference(
        subject=pair.subject,
        region=record.region,
        metric=record.metric,
        unit=record.unit,
        exact=pair.exact,
        before=before,
        after=after,
        statistics=statistics,
        adjusted_p=adjusted_p,
        verdict="same" if not differs else "better" if better else "worse",
    )


def _repeats(records: Sequence[Record]) -> list[float]:
    return list(np.concatenate([record.raw for record in records]))
