"""A Jetson's power modes (``nvpmodel``) and clocks held at their maximum (``jetson_clocks``); Jetson Linux guide.

``nvpmodel -q`` prints ``NV Power Mode: 25W`` and its number on the next line. Some changes of mode need a reboot:
nvpmodel then asks, gets no answer, and changes nothing, so what it says afterwards is what counts.
"""

from __future__ import annotations

import re

from lab.environment.changes import Change, Hands, program
from lab.environment.collect import Collected
from lab.errors import ConfigError

QUERY = "nvpmodel -q"
SHOW = "jetson_clocks --show"
SUDO_SHOW = f"sudo -n {SHOW}"
_STORED = "jetson-clocks.before"


def power_mode(text: str) -> tuple[int, str] | None:
    """Number and name of what ``nvpmodel -q`` prints; None where it names no mode."""
    match = re.search(r"^NV (?:Power Mode|Fan Mode)\s*:\s*(?P<name>\S+)\s*\n\s*(?P<number>\d+)\s*$", text, re.MULTILINE)
    return None if match is None else (int(match["number"]), match["name"])


def mode_in_words(found: Collected) -> str:
    """``1 (25W)``; empty where there is no nvpmodel."""
    mode = power_mode(found.outputs.get(QUERY, ""))
    return "" if mode is None else f"{mode[0]} ({mode[1]})"


def clocks_locked(found: Collected) -> bool | None:
    """Whether all clocks that ``jetson_clocks --show`` lists are held at their maximum; None where it tells none."""
    text = found.outputs.get(SHOW) or found.outputs.get(SUDO_SHOW, "")
    ranges = re.findall(r"\bMinFreq=(\d+) MaxFreq=(\d+)", text)
    # The memory's clock has a floor and a ceiling of its own and is held by an override.
    overrides = re.findall(r"\bFreqOverride=(\d)", text)
    if not ranges:
        return None
    cores = [(least, most) for line in text.splitlines() if "EMC" not in line
             for least, most in re.findall(r"\bMinFreq=(\d+) MaxFreq=(\d+)", line)]  # fmt: skip
    return all(least == most for least, most in cores) and all(one == "1" for one in overrides)


def mode_changes(found: Collected, mode: int, where: str) -> list[Change]:
    """What sets a power mode.

    Raises:
        ConfigError: there is no nvpmodel, or it does not say which mode is set.
    """
    before = power_mode(found.outputs.get(QUERY, ""))
    if before is None:
        said = found.outputs.get(QUERY)
        raise ConfigError(
            f"{where}: nvpmodel: {mode} was asked for, and "
            + ("this device has no nvpmodel" if said is None else f"`nvpmodel -q` names no mode: {said[:200]!r}"),
            hint="remove it from environment: in the bench file: only Jetsons have power modes",
        )
    if before[0] == mode:
        return []
    do, undo = program("nvpmodel", "-m", str(mode)), program("nvpmodel", "-m", str(before[0]))
    return [Change("nvpmodel", mode_in_words(found), str(mode), do, undo)]


def check_mode(hands: Hands, mode: int, where: str) -> None:
    """Make sure that a power mode is the one that was asked for.

    Raises:
        ConfigError: it is another: the change needs a reboot.
    """
    said = hands.do(program("nvpmodel", "-q")).text
    now = power_mode(said)
    if now is None or now[0] != mode:
        raise ConfigError(
            f"{where}: nvpmodel: {mode} was asked for and not refused, and `nvpmodel -q` says {said[:200]!r}",
            hint=f"some modes need a reboot: run `sudo nvpmodel -m {mode}` on the device once and answer YES",
        )


def clock_changes(found: Collected, lock: bool, folder: str, where: str) -> list[Change]:
    """What holds a Jetson's clocks at their maximum, or checks that they are not held.

    Raises:
        ConfigError: there is no jetson_clocks, it may not be run, or clocks are held that nobody may let go.
    """
    locked = clocks_locked(found)
    if locked is None:
        said = found.outputs.get(SHOW) or found.outputs.get(SUDO_SHOW)
        raise ConfigError(
            f"{where}: jetson_clocks: {str(lock).lower()} was asked for, and "
            + ("this device has no jetson_clocks" if said is None else f"it says {said[:200]!r}"),
            hint="only Jetsons have it, and only root may run it: log in as root, or allow sudo without a password",
        )
    if locked and not lock:
        raise ConfigError(
            f"{where}: jetson_clocks: false was asked for, and its clocks are held at their maximum already",
            hint="reboot it, or run `sudo jetson_clocks --restore` where they were stored",
        )
    if locked or not lock:
        return []
    stored = f"{folder}/{_STORED}"
    # jetson_clocks asks before it overwrites a file, and there is nobody to answer.
    script = 'rm -f "$1" && jetson_clocks --store "$1" && jetson_clocks'
    return [
        Change(
            "jetson_clocks", "not held", "held at their maximum",
            program("sh", "-c", script, "sh", stored), program("jetson_clocks", "--restore", stored),
        )
    ]  # fmt: skip
