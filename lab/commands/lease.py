"""``lab lease``: who holds which device, who waits, and how a person takes one, gives it back or takes it away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from lab.bench import Bench
from lab.errors import ConfigError, InfrastructureError, LeaseLost
from lab.interrupt import interruptible
from lab.inventory import Device
from lab.labgrid.lease import PlaceLease, take_place
from lab.lease import BORROWED, Lease, borrowed_token, holder, kick, lease_of, myself, waiting
from lab.lease import lease as take_lease
from lab.lease_records import Holder
from lab.units import parse_seconds
from lab.waiting_line import PRIORITIES, Priority

_ANSWER_S = 5.0


@click.group()
def lease() -> None:
    """Who holds which device, and who waits."""


@lease.command("list")
@click.pass_obj
def list_leases(config: Path) -> None:
    """Holders of all devices that are held, and who waits for them, first of all who goes first."""
    holders = [found for entry in Bench.load(config).devices if (found := holder(entry.name)) is not None]
    for one in holders:
        left_s = max(0.0, one.deadline - time.monotonic())
        click.echo(f"{one.device}: {one.describe()}; {one.priority}, token {one.token}, renewed for {left_s:.0f} s")
    for waiter in waiting():
        since = datetime.fromtimestamp(waiter.since, UTC).strftime("%H:%M:%S UTC")
        click.echo(
            f"waiting for {' or '.join(waiter.devices)}: {waiter.holder} (pid {waiter.pid}) for "
            f"'{waiter.purpose}' since {since}; {waiter.priority}"
        )
    if not holders:
        click.echo("no device is held")


@lease.command(context_settings={"ignore_unknown_options": True})
@click.argument("selection")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--purpose", default="by hand", show_default=True, help="Shown to whoever waits.")
@click.option("--for", "limit", default="2 h", show_default=True, help="Give it back after so long, such as 30min.")
@click.option("--wait", default="60 s", show_default=True, help="How long to wait for its holder.")
@click.option("--priority", type=click.Choice(list(PRIORITIES)), default="interactive", show_default=True)
@click.pass_obj
def take(
    config: Path, selection: str, command: Sequence[str], purpose: str, limit: str, wait: str, priority: Priority
) -> None:
    """Take a device that fits SELECTION, and hold it while COMMAND runs, or a shell where none is given.

    SELECTION is a name, or what a device must have, as for `pytest --lab-devices`: 'cpu:cortex-m7+feature:meter' is any
    such device, the first that is free. Where some are places of labgrid's and none is free at once, one is waited for,
    and it says which. What COMMAND starts uses the device by the variable LAB_LEASE.
    """
    candidates = {entry.name: entry for entry in Bench.load(config).select(selection) if entry.needs_lease}
    if not candidates:
        raise ConfigError(
            f"nothing that fits {selection!r} can be taken",
            hint="emulated devices are nobody's: each user starts one of their own; `lab devices` lists the bench",
        )
    argv = list(command) or [os.environ.get("SHELL", "/bin/sh")]
    limit_s = parse_seconds(limit)
    with _taken(candidates, purpose, parse_seconds(wait), priority) as held:
        click.echo(f"{held.record.device} is yours for {limit}; it is given back when this ends", err=True)
        status = _run(argv, held, limit_s)
    sys.exit(status)


def _taken(
    candidates: Mapping[str, Device], purpose: str, wait_s: float, priority: Priority
) -> Lease | PlaceLease:
    """The first of several that is free.

    Nobody can stand in the lines of several places: where no device is free at once, who wants any of them waits for
    the first that nobody holds on this host, whoever holds it on others. A place that is not served is nobody's choice.
    """
    until = time.monotonic() + wait_s
    held: list[str] = []
    places = any(entry.config.place is not None for entry in candidates.values())
    if places and len(candidates) > 1 and not any(borrowed_token(name) for name in candidates):
        for entry in candidates.values():
            try:
                return lease_of(entry, purpose, 0.0, priority=priority)
            except LeaseLost:
                held.append(entry.name)
            except InfrastructureError as error:
                click.echo(f"{entry.name}: {error}", err=True)
    taken = take_lease(held or [*candidates], purpose, max(0.0, until - time.monotonic()), priority=priority)
    entry = candidates[taken.record.device]
    if entry.config.place is None:
        return taken
    if held:
        click.echo(f"none of {', '.join(candidates)} is free; waiting for {entry.name} alone", err=True)
    return take_place(entry, taken, max(0.0, until - time.monotonic()))


def _run(argv: Sequence[str], held: Lease | PlaceLease, limit_s: float) -> int:
    """Run a command that uses the device; ends it when the time is up or the device is lost."""
    lent = f"{held.record.device}:{held.record.token}"
    try:
        child = subprocess.Popen(argv, env={**os.environ, BORROWED: lent})
    except OSError as error:
        raise ConfigError(f"{argv[0]}: cannot be started: {error.strerror}", hint="name a program in PATH") from error
    try:
        with interruptible():
            return child.wait(timeout=limit_s)
    except subprocess.TimeoutExpired as late:
        raise LeaseLost(
            f"the {limit_s:g} s for which '{held.record.device}' was taken are over", hint="take it with a longer --for"
        ) from late
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=_ANSWER_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@lease.command()
@click.argument("device")
@click.pass_obj
def release(config: Path, device: str) -> None:
    """Give back a device that you took in another terminal: what runs there is ended within seconds."""
    found = _holder(config, device)
    if found.holder != myself():
        raise ConfigError(
            f"'{device}' is held by {found.describe()}, not by you",
            hint=f"ask them, or take it away: `lab lease kick {device} --reason …`",
        )
    kick(device, "given back by `lab lease release`")
    click.echo(f"{device} is free; it was held for '{found.purpose}'")


@lease.command("kick")
@click.argument("device")
@click.option("--reason", required=True, help="Told to the holder.")
@click.pass_obj
def kick_holder(config: Path, device: str, reason: str) -> None:
    """Take a device away from whoever holds it; their run ends within seconds, with what it captured kept."""
    found = _holder(config, device)
    kick(device, reason)
    click.echo(f"{device} was taken away from {found.describe()}")


def _holder(config: Path, device: str) -> Holder:
    found = holder(Bench.load(config).get(device).name)
    if found is None:
        raise ConfigError(f"'{device}' is held by nobody", hint="`lab lease list` shows who holds what")
    return found
