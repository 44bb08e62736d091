"""``lab labgrid``: boards of other hosts, through a labgrid coordinator."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

import click

from lab.bench import Bench
from lab.commands.table import echo_table
from lab.errors import ConfigError
from lab.inventory import board_files, load_board
from lab.labgrid.config import LabgridConfig
from lab.paths import state_dir
from lab.printable import printable

_ADDRESS = "127.0.0.1:20408"
_unprotected = click.option(
    "--unprotected", is_flag=True, help="Listen where other computers can connect; nobody is asked who it is."
)


@click.group()
def labgrid() -> None:
    """Boards of other hosts: labgrid's coordinator, exporters and places (docs/labgrid.md)."""


@labgrid.command("install")
def install_labgrid() -> None:
    """Install labgrid into an environment of its own, beside the lab's."""
    from lab.labgrid.environment import VERSION, install

    click.echo(f"labgrid {VERSION} is in {install()}")


@labgrid.command()
@click.option("--listen", default=_ADDRESS, show_default=True, metavar="HOST:PORT")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where it keeps its places.")
@click.option("--ttl", default=30.0, show_default=True, type=click.FloatRange(1.0),
              help="Seconds after which a place of a dead holder is given back.")  # fmt: skip
@_unprotected
def coordinator(listen: str, folder: Path | None, ttl: float, unprotected: bool) -> None:
    """Run a coordinator until Ctrl-C; it is started again when it ends, and places of dead holders are given back."""
    from lab.labgrid.supervise import coordinator_service, keep_clean, supervise

    service = coordinator_service(listen, folder or state_dir() / "labgrid", unprotected=unprotected)
    host, _, port = listen.rpartition(":")
    here = listen if host.strip("[]") not in ("", "::", "0.0.0.0") else f"127.0.0.1:{port}"
    config = LabgridConfig(coordinator=here, ttl=ttl, unprotected=unprotected)

    def meanwhile(ending: threading.Event) -> None:
        keep_clean(config, _say, ending)

    supervise(service, _say, meanwhile)


@labgrid.command()
@click.argument("resources", type=click.Path(path_type=Path))
@click.option("--coordinator", default=_ADDRESS, show_default=True, metavar="HOST:PORT")
@click.option("--name", default=socket.gethostname, help="Its name at the coordinator (default: this host's).")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where serial ports listen.")
@_unprotected
def exporter(resources: Path, coordinator: str, name: str, address: str, unprotected: bool) -> None:
    """Export what RESOURCES lists until Ctrl-C; the exporter is started again when it ends."""
    from lab.labgrid.supervise import exporter_service, supervise

    with exporter_service(coordinator, name, resources, address, unprotected=unprotected) as service:
        supervise(service, _say)


@labgrid.command()
@click.pass_obj
def places(config: Path) -> None:
    """List the coordinator's places: who holds them, who waits, what they have, and why one is no device."""
    from lab.labgrid.client import Coordinator
    from lab.labgrid.places import unusable
    from lab.labgrid.wiring import features_of

    section = _section(config)
    boards = {kind: load_board(file) for kind, file in board_files(config.parent).items()}
    rows: list[tuple[str, ...]] = [("PLACE", "HAS", "HELD BY", "NEXT", "")]
    with Coordinator(section) as session:
        line = session.line()
        for place in session.places:
            has = " ".join(features_of(place.having(session.resources))) or "nothing that is there"
            held = place.describe() if place.acquired else "-"
            after = ", ".join(one.person for one in line if one.wanted == place.name) or "-"
            row = (place.name, has, held, after, unusable(place, boards))
            rows.append(tuple(printable(cell) for cell in row))
    echo_table(rows)


@labgrid.command()
@click.pass_obj
def clean(config: Path) -> None:
    """Give back places of dead holders, and take the dead out of the line: watches for the time-to-live, then ends."""
    from time import monotonic

    from lab.labgrid.client import Coordinator
    from lab.labgrid.dead import DeathWatch, LineWatch, cancel_dead, release_dead

    section = _section(config)
    watch, line, freed = DeathWatch(section.ttl), LineWatch(section.ttl), 0
    with Coordinator(section) as session:
        longest_s = max([section.ttl, *(place.ttl_s or 0.0 for place in session.places if place.by_lab)])
        until = monotonic() + longest_s
        while True:
            over = monotonic() > until
            for place in release_dead(session, watch):
                _say(f"{place.name} was given back for {place.describe()}")
                freed += 1
            waiting = session.line()
            for one in cancel_dead(session, line, waiting):
                _say(f"{one.owner} was taken out of the line for {one.wanted}")
            ours = any(place.by_lab for place in session.places) or any(one.by_lab for one in waiting)
            if over or not ours:
                break
            session.wait_change(0.5)
    click.echo(f"{freed} given back")


@labgrid.command()
@click.argument("place")
@click.pass_obj
def kick(config: Path, place: str) -> None:
    """Take PLACE away from whoever holds it, on any host; a lab's run on it ends within seconds."""
    from lab.labgrid.client import Coordinator

    with Coordinator(_section(config)) as session:
        found = session.place(place)
        if found is None or not found.acquired:
            raise ConfigError(f"place '{place}' is held by nobody", hint="`lab labgrid places` shows who holds what")
        session.release(place, found.acquired)
    _say(f"{place} was taken away from {found.describe()}")


def _section(config: Path) -> LabgridConfig:
    section = Bench.load(config).config.labgrid
    if section is None:
        raise ConfigError(f"{config}: names no coordinator", hint="add labgrid: {coordinator: 127.0.0.1:20408}")
    return section


def _say(text: str) -> None:
    # Names and tags of places are whatever somebody wrote there.
    click.echo(printable(text))
    sys.stdout.flush()
