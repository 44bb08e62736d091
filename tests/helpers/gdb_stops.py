"""gdb as the judge of backtraces: it stops an emulated core and says what it makes of the stack there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.emulators.qemu import Qemu, QemuMachine

GDB = "gdb-multiarch"
needs_gdb = pytest.mark.skipif(shutil.which(GDB) is None, reason=f"not installed: {GDB} (apt-get install {GDB})")

_INSIDE = Path(__file__).with_name("gdb_inside.py")


@dataclass(frozen=True)
class Stop:
    """Where gdb is to stop.

    Attributes:
        name: says it again in what comes back.
        commands: gdb commands that lead there.
        steps: how many instructions to step from there, with a look after each.
        values: expressions to evaluate there.
    """

    name: str
    commands: tuple[str, ...]
    steps: int = 0
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class GdbFrame:
    """A frame as gdb sees it."""

    pc: int
    function: str
    place: str
    inlined: bool


@dataclass(frozen=True)
class Stopped:
    """What gdb says at one stop: its backtrace, registers, memory and the values asked for."""

    name: str
    frames: tuple[GdbFrame, ...]
    registers: Mapping[str, int]
    memory: tuple[tuple[int, bytes], ...]
    values: tuple[int, ...]


def gdb_stops(
    elf: Path, machine: QemuMachine, stops: Sequence[Stop], ranges: Sequence[tuple[int, int]], folder: Path
) -> list[Stopped]:
    """Run an image in QEMU under gdb, from reset to each stop in turn.

    Args:
        elf: the image.
        machine: what QEMU emulates.
        stops: where to look.
        ranges: memory to read at each stop: (address, bytes).
        folder: for what gdb writes.
    """
    output = folder / "stops.json"
    with Qemu(machine, elf, debug=True) as qemu:
        plan = {
            "socket": str(qemu.folder / "gdb"),
            "output": str(output),
            "ranges": ranges,
            "stops": [vars(stop) for stop in stops],
        }
        done = subprocess.run(
            [GDB, "--batch", "-nx", "-iex", "set debuginfod enabled off", "-x", str(_INSIDE), str(elf)],
            env={**os.environ, "LAB_GDB_PLAN": json.dumps(plan)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert output.exists(), done.stdout + done.stderr
    return [
        Stopped(
            one["name"],
            tuple(_frame(*frame) for frame in one["frames"]),
            one["registers"],
            tuple((address, bytes.fromhex(data)) for address, data in one["memory"]),
            tuple(one["values"]),
        )
        for one in json.loads(output.read_text())
    ]


def _frame(pc: int, function: str, file: str, line: int, inlined: bool) -> GdbFrame:
    return GdbFrame(pc, function, f"{file}:{line}" if file else "", inlined)
