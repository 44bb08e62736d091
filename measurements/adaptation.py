"""What a stream costs that a network may adapt to, or that several networks answer: totals over all of it, and
adaptation and switching apart from inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lab.errors import MeterError
from measurements.energy import marked_energy
from measurements.latency import VIRTUAL, VIRTUAL_NOTE
from measurements.record import Record, Source, Trace
from measurements.regions import INFERENCE, RegionPass
from measurements.statistics import make_record
from measurements.uncertainty import MeterClass

ADAPT = "adapt"
SWITCH = "switch"
"""Region in which another network is made ready."""
REGIONS = (INFERENCE, ADAPT, SWITCH)
RUN = "run"


def adapted(passes: Sequence[RegionPass]) -> tuple[int, ...]:
    """The places in the stream at which the device adapted: indices of its passes through ``adapt``."""
    return tuple(one.index for one in passes if one.region == ADAPT)


def stream_records(
    passes: Sequence[RegionPass], samples: int, clock_hz: float, clock: str, source: Source
) -> tuple[Record, ...]:
    """Time, and instructions where the clock counts them, per sample of a stream: ``latency_per_sample`` (s) and
    ``instructions_per_sample``, and the share of both that is adaptation, or switching where there is any.

    Args:
        passes: what the device reported of the stream.
        samples: how many samples went by; a pass may take several.
        clock_hz, clock, source: as for :func:`measurements.latency.latency_records`.
    """
    ticks = {region: sum(one.end - one.begin for one in passes if one.region == region) for region in REGIONS}
    total = sum(ticks.values())
    note = "all regions over the whole stream, by its samples"
    virtual = (VIRTUAL_NOTE,) if clock == VIRTUAL else ()
    told = "; ".join((note, *virtual))
    records = [make_record(RUN, "latency_per_sample", "s", source, [total / clock_hz / samples], note=told)]
    if clock == VIRTUAL:
        records.append(
            make_record(RUN, "instructions_per_sample", "instructions", source, [total / samples], note=told)
        )
    if total:
        what = SWITCH if ticks[SWITCH] else ADAPT
        name = "switch_share" if what == SWITCH else "adaptation_share"
        records.append(make_record(RUN, name, "1", source, [ticks[what] / total], note="of the stream's time"))
    return tuple(records)


def stream_energy_records(
    trace: Trace,
    passes: Sequence[RegionPass],
    clock_hz: float,
    source: Source,
    quiet_s: float = 2e-3,
    meter: MeterClass | None = None,
) -> tuple[Record, ...]:
    """Energy, charge and power of each pass of ``inference``, ``adapt`` and ``switch``, as
    :func:`measurements.energy.energy_records`.

    Args:
        trace: the power trace over a stream.
        passes: what the device reported of it.
        clock_hz, source, quiet_s, meter: as there.

    Raises:
        MeterError: there is no pass.
        MeasurementRejected: as there.
    """
    timed = [one for one in passes if one.region in REGIONS]
    if not timed:
        raise MeterError("the device reports no pass of its stream: nothing to measure")
    return marked_energy(trace, timed, clock_hz, REGIONS, source, quiet_s, meter)[0]


def energy_per_sample(
    passes: Sequence[RegionPass], energy: Mapping[str, Record], samples: int
) -> tuple[Record, ...]:
    """``energy_per_sample`` (J) of a stream: so many passes of each region, times what one takes under the meter.

    Args:
        passes: what the device reported of the whole stream.
        energy: record of the energy of a pass by region; none where it was not measured.
        samples: how many samples went by.
    """
    counts = {region: sum(one.region == region for one in passes) for region in REGIONS}
    if any(count and region not in energy for region, count in counts.items()) or INFERENCE not in energy:
        return ()
    # Passes of a network that may end early take different energies, of which only the mean adds up.
    total = sum(count * float(np.mean(energy[region].raw)) for region, count in counts.items() if count)
    note = "passes of the whole stream times the mean energy of those under the meter"
    return (make_record(RUN, "energy_per_sample", "J", energy[INFERENCE].source, [total / samples], note=note),)
