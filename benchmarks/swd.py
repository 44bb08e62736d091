"""Deployment over SWD to emulated boards: opening a session, and writing and reading back an image.

Through the virtual probe's CMSIS-DAP packets, as with a probe on USB, and without packets, at the debug port itself;
in turns. A deployment is everything but the resets around it, whose 0.1 s each are pyOCD's: the look at what flash
holds, erasing, programming, reading back. Both ends must run at once (pyOCD, the flash algorithm in QEMU), so the best
turns count. Claims: 250 kB/s with packets, 2 MB/s without, a session open within 0.3 s.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common import Claim, spread, verdict

from lab.bench import Bench
from lab.devices.probed import probed_machine, swd_settings
from lab.emulators.probe.board import ProbedBoard
from lab.emulators.probe.direct import DirectProbe
from lab.emulators.probe.registry import find_board
from lab.paths import config_dir
from lab.transports.swd import Swd
from lab.transports.swd_image import Core, Image, Segment
from lab.transports.swd_settings import SwdSettings

TURNS = 6
PACKETS_BYTES_PER_S = 250e3
DIRECT_BYTES_PER_S = 2e6
OPEN_S = 0.3
# Device, first address of its flash, bytes of the image.
BOARDS = (("m4f-swd", 0, 1 << 20), ("f405-swd", 0x08000000, 1 << 20), ("microbit-swd", 0, 1 << 17))
# Programmed by pyOCD's own algorithm for the part, two routines on the emulated core for each KiB: that takes its time
# with packets and without.
PACKETS_ONLY = ("microbit-swd",)
WAYS = {True: ("CMSIS-DAP packets", PACKETS_BYTES_PER_S), False: ("debug port", DIRECT_BYTES_PER_S)}


@dataclass
class Seen:
    """Figures of one way to a board."""

    bytes_per_s: list[float] = field(default_factory=list)
    open_s: list[float] = field(default_factory=list)


def random_image(start: int, size: int, seed: int) -> Image:
    """An image that no flash holds yet: a stack pointer, an entry, noise."""
    head = (0x20001000).to_bytes(4, "little") + (start + 9).to_bytes(4, "little")
    data = head + random.Random(seed).randbytes(size - len(head))
    return Image(Path("noise"), (Segment(start, data),), Core("any core", "v6-M"), {})


@contextmanager
def opened(settings: SwdSettings, seen: Seen, *, packets: bool) -> Iterator[Swd]:
    begin = time.perf_counter()
    swd = Swd(settings, probe=None if packets else DirectProbe(find_board(settings.unique_id)))
    seen.open_s.append(time.perf_counter() - begin)
    try:
        yield swd
    finally:
        # Noise is nothing to run.
        swd.close(resume=False)


def measure(name: str, start: int, size: int) -> dict[bool, Seen]:
    """Deployments in turns; figures with packets, and without."""
    entry = Bench.load(config_dir() / "probed.yaml").get(name)
    ways = {packets: Seen() for packets in WAYS if packets or name not in PACKETS_ONLY}
    with ProbedBoard(probed_machine(entry)) as board:
        settings = swd_settings(entry, board.unique_id)
        for turn in range(TURNS):
            for packets, seen in ways.items():
                image = random_image(start, size, 2 * turn + packets)
                with opened(settings, seen, packets=packets) as swd:
                    done = swd.flash(image)
                seen.bytes_per_s.append(done.programmed_bytes / (done.program_s + done.read_s))
    return ways


def main() -> int:
    claims = []
    opens: list[float] = []
    for name, start, size in BOARDS:
        ways = measure(name, start, size)
        opens += ways[True].open_s
        for packets, seen in ways.items():
            way, bound = WAYS[packets]
            text = f"{spread(seen.bytes_per_s, 'kB/s', 1e-3)}"
            ratio = max(seen.bytes_per_s) / bound
            claims.append(Claim(f"deploy {size >> 10} KiB to {name}, {way}", text, ratio, 1.0, at_least=True))
    seen_open = spread(opens[1:], "ms", 1e3)
    claims.append(Claim("open a session, CMSIS-DAP packets", seen_open, statistics.median(opens[1:]) / OPEN_S, 1.0))
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
