"""The emulated Jetsons: power modes that switch cores, clocks that are held, power monitors of two generations."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lab.emulator_config import GuestEmulator
from lab.emulators.linux.guest import Guest
from lab.inventory import load_board
from lab.paths import cache_dir, config_dir
from lab.transports.ssh import open_ssh
from lab.transports.ssh_remote import Ssh

INA3221 = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0"


def started(board: str) -> Guest:
    (section,) = load_board(config_dir() / "boards" / f"{board}.yaml").emulators
    assert isinstance(section, GuestEmulator)
    guest = Guest(section, cache_dir())
    guest.start()
    return guest


@pytest.fixture(scope="module")
def orin() -> Iterator[Guest]:
    guest = started("jetson-orin-nano")
    yield guest
    guest.stop()


@pytest.fixture(scope="module")
def shell(orin: Guest) -> Iterator[Ssh]:
    with open_ssh(orin.address_of_ssh()) as remote:
        yield remote


def said(remote: Ssh, script: str) -> str:
    done = remote.run(("sh", "-c", script))
    assert done.status == 0, done.stderr
    return done.text


def test_a_power_mode_switches_cores_and_caps_clocks(shell: Ssh) -> None:
    highest = "cat /sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"
    assert said(shell, "nvpmodel -q") == "NV Power Mode: 15W\n0"
    assert (said(shell, "nproc"), said(shell, highest)) == ("6", "1510400")
    said(shell, "nvpmodel -m 1")
    assert said(shell, "nvpmodel -q") == "NV Power Mode: 7W\n1"
    assert (said(shell, "nproc"), said(shell, highest)) == ("4", "960000")
    said(shell, "nvpmodel -m 0")
    assert (said(shell, "nproc"), said(shell, highest)) == ("6", "1510400")
    refused = shell.run(("nvpmodel", "-m", "9"))
    assert refused.status != 0
    assert b"invalid power mode" in refused.stderr


def test_clocks_are_held_and_let_go(shell: Ssh) -> None:
    def shown() -> list[tuple[str, str]]:
        return re.findall(r"^(?:cpu\d|GPU).*MinFreq=(\d+) MaxFreq=(\d+)", said(shell, "jetson_clocks --show"), re.M)

    before = shown()
    assert len(before) == 7
    assert all(least != most for least, most in before)
    said(shell, "jetson_clocks --store /tmp/before && jetson_clocks")
    assert all(least == most for least, most in shown())
    assert "FreqOverride=1" in said(shell, "jetson_clocks --show")
    # It asks before it overwrites, and nobody answers.
    assert shell.run(("jetson_clocks", "--store", "/tmp/before")).status != 0
    said(shell, "jetson_clocks --restore /tmp/before")
    assert shown() == before


def test_only_root_may_hold_clocks_or_change_the_mode(orin: Guest) -> None:
    with open_ssh(orin.address_of_ssh().model_copy(update={"user": "lab"})) as remote:
        for argv in (("jetson_clocks", "--show"), ("nvpmodel", "-m", "1")):
            assert remote.run(argv).status != 0
        assert said(remote, "nvpmodel -q") == "NV Power Mode: 15W\n0"


def test_power_is_told_by_the_monitor_and_by_tegrastats_alike(orin: Guest, shell: Ssh) -> None:
    orin.set_sensor("VDD_IN.voltage_v", 5.0)
    orin.set_sensor("VDD_IN.current_a", 1.234)
    orin.set_sensor("tj-thermal.temperature_c", 61.5)
    assert said(shell, f"cat {INA3221}/in1_label {INA3221}/in1_input {INA3221}/curr1_input").split() == [
        "VDD_IN", "5000", "1234",
    ]  # fmt: skip
    process = shell.start(("tegrastats", "--interval", "100"))
    text = b""
    while text.count(b"\n") < 2:
        text += process.read(30)
    process.kill()
    line = text.decode().splitlines()[1]
    memory = r"RAM \d+/\d+MB \(lfb \d+x4MB\) SWAP 0/0MB \(cached 0MB\)"
    assert re.match(rf"\d\d-\d\d-\d{{4}} \d\d:\d\d:\d\d {memory} CPU \[", line)
    assert len(re.findall(r"\d+%@\d+", line.split("]")[0])) == 6
    assert " tj@61.5C " in line
    assert " VDD_IN 6170mW/6170mW VDD_CPU_GPU_CV " in line


def test_an_older_jetson_tells_it_the_older_way() -> None:
    guest = started("jetson-nano")
    try:
        guest.set_sensor("POM_5V_IN.current_a", 0.5)
        with open_ssh(guest.address_of_ssh()) as remote:
            folder = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
            files = " ".join(f"{folder}/{name}" for name in ("rail_name_0", "in_current0_input", "in_power0_input"))
            assert said(remote, f"cat {files}").split() == ["POM_5V_IN", "500", "2500"]
            line = said(remote, "tegrastats | head -n 1")
            assert line.startswith("RAM ")
            assert " PMIC@100C thermal@36.25C POM_5V_IN 2500/2500 POM_5V_GPU 0/0 " in line
    finally:
        guest.stop()
