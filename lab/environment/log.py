"""What is known of a device's environment while it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from measurements.environment import Environment, Moment, Snapshot


class EnvironmentLog:
    """Snapshots of a measurement; made by :func:`lab.environment.measuring`.

    Args:
        take: takes a snapshot of the device.

    Attributes:
        environment: what is known so far; whole when the measurement's context has ended.
    """

    def __init__(self, take: Callable[[Moment], Snapshot]) -> None:
        self._take = take
        self.environment = Environment()

    def during(self) -> None:
        """Take a snapshot between two passes: never within one, for looking costs the device time.

        Raises:
            TransportError: the connection broke.
        """
        self.add("during")

    def add(self, moment: Moment) -> Snapshot:
        """Take a snapshot and keep it.

        Raises:
            TransportError: the connection broke.
        """
        snapshot = self._take(moment)
        self.environment = replace(self.environment, snapshots=(*self.environment.snapshots, snapshot))
        return snapshot

    def note(self, *notes: str) -> None:
        """Keep sentences for the reader."""
        self.environment = replace(self.environment, notes=(*self.environment.notes, *notes))
