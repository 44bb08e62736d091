"""Runs and traces for the tests of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from measurements.record import Provenance, Record, Run, Trace
from measurements.statistics import make_record

START_NS = 1_700_000_000_000_000_000
EARLIER = Path(__file__).parents[1] / "data" / "store"


def provenance(device: str = "mcu-0", workload: str = "kws") -> Provenance:
    return Provenance(
        device=device, board="mps2-an386", clock="virtual", clock_hz=25e6, emulator="qemu", meter="",
        meter_uncertainty=0, energy_model="", workload=workload, variant="int8", parameters={"width": "1"}, seed=0,
        dataset="", dataset_digest="", artifact_digest="", build_id="", toolchain="gcc 12.2", flags="-O2",
        git_commit="c0ffee", git_dirty=False, lab_version="0",
    )  # fmt: skip


def make_run(
    number: int,
    *,
    device: str = "mcu-0",
    workload: str = "kws",
    session: str = "s",
    records: Sequence[Record] | None = None,
) -> Run:
    """Run ``number`` starts ``number`` seconds after :data:`START_NS`; its figures follow from its number."""
    if records is None:
        records = (
            make_record("inference", "latency", "s", "emulated", [0.01 + 1e-4 * number, 0.02]),
            make_record("inference", "cycles", "cycles", "emulated", [1000.0 + number]),
        )
    return Run(
        run_id=f"run-{device}-{number:04}",
        session_id=session,
        started_ns=START_NS + number * 1_000_000_000,
        status="passed",
        provenance=provenance(device, workload),
        records=tuple(records),
    )


def make_trace(seed: int = 0, samples: int = 200) -> Trace:
    rng = np.random.default_rng(seed)
    current = rng.lognormal(-5, 1, samples).astype(np.float32)
    return Trace(0.25, 1e-5, 3.3, current, rng.integers(0, 2, samples).astype(np.uint8))


def same(one: Trace | None, other: Trace | None) -> bool:
    """Whether two traces are equal bit for bit."""
    if one is None or other is None:
        return one is other
    return (
        (one.t0_s, one.dt_s, one.voltage_v, one.lost) == (other.t0_s, other.dt_s, other.voltage_v, other.lost)
        and one.current_a.tobytes() == other.current_a.tobytes()
        and one.logic.tobytes() == other.logic.tobytes()
    )


def earlier_store(folder: Path, version: int) -> Path:
    """A store as the lab with schema ``version`` wrote it: its dump in ``tests/data/store``, loaded."""
    source = EARLIER / f"v{version}"
    (folder / "traces").mkdir(parents=True)
    for trace in (source / "traces").iterdir():
        (folder / "traces" / trace.name).write_bytes(trace.read_bytes())
    db = sqlite3.connect(folder / "lab.sqlite")
    db.executescript((source / "lab.sql").read_text())
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    return folder
