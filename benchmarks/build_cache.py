"""Firmware builds that need not start from nothing. Claims: one whose inputs did not change takes under 1 s; one of a
new model, where the same board was built before, at most a third of one with an empty cache.

All through :func:`lab.build.build` with caches of their own. Every hit hashes all that goes into the build, and the
image itself, as always; every new model's build checks the kept tree, as always. With an empty cache and with a kept
tree the same models are built in turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import BOARDS, Claim, firmware_board, spoken_digits, spread, verdict

from lab.build import Toolchain, build, tool_path
from lab.compiler.model import CompiledModel
from lab.paths import cache_dir

HITS = 10
BOUND_S = 1.0
MODELS = 7


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


def new_model(number: int) -> CompiledModel:
    """Spoken digits with something of its own."""
    model = spoken_digits().model
    own = f"\nextern const int own;\nconst int own = {number};\n"
    return replace(model, sources={**model.sources, "model.c": model.sources["model.c"] + own})


def kept_tree(board: str, toolchain: Toolchain) -> Claim:
    kept: list[float] = []
    empty: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(MODELS + 1):
            for cache, times in ((Path(folder) / "kept", kept), (Path(folder) / str(number), empty)):
                cache.mkdir(exist_ok=True)
                if not (cache / "zig").exists():
                    (cache / "zig").symlink_to(cache_dir() / "zig")  # Zig's run-time library takes tens of seconds
                begin = time.perf_counter()
                build(new_model(number), board, cache=cache, toolchain=toolchain)
                times.append(time.perf_counter() - begin)
    # The first build finds nothing in either.
    del kept[0], empty[0]
    seen = f"{spread(kept, 'ms', 1e3)}; with an empty cache {spread(empty, 'ms', 1e3)}"
    ratio = statistics.median(empty) / statistics.median(kept)
    name = f"{board}, {toolchain}" if toolchain else board
    return Claim(f"new model, {name}, of a build from nothing", seen, ratio, 3.0, at_least=True)


def main() -> int:
    (cache_dir() / "zig").mkdir(parents=True, exist_ok=True)
    claims = [compare(firmware_board(name)) for name in BOARDS]
    claims += [kept_tree(firmware_board("m4f"), ""), kept_tree("host", "")]
    if tool_path("zig") is not None:
        claims.append(kept_tree(firmware_board("m4f"), "zig"))
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
