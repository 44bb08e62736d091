"""``lab crash``: what a board's core is doing now, or died of, over its debug probe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.bench import Bench
from lab.errors import ConfigError
from lab.lease import held
from lab.paths import cache_dir

if TYPE_CHECKING:
    from lab.inventory import Device
    from lab.transports.swd import Swd


@click.command()
@click.argument("device")
@click.option("--elf", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="The image on the device (default: found by its build id among those built here).")  # fmt: skip
@click.option("--leave-halted", is_flag=True, help="Keep the core halted afterwards, for a debugger.")
@click.pass_obj
def crash(config: Path, device: str, elf: Path | None, leave_halted: bool) -> None:
    """Halt DEVICE and say where it is: faults in words, registers, calls, stacks, the region that runs.

    A core that was running goes on afterwards; one that was halted stays so. docs/crashes.md says how to read it.
    """
    from lab.devices.probed import reached
    from lab.postmortem.capture import examine_core
    from lab.postmortem.text import render, whereabouts
    from lab.transports.swd_settings import open_swd

    entry = Bench.load(config).get(device)
    with held(entry, "lab crash"), reached(entry) as board:
        if board.fresh:
            raise ConfigError(
                f"no emulated board {entry.name} is kept running, so there is nothing to look at",
                hint=f"`lab emulate {entry.name}` in another shell, then `lab flash {entry.name}`",
            )
        swd = open_swd(board.settings, "attach")
        stays = True
        try:
            state = swd.state
            stays = leave_halted or state == "halted"
            image = _image(entry, swd, elf)
            swd.halt()
            report = examine_core(swd, image)
        finally:
            swd.close(resume=not stays)
    click.echo(f"{entry.name} was {state}{', and stays halted' if stays else ''}; {whereabouts(report)}")
    click.echo(f"  image: {image}\n{render(report)}")


def _image(entry: Device, swd: Swd, elf: Path | None) -> Path:
    from lab.devices.probed import image_on

    if elf is not None:
        return elf
    found = image_on(swd, cache_dir())
    if found is None:
        raise ConfigError(
            f"{entry.name} runs no image that was built here, so addresses have no names",
            hint="name the image that is on it with --elf",
        )
    return found.path
