"""Tables for papers: CSV with every figure, and a LaTeX table with booktabs rules, error bars and footnotes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from measurements.record import Record, Run
from measurements.report.lookup import find_record, main_region, workload_name
from measurements.report.units import scale_for

_COLUMNS = (
    "session_id", "run_id", "started_ns", "status", "device", "board", "source", "workload", "variant", "region",
    "metric", "unit", "n", "median", "ci_low", "ci_high", "p95", "p99", "first", "class_uncertainty", "run_uncertainty",
    "combined_uncertainty", "alignment", "lost_fraction", "clock", "clock_hz",
    "emulator", "meter", "meter_uncertainty", "energy_model", "toolchain", "flags", "dataset",
    "dataset_digest", "artifact_digest", "git_commit", "git_dirty", "lab_version", "seed", "note",
)  # fmt: skip
_FIGURES = (
    ("Accuracy", "accuracy"), ("Latency", "latency"), ("Energy", "energy"), ("Peak RAM", "peak_ram"),
    ("Flash", "flash"),
)  # fmt: skip
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "µ": r"\textmu{}", "μ": r"\textmu{}", "—": "---", "–": "--", "×": r"$\times$", "±": r"$\pm$", "\u00a0": "~",
    "…": r"\dots{}", "°": r"\textdegree{}", "−": "$-$", "·": r"$\cdot$",
}  # fmt: skip


def render_csv(runs: Sequence[Run]) -> str:
    """One line per record with all that is known of it; numbers with every digit, in SI units (RFC 4180).

    A figure that is missing or not finite is an empty field.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for run in runs:
        for record in run.records:
            known: dict[str, object] = {
                name: getattr(holder, name)
                for name in _COLUMNS
                for holder in (run.provenance, run, record)
                if hasattr(holder, name)
            }
            writer.writerow([_field(known[name]) for name in _COLUMNS])
    return stream.getvalue()


def render_latex(runs: Sequence[Run], *, title: str = "Measurements", label: str = "tab:measurements") -> str:
    """A table for a paper: one row per run, medians with their 95 % confidence interval, units in the head.

    Needs ``\\usepackage{booktabs}``. Footnotes below the table say where figures come from: emulator and clock, meter
    and its class uncertainty, energy model, compiler, commit. Runs that did not pass are left out, and counted there.

    Args:
        runs: what to list, in this order.
        title: the caption.
        label: for ``\\ref``.
    """
    passed = [run for run in runs if run.status == "passed"]
    columns = [_column(head, metric, passed) for head, metric in _FIGURES]
    shown = [column for column in columns if any(column.cells)]
    notes = _Footnotes()
    rows = []
    for index, run in enumerate(passed):
        name = f"{latex(run.provenance.device)}{notes.marks(run)} & {latex(workload_name(run.provenance))}"
        rows.append(" & ".join((name, *(column.cells[index] or "--" for column in shown))) + r" \\")
    remarks = [f"Runs that did not pass are left out: {len(runs) - len(passed)}."] if len(runs) > len(passed) else []
    commits = ", ".join(dict.fromkeys(_commit(run) for run in passed)) or "not known"
    remarks.append(f"Median with 95 % confidence interval of the median where repeats differ. Commit {commits}.")
    if any(record.class_uncertainty for run in passed for record in run.records):
        remarks.append("Where two uncertainties stand, A is that of the repeats, B what the meter's class allows.")
    if rejected := sum(bool(run.detail.rejections) for run in runs):
        remarks.append(f"Measurements of energy that were rejected: {rejected}.")
    below = [f"\\textsuperscript{{{mark}}}~{latex(text)}" for mark, text in notes.numbered] + list(map(latex, remarks))
    lines = (
        r"\begin{table}",
        r"  \centering\small",
        rf"  \caption{{{latex(title)}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{ll{'r' * len(shown)}}}",
        r"    \toprule",
        "    " + " & ".join(("Device", "Workload", *(column.head for column in shown))) + r" \\",
        r"    \midrule",
        *(f"    {row}" for row in rows),
        r"    \bottomrule",
        rf"    \multicolumn{{{2 + len(shown)}}}{{@{{}}p{{0.95\linewidth}}@{{}}}}{{\footnotesize",
        "      " + "\\par\n      ".join(below) + "}",
        r"  \end{tabular}",
        r"\end{table}",
    )
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Plain text for LaTeX; what its fonts may lack is left to the engine (XeLaTeX and LuaLaTeX know Unicode)."""
    return "".join(_ESCAPES.get(char, char) for char in " ".join(text.split(" ")).replace("\n", " "))


@dataclass(frozen=True)
class _Column:
    """One figure: its head with the unit, and a cell per run, empty where it was not measured."""

    head: str
    cells: tuple[str, ...]


def _column(head: str, metric: str, runs: Sequence[Run]) -> _Column:
    records = [find_record(run, metric, main_region(run)) for run in runs]
    finite = [one for one in records if one is not None and math.isfinite(one.median)]
    if not finite:
        return _Column(head, tuple("" for _ in runs))
    # One unit for the whole column, that of its smallest figure, so that rows can be compared by eye.
    smallest = min(finite, key=lambda one: abs(one.median) or math.inf)
    scale = scale_for(smallest.median, smallest.unit, metric)
    unit = f" ({latex(scale.unit)})" if scale.unit else ""
    return _Column(head + unit, tuple(_cell(one, scale.divisor) for one in records))


def _cell(record: Record | None, divisor: float) -> str:
    if record is None or not math.isfinite(record.median):
        return ""
    value, low, high = (one / divisor for one in (record.median, record.ci_low, record.ci_high))
    spread = record.n >= 2 and math.isfinite(high - low) and low != high
    by_class = record.class_uncertainty / divisor if record.class_uncertainty else 0.0
    errors = [*((max(value - low, high - value),) if spread else ()), *((by_class,) if by_class else ())]
    if not errors:
        return f"${_digits(value, 4)}$"
    # Two digits of the error say how many of the figure mean something (Particle Data Group, Review, section 5.3).
    decimals = max(0, 1 - math.floor(math.log10(min(errors))))
    above, below = f"{high - value:.{decimals}f}", f"{value - low:.{decimals}f}"
    runs = "" if not spread else rf" \pm {above}" if above == below else f"^{{+{above}}}_{{-{below}}}"
    if not by_class:
        return f"${value:.{decimals}f}{runs}$"
    marked = f"{runs}\\,(\\mathrm{{A}})" if runs else ""
    return rf"${value:.{decimals}f}{marked} \pm {by_class:.{decimals}f}\,(\mathrm{{B}})$"


def _digits(value: float, digits: int) -> str:
    if value == 0.0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


class _Footnotes:
    """Footnotes by letter, each text once."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def marks(self, run: Run) -> str:
        """The letters of a run's footnotes, as a superscript."""
        letters = [self._texts.setdefault(text, _letter(len(self._texts))) for text in _provenance(run)]
        return rf"\textsuperscript{{{','.join(letters)}}}" if letters else ""

    @property
    def numbered(self) -> list[tuple[str, str]]:
        return [(letter, text) for text, letter in self._texts.items()]


def _letter(index: int) -> str:
    """a to z, then aa to az, ba …"""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def _provenance(run: Run) -> tuple[str, ...]:
    p = run.provenance
    said = []
    if p.clock == "virtual":
        said.append(f"{p.emulator}, instruction-counted: latency is work at {p.clock_hz / 1e6:g} MHz, not time.")
    elif p.clock == "guest":
        said.append(f"{p.emulator}, time of its instructions: latency is work, not time on a board.")
    elif p.emulator:
        said.append(f"{p.emulator}, host time.")
    if p.meter:
        said.append(f"Energy: {p.meter}, class uncertainty ±{100 * p.meter_uncertainty:g} %.")
    if p.energy_model:
        said.append(f"Energy model: {p.energy_model.rstrip('.')}.")
    if p.toolchain:
        said.append(f"{p.toolchain}, {p.flags}." if p.flags else f"{p.toolchain}.")
    return tuple(said)


def _commit(run: Run) -> str:
    p = run.provenance
    return (p.git_commit[:12] or "not known") + (" with uncommitted changes" if p.git_dirty else "")


def _field(value: object) -> object:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    return value
