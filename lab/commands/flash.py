"""``lab flash``: put an image on a board over its debug probe."""

from __future__ import annotations

from pathlib import Path

import click

from lab.bench import Bench
from lab.inventory import Device
from lab.lease import held
from lab.paths import cache_dir
from lab.units import format_quantity

DEFAULT_WORKLOAD = "spoken-digits"


def image_of(entry: Device, workload: str, variant: str = "") -> Path:
    """The ELF with a workload's model, built for a device."""
    from lab.build import build
    from lab.devices.connect import console_of, firmware_of
    from lab.workloads import get

    model = get(workload).prepare(cache_dir(), variant).model
    return build(model, firmware_of(entry.board), cache=cache_dir(), console=console_of(entry)).path


@click.command()
@click.argument("device")
@click.argument("elf", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--workload", help=f"Build and flash this workload instead (default: {DEFAULT_WORKLOAD}).")
@click.option("--variant", default="", help="Variant of the workload.")
@click.pass_obj
def flash(config: Path, device: str, elf: Path | None, workload: str | None, variant: str) -> None:
    """Put ELF, or the image of a workload, on DEVICE, read it back and start it."""
    from lab.devices.probed import reached
    from lab.transports.swd_image import read_image
    from lab.transports.swd_settings import open_swd

    if elf is not None and workload is not None:
        raise click.UsageError("name an ELF or a workload, not both")
    entry = Bench.load(config).get(device)
    image = read_image(elf or image_of(entry, workload or DEFAULT_WORKLOAD, variant))
    with held(entry, "lab flash"), reached(entry) as board, open_swd(board.settings) as swd:
        done = swd.flash(image)
        size = format_quantity(done.image_bytes, "bytes")
        if done.programmed_bytes:
            speed = done.programmed_bytes / done.program_s / 1000
            how = f"written in {done.program_s:.2f} s ({speed:.0f} kB/s) and read back"
        else:
            how = f"there already, compared in {done.read_s:.2f} s"
        click.echo(f"{entry.name}: {size} {how}; SHA-256 {done.digest[:16]}")
    if board.fresh:
        click.echo(f"the emulated board ends now; `lab emulate {entry.name}` keeps one running")
