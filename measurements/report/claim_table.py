"""Claims of papers as rows of a table, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from measurements.claims import ClaimResult
from measurements.record import Run
from measurements.report.lookup import anchor_of, workload_name
from measurements.report.units import quantity

_FORM_WORDS = {"reduction": "how many times less than", "factor": "as a multiple of", "difference": "minus that of"}
_VERDICT_STATUS = {"met": "passed", "broken": "failed", "told": "told", "not measured": "incomplete"}


@dataclass(frozen=True)
class ClaimRow:
    """What a paper says of a method against a baseline, and what was measured."""

    anchor: str
    name: str
    claim: str
    source: str
    compared: str
    paper: str
    ours: str
    figures: str
    bound: str
    verdict: str
    status: str
    why: str


def claim_rows(runs: Sequence[Run]) -> tuple[ClaimRow, ...]:
    """What came of the claims of papers, by run."""
    return tuple(
        ClaimRow(
            anchor=anchor_of(number),
            name=f"{run.provenance.device} · {workload_name(run.provenance)}",
            claim=f"{one.system}: {one.text}",
            source=one.source,
            compared=f"{one.metric} of {one.region}, {_FORM_WORDS[one.form]} {one.baseline or 'its own run'}",
            paper=one.said,
            ours=one.found,
            figures=_both(one),
            bound=one.bound if one.enforced else "",
            verdict=one.verdict,
            status=_VERDICT_STATUS[one.verdict],
            why=one.why,
        )
        for number, run in enumerate(runs, 1)
        for one in run.detail.claims
    )


def _both(claim: ClaimResult) -> str:
    """The two figures that were compared, as they are."""
    if claim.method is None or claim.base is None:
        return ""
    method, base = (quantity(one, claim.unit, claim.metric) for one in (claim.method, claim.base))
    return f"{method} against {base}"
