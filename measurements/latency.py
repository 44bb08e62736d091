"""Cycles, instructions and seconds per pass through a region."""

from __future__ import annotations

from collections.abc import Sequence

from lab.errors import ProtocolError
from measurements.record import Record, Source
from measurements.regions import RegionPass, by_region
from measurements.statistics import make_record

VIRTUAL = "virtual"
VIRTUAL_NOTE = "virtual clock: one cycle is one instruction; not comparable with hardware"


def latency_records(
    passes: Sequence[RegionPass],
    clock_hz: float,
    clock: str,
    source: Source,
    layer_names: Sequence[str] = (),
    note: str = "",
) -> tuple[Record, ...]:
    """Records ``cycles``, ``instructions`` (virtual clock only) and ``latency`` (s) of every region.

    Args:
        passes: passes through regions in the order the device reported them; every one is a repeat.
        clock_hz: rate of the device's cycle counter, Hz.
        clock: its kind; ``virtual`` counts instructions of an emulator.
        source: ``hardware`` or ``emulated``.
        layer_names: names of the schedule's layers, for the regions ``layer/<number> <name>``.
        note: what a reader must know of these passes.

    Raises:
        ProtocolError: a region ends before it begins, or the clock has no rate.
    """
    if not clock_hz > 0:
        raise ProtocolError(f"the device says that its {clock} clock runs at {clock_hz} Hz; it must be above zero")
    note = "; ".join(part for part in (note, VIRTUAL_NOTE if clock == VIRTUAL else "") if part)
    records: list[Record] = []
    for region, group in by_region(passes, layer_names).items():
        cycles = [float(one.end - one.begin) for one in group]
        records.append(make_record(region, "cycles", "cycles", source, cycles, note=note))
        if clock == VIRTUAL:
            records.append(make_record(region, "instructions", "instructions", source, cycles, note=note))
        seconds = [count / clock_hz for count in cycles]
        records.append(make_record(region, "latency", "s", source, seconds, note=note))
    return tuple(records)
