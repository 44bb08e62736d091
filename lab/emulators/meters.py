"""From the ``meter:`` of a bench file to an emulated meter that is fed by an emulated board's marker line.

A module of the table has ``peer(config, folder, clock_hz, model, stack) -> StartedMeter``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from lab.emulators.energy_model import EnergyModel

if TYPE_CHECKING:
    from lab.meter_config import MeterConfig

MODULES: Mapping[str, str] = {
    "ppk2": "lab.emulators.ppk2",
    "lpm01a": "lab.emulators.lpm01a",
    "otii": "lab.emulators.otii",
    "scpi": "lab.emulators.scpi",
}


@dataclass(frozen=True)
class StartedMeter:
    """An emulated meter that runs.

    Attributes:
        marker_path: UNIX socket that takes the board's marker line.
        address: where clients find it: a port, ``host:port`` or a folder.
        config: as the bench has it, with the address filled in: what :func:`lab.power.registry.make_meter` takes.
    """

    marker_path: Path
    address: str
    config: MeterConfig


Peer: TypeAlias = "Callable[[MeterConfig, Path, int, EnergyModel, ExitStack], StartedMeter]"


def start_meter(
    config: MeterConfig, folder: Path, clock_hz: int, model: EnergyModel, stack: ExitStack
) -> StartedMeter:
    """Start the emulated meter of a bench entry; it ends with ``stack``.

    Args:
        config: a kind that can be emulated; the models of the others refuse ``emulated: true``.
        folder: for its socket, link and log; short, as a UNIX socket's path is.
        clock_hz: rate of the board's cycle counter.
        model: load of the board.
        stack: ends it.

    Raises:
        EmulatorError: it does not start.
    """
    peer = cast("Peer", import_module(MODULES[config.kind]).peer)
    return peer(config, folder, clock_hz, model, stack)
