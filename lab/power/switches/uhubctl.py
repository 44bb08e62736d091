"""Ports of USB hubs by ``uhubctl`` (its README; text of version 2.5.0)."""

from __future__ import annotations

import re

from lab.errors import InfrastructureError
from lab.power.switches.programs import run
from lab.switch_config import UhubctlSwitch


class Uhubctl:
    """One port. A USB 3 hub is two hubs; ``uhubctl`` switches both, and the port is on while either is.

    Args:
        config: which.
    """

    def __init__(self, config: UhubctlSwitch) -> None:
        self._command = ("uhubctl", "-l", config.location, "-p", str(config.outlet))
        self._status = re.compile(rf"^\s*Port {config.outlet}: [0-9a-f]{{4}} (.*)$", re.MULTILINE)
        self.title = f"USB hub {config.location} port {config.outlet}"

    def set(self, on: bool) -> None:
        """Switch."""
        run((*self._command, "-a", "on" if on else "off"))

    def state(self) -> bool | None:
        """Whether the hub says that the port has power."""
        told = self._status.findall(text := run(self._command))
        if not told:
            raise InfrastructureError(
                f"{self.title}: `{' '.join(self._command)}` told nothing of the port: {' '.join(text.split())[:200]}",
                hint="`uhubctl` lists the hubs that can switch, with their locations",
            )
        return any("power" in words.split() for words in told)

    def close(self) -> None:
        """Nothing is held."""
