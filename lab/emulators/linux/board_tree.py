"""The device tree of an emulated board: QEMU's own, with the board's names, clocks for its cores, less what it has not.

QEMU's machine ``virt`` has no clock control. The kernel's driver ``cpufreq-dt`` takes its steps from the tree and a
clock to set; given one of fixed rate it keeps its books as on a board (governors, limits, steps, what it refuses),
while the emulated core goes on at its one speed.
"""

from __future__ import annotations

import struct

from lab.emulator_config import GuestEmulator
from lab.emulators.linux.device_tree import Node, cells, parse, serialize, strings
from lab.errors import EmulatorError

_LATENCY_NS = 300_000
# For some chips the kernel expects a driver of the maker's and gives no clocks without it, so it boots with QEMU's own
# name of the machine; the image's start script then puts these over /proc/device-tree/compatible.
_NAMES = "lab,compatible"
# What QEMU's machine has and no guest of ours uses: each costs a boot a probe. Slots for virtio are filled from the
# highest address down.
_UNUSED = ("pcie@", "flash@", "fw-cfg@", "platform-bus@", "gpio-keys", "pl061@")
_VIRTIO, _VIRTIO_USED = "virtio_mmio@", 2


def board_tree(blob: bytes, section: GuestEmulator) -> bytes:
    """QEMU's device tree with what the board has.

    Args:
        blob: as QEMU makes it.
        section: model, compatible and clocks; what is left out stays as QEMU has it.

    Raises:
        EmulatorError: QEMU's tree is not as expected.
    """
    tree = parse(blob)
    root = tree.root
    if section.model is not None:
        root.properties["model"] = strings(str(section.model))
    if section.compatible:
        root.properties[_NAMES] = strings(*section.compatible)
    _remove_unused(root)
    if section.clocks_hz:
        _add_clocks(root, section.clocks_hz)
    return serialize(tree)


def with_initramfs(blob: bytes, begin: int, size_bytes: int) -> bytes:
    """A device tree that says where the initial file system lies (kernel: Documentation/devicetree, ``chosen``).

    Args:
        blob: the board's.
        begin: physical address.
        size_bytes: how long it is.

    Raises:
        EmulatorError: the tree has no node ``chosen``.
    """
    tree = parse(blob)
    chosen = tree.root.child("chosen")
    for name, address in (("start", begin), ("end", begin + size_bytes)):
        chosen.properties[f"linux,initrd-{name}"] = struct.pack(">Q", address)
    return serialize(tree)


def _remove_unused(root: Node) -> None:
    slots = sorted(node.name for node in root.children if node.name.startswith(_VIRTIO))
    unused = (*_UNUSED, *slots[:-_VIRTIO_USED])
    root.children = [node for node in root.children if not node.name.startswith(unused)]
    # Message interrupts are for PCI.
    interrupts = next((node for node in root.children if node.name.startswith("intc@")), None)
    if interrupts is not None:
        interrupts.children = []


def _add_clocks(root: Node, clocks_hz: tuple[int, ...]) -> None:
    cores = [node for node in root.child("cpus").children if node.name.startswith("cpu@")]
    if not cores:
        raise EmulatorError("QEMU's device tree has no cores")
    first = max(_handles(root)) + 1
    clock, steps = first, first + 1
    root.children += [_clock(clock, max(clocks_hz)), _steps(steps, clocks_hz)]
    for core in cores:
        core.properties["clocks"] = cells(clock)
        core.properties["operating-points-v2"] = cells(steps)
        core.properties["#cooling-cells"] = cells(2)


def _handles(node: Node) -> list[int]:
    own = [int.from_bytes(node.properties["phandle"])] if "phandle" in node.properties else [0]
    return own + [handle for child in node.children for handle in _handles(child)]


def _clock(handle: int, rate_hz: int) -> Node:
    return Node(
        "cpu-clock",
        {
            "compatible": strings("fixed-clock"),
            "#clock-cells": cells(0),
            "clock-frequency": cells(rate_hz),
            "phandle": cells(handle),
        },
    )


def _steps(handle: int, clocks_hz: tuple[int, ...]) -> Node:
    steps = [
        Node(
            f"opp-{clock_hz}",
            {"opp-hz": struct.pack(">Q", clock_hz), "clock-latency-ns": cells(_LATENCY_NS)},
        )
        for clock_hz in sorted(clocks_hz)
    ]
    return Node(
        "opp-table-cpu",
        {"compatible": strings("operating-points-v2"), "opp-shared": b"", "phandle": cells(handle)},
        steps,
    )
