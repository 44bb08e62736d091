"""Shelly plugs and relays over HTTP: generation 1 (``/relay/N``) and 2 or later (``/rpc/Switch.…``).

As in Shelly's API documentation; generation 1 asks for basic, later ones for digest authentication with SHA-256.
"""

from __future__ import annotations

from lab.errors import InfrastructureError
from lab.power.switches.http import Plug
from lab.switch_config import ShellyPlug


class Shelly:
    """One outlet.

    Args:
        config: which.
    """

    def __init__(self, config: ShellyPlug) -> None:
        self._plug = Plug(config.host, config.user, config.password)
        self._outlet = str(config.outlet)
        self._generation = config.generation
        self.title = f"Shelly {config.host} outlet {config.outlet}"

    def set(self, on: bool) -> None:
        """Switch."""
        if self._generation == 1:
            self._plug.get(f"/relay/{self._outlet}", {"turn": "on" if on else "off"})
        else:
            self._plug.get("/rpc/Switch.Set", {"id": self._outlet, "on": "true" if on else "false"})

    def state(self) -> bool | None:
        """Whether it says that its relay is closed."""
        if self._generation == 1:
            closed = self._plug.get(f"/relay/{self._outlet}", {}).get("ison")
        else:
            closed = self._plug.get("/rpc/Switch.GetStatus", {"id": self._outlet}).get("output")
        if not isinstance(closed, bool):
            raise InfrastructureError(
                f"{self.title} does not say whether it is on",
                hint="correct generation: of the switch in the bench file (1, or 2 for all later ones)",
            )
        return closed

    def close(self) -> None:
        """Nothing is held."""
