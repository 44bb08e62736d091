"""A firmware build whose inputs did not change, against the first one. Claim: under 1 s.

Both through :func:`lab.build.build` with a cache of their own; every hit hashes all that goes into the build, and the
image itself, as always.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import BOARDS, Claim, firmware_board, spoken_digits, spread, verdict

from lab.build import build

HITS = 10
BOUND_S = 1.0


def build_s(board: str, cache: Path, expect_cached: bool) -> float:
    begin = time.perf_counter()
    artifact = build(spoken_digits().model, board, cache=cache)
    elapsed_s = time.perf_counter() - begin
    if artifact.cached is not expect_cached:
        raise SystemExit(f"{board}: cached is {artifact.cached}, expected {expect_cached}")
    return elapsed_s


def compare(board: str) -> Claim:
    spoken_digits()
    with tempfile.TemporaryDirectory() as folder:
        first_s = build_s(board, Path(folder), expect_cached=False)
        hits = [build_s(board, Path(folder), expect_cached=True) for _ in range(HITS)]
    hit_s = statistics.median(hits)
    seen = f"{spread(hits, 'ms', 1e3)}; the first build {first_s:.2f} s, {first_s / hit_s:.0f} times that"
    return Claim(f"unchanged build, {board}, of {BOUND_S:.0f} s", seen, hit_s / BOUND_S, 1.0)


def main() -> int:
    return verdict([compare(firmware_board(name)) for name in BOARDS])


if __name__ == "__main__":
    sys.exit(main())
