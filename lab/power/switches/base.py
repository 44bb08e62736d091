"""The interface of a power switch, and what makes one believed: a witness that is not the switch.

A switch is told (:class:`Outlet`), says what it thinks (``state``), and is believed only when the device itself went
away or came back (:class:`Witness`): hubs that report power switching and do not have it, relays that stick and
programs that end with exit code 0 without a device are all common.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol

from lab.errors import InfrastructureError

_LOOK_AGAIN_S = 0.25


class Outlet(Protocol):
    """A switch that can be told; its methods raise :class:`lab.errors.InfrastructureError` with its own words."""

    @property
    def title(self) -> str:
        """What messages call it."""

    def set(self, on: bool) -> None:
        """Switch."""

    def state(self) -> bool | None:
        """What it says of itself; None where it says nothing."""

    def close(self) -> None:
        """Let go of it; safe to call twice."""


class Witness(Protocol):
    """Tells whether the device has power, without asking the switch."""

    @property
    def title(self) -> str:
        """What it looks at, for messages."""

    def powered(self) -> bool:
        """Whether the device has power now."""


class PowerSwitch:
    """An outlet that is believed only when its witness confirms.

    Args:
        outlet: the switch.
        witness: what shows that the device went off and came back.
        off_s: how long a cycle leaves the supply off, seconds.
        patience_s: how long a device may take to go and to come back, seconds: USB devices need a few.
        clock, sleep: this computer's clock, seconds.
    """

    def __init__(
        self,
        outlet: Outlet,
        witness: Witness,
        *,
        off_s: float = 2.0,
        patience_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._outlet = outlet
        self._witness = witness
        self._off_s = off_s
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep

    @property
    def title(self) -> str:
        """What messages call it."""
        return self._outlet.title

    def on(self) -> None:
        """Switch on and wait until the device is there.

        Raises:
            ToolMissing: a program or library that it needs is not installed.
            InfrastructureError: the switch failed, or says that it did not and the device does not come.
        """
        try:
            self._switch(True)
        finally:
            self._outlet.close()

    def off(self) -> None:
        """Switch off and wait until the device is gone. Raises: as :meth:`on`."""
        try:
            self._switch(False)
        finally:
            self._outlet.close()

    def cycle(self) -> None:
        """Off, a while, on. Raises: as :meth:`on`."""
        try:
            self._switch(False)
            self._sleep(self._off_s)
            self._switch(True)
        finally:
            self._outlet.close()

    def do(self, action: Literal["on", "off", "cycle"]) -> None:
        """What is asked for by its name. Raises: as :meth:`on`."""
        {"on": self.on, "off": self.off, "cycle": self.cycle}[action]()

    def state(self) -> tuple[bool | None, bool]:
        """What the switch says of itself, and whether the device has power."""
        try:
            return self._outlet.state(), self._witness.powered()
        finally:
            self._outlet.close()

    def _switch(self, on: bool) -> None:
        self._outlet.set(on)
        says = self._outlet.state()
        if says is not None and says != on:
            raise InfrastructureError(
                f"{self.title} was told to be {_word(on)} and says that it is {_word(says)}",
                hint="is it the right outlet, and may it be switched (locks, schedules)?",
            )
        deadline = self._clock() + self._patience_s
        while self._witness.powered() != on:
            if self._clock() >= deadline:
                raise self._disbelieved(on, says)
            self._sleep(_LOOK_AGAIN_S)

    def _disbelieved(self, on: bool, says: bool | None) -> InfrastructureError:
        claim = "it does not say what it is" if says is None else f"it says that it is {_word(says)}"
        seen = "did not come" if on else "is still there"
        return InfrastructureError(
            f"{self.title} was told to be {_word(on)} and {claim}, but {self._witness.title} {seen} "
            f"after {self._patience_s:g} s",
            hint="is the device on this outlet and fed by nothing else (debugger, serial adapter)? Many hubs claim "
            "to switch and do not; confirm: in the bench file chooses what is looked at",
        )


def _word(on: bool) -> str:
    return "on" if on else "off"
