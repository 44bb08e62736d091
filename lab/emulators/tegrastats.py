"""A program that prints what Nvidia's ``tegrastats`` prints, with power rails that follow a load.

Real-time: a line every interval, each rail as whole milliwatts now and on average since it began, in the form of a
JetPack: without units and without a date (4), with both (5, 6). A load's voltage is the rail's.

By hand, and as a meter finds it::

    python -m lab.emulators.tegrastats --script load.npy --rails VDD_IN,VDD_SOC --interval 100
"""

from __future__ import annotations

import argparse
import itertools
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.emulators.load import Load, ScriptedLoad


def line(rails: Sequence[tuple[str, int, int]], jetpack: int) -> str:
    """One line.

    Args:
        rails: name, milliwatt now, milliwatt on average.
        jetpack: 4, 5 or 6.
    """
    unit = "" if jetpack == 4 else "mW"
    watts = " ".join(f"{name} {now}{unit}/{mean}{unit}" for name, now, mean in rails)
    memory = "RAM 775/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,0%@729,off,off]"
    if jetpack == 4:
        return f"{memory} EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 APE 25 GPU@36C CPU@36.5C thermal@36.25C {watts}"
    return f"{time.strftime('%m-%d-%Y %H:%M:%S')} {memory} GR3D_FREQ 0% cpu@48.468C gpu@48.562C tj@49.156C {watts}"


def rails_of(load: Load, names: Sequence[str], begin_s: float, end_s: float) -> list[tuple[str, int, int]]:
    """Rails over an interval of the load, of which each has as much as any other."""
    now_mw = load.truth(begin_s, end_s).mean_power_w * 1e3 / len(names)
    mean_mw = load.truth(0.0, end_s).mean_power_w * 1e3 / len(names)
    return [(name, round(now_mw), round(mean_mw)) for name in names]


def write_program(folder: Path, load: ScriptedLoad, rails: Sequence[str], jetpack: int = 6) -> Path:
    """A program of this name in a folder, to be started as the real one is; its path.

    Args:
        folder: takes the program and the load.
        load: of all rails together.
        rails: names, in the order of the line.
        jetpack: whose form the lines have.
    """
    script, program = folder / "tegrastats.npy", folder / "tegrastats"
    load.write(script)
    own = [sys.executable, "-m", "lab.emulators.tegrastats"]
    own += ["--script", str(script), "--rails", ",".join(rails), "--jetpack", str(jetpack)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(own)} "$@"\n')
    program.chmod(0o755)
    return program


def main() -> None:
    """Print until nobody reads any more."""
    parser = argparse.ArgumentParser(prog="python -m lab.emulators.tegrastats", description="An emulated tegrastats")
    parser.add_argument("--script", type=Path, required=True, help="the load (ScriptedLoad.write)")
    parser.add_argument("--rails", default="VDD_IN", help="names, separated by commas")
    parser.add_argument("--jetpack", type=int, choices=(4, 5, 6), default=6)
    parser.add_argument("--interval", type=int, default=1000, help="milliseconds")
    parser.add_argument("--lines", type=int, default=0, help="end after so many; 0: never")
    options = parser.parse_args()
    load, names = ScriptedLoad.read(options.script), options.rails.split(",")
    begin_s, interval_s = time.monotonic(), options.interval * 1e-3
    for number in itertools.count(1):
        if number > (options.lines or math.inf):
            return
        time.sleep(max(0.0, begin_s + number * interval_s - time.monotonic()))
        try:
            rails = rails_of(load, names, (number - 1) * interval_s, number * interval_s)
            print(line(rails, options.jetpack), flush=True)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
