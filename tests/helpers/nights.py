"""Nights of made-up measurements with known truth: a step, an improvement, outliers, a new compiler."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from measurements.record import Buffer, Layer, Provenance, Run, RunDetail, Trace
from measurements.statistics import make_record
from measurements.store import Store

START_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Made:
    """One device with one workload.

    Attributes:
        device, board: which device; boards whose clock is virtual count exactly.
        workload: workload id.
        cycles: cycles of an inference on the first night.
        accuracy: on the first night.
        ram_bytes: peak RAM.
        steps: (first night, factor on the time) of each change.
        outliers: nights whose energy is 20 % too large.
    """

    device: str
    board: str = "mps2-an386"
    workload: str = "keyword-digits"
    cycles: int = 2_914_003
    accuracy: float = 0.93
    ram_bytes: int = 19_840
    steps: tuple[tuple[int, float], ...] = ()
    outliers: tuple[int, ...] = ()

    @property
    def virtual(self) -> bool:
        """Whether the device is emulated."""
        return self.board.startswith("mps")


def commit(night: int) -> str:
    """The commit that a night measures."""
    return f"{night:04x}" + "c0ffee" * 6


def session(night: int) -> str:
    """The session id of a night."""
    return f"night-{night:04}"


def run_of(made: Made, night: int) -> Run:
    """What a night measures of one device with one workload; the same every time it is called."""
    rng = np.random.default_rng([night, *made.device.encode(), *made.workload.encode()])
    factor = float(np.prod([size for first, size in made.steps if night >= first]))
    hz = 25e6 if made.virtual else 180e6
    cycles = np.full(20, round(made.cycles * factor)) if made.virtual else (
        made.cycles * factor * rng.lognormal(0.0, 0.004, 40) * rng.normal(1.0, 0.006)
    ).round()  # fmt: skip
    joule = 4.3e-10 * made.cycles * factor * rng.normal(1.0, 0.008) * rng.normal(1.0, 0.004, 20)
    joule = joule * (1.2 if night in made.outliers else 1.0)
    emulated = made.virtual
    figures = (
        make_record("inference", "latency", "s", "emulated" if emulated else "hardware", list(cycles / hz)),
        make_record("inference", "cycles", "cycles", "emulated" if emulated else "hardware", list(map(float, cycles))),
        make_record("inference", "energy", "J", "modelled" if emulated else "hardware", list(joule)),
        make_record("run", "accuracy", "1", "emulated" if emulated else "hardware", [made.accuracy]),
        make_record("run", "accuracy.reference", "1", "modelled", [made.accuracy]),
        make_record("run", "peak_ram", "bytes", "emulated" if emulated else "hardware", [float(made.ram_bytes)]),
        make_record("run", "flash", "bytes", "emulated" if emulated else "hardware", [float(2 * made.ram_bytes)]),
    )
    return Run(
        run_id=re.sub("[^A-Za-z0-9.-]", "_", f"{session(night)}-{made.device}-{made.workload}"),
        session_id=session(night),
        started_ns=START_NS + night * DAY_NS + sum(map(ord, made.device + made.workload)),
        status="passed",
        provenance=_provenance(made, night),
        records=figures,
        detail=_detail(made.cycles * factor),
    )


def trace_of(run: Run) -> Trace:
    """A power trace of twenty regions with one needle."""
    rng = np.random.default_rng(len(run.run_id))
    current = rng.normal(1e-3, 2e-5, 80_000).astype(np.float32)
    logic = np.zeros(len(current), np.uint8)
    for begin in range(1_000, 80_000, 4_000):
        current[begin : begin + 2_500] = rng.normal(9e-3, 3e-4, 2_500)
        logic[begin : begin + 2_500] = 1
    current[1_600] = 0.021
    return Trace(0.0, 1e-5, 3.3, current, logic)


def fill(folder: Path, matrix: Sequence[Made], nights: int) -> Path:
    """A store with so many nights of a matrix; returns its folder."""
    with Store(folder) as store:
        for run in runs_of(matrix, nights):
            store.save(run)
    return folder


def runs_of(matrix: Sequence[Made], nights: int) -> Iterator[Run]:
    """All runs in the order of time."""
    for night in range(nights):
        yield from sorted((run_of(made, night) for made in matrix), key=lambda run: run.started_ns)


def _provenance(made: Made, night: int) -> Provenance:
    return Provenance(
        device=made.device,
        board=made.board,
        clock="virtual" if made.virtual else "dwt",
        clock_hz=25e6 if made.virtual else 180e6,
        emulator="qemu-system-arm 7.2" if made.virtual else "",
        meter="emulated ppk2 (x)" if made.virtual else "ppk2 (C0FFEE)",
        meter_uncertainty=0.02,
        energy_model="typical run currents of the data sheet" if made.virtual else "",
        workload=made.workload,
        variant="",
        parameters={},
        seed=1,
        dataset="spoken digits",
        dataset_digest="ab" * 32,
        artifact_digest="cd" * 32,
        build_id="0123456789abcdef",
        toolchain="arm-none-eabi-gcc 12.2.1",
        flags="-O2",
        git_commit=commit(night),
        git_dirty=False,
        lab_version="0.1.0",
    )


def _detail(cycles: float) -> RunDetail:
    names = ("stem", "dw1", "pw1", "dw2", "pw2", "pool", "fc")
    shares = (0.34, 0.05, 0.26, 0.05, 0.26, 0.03, 0.01)
    layers = tuple(
        Layer(index, name, "conv2d" if index < 5 else "linear", 10_000 * (index + 1), 800, share * cycles)
        for index, (name, share) in enumerate(zip(names, shares, strict=True))
    )
    buffers = tuple(Buffer(f"act{index}", 8_000 * (index % 2), 8_000, index, index + 1) for index in range(6))
    return RunDetail(layers, buffers, 16_000, 16_000)
