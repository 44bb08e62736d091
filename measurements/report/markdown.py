"""Markdown for a comment on a pull request: what changed first, then what failed, then the figures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from measurements.record import Record, Run
from measurements.report.claim_table import claim_rows
from measurements.report.lookup import find_record, main_region, rejected_reasons, workload_name
from measurements.report.method_table import METHOD_COLUMNS, Unmeasured, method_rows
from measurements.report.night import WORDS, NightCell, NightSummary
from measurements.report.trend_chart import change_row
from measurements.report.trends import Found, Trends
from measurements.report.units import NO_FIGURE, quantity

_BREAKS = re.compile("[ \t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]+")

LONGEST = 60_000
"""GitHub takes comments of up to 65,536 characters; what is longer is cut between rows, and says so."""

_MARKS = {"passed": "✅", "failed": "❌", "infrastructure": "🔌", "unavailable": "⛔", "unreached": "⏳"}
_STATUS_MARKS = {"passed": "✅", "failed": "❌", "error": "🔌", "incomplete": "⏳"}
_CLAIM_MARKS = {"met": "✅", "broken": "❌", "told": "ℹ️", "not measured": "–"}
_ROWS_OF_CHANGES = 40


def render_markdown(
    runs: Sequence[Run],
    *,
    title: str = "Measurement report",
    trends: Trends | None = None,
    night: NightSummary | None = None,
    unmeasured: Sequence[Unmeasured] = (),
) -> str:
    """Return the report as GitHub-flavoured Markdown of at most :data:`LONGEST` characters.

    Args:
        runs: what to report, in this order.
        title: heading.
        trends: histories, for what changed.
        night: the night, where the runs are one's.
        unmeasured: methods that were to run and have no run.
    """
    known = trends or Trends()
    lines = [f"## {text(title)}", ""]
    if night is not None:
        lines += [f"**{text(night.headline(known.regressions))}**", "", *(f"_{text(note)}_\n" for note in night.notes)]
    lines += _changes("Regressions", known.regressions)
    lines += _changes("Improvements", known.improvements)
    if night is not None:
        lines += _troubles("Failed", [cell for cell in night.cells if cell.verdict == "failed"])
        lines += _troubles("The bench", [cell for cell in night.cells if cell.verdict not in ("passed", "failed")])
        mended = [cell for cell in night.cells if cell.verdict == "passed" and cell.retries]
        lines += _troubles("The bench, mended by a retry", mended)
        lines += _matrix(night)
    lines += _methods(runs, unmeasured)
    lines += _figures(runs)
    lines += _claims(runs)
    return _cut(lines)


def text(value: str) -> str:
    """Plain text for Markdown: on one line, nothing of it read as markup, nobody mentioned."""
    # Only what breaks lines: the narrow spaces inside of numbers stay.
    one_line = _BREAKS.sub(" ", value).strip()
    escaped = "".join(f"\\{char}" if char in "\\`*_{}[]<>#|~" else char for char in one_line)
    # A mention is an @ before a word; a zero-width joiner keeps people from being called by an error text.
    return escaped.replace("@", "@\u2060")


def _changes(heading: str, found: Sequence[Found]) -> list[str]:
    if not found:
        return []
    rows = []
    for one in found[:_ROWS_OF_CHANGES]:
        row = change_row(one)
        name = f"{text(row.name)}<br>layers: {text(row.moved)}" if row.moved else text(row.name)
        rows.append((name, text(row.before), text(row.after), row.relative, _commits(one)))
    left_out = len(found) - len(rows)
    more = [f"… and {left_out} more, see the report.", ""] if left_out else []
    return [f"### {heading}", "", *_table(("Figure", "Before", "After", "Change", "Since"), rows), *more]


def _commits(found: Found) -> str:
    bad, good = found.change.first_bad_commit, found.change.last_good_commit
    if not bad:
        return "commit not known"
    return f"`{_code(bad[:12])}`" + (f" (good: `{_code(good[:12])}`)" if good else "")


def _troubles(heading: str, cells: Sequence[NightCell]) -> list[str]:
    if not cells:
        return []
    lines = [f"### {heading}", ""]
    for cell in cells:
        first = f": `{_code(cell.message.splitlines()[0])}`" if cell.message else ""
        name = f"{text(cell.device)} · {text(cell.subject)}"
        lines.append(f"- {_MARKS[cell.verdict]} {name} {WORDS[cell.verdict]}{first}")
        lines += [f"  - tried again after `{_code(why)}`" for why in cell.retries]
    return [*lines, ""]


def _matrix(night: NightSummary) -> list[str]:
    devices = list(dict.fromkeys(cell.device for cell in night.cells))
    subjects = list(dict.fromkeys(cell.subject for cell in night.cells))
    marks = {(cell.device, cell.subject): _MARKS[cell.verdict] for cell in night.cells}
    rows = [(text(device), *(marks.get((device, subject), "") for subject in subjects)) for device in devices]
    used = dict.fromkeys(cell.verdict for cell in night.cells)
    legend = ", ".join(f"{_MARKS[verdict]} {WORDS[verdict]}" for verdict in used)
    return ["### Devices and workloads", "", *_table(("Device", *map(text, subjects)), rows), legend, ""]


def _figures(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["No run was recorded.", ""]
    rows = []
    for run in runs:
        region = main_region(run)
        sources = ", ".join(dict.fromkeys(record.source for record in run.records)) or "nothing measured"
        rows.append(
            (
                f"{_STATUS_MARKS[run.status]} {text(run.provenance.device)}",
                text(workload_name(run.provenance)),
                *(_figure(find_record(run, metric, region)) for metric in ("accuracy", "latency")),
                text(rejected_reasons(run)) or _figure(find_record(run, "energy", region)),
                *(_figure(find_record(run, metric)) for metric in ("peak_ram", "flash")),
                text(sources),
            )
        )
    heads = ("Device", "Workload", "Accuracy", "Latency", "Energy", "Peak RAM", "Flash", "Source")
    commits = dict.fromkeys(run.provenance.git_commit[:12] for run in runs if run.provenance.git_commit)
    at = f" Commit {', '.join(f'`{_code(commit)}`' for commit in commits)}." if commits else ""
    return ["### Figures", "", *_table(heads, rows), f"Medians with 95 % confidence intervals.{at}", ""]


def _methods(runs: Sequence[Run], unmeasured: Sequence[Unmeasured]) -> list[str]:
    """Methods on devices, where there are several."""
    rows = [
        (text(one.name), f"{_STATUS_MARKS.get(one.status, '–')} {text(one.device)}",
         *((*map(text, one.figures), text(one.front)) if one.anchor else (text(one.task), "", "", "", "")))
        for one in method_rows(runs, unmeasured)
    ]  # fmt: skip
    heads = ("Method", "Device", *METHOD_COLUMNS, "On its device's front")
    return ["### Methods on devices", "", *_table(heads, rows)] if len(rows) > 1 else []


def _claims(runs: Sequence[Run]) -> list[str]:
    rows = [
        (text(one.name), text(f"{one.claim} ({one.source})"), text(one.compared), one.paper, text(one.ours),
         f"{_CLAIM_MARKS[one.verdict]} {one.verdict}", text(one.why))
        for one in claim_rows(runs)
    ]  # fmt: skip
    heads = ("Method", "Claim", "Compared", "Paper", "Ours", "Verdict", "Why they differ")
    return ["### Claims: the paper and ours", "", *_table(heads, rows)] if rows else []


def _figure(record: Record | None) -> str:
    if record is None:
        return NO_FIGURE
    shown = quantity(record.median, record.unit, record.metric)
    if record.class_uncertainty:
        shown += f" ± {quantity(record.class_uncertainty, record.unit, record.metric)} (class)"
    if record.n < 2 or record.ci_low == record.ci_high or not math.isfinite(record.ci_high - record.ci_low):
        return shown
    below, above = record.median - record.ci_low, record.ci_high - record.median
    return f"{shown} (−{quantity(below, record.unit, record.metric)}, +{quantity(above, record.unit, record.metric)})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _code(value: str) -> str:
    """Text for the inside of a code span in a table: no back-tick ends it, no bar ends its cell."""
    return " ".join(value.split()).replace("`", "'").replace("|", "\\|")[:300]


def _cut(lines: Sequence[str]) -> str:
    kept, size = [], 0
    for line in lines:
        size += len(line) + 1
        if size > LONGEST:
            kept.append("\n_Cut here: the whole of it is in the HTML report._")
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"
