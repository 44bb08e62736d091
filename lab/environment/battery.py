"""Batteries: ``dumpsys battery`` of Android, ``/sys/class/power_supply`` of Linux."""

from __future__ import annotations

from lab.environment.collect import Collected
from lab.power.android import parse_dumpsys
from measurements.environment import Battery

DUMPSYS = "dumpsys battery"
ROOT = "/sys/class/power_supply"
GLOBS = tuple(f"{ROOT}/*/{name}" for name in ("type", "status", "capacity", "temp", "online"))

# BatteryManager.BATTERY_STATUS_*
STATUSES = {"1": "unknown", "2": "charging", "3": "discharging", "4": "not charging", "5": "full"}


def battery(found: Collected) -> Battery | None:
    """A device's battery; None where it has none."""
    told = battery_of_dumpsys(found.outputs.get(DUMPSYS, ""))
    return told if told is not None else _of_supplies(found)


def battery_of_dumpsys(text: str) -> Battery | None:
    """What ``dumpsys battery`` says; None where it says nothing. Temperatures are in tenths of a degree."""
    fields = parse_dumpsys(text)
    if "level" not in fields:
        return None
    level, scale = _number(fields["level"]), _number(fields.get("scale", "100"))
    tenths = _number(fields.get("temperature", ""))
    powered = [value == "true" for name, value in fields.items() if name.endswith(" powered")]
    status = fields.get("status", "")
    return Battery(
        level_percent=None if level is None or not scale else 100 * level / scale,
        temperature_c=None if tenths is None else tenths / 10,
        status=STATUSES.get(status, status),
        powered=any(powered) if powered else None,
    )


def _of_supplies(found: Collected) -> Battery | None:
    folders = found.folders(rf"{ROOT}/[^/]+")
    kinds = {folder: found.text(f"{folder}/type") for folder in folders}
    cells = [folder for folder, kind in kinds.items() if kind == "Battery"]
    if not cells:
        return None
    folder = cells[0]
    online = [found.number(f"{one}/online") == 1 for one, kind in kinds.items() if kind != "Battery"]
    capacity, tenths = found.number(f"{folder}/capacity"), found.number(f"{folder}/temp")
    return Battery(
        level_percent=None if capacity is None else float(capacity),
        temperature_c=None if tenths is None else tenths / 10,
        status=found.text(f"{folder}/status").lower(),
        powered=any(online) if online else None,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
