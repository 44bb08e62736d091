"""Figures of the windows of a trace, and what the meter's class allows of each: chosen, summed by groups, joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from measurements.sums import FloatArray, ratio


@dataclass(frozen=True)
class ClassLimits:
    """What the meter's class allows of each figure of each window (type B): half-widths, shape (windows,).

    Attributes:
        energy_j, net_j: of gross and net energy, joule.
        charge_c: coulomb.
        power_w, peak_w, idle_w: watt.
    """

    energy_j: FloatArray
    net_j: FloatArray
    charge_c: FloatArray
    power_w: FloatArray
    peak_w: FloatArray
    idle_w: FloatArray

    def of(self, windows: Sequence[int]) -> ClassLimits:
        """Those of some windows."""
        chosen = np.array(windows, int)
        return ClassLimits(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def median(self, metric: str) -> float:
        """The median window's limit of one metric of the records."""
        limits = {
            "energy": self.energy_j,
            "energy.net": self.net_j,
            "charge": self.charge_c,
            "power": self.power_w,
            "power.peak": self.peak_w,
            "power.idle": self.idle_w,
        }
        return float(np.median(limits[metric]))


@dataclass(frozen=True)
class WindowEnergy:
    """Figures of every window of a trace, float64 arrays of shape (windows,).

    Attributes:
        duration_s: seconds.
        charge_c: coulomb.
        energy_j: gross energy, joule.
        peak_w: greatest power of one sample, watt.
        idle_w: idle power next to the window, watt; NaN where the trace has no quiet.
        idle_step_w: idle power after the window less that before it, watt; NaN where one side has no quiet.
        idle_noise_w: how far noise may have moved ``idle_w`` (95 %), watt; NaN where ``idle_w`` is.
        edge_j, edge_net_j: how far gross and net energy may be off by where in their samples the edges lie, joule: at
            each edge half of the interval known, times the step of power there. Other runs fall otherwise into the
            samples, so it is no constant of the meter.
        lost_fraction: lost samples inside all windows, 0..1.
        limits: what the meter's class allows; None where the class was not given.
    """

    duration_s: FloatArray
    charge_c: FloatArray
    energy_j: FloatArray
    peak_w: FloatArray
    idle_w: FloatArray
    idle_step_w: FloatArray
    idle_noise_w: FloatArray
    edge_j: FloatArray
    edge_net_j: FloatArray
    lost_fraction: float
    limits: ClassLimits | None = None

    @property
    def net_j(self) -> FloatArray:
        """Gross energy less idle power times duration, joule."""
        return self.energy_j - self.idle_w * self.duration_s

    def edge_median(self, metric: str) -> float:
        """The median window's part that its edges may make of one metric of the records; 0 where they make none."""
        parts = {
            "energy": self.edge_j,
            "energy.net": self.edge_net_j,
            "charge": self.edge_j * ratio(self.charge_c, self.energy_j),
            "power": self.edge_j / self.duration_s,
        }
        return abs(float(np.median(np.nan_to_num(parts[metric])))) if metric in parts else 0.0

    def of(self, windows: Sequence[int]) -> WindowEnergy:
        """The figures of some windows."""
        chosen = np.array(windows, int)
        return WindowEnergy(
            self.duration_s[chosen],
            self.charge_c[chosen],
            self.energy_j[chosen],
            self.peak_w[chosen],
            self.idle_w[chosen],
            self.idle_step_w[chosen],
            self.idle_noise_w[chosen],
            self.edge_j[chosen],
            self.edge_net_j[chosen],
            self.lost_fraction,
            None if self.limits is None else self.limits.of(windows),
        )

    def summed(self, groups: Sequence[Sequence[int]], passes: Sequence[int] | None = None) -> WindowEnergy:
        """The figures of groups of windows, each as if it were one window without what lies between.

        Args:
            groups: which windows belong together.
            passes: how many passes each group holds: its duration, charge and energy are then those of one pass.
        """
        per = np.ones(len(groups)) if passes is None else 1.0 / np.array(passes, np.float64)
        parts = [self.of(group) for group in groups]
        duration = np.array([part.duration_s.sum() for part in parts])

        def mean(values: Sequence[FloatArray]) -> FloatArray:
            weighted = [(value * part.duration_s).sum() for value, part in zip(values, parts, strict=True)]
            return np.asarray(np.array(weighted) / duration)

        return WindowEnergy(
            duration * per,
            np.array([part.charge_c.sum() for part in parts]) * per,
            np.array([part.energy_j.sum() for part in parts]) * per,
            np.array([part.peak_w.max() for part in parts]),
            mean([part.idle_w for part in parts]),
            mean([part.idle_step_w for part in parts]),
            mean([part.idle_noise_w for part in parts]),
            np.array([part.edge_j.sum() for part in parts]) * per,
            np.array([part.edge_net_j.sum() for part in parts]) * per,
            self.lost_fraction,
            _summed_limits([part.limits for part in parts if part.limits is not None], duration, per),
        )


def joined(parts: Sequence[WindowEnergy]) -> WindowEnergy:
    """The figures of several captures one after another; at least one."""

    def series(name: str) -> FloatArray:
        return np.concatenate([getattr(part, name) for part in parts])

    limits = [part.limits for part in parts if part.limits is not None]
    columns = [np.concatenate([getattr(one, field.name) for one in limits]) for field in fields(ClassLimits) if limits]
    return WindowEnergy(
        duration_s=series("duration_s"),
        charge_c=series("charge_c"),
        energy_j=series("energy_j"),
        peak_w=series("peak_w"),
        idle_w=series("idle_w"),
        idle_step_w=series("idle_step_w"),
        idle_noise_w=series("idle_noise_w"),
        edge_j=series("edge_j"),
        edge_net_j=series("edge_net_j"),
        lost_fraction=max(part.lost_fraction for part in parts),
        limits=ClassLimits(*columns) if columns else None,
    )


def _summed_limits(parts: Sequence[ClassLimits], duration: FloatArray, per: FloatArray) -> ClassLimits | None:
    """Constants of the meter act on all windows of a group alike: their limits add up."""
    if not parts:
        return None
    energy = np.array([part.energy_j.sum() for part in parts])
    return ClassLimits(
        energy * per,
        np.array([part.net_j.sum() for part in parts]) * per,
        np.array([part.charge_c.sum() for part in parts]) * per,
        energy / duration,
        np.array([part.peak_w.max() for part in parts]),
        np.array([part.idle_w.max() for part in parts]),
    )
