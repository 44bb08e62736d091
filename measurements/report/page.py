"""Writing the report and pointing ``latest`` at it."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lab.errors import StoreError
from lab.printable import printable
from measurements.record import Run, Trace
from measurements.report.matrix import matrix_view
from measurements.report.method_table import METHOD_COLUMNS, Unmeasured, method_rows
from measurements.report.model_table import MODEL_COLUMNS
from measurements.report.night import NightSummary
from measurements.report.pareto import pareto_views
from measurements.report.trend_chart import trend_view
from measurements.report.trends import Trends
from measurements.report.view import page_view

_TEMPLATES = Path(__file__).parent / "templates"


def render(
    runs: Sequence[Run],
    traces: Mapping[str, Trace],
    *,
    title: str = "Measurement report",
    notes: Sequence[str] = (),
    trends: Trends | None = None,
    night: NightSummary | None = None,
    unmeasured: Sequence[Unmeasured] = (),
) -> str:
    """Return the report as one HTML document that loads nothing from anywhere.

    Args:
        runs: what to report, in this order.
        traces: power traces by run id; runs without one are reported without.
        title: heading of the page.
        notes: sentences for the reader, shown at the top.
        trends: the figures over the nights before, where they are to be shown.
        night: the night, where the runs are one's.
        unmeasured: methods that were to run and have no run.
    """
    known = trends or Trends()
    script = (_TEMPLATES / "report.js").read_text("utf-8")
    return _template().render(
        page=page_view(runs, traces, title, notes, night, unmeasured),
        model_columns=tuple(MODEL_COLUMNS),
        night=night,
        headline=night.headline(known.regressions) if night is not None else "",
        trends=trend_view(known),
        matrix=matrix_view(runs, night, known),
        fronts=pareto_views(runs),
        methods=method_rows(runs, unmeasured),
        method_columns=METHOD_COLUMNS,
        script=Markup(script),
        # Only this very script may run: the policy names its digest (W3C, Content Security Policy Level 3).
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _shown(value: object) -> object:
    return printable(value) if type(value) is str else value


@cache
def _template() -> Template:
    """The page's template; compiling it takes longer than filling it in."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        # Whatever a device said: no control character of it reaches a page, wherever it is shown.
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def write_report(
    runs: Sequence[Run],
    traces: Mapping[str, Trace],
    folder: Path,
    *,
    title: str = "Measurement report",
    notes: Sequence[str] = (),
    trends: Trends | None = None,
    night: NightSummary | None = None,
    unmeasured: Sequence[Unmeasured] = (),
) -> Path:
    """Write ``folder/index.html``; a reader sees the old file or the whole new one, never a part.

    Args:
        runs, traces, title, notes, trends, night, unmeasured: as in :func:`render`.
        folder: created where missing.

    Returns:
        The path of the file.

    Raises:
        StoreError: the folder or file cannot be written.
    """
    text = render(runs, traces, title=title, notes=notes, trends=trends, night=night, unmeasured=unmeasured)
    return write_text(folder / "index.html", text)


def write_text(target: Path, text: str) -> Path:
    """Write a report file; a reader sees the old one or the whole new one. Its folder is made where missing.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(target, text.encode("utf-8"))
    except OSError as error:
        raise StoreError(
            f"the report {target} cannot be written: {error.strerror or error}",
            hint="free space or choose a folder you may write to; the runs are safe in the store",
        ) from error
    return target


def publish(report: Path, reports_root: Path) -> Path:
    """Point ``reports_root/latest`` at the folder of ``report``; the link is replaced in one step.

    Windows lets few users make links: there ``reports_root/latest.html`` leads to the report instead.

    Returns:
        The path of the link or page. Its goal is relative, so that the reports can be moved together.

    Raises:
        StoreError: the link cannot be made, or ``latest`` is something else than a link.
    """
    link = reports_root / "latest"
    if link.exists() and not link.is_symlink():
        raise StoreError(
            f"{link} is a file or folder, but must be a link to the newest report",
            hint="move it away",
        )
    try:
        reports_root.mkdir(parents=True, exist_ok=True)
        goal = os.path.relpath(report.parent.resolve(), reports_root.resolve())
        with tempfile.TemporaryDirectory(prefix=".latest-", dir=reports_root) as scratch:
            fresh = Path(scratch) / "latest"
            fresh.symlink_to(goal, target_is_directory=True)
            fresh.replace(link)
    except OSError as error:
        if hasattr(error, "winerror"):
            url = quote(Path(os.path.relpath(report.resolve(), reports_root.resolve())).as_posix())
            return write_text(reports_root / "latest.html", f'<meta http-equiv="refresh" content="0; url={url}">\n')
        raise StoreError(f"the link {link} cannot be made: {error.strerror or error}") from error
    return link


def _replace_file(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=".index-", suffix=".html", dir=target.parent)
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
