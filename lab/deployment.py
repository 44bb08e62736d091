"""A workload that runs on a device."""

from __future__ import annotations

from dataclasses import dataclass

from lab.artifact import Artifact
from lab.devices.base import Device, Evident
from lab.events import Hello
from lab.inventory import Device as Entry
from lab.workloads.base import Prepared
from measurements.record import Record


@dataclass(frozen=True)
class Deployment:
    """A workload that runs on a device.

    Attributes:
        entry: the bench entry.
        device: the connected device.
        workload, variant: what was deployed.
        prepared: the prepared workload.
        artifact: the image.
        hello: what the image said of itself.
        survey: what the program measured that ran first and decided on this one; empty where there was none.
    """

    entry: Entry
    device: Device
    workload: str
    variant: str
    prepared: Prepared
    artifact: Artifact
    hello: Hello
    survey: tuple[Record, ...] = ()


def evidence_of(device: Device) -> tuple[tuple[str, str], ...]:
    """What was last seen of a device, as (where, text); empty of one that shows nothing."""
    return tuple(device.evidence().items()) if isinstance(device, Evident) else ()
