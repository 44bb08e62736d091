"""``lab emulate``: keep an emulated board and its debug probe running, for other programs to use."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.bench import Bench
from lab.errors import Crash

if TYPE_CHECKING:

    from lab.emulators.probe.board import ProbedBoard

_POLL_S = 0.2


@click.command()
@click.argument("device")
@click.pass_obj
def emulate(config: Path, device: str) -> None:
    """Keep the emulated DEVICE running, with a debug probe and its serial port on a PTY, until Ctrl-C.

    Its memory is empty at first: program it from another shell. A core that locks up costs the board its power, and so
    its memory; the probe stays.
    """
    from lab.devices.probed import probed_machine
    from lab.emulators.probe.board import ProbedBoard

    machine = probed_machine(Bench.load(config).get(device))
    try:
        with ProbedBoard(machine, unique_id=device) as board:
            while True:
                _keep(board, device)
                board.power_off()
                board.power_on()
    except KeyboardInterrupt:
        click.echo("")


def _keep(board: ProbedBoard, device: str) -> None:
    """Serve one life of the board; returns when its core has locked up."""
    with board.serial_on_pty() as link:
        click.echo(
            f"# {device}: {board.entry.board} behind probe {board.unique_id}, serial port {link.path}\n"
            f"pyocd list\n"
            f"pyocd load -u {board.unique_id} IMAGE.elf\n"
            f"pyocd gdbserver -u {board.unique_id}\n"
            f"lab flash {device}\n"
            "# Ctrl-C ends"
        )
        sys.stdout.flush()
        while True:
            try:
                board.check_alive()
            except Crash as crash:
                click.echo(f"# {crash.message.splitlines()[0]}: its power goes off and on, its memory is empty again")
                return
            time.sleep(_POLL_S)
