"""``lab reset``: reset a board over its debug probe."""

from __future__ import annotations

from pathlib import Path

import click

from lab.bench import Bench
from lab.errors import ConfigError
from lab.lease import held
from lab.transports.swd_settings import RESET_KINDS, ResetKind


@click.command()
@click.argument("device")
@click.option("--kind", default="system", show_default=True, type=click.Choice(RESET_KINDS),
              help="Core and peripherals, the core alone, the reset pin, or registers written by hand.")  # fmt: skip
@click.option("--halt", is_flag=True, help="Stop at the first instruction.")
@click.pass_obj
def reset(config: Path, device: str, kind: ResetKind, halt: bool) -> None:
    """Reset DEVICE; it runs afterwards what is on it."""
    from lab.devices.probed import reached
    from lab.transports.swd_settings import open_swd

    entry = Bench.load(config).get(device)
    with held(entry, "lab reset"), reached(entry) as board:
        if board.fresh:
            raise ConfigError(
                f"no emulated board {entry.name} is kept running, so there is nothing to reset",
                hint=f"`lab emulate {entry.name}` in another shell, then `lab flash {entry.name}`",
            )
        swd = open_swd(board.settings, "attach")
        try:
            swd.reset(kind, halt=halt)
            counter = f", halted at {swd.read_register('pc'):#010x}" if halt else ""
        finally:
            swd.close(resume=not halt)
    click.echo(f"{entry.name}: reset ({kind}){counter}")
