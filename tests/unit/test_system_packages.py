"""Remedies name the package manager of the system they are read on."""

from __future__ import annotations

import platform
import sys

import pytest

import lab.build
import lab.doctor
from lab import system_packages
from lab.doctor import diagnose
from lab.inventory import load_bench
from lab.paths import config_dir
from lab.power.switches.programs import PACKAGES
from lab.system_packages import install

RELEASES = {
    "debian": {"ID": "debian"},
    "mint": {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"},
    "rocky": {"ID": "rocky", "ID_LIKE": "rhel centos fedora"},
    "manjaro": {"ID": "manjaro", "ID_LIKE": "arch"},
    "nixos": {"ID": "nixos"},
    "nothing": {},
}


def on(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the system is another."""
    monkeypatch.setattr(sys, "platform", "darwin" if system == "mac" else "linux")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: RELEASES[system])


@pytest.mark.parametrize(
    ("system", "packages", "said"),
    [
        ("debian", "gcc-arm-none-eabi libnewlib-arm-none-eabi",
         "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"),
        ("mint", "ninja-build", "apt-get install ninja-build"),
        ("rocky", "gcc-arm-none-eabi libnewlib-arm-none-eabi",
         "dnf install arm-none-eabi-gcc-cs arm-none-eabi-newlib"),
        ("rocky", "ninja-build", "dnf install ninja-build"),
        ("rocky", "qemu-system-arm", "dnf install qemu-system-arm qemu-system-aarch64"),
        ("rocky", "gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
         "dnf install gcc and install what Debian calls gcc-aarch64-linux-gnu, libc6-dev-arm64-cross"),
        ("manjaro", "ninja-build cmake", "pacman -S ninja cmake"),
        ("manjaro", "python3.11 python3.11-venv", "pacman -S python"),
        ("mac", "gcc-arm-none-eabi libnewlib-arm-none-eabi", "brew install gcc-arm-embedded"),
        ("mac", "util-linux", "install what Debian calls util-linux"),
        ("nixos", "cmake ninja-build", "install what Debian calls cmake, ninja-build"),
        ("nothing", "cmake", "install what Debian calls cmake"),
    ],
)  # fmt: skip
def test_the_manager_of_the_system(system: str, packages: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on(system, monkeypatch)
    assert install(*packages.split()) == said


def test_a_system_that_says_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, str]:
        raise FileNotFoundError("/etc/os-release")

    on("nothing", monkeypatch)
    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    assert install("cmake") == "install what Debian calls cmake"


def test_names_that_differ_belong_to_packages_somebody_asks_for() -> None:
    """A row for a package that no remedy names would never be read."""
    asked = {word for tool in lab.doctor._TOOLS for word in tool.package.split()} | set(PACKAGES.values())
    asked |= {word for words in lab.build._PACKAGES.values() for word in words}
    asked |= {"libnewlib-arm-none-eabi", "python3.11", "python3.11-venv", "openssh-client", "gcc-x86-64-linux-gnu"}
    listed = {package for manager in system_packages._MANAGERS.values() for package in manager.names}
    assert listed <= asked


@pytest.mark.parametrize(("system", "command"), [("rocky", "dnf install"), ("mac", "brew install"), ("nixos", "")])
@pytest.mark.usefixtures("no_tools_of_pip")
def test_the_doctor_says_apt_get_on_debian_only(system: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on(system, monkeypatch)
    monkeypatch.setenv("PATH", "/nowhere")
    found = {finding.name: finding for finding in diagnose(load_bench(config_dir() / "emulated.yaml"), list)}
    assert not [finding for finding in found.values() if "apt-get" in finding.remedy + finding.detail]
    assert found["CMake"].remedy.startswith(f"{command} cmake" if command else "install what Debian calls cmake")
    assert "pip install 'hil-lab[emulate-pip]'" in found["CMake"].remedy
    assert found["m4f"].status == "missing"
