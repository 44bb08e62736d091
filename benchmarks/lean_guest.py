"""The guest of the trials that emulated Linux began with, to compare ours with: as little as can be logged in to.

Debian's kernel for clouds, busybox, Dropbear, no cpufreq, no sensors, no control of the lab's; QEMU as those trials
called it (one Cortex-A72, 256 MiB, virtio over PCI, time of this computer). Its packages are fetched into the lab's
cache when this is first run.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from lab.connection_config import SshHost
from lab.durable import replace_file
from lab.emulators.linux.cpio import Initramfs
from lab.emulators.linux.debs import unpack
from lab.emulators.linux.image import initramfs_of, kernel_version
from lab.emulators.linux.keys import Keys, keys
from lab.emulators.linux.machine import PROGRAM, READY
from lab.emulators.linux.packages import PackageSet, fetch, linux_cache
from lab.emulators.linux.recipes import SSH_PORT, Recipe
from lab.emulators.process import end, spawn

_READY_S = 300.0
_PACKAGES = PackageSet(
    "lean", "bookworm",
    (
        "busybox-static", "dropbear-bin", "libtomcrypt1", "libtommath1", "libgmp10", "libc6", "zlib1g", "libcrypt1",
        "openssh-sftp-server",
    ),
    (("linux-image-cloud-arm64", "linux-image-6"),),
)  # fmt: skip
_RECIPE = Recipe(
    "pi", "lean", (_PACKAGES,), (("usr/sbin/dropbear", "usr/sbin/dropbear"),), ("libnss_files.so.2",),
    ("virtio_pci", "virtio_mmio", "virtio_net"), ("sch_netem",), (), SSH_PORT,
)  # fmt: skip
_INIT = f"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mkdir -p /dev/pts
$B mount -t devpts pts /dev/pts
$B mount -t tmpfs run /run
$B mount -t cgroup2 cgroup2 /sys/fs/cgroup
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
for module in $($B cat /etc/lab/modules); do $B insmod /lib/modules/$module.ko; done
$B ip link set lo up
until [ -e /sys/class/net/eth0 ]; do $B usleep 50000; done
$B ip addr add 10.0.2.15/24 dev eth0
$B ip link set eth0 up
$B ip route add default via 10.0.2.2
/usr/sbin/dropbear -F -E -s -r /etc/dropbear/hostkey -p {SSH_PORT} &
until $B grep -qE ':0016 0+:0000 0A' /proc/net/tcp /proc/net/tcp6; do $B usleep 25000; done
echo {READY}
while :; do $B sleep 3600; done
"""


class LeanGuest:
    """One such guest; a context manager from its start until it can be logged in to.

    Args:
        cache: the lab's cache folder, for packages and keys.
    """

    def __init__(self, cache: Path) -> None:
        packages = fetch(_PACKAGES, cache)
        self._pair = keys(cache)
        self._folder = linux_cache(cache) / "lean"
        self._folder.mkdir(exist_ok=True)
        tree = unpack([one.path for one in packages])
        version = kernel_version(tree)
        replace_file(self._folder / "vmlinuz", tree.read(f"boot/vmlinuz-{version}"))
        system = initramfs_of(_RECIPE, tree, tree, version)
        replace_file(self._folder / "initramfs.cpio", system + _additions(self._pair))
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        """Boot it and wait until it says that it can be logged in to."""
        with tempfile.TemporaryFile() as console:
            # As the lab starts its own: a session has a share of its own of a busy processor (sched(7), autogroup).
            self._process = spawn(self._command(), cwd=self._folder, log=console)
            deadline = time.monotonic() + _READY_S
            while READY.encode() not in os.pread(console.fileno(), 1 << 20, 0):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the lean guest does not boot: {os.pread(console.fileno(), 1 << 20, 0)[-500:]!r}")
                time.sleep(0.01)
        self._port = _listening(self._process.pid)

    def _command(self) -> list[str]:
        return [
            PROGRAM, "-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-smp", "1", "-m", "256M", "-accel", "tcg",
            "-kernel", str(self._folder / "vmlinuz"), "-initrd", str(self._folder / "initramfs.cpio"),
            "-append", "console=ttyAMA0 quiet", "-display", "none", "-monitor", "none", "-serial", "stdio",
            "-no-reboot",
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:{SSH_PORT}",
            "-device", "virtio-net-pci,romfile=,netdev=net",
        ]  # fmt: skip

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        if self._process is None:
            raise SystemExit("the lean guest does not run")
        return self._process.pid

    def address_of_ssh(self) -> SshHost:
        """How root logs in."""
        return SshHost(
            host="127.0.0.1", port=self._port, user="root", key=str(self._pair.user_private),
            host_key=self._pair.host_public,
        )  # fmt: skip

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            end(self._process)
            self._process = None


def _additions(pair: Keys) -> bytes:
    """What is not of Debian: the start script, accounts, and the keys."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    from cryptography.hazmat.primitives.serialization.ssh import load_ssh_private_key

    private = load_ssh_private_key(pair.host_private.read_bytes(), None)
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    raw += private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    kind = b"ssh-ed25519"
    system = Initramfs()
    system.file("init", _INIT.encode(), 0o755)
    system.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    system.file("etc/shells", b"/bin/sh\n")
    system.link("bin/sh", "busybox")
    system.link("bin/uname", "busybox")
    # Dropbear's own form of a key: the name of its kind, and both halves, each with its length before it.
    key = b"".join(len(part).to_bytes(4) + part for part in (kind, raw))
    system.file("etc/dropbear/hostkey", key, 0o600)
    system.folder("root", 0o700)
    system.folder("root/.ssh", 0o700)
    system.file("root/.ssh/authorized_keys", f"{pair.user_public}\n".encode(), 0o600)
    return system.finish()


def _listening(pid: int) -> int:
    """The port of the loopback address on which a process listens (proc(5): /proc/net/tcp, /proc/PID/fd)."""
    sockets = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in sockets and re.fullmatch("0100007F:....", words[1]):
            return int(words[1].partition(":")[2], 16)
    raise SystemExit("the lean guest has no port")
