"""How a system's own package manager installs what Debian's packages bring."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class _Manager:
    """A package manager.

    Attributes:
        install: its command, without the packages.
        names: its packages by Debian's package; those that it has under the same name are not listed, and those that it
            does not have are None.
    """

    install: str
    names: Mapping[str, str | None]


_DEBIAN_ONLY = dict.fromkeys(
    (
        "gcc-aarch64-linux-gnu",
        "gcc-arm-linux-gnueabihf",
        "gcc-x86-64-linux-gnu",
        "libc6-dev-arm64-cross",
        "libc6-dev-armhf-cross",
    )
)
_MANAGERS = {
    "apt": _Manager("apt-get install", {}),
    "dnf": _Manager(
        "dnf install",
        _DEBIAN_ONLY
        | {
            "adb": "android-tools",
            "gcc-arm-none-eabi": "arm-none-eabi-gcc-cs",
            "influxdb": None,
            "libc6-dev": "glibc-devel",
            "libnewlib-arm-none-eabi": "arm-none-eabi-newlib",
            "openssh-client": "openssh-clients",
            "python3.11-venv": "python3.11",
            "qemu-system-arm": "qemu-system-arm qemu-system-aarch64",
            "qemu-system-misc": "qemu-system-riscv",
            "ykush-control": None,
        },
    ),
    "pacman": _Manager(
        "pacman -S",
        _DEBIAN_ONLY
        | {
            "adb": "android-tools",
            "gcc-arm-none-eabi": "arm-none-eabi-gcc",
            "libc6-dev": "glibc",
            "libnewlib-arm-none-eabi": "arm-none-eabi-newlib",
            "ninja-build": "ninja",
            "openssh-client": "openssh",
            "openssh-server": "openssh",
            "python3.11": "python",
            "python3.11-venv": "python",
            "qemu-system-arm": "qemu-system-arm qemu-system-aarch64",
            "qemu-system-misc": "qemu-system-riscv",
            "uhubctl": None,
            "usbrelay": None,
            "ykush-control": None,
        },
    ),
    "brew": _Manager(
        "brew install",
        _DEBIAN_ONLY
        | {
            "adb": "android-platform-tools",
            "clang": "llvm",
            "gcc-arm-none-eabi": "gcc-arm-embedded",
            "libc6-dev": None,
            "libnewlib-arm-none-eabi": "gcc-arm-embedded",
            "ninja-build": "ninja",
            "openssh-client": "openssh",
            "openssh-server": "openssh",
            "python3.11": "python@3.11",
            "python3.11-venv": "python@3.11",
            "qemu-system-arm": "qemu",
            "qemu-system-misc": "qemu",
            "usbrelay": None,
            "util-linux": None,
            "ykush-control": None,
        },
    ),
}
# By the names systems give themselves, and those they say they are like (os-release(5): ID, ID_LIKE).
_MANAGER_OF = {
    "debian": "apt",
    "ubuntu": "apt",
    "fedora": "dnf",
    "rhel": "dnf",
    "centos": "dnf",
    "arch": "pacman",
}


def install(*packages: str) -> str:
    """What to do to have the content of Debian packages, for a message.

    Args:
        packages: names of Debian's packages.

    Returns:
        The command of this system's package manager; the names alone where it has none that is known here, or does not
        have the package.
    """
    manager = _MANAGERS.get(_manager())
    names = {package: None if manager is None else manager.names.get(package, package) for package in packages}
    parts = []
    known = dict.fromkeys(word for name in names.values() if name is not None for word in name.split())
    if manager is not None and known:
        parts.append(f"{manager.install} {' '.join(known)}")
    unknown = [package for package, name in names.items() if name is None]
    if unknown:
        parts.append(f"install what Debian calls {', '.join(unknown)}")
    return " and ".join(parts)


def _manager() -> str:
    if sys.platform == "darwin":
        return "brew"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    systems = (release.get("ID", ""), *release.get("ID_LIKE", "").split())
    return next((_MANAGER_OF[system] for system in systems if system in _MANAGER_OF), "")
