"""``lab env``: what a device with an operating system is like now, and what the bench file asks of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.bench import Bench
from lab.commands.table import echo_table
from lab.errors import ConfigError
from lab.lease import held
from lab.paths import cache_dir

if TYPE_CHECKING:
    from lab.devices.base import Device
    from lab.environment import Hands
    from lab.inventory import Device as Entry
    from lab.inventory import DeviceClass
    from lab.transports.remote import Remote

_MOST_ZONES = 12


@click.command("env")
@click.argument("device")
@click.pass_obj
def env(config: Path, device: str) -> None:
    """Show the measurement environment of DEVICE: clocks, heat, throttling, load, memory, power mode, battery.

    Changes nothing, but that what an earlier run left behind is put back. An emulated device is started for it.
    """
    from lab.devices.connect import connected

    entry = Bench.load(config).get(device)
    with held(entry, "lab env") as fence, connected(entry, cache_dir(), fence) as found:
        _show(entry, remote_of(entry, found))


def remote_of(entry: Entry, device: Device) -> Remote:
    """How commands are run on a device.

    Raises:
        ConfigError: it has no operating system.
    """
    from lab.devices.linux import Linux

    if isinstance(device, Linux):
        return device.remote
    raise ConfigError(
        f"{entry.name} is a {entry.board.kind}, which has no operating system to set up",
        hint="`lab devices` lists the bench; boards of class linux, phone and host have an environment",
    )


def _show(entry: Entry, remote: Remote) -> None:
    from lab.environment.changes import hands_of
    from lab.environment.measuring import observe
    from measurements.report.environment import environment_view

    hands = hands_of(remote)
    kind: DeviceClass = entry.board.device_class
    environment = observe(hands, kind)
    view = environment_view(environment)
    rows = [("WHAT", "NOW"), *((name, values[-1]) for name, values in view.rows)]
    snapshot = environment.snapshots[-1]
    rows += [(f"zone {zone.name}", f"{zone.temperature_c:.1f} °C") for zone in snapshot.zones[:_MOST_ZONES]]
    rows.append(("rights", _rights(hands, kind)))
    rows.append(("memory of a process by", _memory(hands)))
    echo_table(rows)
    asked = entry.config.environment.model_dump(exclude_none=True)
    told = ", ".join(f"{name}: {_plain(value)}" for name, value in asked.items())
    click.echo(f"\nset while it measures: {told or 'nothing; add environment: to its entry in the bench file'}")
    for line in (*view.throttled, *view.notes):
        click.echo(f"note: {line}")


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _rights(hands: Hands, kind: DeviceClass) -> str:
    if kind == "phone":
        return "the shell's: screen and airplane mode, no clocks"
    if not hands.may:
        return "none: nothing of the kernel's can be set (log in as root, or allow sudo without a password)"
    return "root, by sudo" if hands.prefix else "root"


def _memory(hands: Hands) -> str:
    """Which way the peak of a process will be found."""
    from lab.environment.memory import MemoryWatch

    watch = MemoryWatch(hands, "/tmp")
    watch.wrap(["true"])
    try:
        return watch.method
    finally:
        watch.close()
