"""What a device with an operating system was like while it was measured: plain data, as a run's record keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Moment: TypeAlias = Literal["before", "during", "after"]


@dataclass(frozen=True)
class CpuPolicy:
    """Cores that share one clock (Linux cpufreq).

    Attributes:
        name: the kernel's, such as ``policy0``.
        cores: their numbers.
        governor: what chooses the clock; empty where it cannot be read.
        frequency_hz: the clock now, Hz.
        min_hz, max_hz: between what the governor may choose now, Hz.
        top_hz: the fastest clock of the hardware, Hz.
        residency: clock, Hz, and how long it was set since boot, seconds; empty where the kernel does not count.
    """

    name: str
    cores: tuple[int, ...]
    governor: str = ""
    frequency_hz: float | None = None
    min_hz: float | None = None
    max_hz: float | None = None
    top_hz: float | None = None
    residency: tuple[tuple[float, float], ...] = ()

    def mean_hz_since(self, earlier: CpuPolicy) -> float | None:
        """The mean clock since an earlier snapshot of the same cores, Hz; None where the kernel did not count.

        Between two passes a governor has let the clock go already, so this and not the clock of the moment is what
        the work was done at.
        """
        before = dict(earlier.residency)
        spent = [(clock_hz, seconds - before.get(clock_hz, 0.0)) for clock_hz, seconds in self.residency]
        total_s = sum(seconds for _, seconds in spent)
        return sum(clock_hz * seconds for clock_hz, seconds in spent) / total_s if total_s > 0 else None


@dataclass(frozen=True)
class Zone:
    """A temperature: the zone's name and degrees Celsius."""

    name: str
    temperature_c: float


@dataclass(frozen=True)
class ThrottleSource:
    """What one source says of throttling.

    Attributes:
        source: ``vcgencmd``, ``cooling``, ``soctherm``, ``thermalservice``, ``thermal_throttle``.
        now: what holds back the device at this moment, in words; empty: nothing.
        since_boot: what has held it back at any time since it booted, in words.
        events: count since boot where the source counts; its growth between two snapshots is an event in between.
    """

    source: str
    now: tuple[str, ...] = ()
    since_boot: tuple[str, ...] = ()
    events: int | None = None


@dataclass(frozen=True)
class Battery:
    """A battery: charge in percent, degrees Celsius, the system's word for its state, whether power is plugged in."""

    level_percent: float | None
    temperature_c: float | None
    status: str
    powered: bool | None


@dataclass(frozen=True)
class Snapshot:
    """A device at one moment. None and empty: the device does not tell, and ``Environment.notes`` may say why.

    Attributes:
        moment: where in the run.
        time_s: seconds since the first snapshot, by this computer's clock.
        uptime_s: the device's time since boot, seconds.
        clock_s: its wall clock, seconds since 1970.
        policies: clocks of its cores.
        cores_online: numbers of the cores that run.
        zones: temperatures.
        throttling: what its sources say.
        load_1min: mean number of processes that run or wait to, of the last minute (Linux's load average).
        memory_available_bytes: what a process could still have.
        power_mode: a Jetson's nvpmodel, number and name; empty elsewhere.
        clocks_locked: whether a Jetson's clocks are held at their maximum (jetson_clocks).
        battery, screen_on, airplane_mode: as their names say.
    """

    moment: Moment
    time_s: float
    uptime_s: float | None = None
    clock_s: float | None = None
    policies: tuple[CpuPolicy, ...] = ()
    cores_online: tuple[int, ...] = ()
    zones: tuple[Zone, ...] = ()
    throttling: tuple[ThrottleSource, ...] = ()
    load_1min: float | None = None
    memory_available_bytes: int | None = None
    power_mode: str = ""
    clocks_locked: bool | None = None
    battery: Battery | None = None
    screen_on: bool | None = None
    airplane_mode: bool | None = None

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature, degrees Celsius; None where none is known."""
        return max((zone.temperature_c for zone in self.zones), default=None)


@dataclass(frozen=True)
class Setting:
    """Something that was set for the measurement.

    Attributes:
        name: as in the bench file (``governor``) or what it applies to (``governor of policy0``).
        found: what it was, in words.
        asked: what it was set to.
        restored: whether it was put back afterwards.
    """

    name: str
    found: str
    asked: str
    restored: bool = False


@dataclass(frozen=True)
class Environment:
    """The environment of a run.

    Attributes:
        snapshots: before, between the passes, and after.
        settings: what was set, in order.
        throttled: why the figures are those of a throttled device; empty where they are not.
        background_load: processes that ran besides the measured one before it began, per core; None where not asked.
        notes: what could not be observed, and what else a reader must know.
    """

    snapshots: tuple[Snapshot, ...] = ()
    settings: tuple[Setting, ...] = ()
    throttled: tuple[str, ...] = ()
    background_load: float | None = None
    notes: tuple[str, ...] = ()

    def at(self, moment: Moment) -> Snapshot | None:
        """The last snapshot of a moment."""
        return next((one for one in reversed(self.snapshots) if one.moment == moment), None)

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature of all snapshots, degrees Celsius; None where none is known."""
        return max((one.hottest_c for one in self.snapshots if one.hottest_c is not None), default=None)


@dataclass(frozen=True)
class MemoryFigure:
    """Memory that a process, or what it runs on, used at most.

    Attributes:
        metric: ``peak_ram.process``, ``peak_ram.gpu`` …
        size_bytes: how much.
        note: how it was found and what it leaves out.
    """

    metric: str
    size_bytes: int
    note: str
