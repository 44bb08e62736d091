"""``nightly.yaml``: what a night runs, and the cells that come of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lab.bench import Bench
from lab.config_fields import Seconds, Secret
from lab.config_validation import load_settings
from lab.errors import ConfigError
from lab.inventory import Device
from lab.workloads import get

_HINT = "docs/nightly.md describes every key; docs/ci/nightly.yaml is an example"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MatrixEntry(_Strict):
    """One workload on the devices that can run it.

    Attributes:
        workload: workload id.
        variants: its variants; the empty one is the default.
        devices: narrows the night's devices further, see :meth:`lab.bench.Bench.select`.
        repeats: timed passes over each sample.
        samples: use only the first so many samples; all by default.
    """

    workload: str
    variants: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("",)
    devices: str = ""
    repeats: Annotated[int, Field(ge=1)] = 1
    samples: Annotated[int, Field(ge=1)] | None = None


class Notify(_Strict):
    """Who is told.

    Attributes:
        urls: Apprise URLs (``json://``, ``mailtos://``, ``slack://`` …); they hold secrets, so only ``!env NAME``.
        when: ``always``, or only with ``trouble``, that is for every exit status but 0.
    """

    urls: Annotated[tuple[Secret, ...], Field(strict=False, min_length=1)]
    when: Literal["always", "trouble"] = "trouble"


class NightlyConfig(_Strict):
    """The file.

    Attributes:
        title: heading of the report.
        bench: bench file, relative to this one; the command line's where it is not given.
        devices: which devices take part, see :meth:`lab.bench.Bench.select`; all by default.
        matrix: what runs on them.
        budget: seconds the night may take; cells that are not reached come first the next night.
        cell_limit: seconds one attempt at a cell may take.
        retries: how often a cell is tried again after a failure of the bench.
        retry_pause: seconds between such attempts.
        quarantine_after: a device is quarantined after so many cells in a row that the bench failed.
        fail_on_regression: whether a regression found tonight makes exit status 1.
        nights: how many nights back the trends of the report go.
        notify: who is told.
    """

    title: str = "Nightly"
    bench: str | None = None
    devices: str = ""
    matrix: Annotated[tuple[MatrixEntry, ...], Field(strict=False, min_length=1)]
    budget: Seconds = 8 * 3600.0
    cell_limit: Seconds = 1800.0
    retries: Annotated[int, Field(ge=0)] = 2
    retry_pause: Seconds = 10.0
    quarantine_after: Annotated[int, Field(ge=1)] = 2
    fail_on_regression: bool = True
    nights: Annotated[int, Field(ge=2)] = 60
    notify: Notify | None = None


@dataclass(frozen=True)
class Cell:
    """One workload on one device.

    Attributes:
        device: the bench entry.
        workload, variant, repeats, samples: as in :class:`MatrixEntry`.
    """

    device: Device
    workload: str
    variant: str = ""
    repeats: int = 1
    samples: int | None = None

    @property
    def key(self) -> str:
        """``device/workload`` or ``device/workload/variant``: names the cell in the journal and the report."""
        return "/".join(part for part in (self.device.name, self.workload, self.variant) if part)


@dataclass(frozen=True)
class Plan:
    """A night to run.

    Attributes:
        config: the file's content.
        devices: the devices that have cells, in the order of the bench.
        cells: what to run, device by device.
        digest: changes with everything that decides what runs: 16 hex digits.
    """

    config: NightlyConfig
    devices: tuple[Device, ...]
    cells: tuple[Cell, ...]
    digest: str


def load_plan(path: Path, bench: Path) -> Plan:
    """Read a ``nightly.yaml`` and lay its matrix over the bench.

    Args:
        path: the file.
        bench: the bench file where the file names none.

    Raises:
        ConfigError: either file is wrong, a workload is unknown, a cell stands twice, or nothing is left to run.
    """
    config = load_settings(path, NightlyConfig, _HINT)
    bench_file = path.parent / config.bench if config.bench else bench
    on_bench = Bench.load(bench_file)
    taking_part = on_bench.select(config.devices)
    cells: dict[str, Cell] = {}
    for entry in config.matrix:
        get(entry.workload)  # an unknown one is refused before anything runs
        wanted = on_bench.select(entry.devices)
        chosen = [device for device in taking_part if device in wanted]
        if not chosen:
            raise ConfigError(
                f"{path}: {entry.workload} runs on no device: none of {config.devices or 'all devices'!r} is one of "
                f"{entry.devices!r}",
                hint="`lab devices` lists the bench with its tags and features",
            )
        for device in chosen:
            for variant in entry.variants:
                cell = Cell(device, entry.workload, variant, entry.repeats, entry.samples)
                if cell.key in cells:
                    raise ConfigError(f"{path}: {cell.key} stands twice in the matrix", hint="remove one of them")
                cells[cell.key] = cell
    devices = tuple(device for device in taking_part if any(cell.device is device for cell in cells.values()))
    ordered = tuple(cell for device in devices for cell in cells.values() if cell.device is device)
    return Plan(config, devices, ordered, _digest(config, bench_file, ordered))


def _digest(config: NightlyConfig, bench: Path, cells: tuple[Cell, ...]) -> str:
    # Secrets print as stars: a token that was renewed does not make another night.
    content = [config.model_dump(mode="json", exclude={"notify"}), bench.read_text("utf-8"), [c.key for c in cells]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
