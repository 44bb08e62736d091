"""What came of a paper's claim about a method and its baseline, measured in one session on one device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Form: TypeAlias = Literal["reduction", "factor", "difference"]
Verdict: TypeAlias = Literal["met", "broken", "told", "not measured"]
_ROUNDING = 1e-9
"""A difference of two shares is off by its last bits: 0.94 − 0.97 is below −0.03."""


@dataclass(frozen=True)
class ClaimResult:
    """One claim of a paper, and what was measured of it in one session on one device.

    Attributes:
        system, text, source, metric, region, form, paper, why, at_least, at_most: as in
            :class:`lab.workloads.base.Claim`.
        baseline: variant of the workload that was compared with; empty for another figure of the method's own run.
        enforced: whether breaking the bound is a failure: it was stated for this variant.
        ours, low, high: our figure in this form with its 95 % interval; None where there is none.
        method, base: the two figures that were compared, in ``unit``.
        rounds: how often both were measured.
        missing: why there is no figure, in words.
    """

    system: str
    text: str
    source: str
    metric: str
    region: str
    form: Form
    paper: float | None
    why: str
    at_least: float | None
    at_most: float | None
    baseline: str
    enforced: bool
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    method: float | None = None
    base: float | None = None
    unit: str = ""
    rounds: int = 0
    missing: str = ""

    @property
    def verdict(self) -> Verdict:
        """``told``: there is no bound, or it was stated for another variant."""
        if self.ours is None:
            return "not measured"
        if not self.enforced or (self.at_least is None and self.at_most is None):
            return "told"
        too_low = self.at_least is not None and self.ours < self.at_least - _ROUNDING
        too_high = self.at_most is not None and self.ours > self.at_most + _ROUNDING
        return "broken" if too_low or too_high else "met"

    @property
    def bound(self) -> str:
        """The bound in words, empty where there is none."""
        parts = (("at least", self.at_least), ("at most", self.at_most))
        return ", ".join(f"{word} {in_form(value, self.form)}" for word, value in parts if value is not None)

    @property
    def said(self) -> str:
        """The paper's figure, as it is shown."""
        return "–" if self.paper is None else in_form(self.paper, self.form)

    @property
    def found(self) -> str:
        """Ours with its interval, as it is shown, or why there is none."""
        if self.ours is None or self.low is None or self.high is None:
            return f"not measured: {self.missing}"
        shown = in_form(self.ours, self.form)
        if self.low == self.high:
            return shown
        return f"{shown} [{in_form(self.low, self.form)}, {in_form(self.high, self.form)}]"


def in_form(value: float, form: Form) -> str:
    """A ratio as ``2.10×``, a difference as ``+0.031``."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:+.3g}" if form == "difference" else f"{value:.3g}×"
