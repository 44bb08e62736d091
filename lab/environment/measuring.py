"""A device set up for a measurement, observed, and put back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from lab.config_fields import reveal
from lab.environment import battery, cores, governors, load, power_modes, screen, thermal, throttling
from lab.environment.changes import Change, Hands, UndoFile, hands_of, undo_all, undo_left_over
from lab.environment.collect import Collected, collect
from lab.environment.log import EnvironmentLog
from lab.environment_config import EnvironmentConfig
from lab.errors import InfrastructureError, LabError, TransportError
from lab.inventory import DeviceClass
from lab.transports.remote import Remote
from measurements.environment import Environment, Moment, Setting, Snapshot

GLOBS = (
    *governors.GLOBS, *cores.GLOBS, *thermal.GLOBS, *throttling.GLOBS, *load.GLOBS, *battery.GLOBS,
)  # fmt: skip
CLOCK = "date +%s"
LINUX = (CLOCK, *throttling.COMMANDS_LINUX, power_modes.QUERY)
PHONE = (CLOCK, battery.DUMPSYS, thermal.SERVICE, screen.POWER, screen.AIRPLANE, screen.TIMEOUT)

CLOCK_JUMP_S = 2.0
"""Most that a device's wall clock may gain on or lose against the time since it booted during a run, seconds."""


def look(hands: Hands, kind: DeviceClass) -> Collected:
    """All that a snapshot is made of, in one round trip.

    Raises:
        TransportError: the connection broke.
    """
    show = power_modes.SUDO_SHOW if hands.prefix else power_modes.SHOW
    return collect(hands.remote, GLOBS, PHONE if kind == "phone" else (*LINUX, show), hands.root)


def snapshot_of(found: Collected, moment: Moment, time_s: float) -> Snapshot:
    """A snapshot of what was found."""
    clock = found.outputs.get(CLOCK, "")
    return Snapshot(
        moment=moment,
        time_s=time_s,
        uptime_s=load.uptime_s(found),
        clock_s=float(clock) if clock.isdigit() else None,
        policies=governors.policies(found),
        cores_online=cores.cores_online(found),
        zones=thermal.zones(found),
        throttling=throttling.sources(found),
        load_1min=load.load_1min(found),
        memory_available_bytes=load.memory_available_bytes(found),
        power_mode=power_modes.mode_in_words(found),
        clocks_locked=power_modes.clocks_locked(found),
        battery=battery.battery(found),
        screen_on=screen.screen_on(found),
        airplane_mode=screen.airplane_mode(found),
    )


class _Measuring:
    """The parts of :func:`measuring`, which share the device and what is asked of it."""

    def __init__(
        self,
        hands: Hands,
        config: EnvironmentConfig,
        kind: DeviceClass,
        folder: str,
        reconnect_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._hands = hands
        self._config = config
        self._kind = kind
        self._folder = folder
        self._reconnect_s = reconnect_s
        self._where = f"{hands.remote.name}: environment"
        self._undo = UndoFile(hands, folder)
        self._made: list[Change] = []
        self._begin_s = clock()
        self._clock = clock
        self._denied: tuple[str, ...] = ()
        self.log = EnvironmentLog(self._take)

    def begin(self) -> None:
        """Undo what an earlier run left behind, make the changes, wait, and look."""
        self.log.note(*undo_left_over(self._hands, self._folder))
        if self._asks():
            found = self._look()
            for change in self._modes(found):
                self._make(change)
            # A Jetson's power mode sets governors and clocks itself: what follows builds on that.
            found = self._look() if self._made else found
            for change in (*self._clocks(found), *self._phone(found)):
                self._make(change)
        self._tell_limits()
        self._wait()
        before = self.log.add("before")
        self.log.note(*throttling.history_notes(before))
        self.log.note(*denied_notes(self._denied))

    def end(self) -> None:
        """Look, put back and judge; what fails is noted, for the measurement itself is made."""
        if self.log.environment.snapshots:
            try:
                self.log.add("after")
            except LabError as error:
                self.log.note(f"nothing was seen of the device after the run: {error.message}")
        self._put_back()
        environment = self.log.environment
        self.log.environment = replace(environment, throttled=throttling.throttled(environment.snapshots))
        self.log.note(*clock_notes(environment.snapshots))

    def _look(self) -> Collected:
        return look(self._hands, self._kind)

    def _asks(self) -> bool:
        return any(value is not None for value in self._config.model_dump().values())

    def _take(self, moment: Moment) -> Snapshot:
        found = self._look()
        self._denied = found.denied
        return snapshot_of(found, moment, self._clock() - self._begin_s)

    def _modes(self, found: Collected) -> list[Change]:
        config = self._config
        changes = []
        if config.nvpmodel is not None:
            changes += power_modes.mode_changes(found, config.nvpmodel, self._where)
        if config.jetson_clocks is not None:
            changes += power_modes.clock_changes(found, config.jetson_clocks, self._folder, self._where)
        return changes

    def _clocks(self, found: Collected) -> list[Change]:
        config = self._config
        if config.nvpmodel is not None:
            power_modes.check_mode(self._hands, config.nvpmodel, self._where)
        if config.cores is not None:
            cores.check_cores(found, config.cores, self._where)
        changes = []
        if config.governor is not None:
            changes += governors.governor_changes(found, reveal(config.governor), self._where)
        if config.frequency_hz is not None:
            changes += governors.frequency_changes(found, config.frequency_hz, self._where)
        return changes

    def _phone(self, found: Collected) -> list[Change]:
        config = self._config
        changes = []
        if config.screen is not None:
            changes += screen.screen_changes(found, config.screen, self._where)
        if config.airplane_mode is not None:
            changes += screen.airplane_changes(found, config.airplane_mode, self._where)
        return changes

    def _make(self, change: Change) -> None:
        self._undo.add(change)
        self._made.append(change)
        self._hands.change(change)
        setting = Setting(change.name, change.found, change.asked)
        self.log.environment = replace(self.log.environment, settings=(*self.log.environment.settings, setting))

    def _tell_limits(self) -> None:
        """What the runner was started with (see :func:`lab.environment.pinned` and :class:`MemoryWatch`)."""
        cores_asked, limit = self._config.cores, self._config.memory_limit_bytes
        told = [
            Setting("cores of the runner", "all", ", ".join(map(str, cores_asked or ())), restored=True),
            Setting("memory of the runner", "no limit", f"{limit} bytes", restored=True),
        ]
        asked = [one for one, value in zip(told, (cores_asked, limit), strict=True) if value is not None]
        environment = self.log.environment
        self.log.environment = replace(environment, settings=(*environment.settings, *asked))

    def _wait(self) -> None:
        config = self._config
        if config.wait_cool_c is not None:
            waited_s = thermal.wait_until_cool(lambda: thermal.zones(self._look()), config.wait_cool_c, self._where)
            if waited_s >= 1.0:
                self.log.note(f"waited {waited_s:.0f} s until it was at most {config.wait_cool_c:g} °C")
        if config.max_load is not None:
            online = len(cores.cores_online(self._look()))
            found = load.background_load(self._hands.remote, online, self._hands.root)
            self.log.environment = replace(self.log.environment, background_load=found)
            load.refuse_load(found, config.max_load, self._where)

    def _put_back(self) -> None:
        if not self._made:
            return
        entries = [(change.name, change.undo) for change in self._made]
        try:
            failed = self._try(lambda: undo_all(self._hands, self._undo, entries))
        except InfrastructureError as error:
            self.log.note(
                f"NOT PUT BACK: {', '.join(change.name for change in self._made)}: {error.message}; {self._undo.path} "
                "on the device says how, and the lab does it when it connects again"
            )
            return
        self.log.note(*failed)
        kept = [words.partition(" was not put back")[0] for words in failed]
        environment = self.log.environment
        settings = tuple(replace(one, restored=one.name not in kept) for one in environment.settings)
        self.log.environment = replace(environment, settings=settings)

    def _try(self, work: Callable[[], list[str]]) -> list[str]:
        """Do it; once more on a new connection where the old one broke."""
        try:
            return work()
        except TransportError:
            self._hands.remote.reconnect(self._reconnect_s)
            return work()


@contextmanager
def measuring(
    remote: Remote,
    config: EnvironmentConfig,
    kind: DeviceClass,
    folder: str,
    *,
    root: str = "",
    reconnect_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[EnvironmentLog]:
    """A device set up for a measurement; put back when the context ends, whatever happened in it.

    Where it cannot be put back since the connection is gone, a file on the device says what is to be undone, and the
    next who measures on it, or calls :func:`lab.environment.changes.undo_left_over`, does so.

    Args:
        remote: the device.
        config: what is asked for; nothing is changed that it leaves out, and all is observed.
        kind: ``phone`` is asked through Android's services, everything else through Linux.
        folder: of the lab on the device; the file that says what is to be undone lies there.
        root: folder that stands for ``/`` where files of the kernel are named.
        reconnect_s: how long a connection that broke may take to come back, to put things back at once.
        clock: this computer's, seconds.

    Raises:
        ConfigError: something that was asked for cannot be set; what had been set was put back.
        InfrastructureError: it did not cool down, or too much else runs on it.
        TransportError: the connection broke before the measurement began.
    """
    parts = _Measuring(hands_of(remote, root), config, kind, folder, reconnect_s, clock)
    try:
        parts.begin()
        yield parts.log
    finally:
        parts.end()


def observe(hands: Hands, kind: DeviceClass) -> Environment:
    """A device as it is, in one snapshot.

    Raises:
        TransportError: the connection broke.
    """
    found = look(hands, kind)
    snapshot = snapshot_of(found, "before", 0.0)
    notes = throttling.history_notes(snapshot)
    return Environment(
        (snapshot,), throttled=throttling.throttled([snapshot]), notes=(*notes, *denied_notes(found.denied))
    )


def denied_notes(denied: tuple[str, ...]) -> tuple[str, ...]:
    """What a reader must know of files that are there and may not be read."""
    return (f"may not be read by this user: {', '.join(denied)}",) if denied else ()


def clock_notes(snapshots: tuple[Snapshot, ...]) -> list[str]:
    """What a reader must know of a wall clock that was set during the run: no figure hangs on it, logs do."""
    known = [(one.clock_s, one.uptime_s) for one in snapshots if one.clock_s is not None and one.uptime_s is not None]
    if len(known) < 2:
        return []
    gained_s = (known[-1][0] - known[0][0]) - (known[-1][1] - known[0][1])
    if known[-1][1] < known[0][1]:
        return ["the device booted during the run: what was set before is no longer set"]
    if abs(gained_s) <= CLOCK_JUMP_S:
        return []
    return [
        f"the device's wall clock jumped by {gained_s:+.0f} s during the run; figures are timed by its monotonic "
        "clock, which did not"
    ]
