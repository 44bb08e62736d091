"""Plugs and relays with Tasmota over HTTP (``/cm?cmnd=Power1 On``, as in Tasmota's documentation of commands).

User and password travel in the query, as Tasmota wants it; no message shows a query.
"""

from __future__ import annotations

from pydantic import SecretStr

from lab.errors import InfrastructureError
from lab.power.switches.http import Plug
from lab.switch_config import TasmotaPlug


class Tasmota:
    """One outlet.

    Args:
        config: which.
    """

    def __init__(self, config: TasmotaPlug) -> None:
        self._plug = Plug(config.host)
        self._outlet = config.outlet
        self._login: dict[str, SecretStr] = {}
        if config.password is not None:
            self._login = {"user": SecretStr(config.user), "password": config.password}
        self.title = f"Tasmota {config.host} outlet {config.outlet}"

    def set(self, on: bool) -> None:
        """Switch."""
        self._told(f"Power{self._outlet} {'On' if on else 'Off'}")

    def state(self) -> bool | None:
        """Whether it says that its relay is closed."""
        return self._told(f"Power{self._outlet}")

    def close(self) -> None:
        """Nothing is held."""

    def _told(self, command: str) -> bool:
        answer = self._plug.get("/cm", {"cmnd": command}, self._login)
        # A plug with one relay leaves the number out.
        told = answer.get(f"POWER{self._outlet}", answer.get("POWER") if self._outlet == 1 else None)
        if told not in ("ON", "OFF"):
            asks = "WARNING" in answer
            raise InfrastructureError(
                f"{self.title} {'asks for user and password' if asks else 'has no such outlet'}",
                hint="password: !env NAME of the switch in the bench file" if asks else "outlets count from 1",
            )
        return told == "ON"
