"""Saved states: a guest that has booted, kept in the cache, from which every start goes on.

A state is QEMU's own for the devices (a few hundred kilobytes) and the guest's memory as a sparse file. A start maps
the file privately: pages come out of the page cache as they are used, instances share them, and none changes them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lab import progress
from lab.connection_config import SshHost
from lab.durable import replace_file
from lab.emulator_config import GuestEmulator
from lab.emulators.base import Preparation
from lab.emulators.linux.board_tree import board_tree, with_initramfs
from lab.emulators.linux.boot_files import initramfs_address, initramfs_head
from lab.emulators.linux.image import Image, built_image, images
from lab.emulators.linux.keys import Keys, keys_archive
from lab.emulators.linux.machine import (
    KERNEL_OPTIONS,
    Boot,
    Machine,
    Memory,
    Settings,
    digest_of,
    dump_device_tree,
    guest_qemu_version,
)
from lab.emulators.linux.packages import linux_cache, locked
from lab.emulators.linux.recipes import RECIPES
from lab.errors import EmulatorError

_FORMAT = "3"
_ABOUT, _INITRAMFS, _TREE = "state.json", "initramfs.elf", "device-tree.dtb"


@dataclass(frozen=True)
class SavedState:
    """A booted guest in the cache.

    Attributes:
        boot: what it was booted from, for when it restarts.
        memory: the guest's memory.
        state: QEMU's devices.
        console: what its console said until then.
    """

    boot: Boot
    memory: Path
    state: Path
    console: bytes


def prepare_boot(
    folder: Path, cache: Path, image: Image, pair: Keys, section: GuestEmulator, settings: Settings
) -> Boot:
    """Put into ``folder`` what QEMU boots: the image with the keys, and the device tree the board has."""
    initramfs = folder / _INITRAMFS
    system = image.initramfs.read_bytes() + keys_archive(pair)
    with image.kernel.open("rb") as kernel:
        address = initramfs_address(len(system), settings.memory_bytes, kernel.read(4096))
    initramfs.write_bytes(initramfs_head(address, len(system)) + system)
    tree = folder / _TREE
    tree.write_bytes(with_initramfs(board_tree(_qemus_tree(cache, settings), section), address, len(system)))
    return Boot(image.kernel, initramfs, tree)


def _qemus_tree(cache: Path, settings: Settings) -> bytes:
    """QEMU's own device tree, kept in the cache: to ask QEMU for it takes as long as a tenth of a boot."""
    kept = linux_cache(cache) / "trees" / f"{digest_of(*settings.board, guest_qemu_version())}.dtb"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, dump_device_tree(settings))
    return kept.read_bytes()


def saved_state(
    cache: Path,
    image: Image,
    pair: Keys,
    section: GuestEmulator,
    settings: Settings,
    preparation: Preparation | None = None,
) -> SavedState:
    """The saved state of a guest, made by booting it unless it lies in the cache.

    Raises:
        ToolMissing: QEMU is not installed.
        EmulatorError: the guest does not boot.
        LabError: the preparation failed; nothing is kept.
    """
    prepared = () if preparation is None else (preparation.key,)
    key = digest_of(
        _FORMAT, KERNEL_OPTIONS, image.digest, settings, section.model_dump_json(), guest_qemu_version(),
        pair.host_public, pair.user_public, *prepared,
    )  # fmt: skip
    folder = linux_cache(cache) / "states" / f"{image.kind}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not (folder / _ABOUT).exists():
            with progress.step(f"booting the image {image.kind!r} once, to keep its state"):
                _make(folder, cache, image, pair, section, settings, preparation)
    return _read(folder, image)


def _read(folder: Path, image: Image) -> SavedState:
    try:
        console = (folder / "console").read_bytes()
    except OSError as error:
        raise EmulatorError(f"the saved state {folder} is damaged: {error}", hint=f"remove {folder}") from error
    boot = Boot(image.kernel, folder / _INITRAMFS, folder / _TREE)
    return SavedState(boot, folder / "memory", folder / "state", console)


def _make(
    folder: Path,
    cache: Path,
    image: Image,
    pair: Keys,
    section: GuestEmulator,
    settings: Settings,
    preparation: Preparation | None,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".state-") as scratch:
        made = Path(scratch) / "state"
        made.mkdir(mode=0o700)
        boot = prepare_boot(made, cache, image, pair, section, settings)
        machine = Machine(settings, boot, memory=Memory(made / "memory", kept=True))
        try:
            machine.wait_ready()
            # Its answer says that the line to it works, and that it is done with starting up.
            machine.agent("sync")
            if preparation is not None:
                _prepare(machine, pair, preparation)
            machine.save(made / "state")
            (made / "console").write_text(machine.console())
        finally:
            machine.stop()
        for name in ("memory", "state"):
            with (made / name).open("rb") as file:
                os.fsync(file.fileno())
        replace_file(made / _ABOUT, json.dumps({"image": image.digest, "settings": str(settings)}).encode() + b"\n")
        made.replace(folder)


def _prepare(machine: Machine, pair: Keys, preparation: Preparation) -> None:
    # Files get the time of their making, which is not that of the guest's first second.
    machine.agent(set_clock(time.time()))
    with progress.step(preparation.title):
        preparation.work(root_login(pair, machine.host_port))
    machine.agent("sync")


def root_login(pair: Keys, port: int) -> SshHost:
    """How root logs in to a guest that listens on a port of the loopback address."""
    return SshHost(host="127.0.0.1", port=port, user="root", key=str(pair.user_private), host_key=pair.host_public)


def set_clock(unix_s: float) -> str:
    """A script that sets the guest's wall clock."""
    return f"date -s @{round(unix_s)} >/dev/null"


def remove_old(cache: Path) -> int:
    """Remove images that are not built any more, and saved states of such; gives how many bytes became free."""
    kept = [one for kind in RECIPES if (one := built_image(kind, cache)) is not None]
    old = [one.kernel.parent for one in images(cache) if one not in kept]
    for about in (linux_cache(cache) / "states").glob(f"*/{_ABOUT}"):
        if json.loads(about.read_text()).get("image") not in {one.digest for one in kept}:
            old.append(about.parent)
    freed = 0
    for folder in old:
        freed += sum(file.stat().st_blocks * 512 for file in folder.iterdir())
        shutil.rmtree(folder)
    return freed
