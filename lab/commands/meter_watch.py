"""The figures of ``lab meter watch``: sums of a stream, and how they are shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click
import numpy as np

from lab.commands.meter_stream import Stream
from lab.power.base import SampleBlock, split
from lab.units import format_quantity

_REDRAWS_PER_S = 4


@dataclass
class Totals:
    """What a stream took so far; lost samples are counted and nothing is put in their place.

    Attributes:
        rate_hz: samples a second.
        voltage_v: of the supply, where the meter does not measure it per sample.
    """

    rate_hz: float
    voltage_v: float
    samples: int = 0
    lost: int = 0
    saturated: int = 0
    charge_c: float = 0.0
    energy_j: float = 0.0
    shown_a: float = float("nan")
    shown_v: float = float("nan")
    shown_w: float = float("nan")
    peak_a: float = float("nan")

    def add(self, block: SampleBlock) -> None:
        """Take a block; what is shown is its mean."""
        current = block.current_a.astype(np.float64)
        seen = np.isfinite(current)
        voltage = np.full(current.size, self.voltage_v) if block.voltage_v is None else block.voltage_v
        self.samples += current.size
        self.lost += block.lost
        self.saturated += block.saturated
        if not seen.any():
            return
        power = current[seen] * voltage[seen]
        self.charge_c += float(current[seen].sum()) / self.rate_hz
        self.energy_j += float(power.sum()) / self.rate_hz
        self.shown_a = float(current[seen].mean())
        self.shown_v = float(np.mean(voltage[seen]))
        self.shown_w = float(power.mean())
        self.peak_a = float(np.fmax(self.peak_a, current[seen].max()))

    @property
    def seconds(self) -> float:
        """Time of the stream, seconds."""
        return self.samples / self.rate_hz

    def figures(self, *, charge: bool) -> dict[str, str]:
        """Names and values to show."""
        shown = {
            "time": format_quantity(self.seconds, "s"),
            "current": format_quantity(self.shown_a, "A"),
            "voltage": format_quantity(self.shown_v, "V"),
            "power": format_quantity(self.shown_w, "W"),
            "peak": format_quantity(self.peak_a, "A"),
            "charge": format_quantity(self.charge_c, "C"),
            "energy": format_quantity(self.energy_j, "J"),
            "lost": str(self.lost),
            "saturated": str(self.saturated),
        }
        if not charge:
            for name in ("current", "peak", "charge"):
                del shown[name]
        return shown


def watch_stream(stream: Stream, seconds: float | None, every_s: float) -> Totals:
    """Show a stream as it comes, in place on a terminal and line by line elsewhere; what it took in the end."""
    info = stream.meter.info
    totals = Totals(info.sample_rate_hz, info.voltage_v)
    where = "emulated, its current is modelled" if info.emulated else "hardware"
    click.echo(f"{stream.entry.name}: {info.kind} ({info.identity}), {where}")
    steps = _steps(stream, seconds, every_s, totals)
    if sys.stdout.isatty():
        _in_place(steps, totals, charge=info.measures_current)
    else:
        for _ in steps:
            click.echo(_line(totals, charge=info.measures_current))
    return totals


def _steps(stream: Stream, seconds: float | None, every_s: float, totals: Totals) -> Iterator[None]:
    """Yields whenever so much of the meter's time has passed, and once at the end of what is left."""
    every = max(1, round(every_s * totals.rate_hz))
    for block in stream.blocks(seconds):
        # A slow computer finds in one block what a fast one finds in several: lines go by the meter's time.
        rest = block
        while rest.current_a.size:
            taken, rest = split(rest, every - totals.samples % every)
            totals.add(taken)
            if totals.samples % every == 0:
                yield
    if totals.samples % every:
        yield


def _line(totals: Totals, *, charge: bool) -> str:
    return "  ".join(f"{name} {value}" for name, value in totals.figures(charge=charge).items())


def _in_place(steps: Iterator[None], totals: Totals, *, charge: bool) -> None:
    from rich.live import Live
    from rich.table import Table

    def table() -> Table:
        shown = Table(show_header=False, box=None)
        for name, value in totals.figures(charge=charge).items():
            shown.add_row(name, value)
        return shown

    with Live(table(), refresh_per_second=_REDRAWS_PER_S) as live:
        for _ in steps:
            live.update(table())
