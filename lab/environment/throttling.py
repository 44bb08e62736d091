"""What says that a device was held back: by heat, by a weak supply, by a limit of current.

- Raspberry Pi: ``vcgencmd get_throttled``, bits 0 to 3 for now and 16 to 19 for any time since boot
  (raspberrypi/documentation, graphics-utilities); under-voltage also as an alarm of hwmon ``rpi_volt``.
- Jetson: cooling devices whose names tell of throttling, and ``oc*_event_cnt``, events of over-current and
  under-voltage that its soctherm counts (Jetson Linux developer guide, "Jetson Orin: over-current throttling").
- Linux: cooling devices of processors (Documentation/driver-api/thermal/sysfs-api.rst); of x86 also
  ``thermal_throttle/*_count``.
- Android: ``Thermal Status`` of ``dumpsys thermalservice`` (PowerManager.THERMAL_STATUS_*).
- Everywhere: a clock below what it is held at, and a highest clock that sank.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from lab.environment.collect import Collected
from lab.environment.thermal import SERVICE
from measurements.environment import CpuPolicy, Snapshot, ThrottleSource

VCGENCMD = "vcgencmd get_throttled"
COMMANDS_LINUX = (VCGENCMD,)
GLOBS = (
    "/sys/class/thermal/cooling_device*/type",
    "/sys/class/thermal/cooling_device*/cur_state",
    "/sys/class/hwmon/hwmon*/oc*_event_cnt",
    "/sys/class/hwmon/hwmon*/in0_lcrit_alarm",
    "/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",
)
BITS = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

_HISTORY_SHIFT = 16
_HOLDS_BACK = re.compile(r"cpu|gpu|processor|throttl|alert|balanced|devfreq|soctherm", re.IGNORECASE)
_FAN = re.compile(r"fan", re.IGNORECASE)
# Clocks are told in steps, and counters of them are off by a part of one.
_BELOW = 0.97


def throttled_bits(text: str) -> ThrottleSource | None:
    """What ``vcgencmd get_throttled`` says (``throttled=0x50005``); None for an error of it."""
    match = re.search(r"throttled=0x([0-9a-fA-F]+)", text)
    if match is None:
        return None
    bits = int(match[1], 16)
    now = tuple(name for bit, name in enumerate(BITS) if bits >> bit & 1)
    before = tuple(name for bit, name in enumerate(BITS) if bits >> (bit + _HISTORY_SHIFT) & 1)
    return ThrottleSource("vcgencmd", now, before)


def thermal_status(text: str) -> ThrottleSource | None:
    """What ``dumpsys thermalservice`` says; None where it says nothing."""
    match = re.search(r"^\s*Thermal Status: (\d+)", text, re.MULTILINE)
    if match is None:
        return None
    status = int(match[1])
    word = STATUSES[status] if status < len(STATUSES) else str(status)
    return ThrottleSource("thermalservice", (f"thermal status {word}",) if status else ())


def sources(found: Collected) -> tuple[ThrottleSource, ...]:
    """All that a device says of being held back."""
    told = [
        throttled_bits(found.outputs.get(VCGENCMD, "")),
        thermal_status(found.outputs.get(SERVICE, "")),
        _cooling(found),
        _alarm(found),
        _events(found, "soctherm", r".*/oc\d+_event_cnt$"),
        _events(found, "thermal_throttle", r".*/thermal_throttle/.*_count$"),
    ]
    return tuple(one for one in told if one is not None)


def _cooling(found: Collected) -> ThrottleSource | None:
    active, there = [], False
    for folder in found.folders(r"/sys/class/thermal/cooling_device\d+"):
        name, state = found.text(f"{folder}/type"), found.number(f"{folder}/cur_state")
        if state is None or not _HOLDS_BACK.search(name) or _FAN.search(name):
            continue
        there = True
        active += [f"{name} at {state}"] if state > 0 else []
    return ThrottleSource("cooling", tuple(active)) if there else None


def _alarm(found: Collected) -> ThrottleSource | None:
    alarms = [found.number(path) for path in found.files if path.endswith("/in0_lcrit_alarm")]
    if not alarms:
        return None
    return ThrottleSource("under-voltage alarm", ("under-voltage",) if any(alarms) else ())


def _events(found: Collected, source: str, pattern: str) -> ThrottleSource | None:
    counts = [found.number(path) for path in found.files if re.match(pattern, path)]
    known = [count for count in counts if count is not None]
    return ThrottleSource(source, events=sum(known)) if known else None


def throttled(snapshots: Sequence[Snapshot]) -> tuple[str, ...]:
    """Why a run is one of a throttled device, each reason once; empty where nothing says so.

    Args:
        snapshots: in order, the first one before the run with all settings made.
    """
    reasons: list[str] = []
    for snapshot in snapshots:
        for source in snapshot.throttling:
            reasons += [f"{what}, {snapshot.moment} the run ({source.source})" for what in source.now]
        reasons += [f"{reason}, {snapshot.moment} the run" for reason in _slow(snapshot.policies)]
    for earlier, later in itertools.pairwise(snapshots):
        reasons += _between(earlier, later)
    return tuple(dict.fromkeys(reasons))


def history_notes(before: Snapshot) -> tuple[str, ...]:
    """What happened before a run and hides whether it happened again: bits that only a reboot clears."""
    return tuple(
        f"{source.source}: {', '.join(source.since_boot)} since the device booted, before this run: such a bit stays "
        "set, so whether it happened again is only seen at the moments of the snapshots"
        for source in before.throttling
        if source.since_boot
    )


def _slow(policies: Sequence[CpuPolicy]) -> list[str]:
    """Clocks below what they are held at."""
    slow = []
    for policy in policies:
        least_hz, now_hz = policy.min_hz, policy.frequency_hz
        if policy.governor == "performance" and policy.max_hz is not None:
            least_hz = policy.max_hz
        if least_hz is not None and now_hz is not None and now_hz < _BELOW * least_hz:
            slow.append(f"{policy.name} ran at {now_hz / 1e6:g} MHz and is held at {least_hz / 1e6:g} MHz")
    return slow


def _between(earlier: Snapshot, later: Snapshot) -> list[str]:
    """What happened between two snapshots."""
    reasons = []
    known = {source.source: source for source in earlier.throttling}
    for source in later.throttling:
        before = known.get(source.source)
        if before is None:
            continue
        new = [what for what in source.since_boot if what not in before.since_boot]
        reasons += [f"{what} during the run ({source.source})" for what in new]
        if source.events is not None and before.events is not None and source.events > before.events:
            reasons.append(f"{source.events - before.events} throttling events during the run ({source.source})")
    highest = {policy.name: policy.max_hz for policy in earlier.policies}
    for policy in later.policies:
        before_hz = highest.get(policy.name)
        if before_hz is not None and policy.max_hz is not None and policy.max_hz < _BELOW * before_hz:
            reasons.append(
                f"the highest clock of {policy.name} sank from {before_hz / 1e6:g} to {policy.max_hz / 1e6:g} MHz "
                "during the run"
            )
    return reasons
