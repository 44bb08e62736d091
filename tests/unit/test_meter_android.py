"""A phone's battery, behind a shell that answers as phones do.

``dumpsys battery`` in the form of a phone's output in a public test; file names as in the kernel's sysfs-class-power.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.virtual_clock import VirtualClock, stream

from lab.errors import MeterError, ToolMissing
from lab.meter_config import AndroidConfig
from lab.power.android import adb_shell, android_meter, parse_dumpsys
from lab.power.polled import PolledMeter
from lab.power.registry import make_meter

DUMPSYS = """\
Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Dock powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2848000
  status: 3
  health: 2
  present: true
  level: 54
  scale: 100
  voltage: 3906
  temperature: 220
  technology: Li-ion
"""


class Phone:
    """A phone whose battery's files say what ``files`` gives, or may not be read where it is None."""

    def __init__(
        self, files: Callable[[], tuple[str, int, int]] | None, dumpsys: Callable[[], str] = lambda: DUMPSYS
    ) -> None:
        self._files = files
        self._dumpsys = dumpsys
        self.commands: list[tuple[str, ...]] = []

    def __call__(self, arguments: Sequence[str]) -> str:
        self.commands.append(tuple(arguments))
        if arguments[0] == "dumpsys":
            return self._dumpsys()
        if self._files is None:
            return "".join(f"cat: {path}: Permission denied\n" for path in arguments[1:])
        return "".join(f"{value}\n" for value in self._files())


def config(**settings: object) -> AndroidConfig:
    return AndroidConfig.model_validate({"kind": "android", "serial": "192.168.1.7:5555", **settings})


def meter_of(phone: Phone, clock: VirtualClock | None = None, **settings: object) -> PolledMeter:
    return android_meter(config(**settings), 3.85, phone, clock)


def test_what_dumpsys_says() -> None:
    told = parse_dumpsys(DUMPSYS)
    assert (told["AC powered"], told["status"], told["Charge counter"], told["voltage"]) == (
        "false", "3", "2848000", "3906",
    )  # fmt: skip
    assert len(told) == 15


@pytest.mark.parametrize(
    ("shown", "settings"),
    [
        (-412_000, {}),
        (412_000, {"current_sign": "positive"}),
        (-412, {"current_unit": "mA"}),
        (412, {"current_sign": "positive", "current_unit": "mA"}),
    ],
)
def test_makers_signs_and_units(shown: int, settings: dict[str, object]) -> None:
    clock = VirtualClock(10.0)
    phone = Phone(lambda: ("Discharging", shown, 3_906_000))
    with meter_of(phone, clock, **settings) as meter:
        block = stream(meter, clock)
        assert meter.info.measures_current
        assert meter.info.time_uncertainty_s == pytest.approx(11.0)
        assert meter.info.identity == "battery of 192.168.1.7:5555, current_now; the whole phone"
    assert block.current_a == pytest.approx(0.412)
    assert block.voltage_v == pytest.approx(3.906)
    assert block.current_a.size == 10
    folder = "/sys/class/power_supply/battery"
    assert phone.commands[-1] == ("cat", f"{folder}/status", f"{folder}/current_now", f"{folder}/voltage_now")


@pytest.mark.parametrize(
    ("shown", "settings", "message", "hint"),
    [
        (412_000, {}, "its sign is not negative", "current_sign: positive"),
        (-412_000, {"current_sign": "positive"}, "its sign is not positive", "current_sign: negative"),
        (-412, {}, "takes 0.000412 A", "current_unit: mA"),
        (-412_000, {"current_unit": "mA"}, "takes 412 A", "current_unit: uA"),
    ],
)
def test_a_wrong_sign_or_unit_is_refused(shown: int, settings: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(MeterError, match=message) as caught:
        meter_of(Phone(lambda: ("Discharging", shown, 3_906_000)), **settings).open()
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("USB powered: true", "USB powered, status 'Discharging'"),
        ("AC powered: true", "AC powered"),
        ("Wireless powered: true", "Wireless powered"),
        ("status: 2", "no supply, status 'Charging'"),
        ("status: 5", "status 'Full'"),
        ("status: 4", "status 'Not charging'"),
    ],
)
def test_a_phone_on_power_is_refused(line: str, message: str) -> None:
    key = line.partition(":")[0]
    lines = [f"  {line}" if one.strip().startswith(key) else one for one in DUMPSYS.splitlines()]
    phone = Phone(lambda: ("Discharging", -412_000, 3_906_000), lambda: "\n".join(lines))
    with pytest.raises(MeterError, match=message) as caught:
        meter_of(phone).open()
    assert "adb tcpip 5555" in caught.value.hint


def test_a_charger_that_is_plugged_in_later_ends_it() -> None:
    clock = VirtualClock(20.0)
    phone = Phone(lambda: ("Discharging" if clock.elapsed() < 5 else "Charging", -412_000, 3_906_000))
    with (
        meter_of(phone, clock) as meter,
        pytest.raises(MeterError, match="does not run from its battery: its battery's status is 'Charging'"),
    ):
        stream(meter, clock)


def test_without_the_files_the_charge_counter_is_read() -> None:
    """It falls by 1 mAh (3.6 C) every nine seconds at 0.4 A; the samples up to its last step add up to its fall."""
    clock = VirtualClock(120.0)

    def dumpsys() -> str:
        steps = int(clock.elapsed() // 9.0)
        return DUMPSYS.replace("2848000", str(2_848_000 - 1000 * steps))

    phone = Phone(None, dumpsys)
    with meter_of(phone, clock) as meter:
        block = stream(meter, clock)
        assert "charge counter of dumpsys, for windows of minutes" in meter.info.identity
    known = block.current_a[np.isfinite(block.current_a)]
    assert known.size == 117
    assert known.sum() == pytest.approx(13 * 3.6)
    assert known == pytest.approx(0.4)
    assert block.voltage_v is not None
    assert block.voltage_v[:117] == pytest.approx(3.906)
    assert block.lost == 3


def test_a_charger_shows_in_dumpsys_too() -> None:
    clock = VirtualClock(20.0)
    plugged = DUMPSYS.replace("USB powered: false", "USB powered: true")
    phone = Phone(None, lambda: DUMPSYS if clock.elapsed() < 5 else plugged)
    with meter_of(phone, clock) as meter, pytest.raises(MeterError, match="USB powered"):
        stream(meter, clock)


def test_a_phone_that_tells_nothing() -> None:
    with pytest.raises(MeterError, match=r"tells a charge; it has: nothing"):
        meter_of(Phone(None, lambda: "")).open()


def test_a_shell_that_stammers_loses_a_sample() -> None:
    clock = VirtualClock(10.0)
    phone = Phone(lambda: ("Discharging", -412_000, 3_906_000))

    def shell(arguments: Sequence[str]) -> str:
        text = phone(arguments)
        return "" if 2.5 < clock.elapsed() < 4.5 else text

    with android_meter(config(), 3.85, shell, clock) as meter:
        block = stream(meter, clock)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [2, 3]


def _adb(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "adb").write_text(f"#!/bin/sh\n{script}")
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_adb_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _adb(tmp_path, monkeypatch, 'echo "$@"\n')
    assert adb_shell("serial7")(("cat", "a")) == "-s serial7 shell cat a\n"
    _adb(tmp_path, monkeypatch, "echo \"adb: device 'serial7' not found\" >&2\nexit 1\n")
    with pytest.raises(MeterError, match="serial7: adb: device 'serial7' not found"):
        adb_shell("serial7")(("cat", "a"))
    _adb(tmp_path, monkeypatch, "echo 'cat: a: Permission denied' >&2\nexit 1\n")
    assert adb_shell("serial7")(("cat", "a")) == ""


def test_an_adb_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 10.0)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(MeterError, match="did not answer within 10 s"):
        adb_shell("serial7")(("cat", "a"))


def test_without_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="adb is not installed"):
        make_meter(config(), 3.85).open()
