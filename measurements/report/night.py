"""What a report tells of a night beyond its runs: which cells there were and what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from measurements.report.trends import Found

Verdict = Literal["passed", "failed", "infrastructure", "unavailable", "unreached"]

WORDS: Mapping[Verdict, str] = {
    "passed": "passed",
    "failed": "failed",
    "infrastructure": "stopped by the bench",
    "unavailable": "without their device",
    "unreached": "not reached in time",
}
"""What is said of cells with each verdict."""


@dataclass(frozen=True)
class NightCell:
    """One cell of the matrix.

    Attributes:
        device, workload, variant: which one.
        verdict: ``passed``; ``failed``: the product; ``infrastructure``: the bench, after all retries;
            ``unavailable``: its device is unplugged, sick or in quarantine; ``unreached``: no time was left.
        message: what went wrong, empty when it passed.
        retries: failures of the bench that were tried again.
        run_id: the run that counts, empty where there is none.
        seconds: time spent on it.
    """

    device: str
    workload: str
    variant: str
    verdict: Verdict
    message: str = ""
    retries: tuple[str, ...] = ()
    run_id: str = ""
    seconds: float = 0.0

    @property
    def subject(self) -> str:
        """Workload and variant as they are shown."""
        return f"{self.workload} ({self.variant})" if self.variant else self.workload


@dataclass(frozen=True)
class NightSummary:
    """A night.

    Attributes:
        night: its id.
        cells: the matrix, device by device.
        unwell: device and reason, where one was not used.
        spent_s, budget_s: time spent and allowed.
        status: exit status.
        notes: sentences for the reader, such as that it was resumed.
    """

    night: str
    cells: tuple[NightCell, ...]
    unwell: tuple[tuple[str, str], ...]
    spent_s: float
    budget_s: float
    status: int
    notes: tuple[str, ...] = ()

    def headline(self, regressions: Sequence[Found]) -> str:
        """The night in one line: ``9 of 12 cells passed, 1 failed, 2 unavailable; 1 regression``."""
        counts = Counter(cell.verdict for cell in self.cells)
        words = [f"{counts['passed']} of {len(self.cells)} cells passed"]
        words += [f"{counts[verdict]} {WORDS[verdict]}" for verdict in WORDS if verdict != "passed" and counts[verdict]]
        told = f"; {len(regressions)} regression{'' if len(regressions) == 1 else 's'}" if regressions else ""
        return ", ".join(words) + told
