"""The figures of a session over the nights before it: histories, their changes, and which of these are new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from measurements.record import RunDetail
from measurements.regression import Change, History, MovedLayer, detect, histories, moved_layers

if TYPE_CHECKING:
    import pandas as pd

SAME_WITHIN_NIGHTS = 3
"""As the history of a noisy figure grows, the night to which a change is dated may move by so much."""

_OF_LAYERS = ("cycles", "instructions", "latency")


@dataclass(frozen=True)
class Found:
    """A change of level in a history.

    Attributes:
        history, change: what changed.
        is_new: whether the night before did not show it yet.
        moved: layers of the model that cost something else since, the largest difference first.
    """

    history: History
    change: Change
    is_new: bool
    moved: tuple[MovedLayer, ...] = ()


@dataclass(frozen=True)
class Trends:
    """Histories that the session adds a night to, and what was found in them, the newest change first."""

    histories: tuple[History, ...] = ()
    found: tuple[Found, ...] = ()

    @property
    def regressions(self) -> tuple[Found, ...]:
        """What got worse and was not known before this night."""
        return tuple(one for one in self.found if one.is_new and one.change.kind == "regression")

    @property
    def improvements(self) -> tuple[Found, ...]:
        """What got better and was not known before this night."""
        return tuple(one for one in self.found if one.is_new and one.change.kind == "improvement")


def find_trends(
    frame: pd.DataFrame, session_id: str, nights: int, detail: Callable[[str], RunDetail] | None = None
) -> Trends:
    """The histories that end with a session, over so many nights at most.

    Args:
        frame: from :func:`measurements.load`.
        session_id: the night that the report is of; later ones are left out. One that is unknown has no histories.
        nights: how many nights back.
        detail: of a run by its id, for the layers that moved with a new change of the time a model takes.

    Raises:
        StoreError: one figure was stored in two units.
        WorkloadError: a value is NaN or infinite.
    """
    tonight = set(frame.loc[frame["session_id"] == session_id, "run_id"])
    end = frame.loc[frame["session_id"] == session_id, "started"].max()
    ending = [one for one in histories(frame[frame["started"] <= end]) if one.runs[-1] in tonight]
    shown = tuple(_last(one, nights) for one in ending)
    found = [one for history in shown for one in _changes(history)]
    if detail is not None:
        found = [_with_layers(one, detail) for one in found]
    found.sort(key=lambda one: (-one.history.started_ns[one.change.index], one.change.kind != "regression"))
    return Trends(shown, tuple(found))


def _with_layers(one: Found, detail: Callable[[str], RunDetail]) -> Found:
    if not one.is_new or one.history.key.metric not in _OF_LAYERS:
        return one
    before, after = (one.history.runs[index] for index in (one.change.index - 1, one.change.index))
    return replace(one, moved=moved_layers(detail(before), detail(after)))


def _last(history: History, nights: int) -> History:
    return replace(
        history,
        values=history.values[-nights:],
        runs=history.runs[-nights:],
        commits=history.commits[-nights:],
        started_ns=history.started_ns[-nights:],
    )


def _changes(history: History) -> list[Found]:
    if len(history.values) < 2:
        return []
    before = detect(
        replace(
            history,
            values=history.values[:-1],
            runs=history.runs[:-1],
            commits=history.commits[:-1],
            started_ns=history.started_ns[:-1],
        )
    )
    moved = 0 if history.exact else SAME_WITHIN_NIGHTS
    return [Found(history, change, not _known(change, before, moved)) for change in detect(history)]


def _known(change: Change, before: tuple[Change, ...], moved: int) -> bool:
    return any(old.kind == change.kind and abs(old.index - change.index) <= moved for old in before)
