"""``lab device power``: switch the supply of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from lab.bench import Bench
from lab.errors import ConfigError
from lab.labgrid.lease import wired
from lab.lease import held


@click.command()
@click.argument("device")
@click.argument("action", type=click.Choice(["on", "off", "cycle", "state"]))
@click.pass_obj
def power(config: Path, device: str, action: Literal["on", "off", "cycle", "state"]) -> None:
    """Switch the supply of DEVICE on or off, or off and on, and make sure that the device went and came back.

    ``state`` switches nothing: it shows what the switch says, and what shows whether the device has power.
    """
    from lab.devices.powered import switch_of

    entry = Bench.load(config).get(device)
    if entry.emulated:
        raise ConfigError(
            f"{entry.name} is emulated: each user starts one of their own, and nothing is left to be switched",
            hint="faults of emulated boards, a power cut among them, are in docs/emulation.md",
        )
    with held(entry, "lab device power") as fence:
        switch = switch_of(wired(entry, fence))
        if action == "state":
            says, powered = switch.state()
            told = "does not say" if says is None else "says on" if says else "says off"
            click.echo(f"{entry.name}: {switch.title} {told}; the device {'is there' if powered else 'is not there'}")
            return
        switch.do(action)
    click.echo(f"{entry.name}: {switch.title}: {action}, confirmed")
