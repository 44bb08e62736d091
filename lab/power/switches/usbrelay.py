"""USB HID relay boards by ``usbrelay`` (its README; version 1.0).

``usbrelay HURTM_1=0`` without that board prints nothing and ends with exit status 0.
"""

from __future__ import annotations

from lab.errors import InfrastructureError
from lab.power.switches.programs import run
from lab.switch_config import UsbRelay


class Usbrelay:
    """One relay.

    Args:
        config: which.
    """

    def __init__(self, config: UsbRelay) -> None:
        self._relay = config.relay
        self._closed_is_on = config.closed_is_on
        self.title = f"USB relay {config.relay}"

    def set(self, on: bool) -> None:
        """Switch."""
        run(("usbrelay", f"{self._relay}={int(on == self._closed_is_on)}"))

    def state(self) -> bool | None:
        """Whether the board says that its contact is where the supply is on."""
        told = dict(line.split("=", 1) for line in run(("usbrelay",)).split() if "=" in line)
        closed = told.get(self._relay)
        if closed not in ("0", "1"):
            raise InfrastructureError(
                f"{self.title} is not attached; usbrelay lists: {', '.join(sorted(told)) or 'none'}",
                hint="correct relay: in the bench file, or plug the board in",
            )
        return (closed == "1") == self._closed_is_on

    def close(self) -> None:
        """Nothing is held."""
