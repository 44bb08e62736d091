"""What ``lab meter import`` says of a trace."""

from __future__ import annotations

import numpy as np

from lab.units import format_quantity
from measurements.capture import find_windows
from measurements.record import Trace
from measurements.rejection import MeasurementRejected


def described(trace: Trace) -> list[str]:
    """Length, supply, charge, energy and marker windows; lost samples are counted and not filled in."""
    current = trace.current_a.astype(np.float64)
    seen = np.isfinite(current)
    voltage = np.full(current.size, trace.voltage_v) if trace.measured_v is None else trace.measured_v
    charge_c = float(current[seen].sum()) * trace.dt_s
    energy_j = float((current[seen] * voltage[seen]).sum()) * trace.dt_s
    measured = "told" if trace.measured_v is None else "measured"
    lines = [
        f"samples    {current.size}, {trace.lost} lost, {format_quantity(1 / trace.dt_s, 'Hz')}",
        f"time       {format_quantity(current.size * trace.dt_s, 's')}",
        f"voltage    {format_quantity(trace.voltage_v, 'V')} ({measured})",
        f"charge     {format_quantity(charge_c, 'C')}",
        f"energy     {format_quantity(energy_j, 'J')}",
    ]
    try:
        lines.append(f"windows    {len(find_windows(trace))} on D0")
    except MeasurementRejected as rejection:
        lines.append(f"windows    {rejection.message}")
    return lines
