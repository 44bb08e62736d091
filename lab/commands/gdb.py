"""``lab gdb``: debug a board with gdb over its debug probe."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.bench import Bench
from lab.commands.flash import DEFAULT_WORKLOAD, image_of
from lab.lease import held
from lab.paths import cache_dir

if TYPE_CHECKING:
    pass

_DEBUGGERS = ("arm-none-eabi-gdb", "gdb-multiarch")
_POLL_S = 0.1


@click.command()
@click.argument("device")
@click.argument("elf", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--workload", help="The image of this workload; on a board that has none: flash it first.")
@click.option("--port", default=3333, show_default=True, type=click.IntRange(1, 65535), help="TCP port for gdb.")
@click.pass_obj
def gdb(config: Path, device: str, elf: Path | None, workload: str | None, port: int) -> None:
    """Serve gdb for DEVICE until Ctrl-C, and print the command that starts it.

    Without ELF the image is the one that is on the device, if it was built here.
    """
    from lab.devices.probed import image_on, reached
    from lab.transports.swd_image import read_image
    from lab.transports.swd_settings import open_swd

    entry = Bench.load(config).get(device)
    with held(entry, "lab gdb"), reached(entry) as board, open_swd(board.settings, "attach") as swd:
        named = image_of(entry, workload or DEFAULT_WORKLOAD) if workload or (board.fresh and elf is None) else elf
        if board.fresh and named is not None:
            swd.flash(read_image(named))
        image = image_on(swd, cache_dir()) if named is None else read_image(named)
        if image is None:
            click.echo(f"# {entry.name} runs no image that was built here: name its ELF for symbols")
        elif not swd.holds(image):
            click.echo(f"# {entry.name} holds another image than {image.path}: `lab flash {entry.name} …` first")
        with swd.serving_gdb(port) as serving:
            click.echo(_command(image.path if image else None, port))
            click.echo("# Ctrl-C ends")
            try:
                while serving():
                    time.sleep(_POLL_S)
            except KeyboardInterrupt:
                click.echo("")


def _command(elf: Path | None, port: int) -> str:
    program = next((name for name in _DEBUGGERS if shutil.which(name)), _DEBUGGERS[0])
    image = "" if elf is None else f" {elf}"
    return f"{program}{image} -ex 'target extended-remote localhost:{port}'"
