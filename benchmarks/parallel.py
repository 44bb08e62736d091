"""Two workers of pytest-xdist against one, on emulated devices; and what a bench of a thousand devices costs.

Scaling: the same tests on the same devices, ``-n 1`` and ``-n 2`` in turns, each a whole ``pytest`` as a user starts
it, of training and of very short inferences. Claim: two workers take at most 1/1.8 of the time of one for training, on
a machine whose two cores are free. Inferences of less than half a millisecond are shown without a bound: the host
decodes what a board reports while the board goes on, so that one worker already uses more than one core. Other load
takes from two workers more than from one; the processor time per second of both is printed beside it, which says how
much of the machine each got, and whether both did the same work. Cores that share caches and memory give less than
twice the speed to begin with: so two sessions that share nothing run at once as well, each with half the devices,
against one of them alone. Claim for both kinds: the workers reach at least nine tenths of what the machine gives.

Size: ``lab devices`` and ``pytest --collect-only`` with a thousand devices in the bench file, best of some turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import Claim, verdict

DEVICES = 12
BOARDS = ("mps2-an386", "mps2-an500")
TURNS = 1
LEAST, OF_MACHINE = 1.8, 0.9
MANY = 1000
LIST_S, COLLECT_S = 1.0, 2.0
LOOKS = 5

TRAINING = "training steps"
SESSIONS = {
    TRAINING: 'measure(deploy("digits-transfer"))',
    "short inferences": 'measure(deploy("spoken-digits"), repeats=400, samples=16)',
}
_TEST = """
import pytest

@pytest.mark.hil
def test_on_each(deploy, measure):
    {}
"""
_LAB = (sys.executable, "-m", "lab")
_PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--lab-no-report", "test_parallel.py")


@dataclass(frozen=True)
class Turn:
    """What one command took, with all that it started."""

    wall_s: float
    cpu_s: float


def taken(command: tuple[str, ...], folder: Path, store: str) -> Turn:
    """Run a command in a folder with a store of its own, whose name no other command may have."""
    environment = {**os.environ, "LAB_CONFIG": str(folder / "bench.yaml"), "LAB_STORE": str(folder / store)}
    said = folder / f"{store}.output"
    with said.open("wb") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{said.read_text(errors='replace')}")
    return Turn(wall_s, usage.ru_utime + usage.ru_stime)


def write_bench(folder: Path, count: int) -> None:
    """A bench file of emulated boards without meters, which would be processes of their own."""
    entries = [f"  d{number}: {{board: {BOARDS[number % 2]}, emulated: true}}\n" for number in range(count)]
    (folder / "bench.yaml").write_text("devices:\n" + "".join(entries))


def at_once(folders: Sequence[Path], store: str) -> float:
    """Seconds until a session in each folder, begun together, has ended."""
    with ThreadPoolExecutor() as pool:
        return max(pool.map(lambda folder: taken(_PYTEST, folder, store).wall_s, folders))


def scaling(folder: Path, what: str) -> list[Claim]:
    """One worker and two, one session and two of their own, in turns; of one of ``SESSIONS``."""
    halves = (folder / "left", folder / "right")
    for place in (folder, *halves):
        place.mkdir(exist_ok=True)
        write_bench(place, DEVICES if place is folder else DEVICES // 2)
        (place / "test_parallel.py").write_text(_TEST.format(SESSIONS[what]))
    # Builds and trains what is not in the cache yet.
    taken((*_PYTEST, "-n", "2"), folder, "store-first")
    turns: dict[int, list[Turn]] = {1: [], 2: []}
    apart: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(TURNS):
        for workers, seen in turns.items():
            seen.append(taken((*_PYTEST, "-n", str(workers)), folder, f"store-{workers}-{turn}"))
            print(f"  {workers} worker(s): {seen[-1].wall_s:.1f} s, {seen[-1].cpu_s:.1f} s of processor time")
            apart[workers].append(at_once(halves[:workers], f"store-{workers}-{turn}"))
    best = {workers: min(turn.wall_s for turn in seen) for workers, seen in turns.items()}
    cores = {workers: max(turn.cpu_s / turn.wall_s for turn in seen) for workers, seen in turns.items()}
    work = [statistics.median(turn.cpu_s for turn in seen) for seen in turns.values()]
    ratio, alone, together = best[1] / best[2], min(apart[1]), min(apart[2])
    given = 2 * alone / together
    shown = (
        f"{DEVICES} devices: {best[1]:.1f} s to {best[2]:.1f} s; cores used {cores[1]:.2f} to {cores[2]:.2f}, "
        f"processor time {work[0]:.1f} s to {work[1]:.1f} s"
    )
    print(f"{what}: two workers against one, best turns: {shown}; {ratio:.3g}")
    machine = f"two sessions that share nothing: {alone:.1f} s alone, {together:.1f} s at once, {given:.2f}"
    claims = [Claim(f"{what}: two workers, of what is given", machine, ratio / given, OF_MACHINE, at_least=True)]
    if what == TRAINING:
        claims.append(Claim(f"{what}: two workers against one, best turns", shown, ratio, LEAST, at_least=True))
    return claims


def size(folder: Path) -> list[Claim]:
    """A thousand devices that nobody uses."""
    write_bench(folder, MANY)
    claims = []
    for what, command, bound_s in (
        ("lab devices", (*_LAB, "devices"), LIST_S),
        ("pytest --collect-only", (*_PYTEST, "--collect-only"), COLLECT_S),
    ):
        walls = [taken(command, folder, "store-many").wall_s for _ in range(LOOKS)]
        shown = f"{MANY} devices: {min(walls):.2f} s (median {statistics.median(walls):.2f} s) of {bound_s:g} s"
        claims.append(Claim(what, shown, min(walls) / bound_s, 1.0))
    return claims


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="lab-parallel-") as name:
        folder = Path(name)
        claims = []
        for number, what in enumerate(SESSIONS):
            place = folder / str(number)
            place.mkdir()
            claims += scaling(place, what)
        return verdict([*claims, *size(folder)])


if __name__ == "__main__":
    raise SystemExit(main())
