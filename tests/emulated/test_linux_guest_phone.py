"""The emulated phone: a real ADB daemon, a shell without root's rights, Android's services as a lab asks them."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import adbutils
import pytest

from lab.connection_config import AdbDevice
from lab.emulator_config import GuestEmulator
from lab.emulators.linux.guest import Guest
from lab.environment.screen import AIRPLANE, POWER
from lab.environment.thermal import service_zones
from lab.environment.throttling import thermal_status
from lab.inventory import load_board
from lab.meter_config import AndroidConfig
from lab.paths import cache_dir, config_dir
from lab.power.android import AndroidSource, parse_dumpsys
from lab.power.polled import Gauge


@pytest.fixture(scope="module")
def phone() -> Iterator[Guest]:
    (section,) = load_board(config_dir() / "boards" / "android-phone.yaml").emulators
    assert isinstance(section, GuestEmulator)
    with Guest(section, cache_dir()) as guest:
        yield guest


@pytest.fixture(scope="module")
def adb(phone: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[adbutils.AdbClient]:
    """An ADB server of our own, at a port of our own; after the guest, whose cache lies in the real home."""
    assert phone.pid
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = str(tmp_path_factory.mktemp("home"))
    with mock.patch.dict(os.environ, {"HOME": home, "ANDROID_ADB_SERVER_PORT": str(port), "ADB_MDNS": "0"}):
        client = adbutils.AdbClient(port=port)
        yield client
        client.server_kill()


def connected(adb: adbutils.AdbClient, phone: Guest) -> adbutils.AdbDevice:
    address = str(phone.address_of_adb().address)
    adb.connect(address, timeout=30)
    return adb.device(serial=address)


@pytest.fixture(scope="module")
def device(adb: adbutils.AdbClient, phone: Guest) -> adbutils.AdbDevice:
    return connected(adb, phone)


def said(device: adbutils.AdbDevice, *script: str) -> str:
    done = device.shell2(" ".join(script), v2=True)
    assert done.returncode == 0, done
    return str(done.stdout).rstrip()


def test_the_shell_is_androids_and_has_no_root(device: adbutils.AdbDevice) -> None:
    done = device.shell2("id -u; echo wrong >&2; exit 7", v2=True)
    assert (done.stdout, done.stderr, done.returncode) == ("2000\n", "wrong\n", 7)
    assert said(device, "readlink /proc/$$/exe; readlink /system/bin/ls") == "/system/bin/mksh\ntoybox"
    assert device.shell2("touch /system/file", v2=True).returncode != 0
    assert said(device, "getprop ro.product.cpu.abi") == "arm64-v8a"
    assert "[ro.serialno]: [LABPHONE0001]" in said(device, "getprop")
    assert said(device, "getprop no.such.thing word") == "word"


def test_files_go_there_and_back(device: adbutils.AdbDevice, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(os.urandom(300_000))
    digest = hashlib.sha256((tmp_path / "there").read_bytes()).hexdigest()
    device.sync.push(tmp_path / "there", "/data/local/tmp/file")
    assert said(device, "sha256sum /data/local/tmp/file").split()[0] == digest
    device.sync.pull("/data/local/tmp/file", tmp_path / "back")
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == digest


def test_the_battery_is_told_by_files_and_service_alike(phone: Guest, device: adbutils.AdbDevice) -> None:
    phone.set_sensor("battery.current_a", -0.512)
    phone.set_sensor("battery.voltage_v", 3.812)
    phone.set_sensor("battery.level_percent", 42)
    phone.set_sensor("battery.temperature_c", 31.5)
    folder = "/sys/class/power_supply/battery"
    assert said(device, f"cat {folder}/current_now {folder}/voltage_now").split() == ["-512000", "3812000"]
    told = parse_dumpsys(said(device, "dumpsys battery"))
    assert (told["level"], told["voltage"], told["temperature"], told["status"]) == ("42", "3812", "315", "3")
    assert told["USB powered"] == "false"
    phone.set_sensor("battery.plugged", "usb")
    phone.set_sensor("battery.status", "Charging")
    told = parse_dumpsys(said(device, "dumpsys battery"))
    assert (told["USB powered"], told["status"]) == ("true", "2")
    phone.set_sensor("battery.plugged", "none")
    phone.set_sensor("battery.status", "Discharging")


def test_heat_is_told_by_the_service(phone: Guest, device: adbutils.AdbDevice) -> None:
    phone.set_sensor("skin.temperature_c", 44.25)
    text = said(device, "dumpsys thermalservice")
    assert {zone.name: zone.temperature_c for zone in service_zones(text)}["skin"] == 44.25
    phone.set_sensor("thermal.status", 2)
    throttled = thermal_status(said(device, "dumpsys thermalservice"))
    assert throttled is not None
    assert throttled.now == ("thermal status moderate",)
    said(device, "cmd thermalservice reset")
    assert "Thermal Status: 0" in said(device, "dumpsys thermalservice")


def test_screen_and_airplane_mode_are_switched(device: adbutils.AdbDevice) -> None:
    assert "Display Power: state=ON" in said(device, POWER)
    said(device, "input keyevent 223")
    assert "mWakefulness=Asleep" in said(device, POWER)
    assert "Display Power: state=OFF" in said(device, POWER)
    said(device, "input keyevent KEYCODE_WAKEUP")
    assert "Display Power: state=ON" in said(device, POWER)
    assert said(device, AIRPLANE) == "0"
    said(device, "cmd connectivity airplane-mode enable")
    assert (said(device, AIRPLANE), said(device, "cmd connectivity airplane-mode")) == ("1", "enabled")
    said(device, "cmd connectivity airplane-mode disable")
    said(device, "settings put system screen_off_timeout 90000")
    assert said(device, "settings get system screen_off_timeout") == "90000"
    assert said(device, "settings get global no_such_key") == "null"


def test_memory_of_a_process_is_told(device: adbutils.AdbDevice) -> None:
    text = said(device, "dumpsys meminfo $$; grep Rss: /proc/$$/smaps_rollup")
    total = [int(word) for word in text.partition("TOTAL RSS:")[2].split()[:1]]
    # The second look is a little later.
    assert total[0] == pytest.approx(int(text.split()[-2]), rel=0.5)
    assert "No process found" in said(device, "dumpsys meminfo 99999")


def test_each_start_is_clean_and_at_the_same_address(phone: Guest, adb: adbutils.AdbClient) -> None:
    said(connected(adb, phone), "touch /data/local/tmp/file; settings put global airplane_mode_on 1")
    before = phone.address_of_adb()
    phone.power_cut()
    adb.disconnect(str(before.address))
    after = phone.start()
    assert isinstance(after, AdbDevice)
    assert after == before
    device = connected(adb, phone)
    assert said(device, "ls /data/local/tmp", ";", AIRPLANE) == "0"


def test_the_battery_meter_of_the_lab_reads_it(phone: Guest, adb: adbutils.AdbClient) -> None:
    device = connected(adb, phone)
    phone.set_sensor("battery.current_a", -0.4)
    phone.set_sensor("battery.voltage_v", 3.9)
    source = AndroidSource(AndroidConfig(kind="android", serial="phone"), lambda argv: said(device, *argv), "phone")
    source.open()
    read = source.read()
    assert isinstance(read, Gauge)
    assert read.current_a == pytest.approx(0.4)
    assert read.voltage_v == pytest.approx(3.9)
