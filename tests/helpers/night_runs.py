"""Runs of made-up nights, as the store keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from measurements.record import Provenance, Record, Run, Source
from measurements.statistics import make_record
from measurements.store import Store

DAY_NS = 86_400 * 10**9
FIRST_NIGHT_NS = 1_760_000_000 * 10**9

PROVENANCE = Provenance(
    device="m4f", board="mps2-an386", clock="virtual", clock_hz=25e6, emulator="QEMU 7.2", meter="",
    meter_uncertainty=0.0, energy_model="", workload="kws", variant="", parameters={}, seed=1, dataset="noise",
    dataset_digest="d", artifact_digest="a", build_id="b", toolchain="gcc 12.2", flags="-O2", git_commit="c0",
    git_dirty=False, lab_version="0",
)  # fmt: skip
HARDWARE = replace(PROVENANCE, device="f446", board="nucleo-f446re", clock="dwt", emulator="")


def counted(values: Sequence[float], metric: str = "instructions", region: str = "inference") -> Record:
    """A record of exact counts of an emulator."""
    return make_record(region, metric, metric, "emulated", values)


def noisy(
    values: Sequence[float], metric: str = "latency", unit: str = "s", source: Source = "hardware"
) -> Record:
    """A record of a figure with noise."""
    return make_record("inference", metric, unit, source, values)


def night(number: int, *records: Record, provenance: Provenance = PROVENANCE, **changes: object) -> Run:
    """One run of a night; its commit is ``c<number>`` unless the provenance is changed by keyword."""
    run = Run(
        run_id=f"night{number:04}-{provenance.device}",
        session_id=f"session{number:04}",
        started_ns=FIRST_NIGHT_NS + number * DAY_NS,
        status="passed",
        provenance=replace(provenance, git_commit=f"c{number}"),
        records=records,
    )
    ours = {name: value for name, value in changes.items() if hasattr(run, name)}
    theirs = {name: value for name, value in changes.items() if name not in ours}
    return replace(run, provenance=replace(run.provenance, **theirs), **ours)  # type: ignore[arg-type]


def save(folder: Path, runs: Sequence[Run]) -> Path:
    """Put runs in a store; returns its folder."""
    with Store(folder) as store:
        for run in runs:
            store.save(run)
    return folder
