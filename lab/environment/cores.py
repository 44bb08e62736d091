"""Cores: which run, and holding a program to some of them."""

from __future__ import annotations

from collections.abc import Sequence

from lab.environment.collect import Collected
from lab.errors import ConfigError

ONLINE = "/sys/devices/system/cpu/online"
GLOBS = (ONLINE,)


def numbers_in(text: str) -> tuple[int, ...]:
    """Numbers of a kernel's list, ``0-2,5`` or ``0 1 2 5``; empty for what is no list."""
    numbers: list[int] = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not last)):
            return ()
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def cores_online(found: Collected) -> tuple[int, ...]:
    """Cores that run; empty where the device does not say."""
    return numbers_in(found.text(ONLINE))


def check_cores(found: Collected, cores: Sequence[int], where: str) -> None:
    """Refuse cores that are not there or switched off.

    Raises:
        ConfigError: lists those that run.
    """
    online = cores_online(found)
    missing = [core for core in cores if core not in online]
    if missing:
        raise ConfigError(
            f"{where}: cores {', '.join(map(str, missing))} do not run on this device; "
            f"allowed: {', '.join(map(str, online)) or 'none is told'}",
            hint="change environment.cores: in the bench file; a Jetson's power mode switches cores off",
        )


def pinned(argv: Sequence[str], cores: Sequence[int] | None) -> list[str]:
    """The same program held to some cores; as it is where none are named.

    The mask is what util-linux, busybox and toybox understand alike.
    """
    if cores is None:
        return list(argv)
    return ["taskset", f"{sum(1 << core for core in set(cores)):x}", *argv]
