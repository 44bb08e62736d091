"""Blobs through the memory an emulator shares with the host, to the device's confirmation that their CRC is right.

Claim: 1 MB/s or better, for the sample set of spoken-digits and for 8 MB.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
from common import BOARDS, Claim, image, spoken_digits, target, verdict

from lab.transports.base import MemoryPort
from lab.wire import Session

TRANSFERS = 7
BOUND_BYTES_PER_S = 1e6
LARGE_BYTES = 8_000_000


def rates(name: str, blobs: list[bytes]) -> list[list[float]]:
    """Bytes per second of each transfer, blob by blob."""
    emulator = target(name)
    stream = emulator.load(image(name, spoken_digits().model))
    try:
        emulator.release()
        session = Session(stream, board_is_alive=emulator.check_alive)
        session.open(ask=False)
        return [[rate(session, emulator.memory, blob) for _ in range(TRANSFERS)] for blob in blobs]
    finally:
        stream.close()
        emulator.close()


def rate(session: Session, memory: MemoryPort | None, blob: bytes) -> float:
    begin = time.perf_counter()
    session.put("samples", blob, memory)
    return len(blob) / (time.perf_counter() - begin)


def main() -> int:
    large = np.random.default_rng(0).integers(0, 256, LARGE_BYTES, np.uint8).tobytes()
    blobs = [spoken_digits().job.blob, large]
    claims = []
    for name in BOARDS:
        for blob, found in zip(blobs, rates(name, blobs), strict=True):
            seen = f"median {statistics.median(found) / 1e6:.1f} MB/s, least {min(found) / 1e6:.1f} (n={len(found)})"
            what = f"{len(blob)} bytes through shared memory, {name}, of {BOUND_BYTES_PER_S / 1e6:.0f} MB/s"
            claims.append(Claim(what, seen, statistics.median(found) / BOUND_BYTES_PER_S, 1.0, at_least=True))
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
