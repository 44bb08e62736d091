"""Yepkit YKUSH, YKUSH 3 and YKUSH XS by ``ykushcmd`` (its README; text of version 1.2.5).

``ykushcmd -g 1`` without any board prints ``Unable to open device`` and then ``Downstream port 15 is ON``, and ends
with exit status 0: the number of the port in its answer is checked.
"""

from __future__ import annotations

import re

from lab.errors import InfrastructureError
from lab.power.switches.programs import run
from lab.switch_config import YkushSwitch

_STATUS = re.compile(r"Downstream port (?:(\d+) )?is (ON|OFF)")


class Ykush:
    """One port.

    Args:
        config: which.
    """

    def __init__(self, config: YkushSwitch) -> None:
        board = () if config.model == "ykush" else (config.model,)
        which = () if config.serial_number is None else ("-s", config.serial_number)
        self._command = ("ykushcmd", *board, *which)
        self._port = () if config.model == "ykushxs" else (str(config.outlet),)
        self.title = f"{config.model} {config.serial_number or '(the first found)'} port {config.outlet}"

    def set(self, on: bool) -> None:
        """Switch."""
        run((*self._command, "-u" if on else "-d", *self._port))

    def state(self) -> bool | None:
        """Whether the board says that the port is on."""
        text = run((*self._command, "-g", *self._port))
        told = _STATUS.search(text)
        if told is None or "Unable" in text or (told[1] or "1") != (self._port or ("1",))[0]:
            raise InfrastructureError(
                f"{self.title}: ykushcmd told nothing of the port: {' '.join(text.split())[:200]}",
                hint="`ykushcmd -l` lists the boards that are attached",
            )
        return told[2] == "ON"

    def close(self) -> None:
        """Nothing is held."""
