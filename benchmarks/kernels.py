"""Instructions per multiply-accumulate of kernels on the emulated Cortex-M4F, beside public ones on equal shapes.

Whole calls, counted exactly by our QEMU plug-in: padding, expansion and exact requantisation included. The claim of a
row is that it stays below the least of the public figures; how near it comes to private prototypes stands beside.
"""

from __future__ import annotations

import sys

from common import Claim, entry, firmware_board, verdict
from kernel_rows import Row, int8_inference, training

from lab.emulators.kernel_calls import KernelCore, KernelResult
from lab.emulators.qemu import QemuMachine
from lab.emulators.tcg_plugin import build_plugin
from lab.errors import ConfigError
from lab.paths import cache_dir

FAMILIES = (int8_inference, training)


def line(row: Row, result: KernelResult) -> str:
    """A row as text."""
    count, public = result.count, "  ".join(f"{name} {value:.2f}" for name, value in row.references.items())
    per_mac = count.instructions / row.macs
    near = "" if row.attainable is None else f"attainable {row.attainable:.2f}, {per_mac / row.attainable:.2f} of it"
    return f"{row.name:64} {per_mac:7.3f} {count.loads / row.macs:7.3f} {count.instructions:10}  {public}  {near}"


def shared_machine(name: str) -> QemuMachine:
    """What QEMU is asked to be for a device, with the memory that the host shares."""
    emulator = entry(name).board.qemu
    if emulator is None or emulator.shared_memory is None:
        raise ConfigError(f"device {name!r} has no emulator with shared memory")
    shared = emulator.shared_memory
    marker = emulator.marker_address or 0
    return QemuMachine(emulator.machine, emulator.icount_shift, shared.address, shared.bytes, marker)


def main() -> int:
    claims: list[Claim] = []
    for family in FAMILIES:
        rows = family.rows()
        print(f"{family.__name__}: {'kernel':64} instr/MAC, loads/MAC, instructions")
        with KernelCore(
            shared_machine(family.BOARD), firmware_board(family.BOARD), family.KERNELS, build_plugin(cache_dir())
        ) as core:
            for row, result in zip(rows, core.run([row.call for row in rows]), strict=True):
                print(line(row, result))
                per_mac = result.count.instructions / row.macs
                claims.append(Claim(row.name, f"{per_mac:.3f} instructions per MAC", per_mac / row.ceiling, 1.0))
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
