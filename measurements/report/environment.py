"""The environment of a run as a table: a row for each thing, a column for each moment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from measurements.environment import CpuPolicy, Environment, Setting, Snapshot
from measurements.report.units import NO_FIGURE, quantity, short

Row: TypeAlias = tuple[str, tuple[str, ...]]

_MOMENTS = {"before": "before", "during": "between passes", "after": "after"}


@dataclass(frozen=True)
class EnvironmentView:
    """What a page shows of an environment.

    Attributes:
        heads: of the columns.
        rows: name and the values of all columns.
        settings: what was set, a sentence each.
        throttled: why the figures are those of a throttled device.
        notes: for the reader.
    """

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    settings: tuple[str, ...]
    throttled: tuple[str, ...]
    notes: tuple[str, ...]


def environment_view(environment: Environment) -> EnvironmentView:
    """The table of an environment; a row that no snapshot fills is left out."""
    snapshots = environment.snapshots
    rows = [
        *_policy_rows(snapshots),
        _row("cores that run", snapshots, lambda one: _numbers(one.cores_online)),
        _row("hottest", snapshots, _hottest),
        _row("throttling", snapshots, _throttling),
        _row("load, mean of a minute", snapshots, lambda one: "" if one.load_1min is None else f"{one.load_1min:.2f}"),
        _row("memory available", snapshots, _memory),
        _row("power mode", snapshots, lambda one: one.power_mode),
        _row("clocks held at maximum", snapshots, lambda one: _yes(one.clocks_locked)),
        _row("battery", snapshots, _battery),
        _row("screen", snapshots, lambda one: "" if one.screen_on is None else ("on" if one.screen_on else "off")),
        _row("airplane mode", snapshots, lambda one: _yes(one.airplane_mode)),
    ]
    if environment.background_load is not None:
        rows.append(_first("background load, per core", f"{environment.background_load:.2f}", len(snapshots)))
    return EnvironmentView(
        heads=tuple(f"{_MOMENTS[one.moment]}, {one.time_s:.1f} s" for one in snapshots),
        rows=tuple((name, values) for name, values in rows if any(value != NO_FIGURE for value in values)),
        settings=tuple(_setting(one) for one in environment.settings),
        throttled=environment.throttled,
        notes=environment.notes,
    )


def _row(name: str, snapshots: Sequence[Snapshot], value: Callable[[Snapshot], str]) -> Row:
    return name, tuple(value(one) or NO_FIGURE for one in snapshots)


def _first(name: str, value: str, columns: int) -> Row:
    return name, (value, *[NO_FIGURE] * (columns - 1))[: max(1, columns)]


def _policy_rows(snapshots: Sequence[Snapshot]) -> list[Row]:
    """Governor and clock of each group of cores."""
    names = list(dict.fromkeys(policy.name for one in snapshots for policy in one.policies))
    rows = []
    for name in names:
        found = [next((policy for policy in one.policies if policy.name == name), None) for one in snapshots]
        cores = next((_numbers(policy.cores) for policy in found if policy is not None and policy.cores), "")
        title = f"{name} (cores {cores})" if cores else name
        rows.append((title, tuple(NO_FIGURE if policy is None else _policy(policy) for policy in found)))
        rows.append((f"{name}, mean since the column before", (NO_FIGURE, *map(_mean, itertools.pairwise(found)))))
    return rows


def _mean(pair: tuple[CpuPolicy | None, CpuPolicy | None]) -> str:
    """The mean clock between two snapshots."""
    earlier, later = pair
    mean_hz = None if earlier is None or later is None else later.mean_hz_since(earlier)
    return NO_FIGURE if mean_hz is None else quantity(mean_hz, "Hz")


def _policy(policy: CpuPolicy) -> str:
    limits = [short(hertz, "Hz") for hertz in (policy.min_hz, policy.max_hz) if hertz is not None]
    now = "" if policy.frequency_hz is None else short(policy.frequency_hz, "Hz")
    between = f"of {' to '.join(limits)}" if limits else ""
    return ", ".join(part for part in (policy.governor, " ".join(filter(None, (now, between)))) if part)


def _hottest(snapshot: Snapshot) -> str:
    if not snapshot.zones:
        return ""
    zone = max(snapshot.zones, key=lambda one: one.temperature_c)
    return f"{zone.temperature_c:.1f}\u00a0°C ({zone.name})"


def _throttling(snapshot: Snapshot) -> str:
    if not snapshot.throttling:
        return ""
    now = [f"{what} ({source.source})" for source in snapshot.throttling for what in source.now]
    events = [f"{one.events} events since boot ({one.source})" for one in snapshot.throttling if one.events]
    return ", ".join([*now, *events]) or "none"


def _memory(snapshot: Snapshot) -> str:
    return "" if snapshot.memory_available_bytes is None else short(snapshot.memory_available_bytes, "bytes")


def _battery(snapshot: Snapshot) -> str:
    battery = snapshot.battery
    if battery is None:
        return ""
    parts = [
        "" if battery.level_percent is None else f"{battery.level_percent:.0f}\u00a0%",
        "" if battery.temperature_c is None else f"{battery.temperature_c:.1f}\u00a0°C",
        battery.status,
        {True: "power plugged in", False: "on battery", None: ""}[battery.powered],
    ]
    return ", ".join(part for part in parts if part)


def _setting(setting: Setting) -> str:
    restored = "put back" if setting.restored else "NOT put back"
    return f"{setting.name}: {setting.found or 'not known'} → {setting.asked}, {restored}"


def _numbers(numbers: Sequence[int]) -> str:
    """``0-3`` or ``0, 2``."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))


def _yes(value: bool | None) -> str:
    return "" if value is None else ("yes" if value else "no")
