"""Why a measurement of energy is rejected instead of published. A wrong joule is worse than none.

The bounds come from the rules of those who publish energy (EEMBC's EnergyRunner: at most 0.1 % of the samples lost,
its ``emon-drop-thresh-pct``; MLCommons' runner for MLPerf Tiny: every event counted) and, where they say nothing, from
what a figure can bear that claims a fraction of a per cent; ``docs/energy.md`` has the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError
from measurements.record import Rejection, Trace

REASONS: Mapping[str, str] = {
    "lost-samples": "more than 0.1 % of the samples inside the windows were lost",
    "marker-edges": "the marker shows more or fewer passes than the device counted, or a window is cut off",
    "saturation": "the meter was at the end of its highest range",
    "clock-drift": "the meter's clock and the device's disagree on how long or when a pass was",
    "supply-voltage": "the supply left the range the device is specified at",
    "idle-unstable": "the quiet before and after the windows differs by more than net energy can bear",
    "thermal-throttling": "the device slowed down while it was measured",
}
"""What a measurement can be rejected for, and what that means."""

VOLTAGE_TOLERANCE = 0.05
"""Largest departure of a measured supply voltage from the nominal one: that of the 3.3 V and 5 V rails of boards."""
IDLE_TOLERANCE = 0.01
"""Largest change of net energy that the difference of the idle power on both sides of a window may make."""
SLOWING_TOLERANCE = 0.05
"""Largest growth of the time that the same work takes, from the first window to the last."""

FloatArray = npt.NDArray[np.float64]


class MeasurementRejected(MeterError):
    """A measurement was made and must not be published.

    Attributes:
        rejections: each reason; at least one.
    """

    def __init__(self, rejections: Sequence[Rejection], *, hint: str = "") -> None:
        text = "\n".join(f"energy is rejected ({one.reason}): {one.message}" for one in rejections)
        super().__init__(text, hint=hint, transient=any(one.transient for one in rejections))
        self.rejections = tuple(rejections)


@dataclass(frozen=True)
class CaptureFacts:
    """What is known of a capture besides its trace.

    Attributes:
        saturated: samples at the end of the highest range.
        nominal_v: the voltage that the device is to be supplied with; None where no one says.
        growth: growth of the time the same work takes from first to last, relative; None where not known.
    """

    saturated: int = 0
    nominal_v: float | None = None
    growth: float | None = None


def rejected(reason: str, message: str, *, hint: str = "", transient: bool = False) -> MeasurementRejected:
    """The error of one reason; raise it."""
    return MeasurementRejected((Rejection(reason, message, transient),), hint=hint)


def reasons_of_capture(trace: Trace, facts: CaptureFacts) -> tuple[Rejection, ...]:
    """Reasons that concern a capture as a whole: saturation, supply voltage, throttling."""
    found = []
    if facts.saturated:
        message = (
            f"{facts.saturated} of {trace.current_a.size} samples lie at the end of the meter's highest range: what "
            "flowed then is not known"
        )
        found.append(Rejection("saturation", message))
    if facts.nominal_v is not None and trace.measured_v is not None and (out := _voltage(trace, facts.nominal_v)):
        found.append(out)
    if facts.growth is not None and facts.growth > SLOWING_TOLERANCE:
        message = (
            f"the same work took {facts.growth:.1%} longer in the last window than in the first; at most "
            f"{SLOWING_TOLERANCE:.0%} is allowed"
        )
        found.append(Rejection("thermal-throttling", message, transient=True))
    return tuple(found)


def _voltage(trace: Trace, nominal_v: float) -> Rejection | None:
    """The rejection of a supply that left its range anywhere in a trace; lost samples do not count."""
    measured = np.empty(0) if trace.measured_v is None else trace.measured_v[np.isfinite(trace.current_a)]
    if not measured.size:
        return None
    low, high = float(np.nanmin(measured)), float(np.nanmax(measured))
    least, most = nominal_v * (1 - VOLTAGE_TOLERANCE), nominal_v * (1 + VOLTAGE_TOLERANCE)
    if least <= low and high <= most:
        return None
    message = f"the supply went from {low:.4g} to {high:.4g} V; {least:.4g} to {most:.4g} V are allowed"
    return Rejection("supply-voltage", message)


def check_idle(
    idle_step_w: FloatArray, idle_noise_w: FloatArray, duration_s: FloatArray, net_j: FloatArray
) -> tuple[Rejection, ...]:
    """The reason of idle power that is not stable.

    Args:
        idle_step_w: by how much the idle power after each window differs from that before it, watt; NaN where one side
            has no quiet.
        idle_noise_w: how far the idle power of each window may be off by noise alone, watt.
        duration_s, net_j: length and net energy of each window. All of shape (windows,).
    """
    known = np.isfinite(idle_step_w) & np.isfinite(net_j)
    total_j = float(np.abs(net_j[known]).sum())
    # Idle power is the mean of both sides: it is wrong by at most half of what they differ by. Two means of half as
    # many samples each differ by twice the noise of their mean.
    beyond_w = np.maximum(np.abs(idle_step_w[known]) - 2 * idle_noise_w[known], 0.0)
    share = float((beyond_w / 2 * duration_s[known]).sum()) / total_j if total_j else 0.0
    if share <= IDLE_TOLERANCE:
        return ()
    worst = int(np.argmax(np.where(known, np.abs(idle_step_w), -np.inf)))
    message = (
        f"idle power next to a window differs by {abs(float(idle_step_w[worst])) * 1e3:.4g} mW from before to after, "
        f"which is {share:.1%} of net energy; at most {IDLE_TOLERANCE:.0%} is allowed"
    )
    return (Rejection("idle-unstable", message, transient=True),)
