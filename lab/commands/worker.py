"""``lab worker``: a process of ``--workers``; :mod:`lab.commands.side_by_side` starts it, and nobody else.

It reads its order as one line of JSON on standard input. What it prints is what any command prints, except for lines
with an RS: each is a cell that did not run, or not to its end, as JSON. Anything more on standard input, or its end,
asks it to end in order as SIGTERM does.
"""

from __future__ import annotations

import os
import threading
from io import FileIO
from pathlib import Path
from signal import SIGTERM

import click

from lab.bench import Bench
from lab.signals import signal_main


@click.command(hidden=True)
@click.pass_obj
def worker(config: Path) -> None:
    """Run one device's part of --workers."""
    from lab.commands.order import ORDER, RECORD, UNMEASURED
    from lab.commands.running import run_cells
    from lab.workloads import get

    told = _own_input()
    order = ORDER.validate_json(told.readline())
    threading.Thread(target=_end_when_asked, args=(told,), name="lab-worker-input", daemon=True).start()
    entry = Bench.load(config).get(order.device)
    for lacking in run_cells([(entry, get(name)) for name in order.workloads], order.terms):
        click.echo(RECORD + UNMEASURED.dump_json(lacking).decode())


def _own_input() -> FileIO:
    """Standard input for this module alone: programs that are started find nothing there."""
    own = FileIO(os.dup(0), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return own


def _end_when_asked(told: FileIO) -> None:
    if not told.read(1):
        # Who started this process is gone, and what is written to a pipe that nobody reads would end the clean-up.
        with Path(os.devnull).open("wb") as nothing:
            for stream in (1, 2):
                os.dup2(nothing.fileno(), stream)
    signal_main(SIGTERM)
