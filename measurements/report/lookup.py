"""What every report looks up in a run: its name, its kind of clock, the record that stands for a figure."""

from __future__ import annotations

from datetime import UTC, datetime

from measurements.latency import NANOSECOND_CLOCKS
from measurements.record import Provenance, Record, Run

LAYER_PREFIX, STEP_PREFIX = "layer/", "train.layer/"
"""Regions of single layers, and of single steps of training, start with these."""
CLOCK_GROUPS = ("Emulated, virtual time", "Emulated systems, virtual time", "Emulated, host time", "Hardware")
STATUS_WORDS = {"passed": "✓ passed", "failed": "✗ failed", "error": "⚠ error", "incomplete": "… incomplete"}


def anchor_of(number: int) -> str:
    """Id of the section of the run that is shown at this place, from 1."""
    return f"run-{number}"


def clock_group(run: Run) -> str:
    """Title of the runs whose figures this run's may be compared with: the same kind of clock."""
    virtual, systems, host, hardware = CLOCK_GROUPS
    if run.provenance.clock == "virtual":
        return virtual
    if run.provenance.clock == "guest":
        return systems
    return host if run.provenance.emulator else hardware


def main_region(run: Run) -> str:
    """Return the region whose latency stands in the summary: ``inference``, else the first one timed."""
    timed = [
        record.region
        for record in run.records
        if record.metric in ("latency", "cycles")
        and not is_single(record.region)
        and record.region not in ("idle", "run")
    ]
    if "inference" in timed:
        return "inference"
    return timed[0] if timed else "run"


def find_record(run: Run, metric: str, region: str = "") -> Record | None:
    """Return the record of ``metric`` in ``region``, else in the whole run, else the first there is outside layers."""
    matches = [r for r in run.records if r.metric == metric and not is_single(r.region)]
    ranked = sorted(matches, key=lambda r: (r.region != region, r.region != "run"))
    return ranked[0] if ranked else None


def rejected_reasons(run: Run) -> str:
    """Why the energy of a run was rejected, in a few words; empty where it was not."""
    reasons = ", ".join(dict.fromkeys(one.reason for one in run.detail.rejections))
    return f"rejected: {reasons}" if reasons else ""


def workload_name(provenance: Provenance) -> str:
    """Workload and variant as they are shown."""
    return f"{provenance.workload} ({provenance.variant})" if provenance.variant else provenance.workload


def is_single(region: str) -> bool:
    """Whether a region is one layer or one step of training, which have tables of their own."""
    return region.startswith((LAYER_PREFIX, STEP_PREFIX))


def ticks_of(run: Run) -> str:
    """What a run's clock counts."""
    return "ns" if run.provenance.clock in NANOSECOND_CLOCKS else "cycles"


def commit_of(provenance: Provenance) -> str:
    """The commit of the lab that made a run, in words."""
    if not provenance.git_commit:
        return "not in a checkout"
    return provenance.git_commit[:12] + (" with uncommitted changes" if provenance.git_dirty else "")


def when(started_ns: int) -> str:
    """Nanoseconds since 1970 as a date and time in UTC."""
    return datetime.fromtimestamp(started_ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
