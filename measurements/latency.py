"""Cycles, instructions and seconds per pass through a region."""

from __future__ import annotations

from collections.abc import Sequence

from lab.errors import ProtocolError
from measurements.record import Record, Source
from measurements.regions import RegionPass, by_region
from measurements.statistics import make_record

VIRTUAL = "virtual"
GUEST = "guest"
# Clocks that tell nanoseconds: what they count are no cycles of a processor, whose clock may differ and change.
NANOSECOND_CLOCKS = frozenset({"monotonic", GUEST})
VIRTUAL_NOTE = "virtual clock: one cycle is one instruction; not comparable with hardware"
GUEST_NOTE = (
    "clock of an emulated system: its time advances with the instructions that it executes, the kernel's and those of "
    "other processes among them; not comparable with hardware"
)
_NOTES = {VIRTUAL: VIRTUAL_NOTE, GUEST: GUEST_NOTE}


def latency_records(
    passes: Sequence[RegionPass],
    clock_hz: float,
    clock: str,
    source: Source,
    layer_names: Sequence[str] = (),
    note: str = "",
) -> tuple[Record, ...]:
    """Records ``latency`` (s) of every region, ``cycles`` but of clocks that tell nanoseconds, and ``instructions`` of
    the virtual clock.

    Args:
        passes: passes through regions in the order the device reported them; every one is a repeat.
        clock_hz: rate of the device's clock, Hz.
        clock: its kind; ``virtual`` counts instructions of an emulator, ``guest`` is an emulated system's in ns,
            ``monotonic`` a computer's in ns, all others count cycles.
        source: ``hardware`` or ``emulated``.
        layer_names: names of the schedule's layers, for the regions ``layer/<number> <name>``.
        note: what a reader must know of these passes.

    Raises:
        ProtocolError: a region ends before it begins, or the clock has no rate.
    """
    if not clock_hz > 0:
        raise ProtocolError(f"the device says that its {clock} clock runs at {clock_hz} Hz; it must be above zero")
    note = "; ".join(part for part in (note, _NOTES.get(clock, "")) if part)
    records: list[Record] = []
    for region, group in by_region(passes, layer_names).items():
        ticks = [float(one.end - one.begin) for one in group]
        if clock not in NANOSECOND_CLOCKS:
            records.append(make_record(region, "cycles", "cycles", source, ticks, note=note))
        if clock == VIRTUAL:
            records.append(make_record(region, "instructions", "instructions", source, ticks, note=note))
        seconds = [count / clock_hz for count in ticks]
        records.append(make_record(region, "latency", "s", source, seconds, note=note))
    return tuple(records)
