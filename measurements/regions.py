"""Passes through regions, as plain data from any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lab.errors import ProtocolError

INFERENCE = "inference"
LAYER = "layer"
TRAINING_LAYER = "train.layer"
ENERGY_LAYER = "energy.layer"
"""Metric of a layer's energy."""


class RegionPass(Protocol):
    """One pass through a region, such as ``lab.events.RegionEvent``; the edges are counts of the device's clock."""

    @property
    def region(self) -> str:
        """Its name."""

    @property
    def index(self) -> int:
        """Number of the layer, in regions of layers."""

    @property
    def begin(self) -> int:
        """Count of the clock at its first edge."""

    @property
    def end(self) -> int:
        """Count of the clock at its second edge."""


def by_region(
    passes: Sequence[RegionPass], layer_names: Sequence[str] = ()
) -> dict[str, list[RegionPass]]:
    """Passes of each region, in order of their first appearance.

    Regions ``layer`` and ``train.layer`` carry the layer's number as index and are split: ``layer/<number> <name>``.

    Args:
        passes: in the order in which the device reported them.
        layer_names: names of the schedule's layers.

    Raises:
        ProtocolError: a region ends before it begins.
    """
    groups: dict[str, list[RegionPass]] = {}
    for one in passes:
        if one.end < one.begin:
            raise ProtocolError(
                f"region {one.region!r} pass {one.index} begins at {one.begin} and ends at {one.end}: "
                "the device's clock went backwards",
                hint="the device was reset inside the job, or its cycle counter is narrower than it says",
            )
        groups.setdefault(_name(one, layer_names), []).append(one)
    return groups


def _name(one: RegionPass, layer_names: Sequence[str]) -> str:
    if one.region not in (LAYER, TRAINING_LAYER):
        return one.region
    known = layer_names[one.index] if one.index < len(layer_names) else ""
    return f"{one.region}/{one.index:02} {known}".rstrip()
