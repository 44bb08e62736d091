"""Process start to first frame on an emulated microcontroller, against the least that QEMU itself needs.

Ours: :meth:`lab.devices.mcu.Mcu.deploy`, from nothing to a parsed and checked ``hello``. The baseline: a plain QEMU
process with one TCP serial, running a firmware that says one byte at reset; process start to that byte. In turns.
Claim: at most 1.5 times the baseline.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import BOARDS, Claim, build_raw_firmware, emulated, entry, image, machine, spoken_digits, spread, verdict

from lab.artifact import Artifact

STARTS = 15
BOUND = 1.5


def raw_start_s(qemu_machine: str, elf: Path) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serial = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        command = ["qemu-system-arm", "-M", qemu_machine, "-display", "none", "-nodefaults", "-serial", serial]
        begin = time.perf_counter()
        with subprocess.Popen([*command, "-kernel", str(elf)], stderr=subprocess.DEVNULL) as process:
            with listener.accept()[0] as connection:
                said = connection.recv(1)
                elapsed_s = time.perf_counter() - begin
            process.kill()
    if said != b"R":
        raise SystemExit(f"the raw firmware said {said!r} first")
    return elapsed_s


def our_start_s(name: str, artifact: Artifact) -> float:
    with emulated(name) as device:
        begin = time.perf_counter()
        device.deploy(artifact)
        return time.perf_counter() - begin


def compare(name: str, raw_elf: Path) -> Claim:
    artifact = image(name, spoken_digits().model)
    ours: list[float] = []
    raw: list[float] = []
    for _ in range(STARTS):
        raw.append(raw_start_s(machine(name).machine, raw_elf))
        ours.append(our_start_s(name, artifact))
    seen = f"{spread(ours, 'ms', 1e3)}, raw {spread(raw, 'ms', 1e3)}"
    ratio = statistics.median(ours) / statistics.median(raw)
    return Claim(f"start to first frame, {name} ({entry(name).board.kind})", seen, ratio, BOUND)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        raw_elf = build_raw_firmware(Path(folder))
        return verdict([compare(name, raw_elf) for name in BOARDS])


if __name__ == "__main__":
    sys.exit(main())
