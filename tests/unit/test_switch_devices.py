"""Switches of devices: what the bench file may say, what confirms them, and ``lab device power``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.scpi_bench import InProcess

from lab.bench import Bench
from lab.cli import main
from lab.devices.powered import switch_of
from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.scpi import Faults, Instrument
from lab.errors import ConfigError, InfrastructureError
from lab.inventory import Device, load_bench
from lab.power.switches.base import PowerSwitch

_NUMBER = "066BFF343633464257254156"
_BOARD = f"""\
devices:
  desk:
    board: nucleo-f446re
    serial: {{by_id: {_NUMBER}}}
"""
_REMOTE = """\
devices:
  desk:
    board: nucleo-f446re
    serial: {port: "rfc2217://rack:4000"}
"""
_SUPPLY = "    meter: {kind: scpi, model: dp832, resource: in-process, period: 50 ms}\n"
_AMMETER = "    meter: {kind: scpi, model: 34465a, resource: in-process, period: 10 ms}\n"
_UHUBCTL = "    power_switch: {kind: uhubctl, location: 1-1.4, outlet: 2"


def device_of(folder: Path, text: str) -> Device:
    path = folder / "bench.yaml"
    path.write_text(text)
    return Bench(load_bench(path)).get("desk")


def refusal(folder: Path, switch: str) -> str:
    with pytest.raises(ConfigError) as caught:
        device_of(folder, f"{_BOARD}    power_switch: {switch}\n")
    return str(caught.value)


@pytest.mark.parametrize(
    "switch",
    [
        "{kind: uhubctl, location: 1-1.4, outlet: 2}",
        "{kind: uhubctl, location: 1-1.4, outlet: 2, confirm: current, on_current_a: 0.001, off: 500 ms}",
        "{kind: ykush, model: ykush3, serial_number: YK30001, outlet: 3}",
        "{kind: shelly, host: plug.local}",
        "{kind: shelly, host: 192.168.1.7:8080, generation: 1, password: !env LAB_TEST_PLUG}",
        "{kind: tasmota, host: plug.local, outlet: 2, user: lab, password: !env LAB_TEST_PLUG}",
        "{kind: snmp, host: pdu.local, oid: 1.3.6.1.4.1.318.1.1.12.3.3.1.1.4.5, community: !env LAB_TEST_PLUG}",
        "{kind: usbrelay, relay: HURTM_1, closed_is_on: false}",
        "{kind: meter}",
    ],
)
def test_each_kind_can_be_written(tmp_path: Path, switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TEST_PLUG", "hush-hush")
    device = device_of(tmp_path, f"{_BOARD}{_SUPPLY}    power_switch: {switch}\n")
    assert "power-switch" in device.features
    assert isinstance(switch_of(device), PowerSwitch)
    assert "hush" not in repr(device)


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ("{kind: tasmota, host: h, password: plain}", "a secret may not be written here in plain"),
        ("{kind: snmp, host: h, oid: 1.3.6, community: private}", "a secret may not be written here in plain"),
        ("{kind: snmp, host: h, oid: 1.3.6}", "community"),
        ("{kind: snmp, host: h, oid: outlet5, community: !env PATH}", "oid"),
        ("{kind: ykush, outlet: 4}", "outlet"),
        ("{kind: ykush, model: ykushxs, outlet: 2}", "a YKUSH XS has one port"),
        ("{kind: uhubctl, location: hub, outlet: 1}", "location"),
        ("{kind: shelly, host: 'http://plug/relay'}", "host"),
        ("{kind: usbrelay, relay: HURTM}", "relay"),
        ("{kind: meter, confirm: usb}", "confirm"),
        ("{kind: plug}", "kind"),
        ("{kind: meter, generation: 2}", "generation"),
    ],
)
def test_what_is_refused(tmp_path: Path, switch: str, words: str) -> None:
    assert words in refusal(tmp_path, switch)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Calls of programs; they all work, and print what uhubctl prints."""
    calls: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...]) -> str:
        if "-a" in command:
            calls.append(command)
        on = not calls or calls[-1][-1] == "on"
        return "  Port 2: 0100 power\n" if on else "  Port 2: 0000 off\n"

    monkeypatch.setattr("lab.power.switches.uhubctl.run", run)
    return calls


def _instrument(monkeypatch: pytest.MonkeyPatch, model: str, current_a: float, faults: Faults) -> Instrument:
    """The instrument that every meter of this test opens."""
    instrument = Instrument(model, ScriptedLoad([Segment(1.0, current_a)]), 0.05, faults)
    instrument.output = True
    monkeypatch.setattr("lab.power.scpi.ScpiSession", lambda resource, timeout_s: InProcess(instrument))
    monkeypatch.setattr("lab.power.scpi._LOOK_AGAIN_S", 0.0)
    return instrument


def test_the_meters_own_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supply = _instrument(monkeypatch, "dp832", 0.02, Faults())
    clock = Clock()
    device = device_of(tmp_path, f"{_BOARD}{_SUPPLY}    power_switch: {{kind: meter}}\n")
    switch = switch_of(device, clock=lambda: clock.now_s, sleep=clock.sleep)
    switch.off()
    assert not supply.output
    switch.cycle()
    assert supply.output
    assert clock.now_s == 2.0
    assert switch.state() == (None, True)


def test_an_output_that_sticks_is_found_out_by_its_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supply accepts the command, has no error, and goes on feeding the device."""
    _instrument(monkeypatch, "dp832", 0.02, Faults(stuck_output=1))
    clock = Clock()
    device = device_of(tmp_path, f"{_BOARD}{_SUPPLY}    power_switch: {{kind: meter}}\n")
    switch = switch_of(device, clock=lambda: clock.now_s, sleep=clock.sleep)
    with pytest.raises(InfrastructureError, match=r"told to be off and it does not say what it is, but .* still there"):
        switch.off()


def test_a_multimeter_has_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _instrument(monkeypatch, "34465a", 0.02, Faults())
    device = device_of(tmp_path, f"{_BOARD}{_AMMETER}    power_switch: {{kind: meter}}\n")
    with pytest.raises(ConfigError, match="no output"):
        switch_of(device).off()


def test_no_meter_no_output(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a device without a meter"):
        switch_of(device_of(tmp_path, f"{_BOARD}    power_switch: {{kind: meter}}\n"))


@pytest.mark.parametrize(("current_a", "on_current_a", "powered"), [(0.02, 1e-3, True), (4e-4, 1e-3, False)])
def test_a_current_is_a_witness(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    switched: list[tuple[str, ...]],
    current_a: float,
    on_current_a: float,
    powered: bool,
) -> None:
    _instrument(monkeypatch, "34465a", current_a, Faults())
    clock = Clock()
    text = f"{_REMOTE}{_AMMETER}{_UHUBCTL}, on_current_a: {on_current_a}}}\n"
    switch = switch_of(device_of(tmp_path, text), clock=lambda: clock.now_s, sleep=clock.sleep)
    assert switch.state() == (True, powered)
    with pytest.raises(InfrastructureError, match=r"a current of 0\.001 A (is still there|did not come)"):
        switch.cycle()
    assert [call[-1] for call in switched] == (["off"] if powered else ["off", "on"])


class Bus:
    """Serial ports that follow what uhubctl was told last."""

    vid = pid = interface = None
    device = "/dev/null"
    description = ""
    serial_number = _NUMBER
    location = "1-1.4.2"

    def __init__(self, calls: list[tuple[str, ...]]) -> None:
        self._calls = calls

    def __call__(self) -> Iterator[Bus]:
        if not self._calls or self._calls[-1][-1] == "on":
            yield self


def test_re_enumeration_is_the_witness_of_a_device_on_usb(tmp_path: Path, switched: list[tuple[str, ...]]) -> None:
    clock = Clock()
    device = device_of(tmp_path, f"{_BOARD}{_AMMETER}{_UHUBCTL}, off: 3 s}}\n")
    switch = switch_of(device, ports=Bus(switched), clock=lambda: clock.now_s, sleep=clock.sleep)
    switch.cycle()
    assert switched == [("uhubctl", "-l", "1-1.4", "-p", "2", "-a", state) for state in ("off", "on")]
    assert clock.now_s == 3.0
    with pytest.raises(InfrastructureError, match=r"serial port .* is still there after 15 s"):
        switch_of(device, ports=Bus([]), clock=lambda: clock.now_s, sleep=clock.sleep).off()


def test_a_probe_is_a_witness_too(tmp_path: Path, switched: list[tuple[str, ...]]) -> None:
    text = _REMOTE + f"    swd: {{unique_id: {_NUMBER}}}\n" + _UHUBCTL + "}\n"
    seen = [{_NUMBER}, {_NUMBER}, set(), set(), {_NUMBER}]
    clock = Clock()
    switch = switch_of(
        device_of(tmp_path, text), usb=lambda: seen.pop(0), clock=lambda: clock.now_s, sleep=clock.sleep
    )
    switch.cycle()
    assert seen == []


def test_without_a_witness_nothing_is_switched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing can confirm that its power switch worked"):
        switch_of(device_of(tmp_path, f"{_REMOTE}{_UHUBCTL}}}\n"))
    with pytest.raises(ConfigError, match="nothing can confirm"):
        switch_of(device_of(tmp_path, f"{_REMOTE}{_AMMETER}{_UHUBCTL}, confirm: usb}}\n"))
    with pytest.raises(ConfigError, match="nothing can confirm"):
        switch_of(device_of(tmp_path, f"{_BOARD}{_UHUBCTL}, confirm: current}}\n"))


@pytest.mark.parametrize(("read_on", "allowed"), [("device", False), ("lab", True)])
def test_a_meter_that_is_part_of_the_device_is_no_witness(tmp_path: Path, read_on: str, allowed: bool) -> None:
    """It is gone with the device, and this computer's own of that name says nothing of it."""
    desk = "{board: raspberry-pi-4, ssh: {host: pi, user: lab}, meter: {kind: hwmon, label: VDD_IN, "
    desk += f"read_on: {read_on}}}, power_switch: {{kind: uhubctl, location: 1-1.4, outlet: 2}}}}"
    device = device_of(tmp_path, f"devices: {{desk: {desk}}}")
    with contextlib.nullcontext() if allowed else pytest.raises(ConfigError, match="nothing can confirm"):
        switch_of(device)


@pytest.mark.usefixtures("private_lab")
class TestCommand:
    """``lab device power``."""

    def call(self, folder: Path, text: str, action: str) -> tuple[int, str]:
        (folder / "bench.yaml").write_text(text)
        done = CliRunner().invoke(main, ["--config", str(folder / "bench.yaml"), "device", "power", "desk", action])
        return done.exit_code, done.output

    def test_on_off_cycle_and_state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        supply = _instrument(monkeypatch, "dp832", 0.02, Faults())
        text = f"{_BOARD}{_SUPPLY}    power_switch: {{kind: meter, off: 0}}\n"
        assert self.call(tmp_path, text, "off") == (0, "desk: the meter's output: off, confirmed\n")
        assert not supply.output
        assert self.call(tmp_path, text, "cycle")[0] == 0
        assert supply.output
        told = self.call(tmp_path, text, "state")
        assert told == (0, "desk: the meter's output does not say; the device is there\n")

    def test_a_failure_is_one_message(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        status, output = self.call(tmp_path, f"{_BOARD}{_UHUBCTL}}}\n", "off")
        assert status == 1
        assert output.startswith("Error: uhubctl is not installed; a power switch of the bench needs it\n  -> apt-get")

    def test_a_device_without_a_switch(self, tmp_path: Path) -> None:
        status, output = self.call(tmp_path, _BOARD, "off")
        assert status == 1
        assert "device 'desk' has no power switch" in output

    def test_an_emulated_device(self, tmp_path: Path) -> None:
        status, output = self.call(tmp_path, "devices: {desk: {board: mps2-an386, emulated: true}}", "cycle")
        assert status == 1
        assert "desk is emulated" in output
