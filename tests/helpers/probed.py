"""Boards behind virtual debug probes, for tests."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.toolchain import SAMPLE_BYTES, tiny_model, tiny_output

from lab.artifact import Artifact
from lab.build import build
from lab.devices.base import Identity
from lab.devices.connect import console_of, firmware_of
from lab.devices.mcu import Mcu
from lab.devices.probed import probed_machine, swd_settings
from lab.devices.swd_mcu import SwdTarget
from lab.emulators.probe.board import ProbedBoard
from lab.events import Job, ResultEvent
from lab.inventory import Device, load_bench
from lab.paths import cache_dir, config_dir
from lab.transports.swd_settings import SwdSettings

SAMPLES = random.Random(4).randbytes(8 * SAMPLE_BYTES)
JOB = Job("infer", SAMPLES, 8, quiet_us=200)
EXPECTED = [tiny_output(SAMPLES[at : at + SAMPLE_BYTES]) for at in range(0, len(SAMPLES), SAMPLE_BYTES)]


def probed_entry(name: str) -> Device:
    """A device of the bench whose boards have virtual probes."""
    return load_bench(config_dir() / "probed.yaml").devices[name]


def probed_image(entry: Device) -> Artifact:
    """The tiny model's image for a device, with the jobs that misbehave; from the user's cache of builds."""
    return build(tiny_model(), firmware_of(entry.board), cache=cache_dir(), test_jobs=True, console=console_of(entry))


def results(device: Mcu) -> list[bytes]:
    """What the device computes from :data:`SAMPLES`."""
    return [event.data for event in device.run(JOB) if isinstance(event, ResultEvent)]


@dataclass(frozen=True)
class Rig:
    """A board on the desk: the board itself, its probe's settings, a device that uses it, an image for it."""

    board: ProbedBoard
    settings: SwdSettings
    device: Mcu
    artifact: Artifact

    def deploys(self) -> bool:
        """Whether a deployment takes and the runner computes what it should."""
        return self.device.deploy(self.artifact).build_id == self.artifact.build_id and results(self.device) == EXPECTED


@contextmanager
def rig(name: str, folder: Path) -> Iterator[Rig]:
    """A board of the bench with its probe, registered in a folder of the test's own.

    Args:
        name: device of ``device_configs/probed.yaml``.
        folder: takes the registry of emulated boards.
    """
    entry = probed_entry(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_STATE", str(folder))
        with ProbedBoard(probed_machine(entry)) as board:
            settings = swd_settings(entry, board.unique_id)
            line = None if console_of(entry) == "rtt" else board.open_serial
            identity = Identity(entry.name, firmware_of(entry.board), "emulated", "", frozenset())
            device = Mcu(identity, SwdTarget(settings, line, board=board))
            try:
                yield Rig(board, settings, device, probed_image(entry))
            finally:
                device.close()


def small_elf(folder: Path, *flags: str, address: int = 0, words: int = 64) -> Path:
    """A linked image of a table and a function, for the processor that the compiler's flags name."""
    folder.mkdir(parents=True, exist_ok=True)
    source, script, elf = folder / "small.c", folder / "small.ld", folder / "small.elf"
    source.write_text(
        f"""
        __attribute__((section(".vectors"), used)) const unsigned vectors[{words}] = {{0x20001000u, 9u, 7u}};
        int counter;
        __attribute__((used)) int main(void) {{ return ++counter; }}
        """
    )
    script.write_text(
        f"""
        SECTIONS {{ .text {address:#x} : {{ KEEP(*(.vectors)) *(.text*) }}
                    .bss 0x20000000 (NOLOAD) : {{ *(.bss*) }} /DISCARD/ : {{ *(.ARM.exidx*) }} }}
        """
    )
    command: list[str | Path] = ["arm-none-eabi-gcc", *flags, "-mthumb", "-O1", "-nostdlib", "-Wl,-e,main"]
    subprocess.run([*command, "-T", script, source, "-o", elf], check=True, capture_output=True)
    return elf
