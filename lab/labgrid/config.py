"""The section ``labgrid:`` of a bench file. See ``docs/labgrid.md``."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, model_validator

from lab.config_fields import Seconds, Strict, Text

DESTINATION = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?$"
"""An SSH destination that cannot be taken for an option."""

_Destination = Annotated[str, Field(pattern=DESTINATION)]


class PlaceSsh(Strict):
    """How the lab logs in to a place's ``NetworkService``; fields as those of a device's ``ssh:``."""

    key: Text | None = None
    agent: bool = False
    known_hosts: Text | None = None


class LabgridConfig(Strict):
    """A labgrid coordinator.

    ``tunnel`` is an SSH destination from where the coordinator is reached, ``tunnels`` those of exporters, by name.
    ``discover`` makes devices of all places whose tag ``board`` names a kind of board. ``ttl`` is how long a place is
    kept after its holder has died or hangs, ``reconnect`` how long a coordinator or an exporter may take to come back.
    Neither labgrid nor ser2net asks who is there: addresses beyond this computer take ``unprotected: true``.
    """

    coordinator: Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):\d{1,5}$")] = "127.0.0.1:20408"
    tunnel: _Destination | None = None
    tunnels: dict[str, _Destination] = Field(default_factory=dict)
    unprotected: bool = False
    discover: bool = False
    ttl: Annotated[Seconds, Field(ge=1.0)] = 30.0
    reconnect: Seconds = 15.0
    ssh: PlaceSsh = PlaceSsh()

    @model_validator(mode="after")
    def _nobody_listens_in(self) -> LabgridConfig:
        host = self.coordinator.rpartition(":")[0]
        if not (is_loopback(host) or self.tunnel or self.unprotected):
            raise ValueError(
                f"coordinator: '{host}' is another computer, and labgrid's protocol neither asks who is there nor "
                "encrypts; allowed: tunnel: user@host, with the coordinator's address as seen from there, or "
                "unprotected: true in a network where everybody is trusted"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this computer itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
