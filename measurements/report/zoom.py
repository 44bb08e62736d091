"""What the page's own script needs to zoom into a power trace: a fine envelope, packed small."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from measurements.record import Trace
from measurements.report.charts import MARKER_BIT
from measurements.report.envelope import envelope, merged, pulses

NOTHING = 0xFFFF
"""Stands for a bucket whose samples were all lost."""

_MOST_REGIONS = 400


@dataclass(frozen=True)
class Zoom:
    """A power trace for the script.

    Attributes:
        settings: JSON: ``t0`` and ``dt`` (s), ``n`` samples, ``low`` (A), which 0 stands for, and ``span`` (A) up to
            65534, ``volt`` (V), ``regions`` as [first sample, last sample, name].
        data: base64 of three uint16 arrays, little-endian, one after the other: lowest, highest and mean current of
            each bucket; 65535 where all its samples were lost.
        buckets: length of each of them; bucket ``b`` holds samples ``[b·n // buckets, (b + 1)·n // buckets)``.
    """

    settings: str
    data: str
    buckets: int


def zoom(trace: Trace, names: Sequence[str], buckets: int) -> Zoom | None:
    """Pack a trace; None where it holds no finite sample.

    Args:
        trace: the trace.
        names: names of the regions in order; used where there is one for every marker pulse.
        buckets: most buckets.
    """
    finite = np.isfinite(trace.current_a)
    if not bool(finite.any()):
        return None
    drawn = envelope(trace.current_a, buckets)
    counts = np.add.reduceat(finite, drawn.edges[:-1])
    sums = np.add.reduceat(np.where(finite, trace.current_a, 0.0).astype(np.float64), drawn.edges[:-1])
    mean = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    low, high = float(np.nanmin(drawn.low)), float(np.nanmax(drawn.high))
    span = (high - low) or 1e-9
    packed = []
    for values in (drawn.low, drawn.high, mean):
        scaled = np.rint(np.nan_to_num((values.astype(np.float64) - low) / span, nan=0.0) * (NOTHING - 1))
        packed.append(np.where(np.isfinite(values), scaled, NOTHING).astype("<u2"))
    marks = pulses(trace.logic, MARKER_BIT)
    named = list(names) if len(names) == len(marks) else [""] * len(marks)
    if len(marks) > _MOST_REGIONS:
        marks = merged(marks, len(trace.current_a) // _MOST_REGIONS)
        named = [""] * len(marks)
    regions = [[first, last, name] for (first, last), name in zip(marks, named, strict=True)]
    settings = {
        "t0": trace.t0_s, "dt": trace.dt_s, "n": len(trace.current_a), "low": low, "span": span,
        "volt": trace.voltage_v, "regions": regions,
    }  # fmt: skip
    return Zoom(
        json.dumps(settings, separators=(",", ":")),
        base64.b64encode(np.concatenate(packed).tobytes()).decode(),
        len(drawn.low),
    )
