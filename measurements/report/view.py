"""What the page shows: plain, already formatted values for the template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from measurements.record import Run, Trace
from measurements.report.claim_table import ClaimRow, claim_rows
from measurements.report.lookup import STATUS_WORDS, commit_of, when, workload_name
from measurements.report.method_table import Unmeasured
from measurements.report.model_table import ModelRow, model_rows
from measurements.report.night import NightSummary
from measurements.report.run_view import RunView, run_view
from measurements.report.summary import SummaryGroup, summary_groups
from measurements.report.units import short

_NIGHT_STATUS = {0: "passed", 1: "failed", 3: "error", 4: "incomplete"}
_NIGHT_WORDS = {0: "✓ passed", 1: "✗ failed", 3: "⚠ the bench failed", 4: "… out of time"}
_BUCKETS_OF_PAGE, _BUCKETS_LEAST, _BUCKETS_MOST = 12_000, 150, 600
_ZOOM_OF_PAGE, _ZOOM_LEAST, _ZOOM_MOST = 160_000, 1_000, 16_000


@dataclass(frozen=True)
class Trouble:
    """A run that did not pass, named at the top of the page with the first line of its error."""

    anchor: str
    title: str
    status_word: str
    line: str


@dataclass(frozen=True)
class Page:
    """Everything the template needs."""

    title: str
    when: str
    lab: str
    commit: str
    counts: str
    status: str
    status_word: str
    troubles: tuple[Trouble, ...]
    explanations: tuple[str, ...]
    notes: tuple[str, ...]
    groups: tuple[SummaryGroup, ...]
    models: tuple[ModelRow, ...]
    claims: tuple[ClaimRow, ...]
    runs: tuple[RunView, ...]


def page_view(
    runs: Sequence[Run],
    traces: Mapping[str, Trace],
    title: str,
    notes: Sequence[str],
    night: NightSummary | None = None,
    unmeasured: Sequence[Unmeasured] = (),
) -> Page:
    """Arrange ``runs``, their ``traces`` (by run id), the night they belong to and what did not run for the page."""
    share = max(1, len(traces))
    buckets = max(_BUCKETS_LEAST, min(_BUCKETS_MOST, _BUCKETS_OF_PAGE // share))
    fine = max(_ZOOM_LEAST, min(_ZOOM_MOST, _ZOOM_OF_PAGE // share))
    few = len(runs) <= 4
    views = tuple(
        run_view(run, index, traces.get(run.run_id), (buckets, fine), few) for index, run in enumerate(runs, 1)
    )
    told = {(run.provenance.device, run.provenance.workload) for run in runs if run.status != "passed"}
    stopped = [one for one in unmeasured if one.is_failure and (one.device, one.workload) not in told]
    ended = {*(run.status for run in runs), *("failed" for _ in stopped)}
    worst = next((status for status in ("error", "failed", "incomplete") if status in ended), "passed")
    return Page(
        title=title,
        when=when(min(run.started_ns for run in runs)) if runs else "",
        lab=_joined(run.provenance.lab_version for run in runs),
        commit=_joined(commit_of(run.provenance) for run in runs),
        counts=_counts(runs),
        status=_NIGHT_STATUS[night.status] if night is not None else worst if runs else "incomplete",
        status_word=_overall(runs, len(stopped)) if night is None else _NIGHT_WORDS[night.status],
        troubles=tuple(
            Trouble(view.anchor, view.title, view.status_word, view.error.partition("\n")[0])
            for view in views
            if view.status != "passed"
        )
        + tuple(
            Trouble("methods", f"{one.device} · {one.workload}", STATUS_WORDS["failed"], one.reason) for one in stopped
        ),
        explanations=_explanations(runs),
        notes=tuple(notes),
        groups=summary_groups(runs),
        models=model_rows(runs, views),
        claims=claim_rows(runs),
        runs=views,
    )


def _explanations(runs: Sequence[Run]) -> tuple[str, ...]:
    said: list[str] = []
    virtual = [run.provenance for run in runs if run.provenance.clock == "virtual"]
    if virtual:
        rates = _joined(f"{p.board} {short(p.clock_hz, 'Hz')}" for p in virtual)
        said.append(
            "Emulated devices run in an emulator that counts instructions. Their clock is virtual: its unit is one "
            f"instruction at the board's nominal clock ({rates}). Cycles and latency in virtual time therefore count "
            "work. They repeat exactly, so that a change of one instruction shows, but they know nothing of caches, "
            "pipelines or flash wait states and are never compared with hardware figures."
        )
    if any(run.provenance.clock == "guest" for run in runs):
        said.append(
            "Emulated systems run a Linux kernel in an emulator whose time advances with the instructions it executes: "
            "every latency counts work, that of the kernel and of other processes among it. Instructions are those of "
            "the runner alone and repeat exactly. Neither is ever compared with hardware figures."
        )
    if any(run.provenance.energy_model for run in runs):
        said.append(
            "Modelled energy is read by an emulated meter, in the device's virtual time, from a model of the board; "
            "each run names the model's source. It checks the whole way from marker to joule; it does not tell what "
            "a real board draws."
        )
    if any(not run.provenance.emulator and run.provenance.clock != "virtual" for run in runs):
        said.append("Runs marked hardware were measured on real devices and are summarised in a table of their own.")
    return tuple(said)


def _overall(runs: Sequence[Run], stopped: int) -> str:
    if not runs:
        return "no runs"
    tally = {status: sum(run.status == status for run in runs) for status in STATUS_WORDS}
    if tally["passed"] == len(runs) and not stopped:
        return "✓ all passed" if len(runs) > 1 else "✓ passed"
    counts = [f"{count} {status}" for status, count in tally.items() if count]
    return ", ".join((*counts, *([f"{stopped} stopped"] if stopped else [])))


def _counts(runs: Sequence[Run]) -> str:
    devices = len({run.provenance.device for run in runs})
    workloads = len({workload_name(run.provenance) for run in runs})
    return ", ".join(
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in ((len(runs), "run"), (devices, "device"), (workloads, "workload"))
    )


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(text for text in texts if text))
