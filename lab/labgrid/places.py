"""Places of a coordinator as devices of a bench."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lab.config_fields import NAME
from lab.errors import ConfigError
from lab.inventory import Board, Device, DeviceConfig
from lab.labgrid.client import Coordinator
from lab.labgrid.config import LabgridConfig
from lab.labgrid.records import Place
from lab.suggestions import nearest

BOARD_TAG = "board"
"""Tag of a place that names its kind of board."""


def discovered(
    config: LabgridConfig, boards: Mapping[str, Board], origin: str, devices: Mapping[str, Device]
) -> dict[str, Device]:
    """The devices of a bench and those that a coordinator's places stand for.

    Args:
        config: the section ``labgrid:`` of the bench file.
        boards: known kinds of board.
        origin: ``file:line`` of the section.
        devices: of the bench file itself; a place that one of them names is not added again.

    Returns:
        Name to device: those of the file first, then places by name.

    Raises:
        ConfigError: a place has the name of a device.
        InfrastructureError: the coordinator cannot be reached.
    """
    taken = {device.config.place for device in devices.values()}
    with Coordinator(config) as coordinator:
        places = [place for place in coordinator.places if place.name not in taken and not unusable(place, boards)]
    found = {place.name: device_of(place, config, boards, origin) for place in places}
    for name in found.keys() & devices.keys():
        raise ConfigError(
            f"{devices[name].origin}: devices.{name}: a place of {config.coordinator} has this name as well",
            hint=f"write place: {name} there if they are the same board, or rename the device",
        )
    return {**devices, **found}


def unusable(place: Place, boards: Mapping[str, Board]) -> str:
    """Why a place is no device; empty where it is one."""
    kind = place.own_tags.get(BOARD_TAG)
    if kind is None:
        return f"it has no tag {BOARD_TAG}: labgrid-client -p {place.name} set-tags {BOARD_TAG}=…"
    if kind not in boards:
        guess = nearest(kind, sorted(boards))
        return f"no board file for {kind!r}" + (f"; did you mean {guess!r}?" if guess else "")
    if not re.match(NAME, place.name):
        return "its name is none that a device can have"
    return ""


def device_of(place: Place, config: LabgridConfig, boards: Mapping[str, Board], origin: str) -> Device:
    """The device that a place stands for; its other tags become ``key-value``."""
    words = (f"{key}-{value}" for key, value in sorted(place.own_tags.items()) if key != BOARD_TAG)
    tags = tuple(word for word in words if re.match(NAME, word))
    kind = place.own_tags[BOARD_TAG]
    return Device(place.name, boards[kind], DeviceConfig(board=kind, place=place.name, tags=tags), origin, config)
