"""Screen and airplane mode of Android phones, through the shell that ADB gives; no root is needed.

``input keyevent`` 224 wakes and 223 sends to sleep (KeyEvent.KEYCODE_WAKEUP, KEYCODE_SLEEP). Airplane mode is
``cmd connectivity airplane-mode``, from Android 11 on. It may end Wi-Fi, and with it ADB over Wi-Fi: connect by USB,
or switch Wi-Fi on once in airplane mode, which Android remembers.
"""

from __future__ import annotations

import re
from typing import Literal

from lab.environment.changes import Change, program
from lab.environment.collect import Collected
from lab.errors import ConfigError

POWER = "dumpsys power | grep -e mWakefulness= -e Display.Power:.state="
AIRPLANE = "settings get global airplane_mode_on"
TIMEOUT = "settings get system screen_off_timeout"

_WAKEUP, _SLEEP = "224", "223"
_LONG_MS = "1800000"


def screen_on(found: Collected) -> bool | None:
    """Whether the screen is on; None where the device does not say."""
    text = found.outputs.get(POWER, "")
    display = re.search(r"Display Power: state=(\w+)", text)
    if display is not None:
        return display[1] == "ON"
    awake = re.search(r"mWakefulness=(\w+)", text)
    return None if awake is None else awake[1] == "Awake"


def airplane_mode(found: Collected) -> bool | None:
    """Whether airplane mode is on; None where the device does not say."""
    text = found.outputs.get(AIRPLANE, "")
    return text == "1" if text in ("0", "1") else None


def screen_changes(found: Collected, asked: Literal["on", "off"], where: str) -> list[Change]:
    """What switches the screen; one that is to stay on gets half an hour before it sleeps.

    Raises:
        ConfigError: the device does not say whether its screen is on.
    """
    now = screen_on(found)
    if now is None:
        raise _unknown(f"{where}: screen: {asked}", "dumpsys power")
    changes = []
    timeout = found.outputs.get(TIMEOUT, "")
    if asked == "on" and timeout.isdigit() and timeout != _LONG_MS:
        changes.append(
            Change(
                "time until the screen sleeps", f"{timeout} ms", f"{_LONG_MS} ms",
                program("settings", "put", "system", "screen_off_timeout", _LONG_MS),
                program("settings", "put", "system", "screen_off_timeout", timeout),
            )
        )  # fmt: skip
    if now != (asked == "on"):
        wake, sleep = program("input", "keyevent", _WAKEUP), program("input", "keyevent", _SLEEP)
        do, undo = (wake, sleep) if asked == "on" else (sleep, wake)
        changes.append(Change("screen", "on" if now else "off", asked, do, undo))
    return changes


def airplane_changes(found: Collected, asked: bool, where: str) -> list[Change]:
    """What switches airplane mode.

    Raises:
        ConfigError: the device does not say whether it is on.
    """
    now = airplane_mode(found)
    if now is None:
        raise _unknown(f"{where}: airplane_mode: {str(asked).lower()}", AIRPLANE)
    if now == asked:
        return []
    words = {True: "enable", False: "disable"}
    do = program("cmd", "connectivity", "airplane-mode", words[asked])
    undo = program("cmd", "connectivity", "airplane-mode", words[now])
    return [Change("airplane mode", "on" if now else "off", "on" if asked else "off", do, undo)]


def _unknown(asked: str, source: str) -> ConfigError:
    return ConfigError(
        f"{asked} was asked for, and `{source}` does not say how it is now",
        hint="remove it from environment: in the bench file: only phones under Android have it",
    )
