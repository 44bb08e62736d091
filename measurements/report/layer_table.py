"""The layers of a run as a table with bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from measurements.record import Layer, Record
from measurements.regions import ENERGY_LAYER
from measurements.report.lookup import LAYER_PREFIX
from measurements.report.units import quantity, scale_for


@dataclass(frozen=True)
class LayerRow:
    """One layer, formatted; empty texts where nothing was measured."""

    index: int
    name: str
    operator: str
    cycles: str
    share: float
    share_text: str
    length: float
    macs: str
    cycles_per_mac: str
    instructions: str
    loads: str
    stores: str
    weights: str
    energy: str = ""
    energy_uncertainty: str = ""


@dataclass(frozen=True)
class LayerTable:
    """The layers of a run and which columns they fill.

    Attributes:
        basis: what the bars count.
        ticks: what the run's clock counts, ``cycles`` or ``ns``.
    """

    rows: tuple[LayerRow, ...]
    basis: str
    has_counts: bool
    summary: str
    has_energy: bool = False
    ticks: str = "cycles"


def layer_table(
    layers: Sequence[Layer], records: Sequence[Record] = (), prefix: str = LAYER_PREFIX, ticks: str = "cycles"
) -> LayerTable | None:
    """Make the per-layer table; bars count the clock's ticks, else instructions, else (nothing measured) MACs.

    Args:
        layers: the schedule.
        records: of the run; those of ``energy.layer`` have a column.
        prefix: of the regions of these layers.
        ticks: what the run's clock counts, ``cycles`` or ``ns``.
    """
    energies = {
        record.region: record
        for record in records
        if record.metric == ENERGY_LAYER and record.region.startswith(prefix)
    }
    if not layers:
        return None
    basis, sizes = _layer_basis(layers, ticks)
    total = sum(sizes)
    longest = max(sizes)
    rows = tuple(
        LayerRow(
            index=layer.index,
            name=layer.name,
            operator=layer.operator,
            cycles=count_text(layer.cycles),
            share=size / total if total > 0.0 else 0.0,
            share_text=f"{100.0 * (size / total):.1f}\u00a0%" if total > 0.0 else "",
            length=round(100.0 * (size / longest), 2) if longest > 0.0 else 0.0,
            macs=count_text(layer.macs),
            cycles_per_mac=_ratio(layer.cycles, layer.macs),
            instructions=count_text(layer.instructions),
            loads=count_text(layer.loads),
            stores=count_text(layer.stores),
            weights=quantity(layer.weights_bytes, "bytes"),
            **_layer_energy(energies.get(f"{prefix}{layer.index:02} {layer.name}".rstrip())),
        )
        for layer, size in zip(layers, sizes, strict=True)
    )
    macs, weights = sum(layer.macs for layer in layers), sum(layer.weights_bytes for layer in layers)
    summary = f"{len(layers)} layers, {count_text(macs)} MACs, {quantity(weights, 'bytes')} of weights"
    if basis == ticks:
        summary += f", {count_text(total)} {ticks} in layers"
    has_counts = any(x is not None for layer in layers for x in (layer.instructions, layer.loads, layer.stores))
    return LayerTable(rows, basis, has_counts, summary + ".", bool(energies), ticks)


def _layer_energy(record: Record | None) -> dict[str, str]:
    if record is None:
        return {}
    both = record.combined_uncertainty
    return {
        "energy": quantity(record.median, "J"),
        "energy_uncertainty": "" if both is None else f"±{quantity(both, 'J')}",
    }


def _layer_basis(layers: Sequence[Layer], ticks: str) -> tuple[str, list[float]]:
    if any(layer.cycles is not None for layer in layers):
        return ticks, [_finite(layer.cycles) for layer in layers]
    if any(layer.instructions is not None for layer in layers):
        return "instructions", [_finite(layer.instructions) for layer in layers]
    return "MACs", [_finite(layer.macs) for layer in layers]


def _finite(value: float | None) -> float:
    return max(0.0, float(value)) if value is not None and math.isfinite(value) else 0.0


def count_text(value: float | None) -> str:
    """A count as the tables have it; empty where nothing was counted."""
    return "" if value is None else scale_for(value, "cycles").number(value)


def _ratio(cycles: float | None, macs: int) -> str:
    return "" if cycles is None or macs <= 0 or not math.isfinite(cycles) else f"{cycles / macs:.2f}"
