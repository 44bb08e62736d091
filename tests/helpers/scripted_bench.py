"""A bench for nightlies that does what a script says: no device, no emulator, no store, its own time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.bench import Bench
from lab.inventory import Device
from lab.nightly.config import Cell, MatrixEntry, NightlyConfig, Plan
from lab.paths import config_dir
from measurements.record import Provenance, Record, Run

BENCH = """\
devices:
  left: {board: nucleo-f446re, serial: {by_id: "1"}, tags: [pair]}
  right: {board: nucleo-f446re, serial: {by_id: "2"}, tags: [pair]}
  m4f: {board: mps2-an386, emulated: true, tags: [ci]}
  twin: {board: mps2-an386, emulated: true, tags: [ci]}
"""


def provenance(cell: Cell) -> Provenance:
    """Where the figures of a cell come from."""
    return Provenance(
        device=cell.device.name, board=cell.device.board.kind, clock="virtual", clock_hz=1e6, emulator="", meter="",
        meter_uncertainty=0.0, energy_model="", workload=cell.workload, variant=cell.variant, parameters={}, seed=0,
        dataset="", dataset_digest="", artifact_digest="", build_id="", toolchain="gcc 12", flags="", git_commit="c0",
        git_dirty=False, lab_version="0",
    )  # fmt: skip


def devices(folder: Path) -> dict[str, Device]:
    """The devices of :data:`BENCH`: two boards of one kind and two emulators of another."""
    path = folder / "bench.yaml"
    path.write_text(BENCH)
    boards = folder / "boards"
    if not boards.exists():
        boards.symlink_to(config_dir() / "boards")
    return {device.name: device for device in Bench.load(path).devices}


def plan(cells: list[Cell], **changes: object) -> Plan:
    """A plan of cells; ``changes`` are keys of ``nightly.yaml``."""
    entries = tuple(MatrixEntry(workload=name) for name in dict.fromkeys(cell.workload for cell in cells))
    config = NightlyConfig.model_validate({"matrix": entries, "retry_pause": 7.0, **changes})
    used = tuple({cell.device.name: cell.device for cell in cells}.values())
    return Plan(config, used, tuple(cells), "0123456789abcdef")


@dataclass
class ScriptedBench:
    """A worker whose cells do what ``script`` and ``health`` say; every call is in ``calls``.

    Attributes:
        script: by cell key: what each attempt does, one after the other; an exception is raised, None passes.
        health: by device name: likewise for checks.
        gone: by device name: why it cannot be used.
        cell_s: time that an attempt takes.
    """

    script: dict[str, list[BaseException | None]] = field(default_factory=dict)
    health: dict[str, list[BaseException | None]] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    cell_s: float = 1.0
    now_s: float = 1000.0
    calls: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    stored: list[tuple[str, Run]] = field(default_factory=list)
    records: Callable[[Cell], tuple[Record, ...]] = lambda cell: ()

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def availability(self, device: Device) -> str:
        return self.gone.get(device.name, "")

    def check(self, cell: Cell) -> None:
        self.calls.append(f"check {cell.device.name}")
        _next(self.health.get(cell.device.name))

    def measure(self, cell: Cell) -> Run:
        self.calls.append(cell.key)
        self.now_s += self.cell_s
        error: BaseException | None = None
        try:
            _next(self.script.get(cell.key))
        except Exception as raised:
            error = raised
        run = Run(
            run_id=f"run-{len(self.stored):03}",
            session_id="night",
            started_ns=len(self.stored),
            status="passed" if error is None else "failed",
            provenance=provenance(cell),
            records=self.records(cell),
            error=str(error or ""),
        )
        self.stored.append((cell.key, run))
        if error is not None:
            raise error
        return run

    def runs(self, cell: Cell) -> tuple[Run, ...]:
        return tuple(run for key, run in self.stored if key == cell.key)

    @property
    def measured(self) -> list[str]:
        """Keys of the cells that were attempted, in order."""
        return [call for call in self.calls if not call.startswith("check ")]


def _next(steps: list[BaseException | None] | None) -> None:
    step = steps.pop(0) if steps else None
    if step is not None:
        raise step
