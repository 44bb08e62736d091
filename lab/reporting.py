"""The end of a session: its report as one HTML file, and its results in the mirror."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lab import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measurements.report.method_table import Unmeasured
    from measurements.report.night import NightSummary
    from measurements.report.trends import Trends

# Other sessions than nights may be in the store, so more of them are read; a store of years is not read as a whole.
_SESSIONS_A_NIGHT = 4
_OLDEST = """
SELECT min(began) AS oldest FROM
    (SELECT min(started_ns) AS began FROM runs GROUP BY session_id ORDER BY began DESC LIMIT :sessions)
"""

TextKind = Literal["markdown", "junit", "csv", "latex"]


def new_session_id() -> str:
    """Sortable by time, readable in a path: UTC to the microsecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(seconds))}-{nanoseconds // 1000:06d}"


def report_session(
    store_path: Path, session_id: str, reports: Path, nights: int = 0, *,
    unmeasured: Sequence[Unmeasured] | None = None,
) -> Path | None:
    """Write the report of a session.

    Args:
        store_path: folder of the local store.
        session_id: which session.
        reports: folder that reports go to; ``latest`` in it leads to this one afterwards.
        nights: also compare with so many sessions before it; reading them takes its time.
        unmeasured: of a comparison of methods, what did not run; the report is then written as Markdown too,
            ``summary.md`` beside it.

    Returns:
        The report, or None where the session measured nothing.

    Raises:
        StoreError: the store cannot be read, or the report cannot be written.
    """
    from measurements.report import publish, write_report, write_text
    from measurements.report.markdown import render_markdown
    from measurements.store import Store

    with Store(store_path) as store:
        runs = store.runs(session_id)
        if not runs:
            return None
        with progress.step(f"report of {len(runs)} runs", quiet_below_s=2.0):
            traces = {run.run_id: trace for run in runs if (trace := store.trace(run.run_id)) is not None}
            history = trends(store_path, session_id, nights) if nights else None
            folder = reports / session_id
            page = write_report(runs, traces, folder, trends=history, unmeasured=unmeasured or ())
            if unmeasured is not None:
                write_text(folder / "summary.md", render_markdown(runs, unmeasured=unmeasured))
            publish(page, reports)
    return page


def session_text(store_path: Path, session_id: str, kind: TextKind, nights: int) -> str | None:
    """A session as text for a pull request, a CI system, a spreadsheet or a paper.

    Args:
        store_path: folder of the local store.
        session_id: which session.
        kind: which of them.
        nights: Markdown also tells what changed against so many sessions before it.

    Returns:
        The text, or None where the session measured nothing.

    Raises:
        StoreError: the store cannot be read.
    """
    from measurements.report.junit import render_junit
    from measurements.report.markdown import render_markdown
    from measurements.report.tables import render_csv, render_latex
    from measurements.store import Store

    with Store(store_path) as store:
        runs = store.runs(session_id)
    if not runs:
        return None
    match kind:
        case "markdown":
            return render_markdown(runs, trends=trends(store_path, session_id, nights))
        case "junit":
            return render_junit(runs)
        case "csv":
            return render_csv(runs)
        case "latex":
            return render_latex(runs)


def trends(store_path: Path, session_id: str, nights: int) -> Trends:
    """The figures of a session over the nights before it.

    Args:
        store_path: folder of the local store.
        session_id: which session.
        nights: how many nights back.

    Raises:
        StoreError: the store cannot be read, or holds one figure in two units.
    """
    from measurements import load
    from measurements.report.trends import find_trends
    from measurements.store import Store

    with progress.step("histories", quiet_below_s=2.0), Store(store_path, read_only=True) as store:
        rows = store.table(_OLDEST, {"sessions": _SESSIONS_A_NIGHT * nights})
        since = datetime.fromtimestamp((rows[0]["oldest"] or 0) // 10**9, UTC)
        return find_trends(load(store_path, since=since), session_id, nights, lambda run: store.run(run).detail)


def report_night(store_path: Path, night: NightSummary, history: Trends, reports: Path, title: str) -> Path:
    """Write the report of a night: ``index.html``, ``summary.md`` and ``junit.xml``.

    Args:
        store_path: folder of the local store.
        night: what became of its cells.
        history: from :func:`trends`.
        reports: folder that reports go to; ``latest`` in it leads to this one afterwards.
        title: heading.

    Returns:
        The HTML file.

    Raises:
        StoreError: the store cannot be read, or the report cannot be written.
    """
    from measurements.report import publish, write_report, write_text
    from measurements.report.junit import render_junit
    from measurements.report.markdown import render_markdown
    from measurements.store import Store

    counted = {cell.run_id for cell in night.cells if cell.run_id}
    with Store(store_path) as store:
        runs = [run for run in store.runs(night.night) if run.run_id in counted]
        traces = {run.run_id: trace for run in runs if (trace := store.trace(run.run_id)) is not None}
    folder = reports / night.night
    page = write_report(runs, traces, folder, title=title, trends=history, night=night)
    write_text(folder / "summary.md", render_markdown(runs, title=title, trends=history, night=night))
    write_text(folder / "junit.xml", render_junit(runs, title=title, night=night))
    publish(page, reports)
    return page


def mirror(store_path: Path) -> str:
    """Send what waits in the outbox to InfluxDB, where one is configured; says what became of it, empty where none is.

    A mirror that fails loses nothing: what it did not take stays in the outbox for the next time.

    Raises:
        ConfigError: ``LAB_INFLUX_*`` is incomplete or influxdb-client is missing.
        StoreError: the store cannot be read or written.
    """
    from measurements.store import Store
    from measurements.store.influx import InfluxConfig, flush

    config = InfluxConfig.from_env()
    if config is None:
        return ""
    with Store(store_path) as store, progress.step(f"mirroring to {config.url}", quiet_below_s=2.0):
        result = flush(store, config)
    told = f"mirror {config.url}: {result.sent} blocks sent, {result.set_aside} refused, {result.kept} kept"
    return f"{told}; {result.problem}" if result.problem else told
