"""What is in the images: which Debian packages, which of their programs, which kernel modules, which files of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from lab.emulators.linux.packages import PackageSet

ImageKind: TypeAlias = Literal["pi", "pi-python", "jetson", "phone"]
SSH_PORT = 22
ADB_PORT = 5555

BASE = PackageSet(
    "base", "bookworm",
    (
        "busybox-static", "openssh-server", "libc6", "libssl3", "zlib1g", "libcrypt1", "libpam0g", "libselinux1",
        "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libcom-err2", "libkeyutils1", "libaudit1",
        "libcap-ng0", "libwrap0", "libsystemd0", "libpcre2-8-0", "libnsl2", "libtirpc3", "liblzma5", "libzstd1",
        "liblz4-1", "libgcrypt20", "libgpg-error0", "libcap2",
    ),
    (("linux-image-arm64", "linux-image-6"),),
)  # fmt: skip
ANDROID = PackageSet(
    "android", "trixie",
    (
        "adbd", "toybox", "mksh", "android-libbase", "android-libboringssl", "android-libcutils", "android-liblog",
        "libbrotli1", "libbsd0", "libc6", "libcap2", "libcrypt1", "libgcc-s1", "liblz4-1", "libmd0",
        "libprotobuf32t64", "libstdc++6", "libsystemd0", "libxxhash0", "libzstd1", "zlib1g",
    ),
)  # fmt: skip
PYTHON = PackageSet(
    "python", "bookworm",
    (
        "python3-minimal", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "python3-distutils",
        "python3-pip", "python3-setuptools", "python3-wheel", "libexpat1", "libffi8", "libbz2-1.0", "libsqlite3-0",
        "libdb5.3", "libuuid1", "libncursesw6", "libtinfo6", "libreadline8", "libgcc-s1", "libstdc++6",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """An image.

    Attributes:
        kind: what ``emulator: {image: …}`` of a board file names.
        hostname: the guest's.
        sets: the packages; the kernel and busybox come out of the first, programs out of those of the last one's
            Debian release.
        programs: path in the packages to path in the guest; their libraries come along.
        libraries: libraries that are loaded by name at run time, which no program's header tells.
        modules: kernel modules that are loaded at boot, in any order; what they depend on comes along.
        spare_modules: modules that lie in the image for who wants to load them.
        files: folders of ``lab/emulators/linux/files`` that are copied over it, in this order.
        port: TCP port of the guest that says it is ready.
        folders: begins of paths in the packages; all below goes to where it lies there, and its libraries come along.
    """

    kind: ImageKind
    hostname: str
    sets: tuple[PackageSet, ...]
    programs: tuple[tuple[str, str], ...]
    libraries: tuple[str, ...]
    modules: tuple[str, ...]
    spare_modules: tuple[str, ...]
    files: tuple[str, ...]
    port: int
    folders: tuple[str, ...] = ()


_MODULES = (
    "virtio_mmio", "virtio_net", "virtio_console", "overlay", "cpufreq_dt", "cpufreq_powersave", "cpufreq_ondemand",
    "cpufreq_conservative", "cpufreq_userspace",
)  # fmt: skip
_SSHD = ("usr/sbin/sshd", "usr/sbin/sshd")
# What wheels may expect of a system (PEP 600), as far as PyTorch's do.
_FOR_WHEELS = (
    "libnss_files.so.2", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libm.so.6", "libstdc++.so.6",
    "libgcc_s.so.1", "libz.so.1",
)  # fmt: skip
_PHONE_PROGRAMS = (
    ("usr/lib/android-sdk/platform-tools/adbd", "system/bin/adbd"),
    ("usr/bin/toybox", "system/bin/toybox"),
    ("usr/bin/mksh", "system/bin/mksh"),
)

RECIPES: dict[ImageKind, Recipe] = {
    "pi": Recipe(
        "pi", "raspberrypi", (BASE,), (_SSHD,), ("libnss_files.so.2",), _MODULES, ("sch_netem",),
        ("common", "ssh", "pi"), SSH_PORT,
    ),
    "pi-python": Recipe(
        "pi-python", "raspberrypi", (BASE, PYTHON), (_SSHD,), _FOR_WHEELS, _MODULES, ("sch_netem",),
        ("common", "ssh", "pi"), SSH_PORT, ("usr/bin/python3", "usr/lib/python3"),
    ),
    "jetson": Recipe(
        "jetson", "jetson", (BASE,), (_SSHD,), ("libnss_files.so.2",), _MODULES, ("sch_netem",),
        ("common", "ssh", "jetson"), SSH_PORT,
    ),
    "phone": Recipe(
        "phone", "localhost", (BASE, ANDROID), _PHONE_PROGRAMS, ("libnss_files.so.2",), _MODULES, (),
        ("common", "phone"), ADB_PORT,
    ),
}  # fmt: skip
